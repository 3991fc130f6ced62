"""What may change when: rules OPEN-1 to OPEN-7 of agent.apply.windows, and STEP-10, STEP-15 of agent.apply.steps."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from device_world import deployment_bytes, deployment_id
from engine_double import EngineDouble, Killed
from test_reconciling import Device, state

from margo_gitops.agent.memory.events import Reason
from margo_gitops.agent.settings.configuration import LockSettings
from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.documents import calendars
from margo_gitops.documents.maintenance import Maintenance

NIGHTS = {
    "of": "site north",
    "timeZone": "Europe/Berlin",
    "windows": [{"days": "FREQ=DAILY", "start": "02:00", "duration": "2h"}],
}
WEB_1 = f"{deployment_id(1)}/web"


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


MORNING, NIGHT = utc("2026-11-30T09:00"), utc("2026-12-01T01:30")


def app(number: int, greeting: str = "hello", *maintenance: dict, **options) -> bytes:
    extension = {"maintenance": list(maintenance)} if maintenance else {}
    return deployment_bytes(number, values={"GREETING": greeting}, extension=extension, **options)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """Return a device that runs version 1 of a deployment with a calendar, in the morning after."""
    device = Device(tmp_path, now=NIGHT - 86_400)
    assert device.reconcile(state({1: app(1, "hello", NIGHTS)})).complete
    device.engine.log.clear()
    device.now = MORNING
    return device


def test_an_update_is_prepared_at_any_time_and_made_in_the_window(device: Device):
    newer = state({1: app(1, "new", NIGHTS)}, 2)
    before = dict(device.engine.running)
    outcome = device.reconcile(newer, patient=True)
    assert (outcome.complete, outcome.only_waits, outcome.failures) == (False, True, ())
    assert device.steps == ["prepare app-1/web"]
    assert device.engine.running == before
    assert device.recorded(WEB_1).state == "pending"
    assert device.recorded(WEB_1).code == "MG1611"
    assert device.recorded(WEB_1).message.startswith(
        "the deployment app-1 waits until Tuesday 2026-12-01 02:00 CET, because of site north"
    )
    device.now = NIGHT
    assert device.reconcile(newer, patient=True).complete
    assert device.recorded(WEB_1).state == "installed"


def test_a_device_that_waits_tells_it_once_and_writes_nothing_more(device: Device):
    newer = state({1: app(1, "new", NIGHTS)}, 2)
    device.live(newer, minutes=3)
    waiting = [event for event in device.events if event.reason is Reason.WINDOW_AWAITED]
    assert len(waiting) == 1


def test_only_the_newest_state_is_made_when_the_window_opens(device: Device):
    for version, greeting in ((2, "two"), (3, "three")):
        device.reconcile(state({1: app(1, greeting, NIGHTS)}, version), patient=True)
    device.engine.log.clear()
    device.now = NIGHT
    device.reconcile(state({1: app(1, "four", NIGHTS)}, 4), patient=True)
    assert device.steps == ["prepare app-1/web", "install app-1/web"]


def test_a_deployment_without_a_calendar_changes_at_any_time(device: Device):
    outcome = device.reconcile(state({1: app(1, "new", NIGHTS), 2: app(2)}, 2), patient=True)
    assert outcome.only_waits
    assert device.states()[f"{deployment_id(2)}/web"] == "installed"


def test_a_new_deployment_waits_too(device: Device):
    device.reconcile(state({1: app(1, "hello", NIGHTS), 2: app(2, "hello", NIGHTS)}, 2), patient=True)
    assert device.states()[f"{deployment_id(2)}/web"] == "pending"


def test_what_waits_for_a_deployment_that_waits_is_left(device: Device):
    newer = state({1: app(1, "new", NIGHTS), 2: app(2, "hello", after=[1])}, 2)
    device.reconcile(newer, patient=True)
    assert "install app-2/web" not in device.steps
    device.now = NIGHT
    assert device.reconcile(newer, patient=True).complete


def test_what_is_gone_from_the_state_is_removed_by_its_last_calendar(device: Device):
    outcome = device.reconcile(state({}, 2), patient=True)
    assert outcome.only_waits
    assert device.steps == []
    device.now = NIGHT
    assert device.reconcile(state({}, 2), patient=True).complete
    assert device.steps == [f"remove {WEB_1}"]


def test_a_calendar_that_is_taken_away_no_longer_counts(device: Device):
    assert device.reconcile(state({1: app(1, "new")}, 2), patient=True).complete
    assert device.reconcile(state({}, 3), patient=True).complete


def test_what_ran_and_stopped_is_started_again_at_any_time(device: Device):
    device.engine.running.clear()
    assert device.reconcile(state({1: app(1, "hello", NIGHTS)}), patient=True).complete


@pytest.mark.parametrize("why", ["window", "lock", "content", "order"])
def test_what_an_update_replaces_runs_until_then(tmp_path: Path, why: str):
    """It crashes while its update waits, or cannot be made: it is started again as it is (STEP-15)."""
    device = Device(tmp_path, now=MORNING)
    (tmp_path / "locks").mkdir()
    device.lock_settings = LockSettings(tmp_path / "locks")
    lock = {"name": "batch", "file": "batch.lock", "of": "deployment app-1", "atMost": "8h"}
    own = {"maintenance": [NIGHTS]} if why == "window" else {"locks": [lock]} if why == "lock" else {}
    documents = {2: deployment_bytes(2, values={"GREETING": "a"})}
    documents[1] = deployment_bytes(1, extension=own)
    assert device.reconcile(state(documents), at_once=True).complete
    running, key = dict(device.engine.running), WorkloadKey(deployment_id(1), "web")
    (tmp_path / "locks/batch.lock").touch()
    device.engine.log.clear()

    after = [2] if why == "order" else []
    newer = {1: deployment_bytes(1, values={"GREETING": "b"}, extension=own, after=after), 2: documents[2]}
    newer[2] = deployment_bytes(2, values={"GREETING": "b"}) if why == "order" else documents[2]
    double = device.double()
    double.broken |= {("prepare", "app-1/web")} if why == "content" else {("install", "app-2/web")}
    for _ in range(2):
        device.engine.conditions[key] = "degraded"
        device.reconcile(state(newer, 2), double, patient=True)
        assert device.engine.running == running
        assert device.engine.conditions == {}
    assert [step for step in device.steps if "app-1" in step or "start" in step].count(f"start {WEB_1}") == 2
    assert [event.reason for event in device.events].count(Reason.WORKLOAD_STARTED) == 2
    device.events.clear()
    device.reconcile(state(newer, 2), double, patient=True)
    assert Reason.WORKLOAD_STARTED not in [event.reason for event in device.events]


@pytest.mark.parametrize(("on_drift", "by_hand"), [("report", False), ("respect", True), ("repair", True)])
def test_what_waits_and_was_stopped_by_a_person_is_left_as_the_policy_says(
    device: Device, on_drift: str, by_hand: bool
):
    document = deployment_bytes(1, values={"GREETING": "new"}, extension={"maintenance": [NIGHTS], "onDrift": on_drift})
    newer = state({1: document}, 2)
    key = WorkloadKey(deployment_id(1), "web")
    if by_hand:
        device.engine.halted.add(key)
    else:
        device.engine.conditions[key] = "degraded"
    device.reconcile(newer, patient=True)
    assert (f"start {WEB_1}" in device.steps) is (on_drift == "repair")


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_is_to_be_removed_runs_until_then(device: Device, by_hand: bool):
    key = WorkloadKey(deployment_id(1), "web")
    device.engine.conditions[key] = "degraded"
    if by_hand:
        device.engine.halted.add(key)
    device.reconcile(state({}, 2), patient=True)
    assert device.steps == ([] if by_hand else [f"start {WEB_1}"])
    device.now = NIGHT
    assert device.reconcile(state({}, 2), patient=True).complete
    assert device.engine.running == {}


def test_what_was_begun_is_finished_after_the_window(device: Device):
    device.now = NIGHT
    newer = state({1: app(1, "new", NIGHTS)}, 2)
    double = device.double()
    double.broken.add(("interrupt", "app-1/web"))
    device.reconcile(newer, double)
    assert device.recorded(WEB_1).state == "installing"
    device.now = MORNING + 86_400
    assert device.reconcile(newer, patient=True).complete


def test_what_failed_in_the_window_is_tried_again_in_the_next_one(device: Device):
    device.now = NIGHT
    newer = state({2: app(2, "new", NIGHTS), 1: app(1, "hello", NIGHTS)}, 2)
    double = device.double()
    double.broken.add(("install", "app-2/web"))
    assert device.reconcile(newer, double, patient=True).failures
    device.now = MORNING + 86_400
    device.engine.log.clear()
    outcome = device.reconcile(newer, patient=True)
    assert outcome.only_waits
    assert "install app-2/web" not in device.steps
    assert device.states()[f"{deployment_id(2)}/web"] == "failed"
    device.now = NIGHT + 86_400
    assert device.reconcile(newer, patient=True).complete


def test_a_person_may_ask_for_it_at_once(device: Device):
    assert device.reconcile(state({1: app(1, "new", NIGHTS)}, 2), at_once=True).complete


def test_a_time_zone_that_the_device_does_not_know_closes_the_calendar(device: Device):
    unknown = {**NIGHTS, "timeZone": "Mars/Olympus"}
    assert device.reconcile(state({1: app(1, "new", unknown)}, 2), patient=True).only_waits
    assert "does not know the time zone of site north" in device.recorded(WEB_1).message


def test_a_clock_that_is_not_set_closes_the_calendar(device: Device):
    device.now = 1_000.0
    assert device.reconcile(state({1: app(1, "new", NIGHTS)}, 2), patient=True).only_waits
    assert "the clock of this device is not set" in device.recorded(WEB_1).message


def test_calendars_that_are_never_open_at_once_are_named(device: Device):
    noon = {**NIGHTS, "of": "deployment app-1", "windows": [{"days": "FREQ=DAILY", "start": "12:00", "duration": "1h"}]}
    assert device.reconcile(state({1: app(1, "new", NIGHTS, noon)}, 2), patient=True).only_waits
    assert "site north and deployment app-1 are not open at once" in device.recorded(WEB_1).message


def test_a_clock_that_goes_back_closes_the_window_again(device: Device):
    device.now = NIGHT
    newer = state({1: app(1, "new", NIGHTS)}, 2)
    double = device.double()
    double.broken.add(("prepare", "app-1/web"))
    device.reconcile(newer, double, patient=True)
    device.now = MORNING
    assert device.reconcile(newer, patient=True).only_waits


def test_a_calendar_is_looked_at_once_for_each_opening(device: Device, monkeypatch: pytest.MonkeyPatch):
    looked: list[float] = []

    def counted(
        every: Sequence[Maintenance], now: float, zones: calendars.Zones, least: float = 0.0
    ) -> calendars.Opening | None:
        looked.append(now)
        return look(every, now, zones, least)

    look = calendars.next_opening
    monkeypatch.setattr(calendars, "next_opening", counted)
    running = state({1: app(1, "hello", NIGHTS)})
    device.now = NIGHT + 1740
    device.live(running, minutes=180)
    assert len(looked) == 2


@pytest.mark.parametrize("kept", ["", "{", '{"deployments": 3}', '{"deployments": {"x": [{"timeZone": "UTC"}]}}'])
def test_a_memory_that_this_agent_did_not_write_is_no_calendar(device: Device, kept: str):
    from margo_gitops.agent.memory.journal import Journal

    with Journal.open(device.folder / "journal.sqlite3", device.now) as journal:
        journal.set_facts({"calendars": kept})
    assert device.reconcile(state({}, 2), patient=True).complete


def taking(device: Device, seconds: float) -> EngineDouble:
    """Return an engine whose installations take time, half of it before the change and half of it after."""

    device.engine.tried.clear()

    def pass_time() -> None:
        device.now += seconds / 2 if device.engine.tried and device.engine.tried[-1][0] != "prepare" else 0

    return EngineDouble(device.engine, alive=pass_time)


def test_an_update_begins_only_if_it_fits_into_what_is_left_of_the_window(device: Device):
    device.now = NIGHT
    assert device.reconcile(state({1: app(1, "slow", NIGHTS)}, 2), taking(device, 1800)).complete
    device.now = utc("2026-12-02T02:40")  # the window closes in 20 minutes
    newer = state({1: app(1, "new", NIGHTS)}, 3)
    outcome = device.reconcile(newer, patient=True)
    assert outcome.only_waits
    assert device.recorded(WEB_1).message.startswith(
        "the deployment app-1 waits until Thursday 2026-12-03 02:00 CET, because of site north [MG1611]\n"
        "  it took 30m the last times, and less is left of this window"
    )
    device.now = utc("2026-12-02T02:29")
    assert device.reconcile(newer, patient=True).complete


def test_the_longest_of_the_last_three_times_counts(device: Device):
    def update(version: int, seconds: float, at: str = "01:05") -> bool:
        device.now = utc(f"2026-12-{version:02}T{at}")
        newer = state({1: app(1, f"{version} {seconds}", NIGHTS)}, version)
        return device.reconcile(newer, taking(device, seconds), patient=True).complete

    assert update(2, 3000)
    assert update(3, 600)
    assert update(4, 600)
    assert not update(5, 600, at="02:20"), "it took 50 minutes, and 40 are left"
    assert update(6, 600)
    assert update(7, 600, at="02:20"), "that was long ago"


def test_a_window_that_is_too_short_says_so(device: Device):
    device.now = NIGHT
    assert device.reconcile(state({1: app(1, "slow", NIGHTS)}, 2), taking(device, 3 * 3600)).complete
    device.now = NIGHT + 86_400
    assert device.reconcile(state({1: app(1, "new", NIGHTS)}, 3), patient=True).only_waits
    assert "waits for a time that never comes: it took 3h the last times, and no window of site north is that long" in (
        device.recorded(WEB_1).message
    )
    longer = {**NIGHTS, "windows": [{"days": "FREQ=WEEKLY;BYDAY=SA", "start": "02:00", "duration": "2d"}]}
    device.now = utc("2026-12-06T10:00")
    assert device.reconcile(state({1: app(1, "new", longer)}, 4), patient=True).complete, "longer than a day"


def test_what_was_never_installed_here_begins(device: Device):
    device.now = utc("2026-12-02T02:59")
    assert device.reconcile(state({1: app(1, "hello", NIGHTS), 2: app(2, "hello", NIGHTS)}, 2), patient=True).complete


@pytest.mark.parametrize("steps", range(9))
def test_a_deployment_that_has_begun_is_finished_after_the_window_and_a_power_cut(tmp_path: Path, steps: int):
    device = Device(tmp_path, now=NIGHT)
    two = {"components": ("a", "b")}
    assert device.reconcile(state({1: app(1, "hello", NIGHTS, **two)})).complete
    left = iter([None] * steps)

    def alive() -> None:
        if next(left, "dead") == "dead":
            raise Killed

    newer = state({1: app(1, "new", NIGHTS, **two)}, 2)
    with pytest.raises(Killed):
        device.reconcile(newer, EngineDouble(device.engine, alive=alive))
    device.now = MORNING + 86_400
    is_begun = steps >= 4  # before, it was only prepared
    assert device.reconcile(newer, patient=True).complete is is_begun
    states = {device.recorded(f"{deployment_id(1)}/{name}").state for name in "ab"}
    assert len(states) == 1, "never half"
    again = state({1: app(1, "newest", NIGHTS, **two)}, 3)
    assert device.reconcile(again, patient=True).only_waits, "the next update waits again"


def test_the_clocks_of_a_site_change_and_its_window_stays(device: Device):
    """Daylight saving both ways: 02:00 to 04:00 in Berlin on the last Sundays of March and October."""
    for opens, closes in (("2027-03-28T01:00", "2027-03-28T03:00"), ("2027-10-31T00:00", "2027-10-31T02:00")):
        for at, is_open in ((utc(opens) - 1, False), (utc(opens), True), (utc(closes) - 1, True), (utc(closes), False)):
            device.now = at
            outcome = device.reconcile(state({1: app(1, f"{at}", NIGHTS)}, 2), patient=True)
            assert outcome.complete is is_open, (opens, at)


def test_the_last_day_of_february_is_a_leap_day_in_a_leap_year(device: Device):
    last = [{"days": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=-1", "start": "12:00", "duration": "1h"}]
    for day, is_open in (("2027-02-28", True), ("2028-02-28", False), ("2028-02-29", True), ("2028-03-01", False)):
        device.now = utc(f"{day}T11:30")
        outcome = device.reconcile(state({1: app(1, day, {**NIGHTS, "windows": last})}, 2), patient=True)
        assert outcome.complete is is_open, day


def test_a_device_that_was_off_in_the_window_takes_the_newest_in_the_next_one(device: Device):
    newer = state({1: app(1, "new", NIGHTS)}, 2)
    device.reconcile(newer, patient=True)
    device.now = MORNING + 3 * 86_400  # off for three windows
    assert device.reconcile(newer, patient=True).only_waits
    assert "Friday 2026-12-04 02:00" in device.recorded(WEB_1).message
    device.now = NIGHT + 3 * 86_400
    assert device.reconcile(state({1: app(1, "newest", NIGHTS)}, 5), patient=True).complete
