"""The agent as a service: the rules SERVICE-1 to SERVICE-9 of agent.service.loop, its signals, its log, and systemd."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from margo_gitops.agent.apply.reconciler import Reconciliation
from margo_gitops.agent.apply.steps import Plan
from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.memory.events import Event, EventLog, LogFormat, Reason, read_by_journald
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.poll_record import note_poll, note_start
from margo_gitops.agent.service.loop import Interruptions, Service, ServiceManager
from margo_gitops.agent.service.schedule import Schedule
from margo_gitops.documents.calendars import Opening
from margo_gitops.errors import MargoGitopsError, SourceBusy, SourceUnreachable, StorageFull

SCHEDULE = Schedule("press-07", 60, 0)


@dataclass
class Life:
    """Time, and an agent in it that is stopped after some polls."""

    cycle: Callable[[int], MargoGitopsError | None]
    polls: int
    now: float = 0.0
    polled_at: list[float] = field(default_factory=list)
    kinds: list[bool] = field(default_factory=list)
    cycles_at: list[float] = field(default_factory=list)
    patient: list[tuple[bool, bool]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    asked: bool = False
    schedule: Schedule = SCHEDULE
    hours: Callable[[float], Opening | None] = lambda _now: None
    polls_first: bool = False
    began: list[float] = field(default_factory=list)
    coming: int = 0

    def run(self, *, poll: bool = True, wait: int = 0, patient: bool = False, retry: bool = False) -> Outcome:
        assert not wait
        self.kinds.append(poll)
        self.cycles_at.append(self.now)
        if not poll:
            assert patient
            return Outcome("none", None, None, self.fetched(), contact=self.hours(self.now))
        self.patient.append((patient, retry))
        self.polled_at.append(self.now)
        error = self.cycle(len(self.polled_at))
        ended = "failed" if error else "unchanged"
        return Outcome(ended, None, error, self.fetched(), contact=self.hours(self.now))

    def fetched(self) -> Reconciliation | None:
        """Fetch a part of an artifact, which takes 20 seconds."""
        if not self.coming:
            return None
        self.coming -= 1
        self.now += 20
        return Reconciliation(Plan((), (), (), (), {}, {}, {}), (), complete=False, coming=self.coming > 0)

    def stopping(self) -> bool:
        return len(self.polled_at) >= self.polls

    def take_poll(self) -> bool:
        asked, self.asked = self.asked, False
        return asked

    def wait(self, seconds: float, _files: object = ()) -> None:
        self.now += seconds

    def live(self) -> None:
        Service(
            cycles=self,
            schedule=self.schedule,
            waiting=self,
            manager=ServiceManager({}),
            record=self.events.append,
            clock=lambda: self.now,
            timer=lambda: self.now,
            polls_first=self.polls_first,
            polled=lambda: self.began.append(self.now),
        ).run()

    @property
    def pauses(self) -> list[int]:
        return [round((b - a) / 60) for a, b in zip(self.polled_at, self.polled_at[1:], strict=False)]


def test_the_held_state_is_applied_before_the_source_is_asked() -> None:
    life = Life(lambda _: None, 2)
    life.live()
    assert life.kinds == [False, True, True]


def test_an_agent_that_did_not_live_until_its_first_poll_polls_first(tmp_path: Path) -> None:
    life = Life(lambda _: None, 3, polls_first=True)
    life.live()
    assert life.kinds == [True, True, True]
    assert len(life.began) == 1
    with Journal.open(tmp_path / "journal.sqlite3", 0.0) as journal:
        assert [note_start(journal) for _ in range(3)] == [False, True, True]
        note_poll(journal)
        assert not note_start(journal)


def test_a_poll_that_waits_for_its_hours_comes_when_the_clock_is_set() -> None:
    life = Life(lambda _: None, 2, hours=lambda now: Opening(2e6, 3e6) if now < 6000 else None)
    life.live()
    assert 6000 <= life.polled_at[1] < 6200


def test_what_is_still_coming_is_fetched_at_once_and_polls_keep_their_pace() -> None:
    life = Life(lambda _: None, 4, coming=6)
    life.live()
    assert [round(at) for at in life.cycles_at[:6]] == [0, 20, 40, 60, 80, 100]
    assert life.kinds[:6].count(True) == 2
    assert life.pauses[-1] == 1


def test_polls_keep_their_pace() -> None:
    life = Life(lambda _: None, 6)
    life.live()
    assert life.pauses[1:] == [1, 1, 1, 1]


def test_failures_slow_the_agent_down_and_success_brings_it_back() -> None:
    life = Life(lambda count: SourceUnreachable("no route") if 2 <= count <= 5 else None, 9)
    life.live()
    assert life.pauses[1:] == [1, 2, 4, 8, 1, 1, 1]


def test_a_source_that_asks_to_wait_is_obeyed() -> None:
    life = Life(lambda count: SourceBusy("later", retry_after=600) if count == 2 else None, 4)
    life.live()
    assert life.pauses[1] >= 10


def _defect(count: int) -> None:
    if count == 2:
        raise ZeroDivisionError("a defect")
    if count == 3:
        raise StorageFull("the disk is full")


def test_no_error_of_a_cycle_ends_the_agent() -> None:
    life = Life(_defect, 5)
    life.live()
    assert [(event.reason, event.code) for event in life.events] == [
        (Reason.DEFECT, "MG1709"),
        (Reason.STORAGE_FAILED, "MG1704"),
    ]
    assert "ZeroDivisionError" in life.events[0].text
    assert "_defect" in life.events[0].text, "a developer cannot see where"


def test_asked_to_poll_now_it_does() -> None:
    life = Life(lambda _: None, 3)
    life.asked = True
    life.live()
    assert life.polled_at[0] == 0
    assert life.patient == [(False, True), (True, False), (True, False)], "who asks is not made to wait"


@pytest.mark.parametrize("error", [SourceUnreachable("no route"), SourceBusy("later", retry_after=86_400)])
@pytest.mark.parametrize("interval", [60, 600, 86_400])
def test_what_runs_is_mended_every_minute_however_long_the_source_is_away(
    error: MargoGitopsError, interval: int
) -> None:
    life = Life(lambda _: error, 8, schedule=Schedule("press-07", interval, interval / 10))
    life.live()
    gaps = [after - before for before, after in zip(life.cycles_at, life.cycles_at[1:], strict=False)]
    assert max(gaps) <= 90
    assert life.polled_at[-1] - life.polled_at[-2] > 3000, "the source is spared"


def test_an_agent_whose_polls_work_does_no_cycles_between_them() -> None:
    life = Life(lambda _: None, 20, schedule=Schedule("press-07", 60, 6))
    life.live()
    assert life.kinds.count(False) == 1


def test_a_signal_ends_a_wait_at_once_even_if_it_came_before() -> None:
    with Interruptions() as interruptions:
        assert not interruptions.called()
        os.kill(os.getpid(), signal.SIGHUP)
        assert interruptions.called(), "either signal calls"
        interruptions.wait(86_400)  # the test's own time limit is far shorter
        assert interruptions.take_poll()
        assert not interruptions.take_poll()
        assert not interruptions.stopping()
        os.kill(os.getpid(), signal.SIGTERM)
        interruptions.wait(86_400)
        assert interruptions.stopping()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_of_start_life_and_end(tmp_path: Path, abstract: bool) -> None:
    name = f"margo-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}" if abstract else name)
        listener.settimeout(10)
        manager = ServiceManager({"NOTIFY_SOCKET": f"@{name}" if abstract else name, "WATCHDOG_USEC": "30000000"})
        manager.ready()
        manager.alive("holds version 7")
        manager.stopping()
        heard = [listener.recv(1000) for _ in range(3)]
    assert heard == [b"READY=1", b"WATCHDOG=1\nSTATUS=holds version 7", b"STOPPING=1"]
    assert manager.heartbeat == 15


def test_without_systemd_nothing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    for variables in ({}, {"WATCHDOG_USEC": "1"}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}):
        manager = ServiceManager(variables)
        manager.ready()
        assert manager.heartbeat is None


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_event_is_one_line_whatever_it_holds(form: LogFormat) -> None:
    stream = io.StringIO()
    EventLog(form, lambda: 0.0, stream).write(
        Event(Reason.STATE_REFUSED, "first\nsecond \x1b[31m\r\u2028end", "MG1507", "press-07")
    )
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert line.isascii()
    assert "\x1b" not in line
    if form == "json":
        assert json.loads(line) | {"text": ""} == {
            "time": "1970-01-01T00:00:00.000+00:00",
            "level": "security",
            "reason": "StateRefused",
            "code": "MG1507",
            "subject": "press-07",
            "text": "",
        }
    else:
        assert line.startswith("1970-01-01T00:00:00.000+00:00 security StateRefused press-07: first; second")


def test_journald_learns_how_bad_an_event_is() -> None:
    stream = io.StringIO()
    log = EventLog("json", lambda: 0.0, stream, journald=True)
    for reason in (Reason.STATE_REFUSED, Reason.FIRST_CONTACT, Reason.STARTED):
        log.write(Event(reason, "what happened"))
    assert [line[:3] for line in stream.getvalue().splitlines()] == ["<3>", "<4>", "<6>"]


def test_what_journald_reads_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        found = os.fstat(stream.fileno())
        assert read_by_journald({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, stream)
        assert not read_by_journald({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}, stream)
        assert not read_by_journald({}, stream)
    assert not read_by_journald({"JOURNAL_STREAM": "1:2"}, io.StringIO())


def test_a_log_that_is_closed_stops_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    EventLog("text", lambda: 0.0, stream).write(Event(Reason.POLL_FAILED, "no route"))


def test_the_agent_needs_nothing_of_the_operators_side() -> None:
    program = (
        "import sys, margo_gitops.cli.agent; "
        "print(*{'pygit2', 'jinja2', 're2', 'jsonschema', 'margo_gitops.rendering', 'margo_gitops.catalog', "
        "'margo_gitops.state_repo'}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
