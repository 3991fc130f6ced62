"""A real service under a clock that the test moves: hours, orders of a person, clocks that cannot be trusted (F19)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from device_world import DEVICE, deployment_bytes, deployment_id, snapshot_of
from engine_double import Engine, EngineDouble, Killed
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.agent.apply.reconciler import Reconciler
from margo_gitops.agent.apply.timetable import Timetable
from margo_gitops.agent.cycle import Cycle
from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.orders import SUSPENDED_FILE, ApplyOrder, Orders, order_to_apply, resume, suspend
from margo_gitops.agent.memory.poll_record import PollRecord
from margo_gitops.agent.memory.recorded import RecordedWorkload
from margo_gitops.agent.pull.device_clock import ClockMemory, is_synchronized
from margo_gitops.agent.pull.floor_files import FloorFiles
from margo_gitops.agent.pull.trusted_store import TrustedStore
from margo_gitops.agent.service.loop import Service, ServiceManager
from margo_gitops.agent.service.schedule import Schedule
from margo_gitops.appliers.applier import Applier
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.kinds import read_as
from margo_gitops.documents.status import DeploymentStatus
from margo_gitops.errors import ExitCode, SourceUnreachable
from margo_gitops.transport.transport import Answer
from margo_gitops.trust.git_objects import COMMIT, object_id
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.trusted_state import TrustPolicy
from margo_gitops.web.metering import Cost

NIGHTS = {
    "of": "site north",
    "timeZone": "Europe/Berlin",
    "windows": [{"days": "FREQ=DAILY", "start": "02:00", "duration": "2h"}],
}
EVENINGS = {**NIGHTS, "windows": [{"days": "FREQ=DAILY", "start": "20:00", "duration": "1h"}]}
CHRISTMAS = {"of": "site north", "timeZone": "UTC", "blackouts": [{"from": "2026-12-24", "until": "2026-12-26"}]}


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = utc("2026-12-01T11:00")


@dataclass
class Plant:
    """A device with a service whose time passes when it waits; each `live` is a new agent, as after a restart."""

    folder: Path
    now: float = NOON
    snapshot: Snapshot | None = None
    reachable: bool = True
    polled: list[float] = field(default_factory=list)
    reported: list[float] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    engine: Engine = field(default_factory=Engine)
    cost: Cost = field(default_factory=Cost)
    until: float = 0.0
    asked: bool = False
    trusts: bool = False
    is_set: bool | None = None
    signed: datetime | None = None
    steps_left: int | None = None

    def step(self) -> None:
        """Let the power go before a step of the engine."""
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise Killed

    def publish(self, greeting: str, version: int, *, at: float | None = None, **extension: object) -> None:
        """Offer a version with one deployment."""
        content = deployment_bytes(1, values={"GREETING": greeting}, extension=extension)  # type: ignore[arg-type]
        parents = (self.snapshot.revision,) if self.snapshot else ()
        self.snapshot = snapshot_of(version, {1: content}, key=None, parents=parents)
        if at is not None and self.snapshot.commit is not None:
            commit = self.snapshot.commit.replace(f" {1_790_000_000 + version} ".encode(), f" {at:.0f} ".encode())
            self.snapshot = replace(self.snapshot, commit=commit, revision=object_id(COMMIT, commit))

    def appliers(self) -> dict[str, Applier]:
        """Return the appliers of an agent."""
        return {"engine": EngineDouble(self.engine, alive=self.step)}

    def pull(self, held: Snapshot | None, patience: int = 0) -> Answer:
        del patience
        self.polled.append(self.now)
        if self.snapshot is None or not self.reachable:
            raise SourceUnreachable("no route to the source")
        return Answer(None if held and held.manifest == self.snapshot.manifest else self.snapshot)

    def close(self) -> None:
        """Nothing is open."""

    def stopping(self) -> bool:
        return self.now >= self.until

    def take_poll(self) -> bool:
        asked, self.asked = self.asked, False
        return asked

    def wait(self, seconds: float, _files: object = ()) -> None:
        self.now += seconds

    @contextmanager
    def cycle(self) -> Iterator[Cycle]:
        with Journal.open(self.folder / "journal.sqlite3", self.now) as journal:
            known = ClockMemory(journal, lambda: self.is_set)
            timetable = Timetable(
                lambda: self.now, lambda: self.signed, known.seen, known.keep, known.synchronized, self.trusts
            )
            policy = TrustPolicy(DEVICE, None)
            reconciler = Reconciler(
                self.appliers(),
                journal,
                self.events.append,
                lambda: self.now,
                lambda: False,
                timetable=timetable,
                orders=Orders(self.folder, journal.facts, journal.set_facts, self.events.append, lambda: self.now),
            )
            yield Cycle(
                policy=lambda: policy,
                fallback=policy,
                transport=self,
                store=TrustedStore(self.folder / "trusted"),
                floors=FloorFiles(DEVICE, self.folder / "floor.json", None),
                polls=PollRecord(journal, lambda: self.now),
                reconciler=reconciler,
                record=self.events.append,
                timetable=timetable,
            )

    def live(self, seconds: float) -> None:
        self.polled.clear()
        self.reported.clear()
        self.until = self.now + seconds
        with self.cycle() as cycle:
            Service(
                cycles=cycle,
                schedule=Schedule(DEVICE, 300, 30),
                waiting=self,
                manager=ServiceManager({}),
                record=self.events.append,
                clock=lambda: self.now,
                timer=lambda: self.now,
                report=lambda: self.reported.append(self.now),
                always_report=True,
            ).run()

    @property
    def component(self) -> RecordedWorkload:
        with Journal.open(self.folder / "journal.sqlite3", self.now) as journal:
            return next(each for each in journal.workloads() if each.key.deployment_id == deployment_id(1))

    def count(self, reason: Reason) -> int:
        return sum(event.reason is reason for event in self.events)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def hours(moments: list[float]) -> set[int]:
    return {datetime.fromtimestamp(moment, UTC).hour for moment in moments}


def test_a_device_polls_and_reports_in_its_hours_only(plant: Plant) -> None:
    plant.publish("hello", 1, contact=EVENINGS)
    plant.live(60)  # the first contact: it knows of no hours before
    plant.now = utc("2026-12-01T18:30")
    plant.live(2.8 * 3600)
    assert hours(plant.polled) == {19}, "20:00 to 21:00 in Berlin"
    assert hours(plant.reported) == {19}
    assert 10 <= len(plant.polled) <= 13


def test_polls_of_a_site_are_spread_when_its_hours_begin() -> None:
    opening = (NOON + 3600, NOON + 7200)
    delays = [Schedule(f"press-{number}", 300, 30).delay(NOON, opening=opening) - 3600 for number in range(300)]
    tenths = [sum(tenth <= delay / 30 < tenth + 1 for delay in delays) for tenth in range(10)]
    assert min(tenths) > 10


@given(st.text("abc0123-", min_size=1, max_size=12), st.floats(1, 86_400), st.floats(1, 1e6), st.floats(1, 1e6))
def test_a_poll_that_waits_for_its_hours_comes_within_them(device: str, interval: float, to: float, long: float):
    delay = Schedule(device, interval, 0).delay(NOON, failures=9, opening=(NOON + to, NOON + to + long))
    assert to <= delay + 1e-3
    assert delay < to + long


def test_downtime_is_without_traffic_and_without_errors(plant: Plant) -> None:
    plant.publish("hello", 1, contact=CHRISTMAS)
    plant.live(60)
    plant.reachable = False
    for day in (24, 25, 26):
        plant.now = utc(f"2026-12-{day}T23:30")
        plant.live(1790)
    assert plant.polled == plant.reported == []
    assert plant.count(Reason.POLL_FAILED) == 0
    plant.reachable, plant.now = True, utc("2026-12-26T23:59:50")
    plant.live(600)
    assert plant.polled
    assert plant.polled[0] >= utc("2026-12-27T00:00")


def test_what_runs_is_kept_running_in_downtime(plant: Plant) -> None:
    plant.publish("hello", 1, contact=CHRISTMAS)
    plant.live(60)
    plant.now = utc("2026-12-24T12:00")
    plant.engine.running.clear()
    plant.live(120)
    assert plant.engine.running
    assert plant.polled == []


def test_a_person_polls_at_any_time(plant: Plant) -> None:
    plant.publish("hello", 1, contact=EVENINGS)
    plant.live(60)
    plant.asked = True
    plant.live(60)
    assert len(plant.polled) == 1


@pytest.mark.parametrize("contact", [{**EVENINGS, "timeZone": "Mars/Olympus"}, {**EVENINGS, "blackouts": [
    {"from": "2026-01-01", "until": "2030-01-01"}]}, {**CHRISTMAS, "blackouts": [
    {"from": "2026-12-01", "until": "2027-01-02"}]}])  # fmt: skip
def test_hours_that_never_come_or_in_more_than_a_month_cut_no_device_off(plant: Plant, contact: dict) -> None:
    plant.publish("hello", 1, contact=contact)
    plant.live(60)
    plant.live(1200)
    assert len(plant.polled) > 3


@pytest.mark.parametrize("shown", [0.0, 4_102_444_800.0, 253_402_200_000.0])
def test_f19_a_clock_that_is_not_set_opens_no_window_and_polls_at_any_time(plant: Plant, shown: float) -> None:
    plant.publish("hello", 1, maintenance=[NIGHTS], contact=EVENINGS)
    plant.now = shown
    plant.live(1200)
    assert plant.component.state == "pending"
    assert "the clock of this device is not set, and site north needs the time" in plant.component.message
    assert len(plant.polled) > 3, "the device could not be repaired otherwise"
    plant.now = utc("2026-12-02T01:30")
    plant.live(300)
    assert plant.component.state == "installed"


def test_f19_a_clock_set_back_beyond_the_last_time_that_counted_opens_no_window(plant: Plant) -> None:
    plant.publish("hello", 1, maintenance=[NIGHTS])
    plant.now = utc("2026-12-02T01:30")
    plant.live(300)
    assert plant.component.state == "installed"
    plant.publish("new", 2, maintenance=[NIGHTS])
    plant.now = utc("2026-11-20T01:30")  # in a window of the wrong day
    plant.live(600)
    assert plant.component.state == "pending"
    assert "was set back: it showed 2026-12-02" in plant.component.message
    plant.is_set = True
    plant.live(300)
    assert plant.component.state == "installed", "a time service set it: the time before was wrong"


def test_f19_a_clock_before_the_newest_signed_time_opens_no_window(plant: Plant) -> None:
    plant.publish("hello", 1, maintenance=[NIGHTS], at=utc("2026-12-20T12:00"))
    plant.trusts = True
    plant.now = utc("2026-12-02T01:30")
    plant.live(300)
    assert "a state was signed at 2026-12-19 12:00 UTC" in plant.component.message
    plant.publish("hello", 2, maintenance=[NIGHTS])
    plant.signed = datetime(2026, 12, 20, tzinfo=UTC)
    plant.now = utc("2026-12-02T01:30")
    plant.live(300)
    assert plant.component.state == "pending"
    plant.now = utc("2026-12-21T01:30")
    plant.live(300)
    assert plant.component.state == "installed"


@pytest.mark.parametrize(("policy", "state"), [(False, "pending"), (True, "installed")])
def test_f19_a_clock_that_no_time_service_has_set_follows_the_policy(plant: Plant, policy: bool, state: str) -> None:
    plant.publish("hello", 1, maintenance=[NIGHTS])
    plant.is_set, plant.trusts, plant.now = False, policy, utc("2026-12-02T01:30")
    plant.live(300)
    assert plant.component.state == state
    if not policy:
        assert "was not set by its time service since the start" in plant.component.message
        plant.is_set = True
        plant.live(300)
        plant.is_set = False  # it lost its source since then
        plant.publish("new", 2, maintenance=[NIGHTS])
        plant.live(600)
        assert plant.component.state == "installed"


def test_f19_where_no_time_service_is_the_clock_counts(plant: Plant) -> None:
    plant.publish("hello", 1, maintenance=[NIGHTS])
    plant.now = utc("2026-12-02T01:30")
    plant.live(300)
    assert plant.component.state == "installed"


def test_what_the_system_tells_of_its_clock(tmp_path: Path) -> None:
    assert is_synchronized(tmp_path, lambda: False) is None
    (tmp_path / "systemd/timesync").mkdir(parents=True)
    assert is_synchronized(tmp_path, lambda: False) is False
    assert is_synchronized(tmp_path, lambda: True) is True
    (tmp_path / "systemd/timesync/synchronized").touch()
    assert is_synchronized(tmp_path, lambda: False) is True
    assert is_synchronized(tmp_path) is True
    is_synchronized(tmp_path / "nothing")  # the real kernel answers something


def suspended(plant: Plant, seconds: float) -> None:
    now, until = (datetime.fromtimestamp(moment, UTC) for moment in (plant.now, plant.now + seconds))
    suspend(plant.folder, "ada", "the line is measured", now, until)


def test_while_changes_are_suspended_new_state_is_fetched_and_waits(plant: Plant) -> None:
    plant.publish("hello", 1)
    plant.live(60)
    suspended(plant, 3600)
    plant.publish("new", 2)
    plant.engine.running.clear()
    plant.live(600)
    assert plant.engine.running, "what runs is kept running"
    assert plant.component.state == "pending"
    assert plant.component.code == "MG1614"
    assert "suspended until 2026-12-01T12:01+00:00 by ada: the line is measured" in plant.component.message
    with plant.cycle() as cycle:
        outcome = cycle.run(poll=False)
        assert (outcome.version, outcome.exit_code) == (2, ExitCode.TRY_LATER)
    plant.live(3600)
    assert plant.component.state == "installed", "it ends by itself"
    assert (plant.count(Reason.SUSPENDED), plant.count(Reason.RESUMED)) == (1, 1), "told once, over restarts too"


def test_a_person_resumes_and_the_agent_obeys_at_once(plant: Plant) -> None:
    plant.publish("hello", 1)
    suspended(plant, 86_400)
    plant.live(120)
    assert plant.component.state == "pending"
    resume(plant.folder)
    plant.asked = True
    plant.live(1)
    assert plant.component.state == "installed"


def test_a_suspension_is_in_the_status_of_what_runs_too(plant: Plant) -> None:
    plant.publish("hello", 1)
    plant.live(60)
    suspended(plant, 3600)
    plant.live(120)
    with Journal.open(plant.folder / "journal.sqlite3", plant.now) as journal:
        (document,) = journal.outbox().values()
    found = read_as(DeploymentStatus, read_json(document, "status.json")).status
    assert (found.state, found.error and found.error.code) == ("installed", "MG1614")
    resume(plant.folder)
    plant.live(120)
    with Journal.open(plant.folder / "journal.sqlite3", plant.now) as journal:
        (document,) = journal.outbox().values()
    assert b"MG1614" not in document


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"by": "ada"}', b"\xff" * 100_000])
def test_an_order_that_cannot_be_read_suspends(plant: Plant, content: bytes) -> None:
    plant.publish("hello", 1)
    plant.live(60)
    (plant.folder / SUSPENDED_FILE).write_bytes(content)
    plant.publish("new", 2)
    plant.live(120)
    assert plant.component.state == "pending"
    resume(plant.folder)
    plant.live(120)
    assert plant.component.state == "installed"


def order(plant: Plant, number: int, *deployments: str) -> None:
    order_to_apply(plant.folder, ApplyOrder(str(number), "ada", "2026-12-01T11:00:00+00:00", deployments))


def test_an_order_to_apply_passes_a_closed_calendar_once(plant: Plant) -> None:
    plant.publish("hello", 1, maintenance=[NIGHTS])
    plant.live(120)
    assert plant.component.state == "pending"
    order(plant, 1, "app-1")
    plant.asked = True
    plant.live(1)
    assert plant.component.state == "installed"
    (told,) = [event.text for event in plant.events if event.reason is Reason.APPLIED_NOW]
    assert "app-1 changes now, ordered by ada at 2026-12-01T11:00:00+00:00" in told
    plant.publish("new", 2, maintenance=[NIGHTS])
    plant.live(120)
    assert plant.component.state == "pending", "the order was for once"
    assert plant.count(Reason.APPLIED_NOW) == 1
    order(plant, 2)
    plant.live(120)
    assert plant.component.state == "installed", "without a name, everything"


def test_an_order_for_another_deployment_changes_nothing(plant: Plant) -> None:
    plant.publish("hello", 1, maintenance=[NIGHTS])
    order(plant, 1, "app-2")
    plant.live(120)
    assert plant.component.state == "pending"


@pytest.mark.parametrize("steps", range(5))
def test_an_order_survives_a_power_cut_in_the_middle_of_it(plant: Plant, steps: int) -> None:
    plant.publish("hello", 1, maintenance=[NIGHTS])
    plant.live(120)
    order(plant, 1)
    plant.steps_left = steps
    with pytest.raises(Killed), plant.cycle() as cycle:
        cycle.run()
    assert plant.count(Reason.APPLIED_NOW) == 0
    plant.steps_left = None
    plant.live(120)
    assert plant.component.state == "installed"
    assert plant.count(Reason.APPLIED_NOW) == 1


def test_a_suspension_comes_before_an_order_to_apply(plant: Plant) -> None:
    plant.publish("hello", 1, maintenance=[NIGHTS])
    suspended(plant, 600)
    order(plant, 1)
    plant.live(300)
    assert plant.component.state == "pending"
    plant.live(600)
    assert plant.component.state == "installed"
