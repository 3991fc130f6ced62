"""Reports to the server: rules REPORT-1 to REPORT-5 of agent.report.reporter, against a server on the loopback."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from device_world import DEVICE
from support.faulty_http import Answer
from support.margo_server import MargoServer, margo_server, problem

from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.outbox import DONE, FAILED, MOST_UNSENT, MOST_UNSENT_BYTES, PROGRESS
from margo_gitops.agent.report import reporter as reporter_module
from margo_gitops.agent.report.reporter import LONGEST_SENDING, Reporter
from margo_gitops.agent.service.loop import Service, ServiceManager
from margo_gitops.agent.service.schedule import Schedule
from margo_gitops.errors import MargoGitopsError, SourceUnreachable, VersionRollback
from margo_gitops.transport.http.http_transport import HttpTransport
from margo_gitops.transport.http.source import HttpSource

WEIGHTS = {"pending": PROGRESS, "installing": PROGRESS, "removing": PROGRESS, "failed": FAILED}
WEIGHTS |= {"installed": DONE, "removed": DONE}


@dataclass
class Device:
    """A reporter in a time of its own."""

    journal: Journal
    transport: HttpTransport
    capabilities: tuple[Path, ...] = ()
    now: float = 0.0
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reporter = Reporter(
            transport=self.transport,
            device=DEVICE,
            capabilities=self.capabilities,
            statuses=True,
            journal=self.journal,
            record=self.events.append,
            timer=lambda: self.now,
            abortable=contextlib.nullcontext,
        )

    def post(self, *numbers: int, word: str = "installed") -> None:
        for number in numbers:
            self.journal.post(f"{number:04d}", json.dumps({"state": word}).encode(), self.now, WEIGHTS[word])

    def change(self, number: int, word: str) -> None:
        document = json.dumps({"state": word}).encode()
        assert self.journal.post(f"{number:04d}", document, self.now, WEIGHTS[word])
        self.reporter.hear(f"{number:04d}", document)

    def reasons(self) -> list[Reason]:
        return [event.reason for event in self.events]


@pytest.fixture
def server() -> Iterator[MargoServer]:
    with margo_server() as made:
        yield made


@pytest.fixture
def device(tmp_path: Path, server: MargoServer) -> Iterator[Device]:
    transport = HttpTransport(HttpSource(server.base()))
    with Journal.open(tmp_path / "journal.sqlite3", 0) as journal, contextlib.closing(transport):
        yield Device(journal, transport)


def sent(server: MargoServer) -> list[str]:
    return [path.removeprefix("/api/v1/") for _, path, _ in server.reports]


def test_only_what_changed_is_sent_on_one_connection(device: Device, server: MargoServer) -> None:
    device.post(1, 2)
    device.reporter.send()
    device.reporter.send()
    device.post(2, word="removed")
    device.reporter.send()
    assert sent(server) == ["deployments/0001/status", "deployments/0002/status", "deployments/0002/status"]
    assert server.requests[0].headers["content-type"] == "application/json"
    assert device.transport.cost.connections == 1


def test_what_changed_back_before_it_was_sent_is_not_sent(device: Device, server: MargoServer) -> None:
    device.post(1)
    device.reporter.send()
    device.post(1, word="installing")
    device.post(1)
    device.reporter.send()
    assert len(server.reports) == 1


def test_another_server_is_told_everything(device: Device, server: MargoServer) -> None:
    device.post(1)
    device.reporter.send()
    with margo_server() as other, contextlib.closing(HttpTransport(HttpSource(other.base()))) as transport:
        moved = Device(device.journal, transport)
        moved.reporter.send()
        assert sent(other) == sent(server)


@pytest.mark.parametrize(
    ("answer", "pauses"),
    [(problem(500, "no"), [60, 120, 240]), (Answer(503, [("Retry-After", "1000")], b""), [1000, 1000, 1000])],
)
def test_f16_after_failures_the_next_attempt_comes_later_each_time(
    device: Device, server: MargoServer, answer: Answer, pauses: list[float]
) -> None:
    server.faults.append(lambda *_: answer)
    device.post(1, 2)
    for pause in pauses:
        before = len(server.requests)
        device.reporter.send()
        device.now += pause - 1
        device.reporter.send()
        assert len(server.requests) == before + 1, "one request, and then patience"
        device.now += 1
    server.faults.clear()
    device.reporter.send()
    assert device.reasons() == [*[Reason.REPORT_FAILED] * 3, Reason.REPORT_RECOVERED]
    assert device.journal.receipts().keys() == {"0001", "0002"}


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
def test_a_document_that_is_refused_is_not_sent_again_until_it_changes(
    device: Device, server: MargoServer, status: int
) -> None:
    server.report_status = status
    device.post(1, 2)
    device.reporter.send()
    device.reporter.send()
    assert len(server.reports) == 2, "the second is sent although the first was refused"
    assert device.reasons() == [Reason.REPORT_REFUSED] * 2
    device.post(1, word="failed")
    device.reporter.send()
    assert len(server.reports) == 3


def test_one_sending_takes_half_a_minute_and_the_next_goes_on_where_it_ended(
    device: Device, server: MargoServer
) -> None:
    def slow(*_: object) -> None:
        device.now += LONGEST_SENDING / 3

    server.faults.append(slow)
    device.post(*range(5))
    device.reporter.send()
    assert len(server.reports) == 3
    device.reporter.send()
    assert len(server.reports) == 5
    assert device.events == []


def capabilities(file: Path, owner: str) -> Path:
    properties = {"id": owner, "vendor": "acme", "modelNumber": "7", "serialNumber": "1"}
    file.write_text(json.dumps({"properties": properties}))
    return file


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "LIVE_PAUSE", 0.02)


@pytest.mark.usefixtures("quick")
def test_each_status_goes_out_while_something_is_applied_and_once(device: Device, server: MargoServer) -> None:
    for count, word in enumerate(("pending", "installing"), 1):
        device.change(1, word)
        until(lambda count=count: len(server.reports) == count)  # type: ignore[misc]
    device.change(1, "installed")
    device.reporter.send()
    assert [json.loads(body)["state"] for _, _, body in server.reports] == ["pending", "installing", "installed"]
    device.reporter.send()
    assert len(server.reports) == 3, "what arrived so is not sent again"


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_slow_or_away_delays_no_work_and_learns_what_came_of_it(
    device: Device, server: MargoServer
) -> None:
    asked, gate = threading.Event(), threading.Event()

    def slow(*_: object) -> Answer:
        asked.set()
        gate.wait(600)
        return problem(500, "no")

    server.faults.append(slow)
    for word in ("pending", "installing"):
        device.change(1, word)
    assert asked.wait(30), "the newest of what changed at once goes out"
    for word in ("installed", "removing", "removed"):
        device.change(1, word)
    server.faults.clear()
    gate.set()
    device.reporter.send()
    assert [json.loads(body)["state"] for _, _, body in server.reports] == ["installing", "installed", "removed"]


def test_capabilities_are_the_first_exchange(device: Device, server: MargoServer, tmp_path: Path) -> None:
    described = Device(device.journal, device.transport, (capabilities(tmp_path / "own.json", DEVICE),))
    described.reporter.greet()
    assert sent(server) == [f"capabilities/{DEVICE}"]
    described.post(1)
    described.reporter.send()
    assert sent(server) == [f"capabilities/{DEVICE}", "deployments/0001/status"]


def test_a_server_that_takes_no_greeting_hears_it_after_the_poll(
    device: Device, server: MargoServer, tmp_path: Path
) -> None:
    described = Device(device.journal, device.transport, (capabilities(tmp_path / "own.json", DEVICE),))
    server.faults.append(lambda *_: problem(503, "not yet"))
    described.reporter.greet()
    described.reporter.greet()
    assert len(server.requests) == 1
    server.faults.clear()
    described.reporter.send()
    assert sent(server) == [f"capabilities/{DEVICE}"] * 2


def test_what_arrived_is_known_after_a_kill(device: Device, server: MargoServer, tmp_path: Path) -> None:
    device.post(1, 2)
    server.faults.append(lambda request, _: problem(500, "no") if "0002" in request.path else None)
    device.reporter.send()
    with Journal.open(tmp_path / "journal.sqlite3", 0) as journal:
        assert journal.receipts().keys() == {"0001"}


def test_capabilities_of_a_gateway_come_before_those_of_its_children_and_before_statuses(
    device: Device, server: MargoServer, tmp_path: Path
) -> None:
    files = []
    for owner in (DEVICE, f"{DEVICE}/arm"):
        files.append(capabilities(tmp_path / f"{len(files)}.json", owner))
    gateway = Device(device.journal, device.transport, tuple(files))
    gateway.post(1)
    gateway.reporter.send()
    gateway.reporter.send()
    assert sent(server) == [f"capabilities/{DEVICE}", f"capabilities/{DEVICE}/arm", "deployments/0001/status"]
    files[1].write_text("{}")
    gateway.post(1, word="failed")
    gateway.reporter.send()
    assert gateway.reasons() == [Reason.REPORT_FAILED]


def test_a_device_may_offer_a_part_of_a_core(device: Device, server: MargoServer, tmp_path: Path) -> None:
    file = tmp_path / "capabilities.json"
    cpu = {"cores": 2.4, "architecture": "amd64"}
    properties = {"id": DEVICE, "vendor": "acme", "modelNumber": "7", "serialNumber": "1", "cpus": [cpu]}
    file.write_text(json.dumps({"properties": properties}))
    reporter = Device(device.journal, device.transport, (file,))
    reporter.reporter.send()
    assert (sent(server), reporter.reasons()) == ([f"capabilities/{DEVICE}"], [])


@pytest.mark.parametrize(
    ("poll", "error", "sends"),
    [
        ("none", None, False),
        ("failed", SourceUnreachable("away"), False),
        ("unchanged", None, True),
        ("refused", VersionRollback("older"), True),
    ],
)
def test_a_server_that_is_away_is_told_nothing(
    device: Device, server: MargoServer, poll: str, error: MargoGitopsError | None, sends: bool
) -> None:
    class Ending:
        """One cycle, and the end."""

        def run(self, **_: bool) -> Outcome:
            return Outcome(poll, 1, error, None)  # type: ignore[arg-type]  # a word of PollResult

        def stopping(self) -> bool:
            return True

        def take_poll(self) -> bool:
            return False

        def wait(self, seconds: float, _files: object = ()) -> None:
            raise AssertionError(seconds)

    device.post(1)
    Service(
        cycles=Ending(),
        report=device.reporter.send,
        schedule=Schedule(DEVICE, 60, 6),
        waiting=Ending(),
        manager=ServiceManager({}),
        record=device.events.append,
        clock=lambda: 0,
        timer=lambda: 0,
    ).run()
    assert bool(server.reports) is sends


def test_a_journal_of_the_first_version_keeps_its_outbox_and_sends_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST_VERSION)
    with Journal.open(path, 1) as journal:
        assert journal.set_aside is None
        assert (journal.outbox(), journal.receipts()) == ({"0001": b"{}"}, {})
        journal.acknowledge("0001", "there", b"{}")
        assert journal.receipts() == {"0001": "there"}


FIRST_VERSION = """
CREATE TABLE deployments (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, device TEXT NOT NULL, adopted TEXT NOT NULL, position INTEGER NOT NULL
) STRICT;
CREATE TABLE workloads (
    deployment TEXT NOT NULL, component TEXT NOT NULL, position INTEGER NOT NULL, applier TEXT NOT NULL,
    wanted TEXT, installed TEXT, state TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
    attempts INTEGER NOT NULL, changed_at REAL NOT NULL,
    PRIMARY KEY (deployment, component)
) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, first_at REAL NOT NULL, last_at REAL NOT NULL, count INTEGER NOT NULL,
    reason TEXT NOT NULL, security INTEGER NOT NULL, code TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE TABLE outbox (deployment TEXT PRIMARY KEY, changed_at REAL NOT NULL, document BLOB NOT NULL) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO outbox VALUES ('0001', 0, CAST('{}' AS BLOB));
PRAGMA user_version = 1;
"""


WEEKS = 14 * 86_400


@dataclass
class Story:
    """What a device lives through without its server, and what the server must hear of it at the end."""

    path: Path
    transport: HttpTransport
    chance: random.Random
    now: float = 0.0
    expected: dict[str, list[str]] = field(default_factory=dict)
    most: int = 0

    @contextlib.contextmanager
    def boot(self) -> Iterator[Device]:
        with Journal.open(self.path, self.now) as journal:
            journal._connection.execute("PRAGMA synchronous = OFF")  # here, no power fails
            device = Device(journal, self.transport, now=self.now)
            yield device
            assert device.reporter._live is not None
            device.reporter._live.finish()  # as its thread does when the process ends

    def change(self, device: Device, number: int, word: str, text: str = "") -> None:
        name, document = f"{number:04d}", json.dumps({"state": word, "text": text})
        if device.journal.post(name, document.encode(), self.now, WEIGHTS[word]):
            device.reporter.hear(name, document.encode())
            heard = self.expected.setdefault(name, [])
            if heard and json.loads(heard[-1])["state"] in ("pending", "installing", "removing"):
                heard.pop()
            if not heard or heard[-1] != document:
                heard.append(document)

    def live(self, changes: int, deployments: int, texts: int) -> None:
        """Spend two weeks: changes, attempts to report, and a restart after some of them."""
        while changes:
            with self.boot() as device:
                for _ in range(min(changes, self.chance.randint(1, 12))):
                    changes -= 1
                    self.now += WEEKS / 300
                    device.now = self.now
                    word, text = self.chance.choice(list(WEIGHTS)), str(self.chance.randrange(texts))
                    self.change(device, self.chance.randrange(deployments), word, text)
                    if self.chance.random() < 0.2:
                        device.reporter.send()
                    self.most = max(self.most, len(device.journal.unsent()))

    def tell(self) -> None:
        with self.boot() as device:
            device.reporter.send()
            device.reporter.send()
            assert device.journal.unsent() == []


def heard(server: MargoServer) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for _, path, body in server.reports:
        found.setdefault(path.split("/")[-2], []).append(body.decode())
    return found


@pytest.mark.parametrize("seed", range(2))
def test_f12_after_two_weeks_offline_all_reports_arrive_once_and_in_order(
    device: Device, server: MargoServer, tmp_path: Path, seed: int
) -> None:
    story = Story(tmp_path / "offline.sqlite3", device.transport, random.Random(seed))
    server.faults.append(lambda *_: problem(503, "not here"))
    story.live(300, 7, 3)
    assert story.most > 30
    server.faults.clear()
    server.reports.clear()
    story.tell()
    assert heard(server) == story.expected
    failed = [path.split("/")[-2] for _, path, body in server.reports if b"failed" in body]
    first = list(dict.fromkeys(path.split("/")[-2] for _, path, _ in server.reports))
    assert set(first[: len(set(failed))]) == set(failed), "failures come first"


def test_what_waits_is_bounded_and_failures_are_kept_longest(
    device: Device, server: MargoServer, tmp_path: Path
) -> None:
    story = Story(tmp_path / "offline.sqlite3", device.transport, random.Random(1))
    with story.boot() as offline:
        for number in range(MOST_UNSENT * 2):
            story.change(offline, number % 20, "failed" if number % 100 == 0 else "installed", f"{number:05d}" * 100)
        waiting = offline.journal.unsent()
    assert len(waiting) <= MOST_UNSENT
    assert sum(weight == FAILED for _, weight, _ in waiting) == 10
    story.tell()
    assert {name: each[-1] for name, each in heard(server).items()} == {
        name: each[-1] for name, each in story.expected.items()
    }
    assert story.path.stat().st_size < 2 * MOST_UNSENT_BYTES


def test_progress_that_is_over_is_not_told(device: Device, server: MargoServer) -> None:
    for word in ("installing", "failed", "installing", "failed", "installing"):
        device.post(1, word=word)
    device.reporter.send()
    assert [json.loads(body)["state"] for _, _, body in server.reports] == ["failed", "installing"]


@pytest.mark.usefixtures("quick")
def test_what_waits_goes_out_before_what_happens_now(device: Device, server: MargoServer) -> None:
    for word in ("installed", "failed"):
        device.post(1, word=word)
    for word in ("installing", "installed"):
        device.change(1, word)
    device.reporter.send()
    assert [json.loads(body)["state"] for _, _, body in server.reports] == ["installed", "failed", "installed"]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_deployment_that_the_server_does_not_know_keeps_no_other_from_being_reported(
    device: Device, server: MargoServer, status: int
) -> None:
    server.faults.append(lambda request, _: problem(status, "no") if "0001" in request.path else None)
    device.post(1, 2, 3)
    for _ in range(2):
        device.reporter.send()
    assert sent(server)[-2:] == ["deployments/0002/status", "deployments/0003/status"]
    assert len(server.requests) == 3, "it rests"
    assert [(event.reason, event.subject) for event in device.events] == [(Reason.REPORT_FAILED, "0001")]
    server.faults.clear()
    device.now += 60
    device.reporter.send()
    assert device.journal.unsent() == []


def test_where_all_are_refused_the_server_is_spared(device: Device, server: MargoServer) -> None:
    server.faults.append(lambda *_: problem(404, "no"))
    device.post(*range(20))
    device.reporter.send()
    device.reporter.send()
    assert len(server.requests) == 3


def test_what_an_older_agent_left_waiting_is_not_told(device: Device, server: MargoServer) -> None:
    device.post(1, word="failed")
    device.journal.keeps_unsent = False  # as an agent that does not know the table
    device.post(1, word="installed")
    device.reporter.send()
    assert [json.loads(body)["state"] for _, _, body in server.reports] == ["installed"]
    assert device.journal.unsent() == []
