"""What may change when: rules OPEN-1 to OPEN-5 of agent.apply.windows, and STEP-10 of agent.apply.steps."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from device_world import deployment_bytes, deployment_id
from test_reconciling import Device, state

from margo_gitops.agent.memory.events import Reason
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
