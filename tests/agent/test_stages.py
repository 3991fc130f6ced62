"""Stages of an update, "stop line-monitor, update gateway, start both": STAGE-1 to STAGE-5, STEP-13, SWITCH-5."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from device_world import deployment_bytes, deployment_id
from engine_double import Engine, EngineDouble, Killed
from test_locks import HOOK_USER, HOOKS, app, hook, hooks, take
from test_reconciling import Device, state, wanted
from test_windows import NIGHT, NIGHTS

from margo_gitops.agent.memory.events import Reason
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.settings.configuration import HookSettings, LockSettings
from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import StorageFull
from margo_gitops.trust.trusted_state import TrustedState

__all__ = ["hooks"]

GATEWAY, MONITOR = deployment_id(1), deployment_id(2)
WEB_1, WEB_2 = WorkloadKey(GATEWAY, "web"), WorkloadKey(MONITOR, "web")
STOP, START = f"stop {WEB_2}", f"start {WEB_2}"
BATCH: Json = {"name": "batch-running", "file": "line3/batch.lock", "of": "deployment app-2", "atMost": "1h"}


def plant(version: int, gateway: str = "hello", monitor: str = "hello", **own: Json) -> TrustedState:
    """Return a gateway that stops its monitor, which the manifest names first."""
    return state({2: app(2, monitor, **own), 1: app(1, gateway, stop=[MONITOR.upper()])}, version)


@pytest.fixture
def device(tmp_path: Path, hooks: Path) -> Device:
    (tmp_path / "locks/line3").mkdir(parents=True)
    device = Device(tmp_path, now=NIGHT)
    device.lock_settings = LockSettings(tmp_path / "locks")
    device.hook_settings = HookSettings(hooks, HOOK_USER, 60)
    assert device.reconcile(plant(1)).complete
    assert device.steps[2:] == ["install app-1/web", "install app-2/web"]  # STAGE-1: its turn is later
    device.engine.log.clear()
    return device


def changes(device: Device) -> list[str]:
    return [step for step in device.steps if not step.startswith("prepare")]


def facts(device: Device) -> str:
    with Journal.open(device.folder / "journal.sqlite3", device.now) as journal:
        return journal.facts().get("stopped", "")


# The stages


def test_what_an_update_stops_is_started_again_after_it(device: Device):
    told = []
    double = device.double()
    double.alive = lambda: told.append(device.recorded(str(WEB_2)).message) if WEB_2 in device.engine.halted else None
    assert device.reconcile(plant(2, "new"), double).complete
    assert changes(device) == [STOP, "install app-1/web", START]
    assert set(told) == {"it is stopped while the deployment app-1 is updated"}
    assert device.states() == {str(WEB_1): "installed", str(WEB_2): "installed"}
    reasons = [event.reason for event in device.events]
    assert (reasons.count(Reason.WORKLOAD_STOPPED), reasons.count(Reason.WORKLOAD_STARTED)) == (1, 1)
    assert facts(device) == ""
    device.engine.log.clear()
    assert device.reconcile(plant(2, "new"), patient=True).plan.empty


def test_both_are_updated_with_one_stop(device: Device):
    assert device.reconcile(plant(2, "new", "new")).complete
    assert changes(device) == [STOP, "install app-1/web", "install app-2/web"]
    assert (device.engine.halted, facts(device)) == (set(), "")


def test_it_starts_when_the_last_deployment_that_stops_it_is_done(device: Device):
    def of(version: int, greeting: str) -> TrustedState:
        third = app(3, greeting, stop=[MONITOR], after=[GATEWAY])
        return state({2: app(2), 1: app(1, greeting, stop=[MONITOR]), 3: third, 4: app(4, greeting)}, version)

    assert device.reconcile(of(2, "hello")).complete
    device.engine.log.clear()
    assert device.reconcile(of(3, "new")).complete
    assert changes(device)[:4] == [STOP, "install app-1/web", "install app-3/web", START]


def test_what_looks_as_if_it_had_ended_by_itself_is_started_before_it_is_installed_again(device: Device):
    device.engine.conditions[WEB_2] = "starting"
    double = replace(device.double(), sees_stops=False)
    assert device.reconcile(plant(2, "new"), double).complete
    assert changes(device) == [STOP, "install app-1/web", START]
    assert not device.engine.halted


def test_components_stop_from_the_last_to_the_first(device: Device):
    monitor = deployment_bytes(2, components=("b", "a"))
    for version, greeting in ((2, "hello"), (3, "new")):
        device.engine.log.clear()
        assert device.reconcile(state({2: monitor, 1: app(1, greeting, stop=[MONITOR])}, version)).complete
    b, a = f"{MONITOR}/b", f"{MONITOR}/a"
    assert changes(device) == [f"stop {a}", f"stop {b}", "install app-1/web", f"start {b}", f"start {a}"]


def test_nothing_is_stopped_for_a_repair_a_removal_or_an_update_of_the_monitor(device: Device):
    device.engine.running.pop(WEB_1)
    assert device.reconcile(plant(1)).complete
    assert device.reconcile(plant(2, "hello", "new")).complete
    assert device.reconcile(state({2: app(2, "new")}, 3)).complete
    assert changes(device) == ["install app-1/web", "install app-2/web", f"remove {WEB_1}"]


def test_a_first_installation_stops_too_and_a_name_that_is_not_here_is_no_mistake(device: Device):
    missing = deployment_id(9)
    asked = state({2: app(2), 1: app(1, stop=[MONITOR]), 3: app(3, stop=[MONITOR, missing])}, 2)
    assert device.reconcile(asked).complete
    assert changes(device) == [STOP, "install app-3/web", START]


@pytest.mark.parametrize("stop", [[GATEWAY], [MONITOR]])
def test_deployments_that_stop_each_other_or_themselves_are_refused(device: Device, stop: list[str]):
    asked = state({2: app(2, "new", stop=stop), 1: app(1, "new", stop=[MONITOR])}, 2)
    assert {error.code for error in device.reconcile(asked).failures} == {"MG1707"}
    assert "install app-2/web" not in changes(device)


# What goes wrong


@pytest.mark.parametrize("own", [{}, {"after": [GATEWAY]}])
def test_it_starts_again_when_the_update_failed(device: Device, own: dict[str, Json]):
    double = device.double()
    double.broken.add(("install", "app-1/web"))
    assert device.reconcile(plant(2, "new", **own), double).failures
    assert changes(device) == [STOP, START]
    assert device.reconcile(plant(2, "new", **own), patient=True).failures == ()
    assert (device.engine.halted, device.states()[str(WEB_2)]) == (set(), "installed")


def test_it_stays_stopped_until_the_update_has_gone_back(device: Device):
    def of(version: int, greeting: str) -> TrustedState:
        return state({2: app(2), 1: app(1, greeting, stop=[MONITOR], onFailure="rollback")}, version)

    assert device.reconcile(of(2, "hello")).complete
    double = device.double()
    newer = of(3, "new")
    double.broken.add(("install", wanted(newer)[WEB_1]))
    assert device.reconcile(newer, double).failures
    assert changes(device) == [STOP, STOP, START]
    assert not device.engine.halted


def test_an_update_does_not_begin_while_something_does_not_stop(device: Device):
    double = device.double()
    double.broken.add(("stop", str(WEB_2)))
    assert [error.code for error in device.reconcile(plant(2, "new"), double).failures] == ["MG1622"]
    assert "install app-1/web" not in device.steps
    assert not device.engine.halted
    assert device.states() == {str(WEB_1): "failed", str(WEB_2): "installed"}


def test_what_does_not_start_is_told_and_installed_in_the_next_cycle(device: Device):
    double = device.double()
    double.broken.add(("start", str(WEB_2)))
    assert [error.code for error in device.reconcile(plant(2, "new", onDrift="respect"), double).failures] == ["MG1622"]
    assert (device.recorded(str(WEB_2)).state, device.recorded(str(WEB_2)).code) == ("failed", "MG1622")
    assert device.reconcile(plant(2, "new", onDrift="respect"), double, patient=True).complete
    assert changes(device)[-1] == "install app-2/web"
    assert not device.engine.halted


def test_an_applier_that_cannot_stop_refuses_before_anything_changes(device: Device):
    class Simple(EngineDouble):
        stop = None  # type: ignore[assignment]

    refused = device.reconcile(plant(2, "new"), Simple(device.engine))
    assert [error.code for error in refused.failures] == ["MG1606"]
    assert changes(device) == []


def test_a_silent_engine_of_what_is_stopped_holds_the_update_up(device: Device):
    other = EngineDouble(Engine(), profile_types=("helm",))
    monitor = deployment_bytes(2, kind="helm")
    assert device.reconcile(state({2: monitor, 1: app(1, stop=[MONITOR])}, 2), device.double(), other).complete
    other.answers = False
    newer = state({2: monitor, 1: app(1, "new", stop=[MONITOR])}, 3)
    assert {error.code for error in device.reconcile(newer, device.double(), other).failures} == {"MG1601"}
    assert "install app-1/web" not in device.steps
    other.answers = True
    assert device.reconcile(newer, device.double(), other).complete


# Whose stop it is


@pytest.mark.parametrize("policy", ["report", "respect"])
def test_what_a_person_stopped_is_neither_stopped_nor_started(device: Device, policy: str):
    assert device.reconcile(plant(2, onDrift=policy)).complete
    device.engine.by_hand[WEB_2] = "stopped"
    device.reconcile(plant(3, "new", onDrift=policy))
    assert changes(device) == ["install app-1/web"]
    assert device.engine.by_hand == {WEB_2: "stopped"}


@pytest.mark.parametrize("policy", ["repair", "report", "respect"])
def test_the_stop_of_a_killed_agent_is_no_drift(device: Device, policy: str):
    double = device.double()
    double.broken.add(("interrupt", "app-1/web"))
    assert not device.reconcile(plant(2, "new", onDrift=policy), double).complete
    assert device.engine.halted == {WEB_2}
    assert device.reconcile(plant(2, "new", onDrift=policy), patient=True).complete
    assert changes(device) == [STOP, STOP, "install app-1/web", START]
    assert Reason.DRIFT_FOUND not in [event.reason for event in device.events]


# Locks, calendars, hooks


def test_an_update_waits_for_the_locks_of_what_it_stops_and_not_without_end(device: Device):
    newer = plant(2, "new", locks=[BATCH])
    lock = take(device)
    assert device.reconcile(newer, patient=True).only_waits
    assert (device.recorded(str(WEB_1)).code, changes(device)) == ("MG1620", [])
    device.now += 3599
    assert device.reconcile(newer, patient=True).only_waits
    device.now += 1
    assert device.reconcile(newer, patient=True).complete
    assert lock.exists()
    assert changes(device) == [STOP, "install app-1/web", START]


def test_a_lock_that_its_own_stop_holds_does_not_keep_it_stopped(device: Device):
    newer = plant(2, "new", "new", locks=[BATCH])
    double = device.double()

    def alive() -> None:
        if device.engine.halted and device.engine.half:
            raise Killed

    double.alive = alive
    with pytest.raises(Killed):
        device.reconcile(newer, double)
    take(device)
    assert device.reconcile(newer, patient=True).complete


def test_an_update_waits_for_the_calendars_of_what_it_stops(device: Device):
    device.now += 12 * 3600
    newer = plant(2, "new", maintenance=[NIGHTS])
    assert device.reconcile(newer, patient=True).only_waits
    assert (device.recorded(str(WEB_1)).code, changes(device)) == ("MG1611", [])
    device.now += 12 * 3600
    assert device.reconcile(newer, patient=True).complete


def test_what_waits_itself_is_started_as_it_was(device: Device):
    newer = plant(2, "new", "new", onFailure="hold")
    double = device.double()
    double.broken.add(("prepare", "app-2/web"))
    before = device.engine.running[WEB_2]
    assert device.reconcile(newer, double, patient=True).failures
    assert changes(device) == [STOP, "install app-1/web", START]
    assert device.engine.running[WEB_2] == before
    assert device.recorded(str(WEB_2)).code == "MG1602"


def test_hooks_run_around_the_stop(device: Device):
    before, after = hook(device, "drain", ""), hook(device, "resume", "")
    assert device.reconcile(plant(2, hooks=HOOKS)).complete
    assert device.reconcile(plant(3, "new", hooks=HOOKS)).complete
    assert before.read_text() == "before app-2 web none 1.0.0 stop \n"
    assert after.read_text() == "after app-2 web none 1.0.0 stop done\n"
    assert device.reconcile(plant(4, "newer", "new", hooks=HOOKS)).complete
    assert after.read_text().splitlines()[1:] == ["after app-2 web none 1.0.0 update done"]


def test_a_hook_that_does_not_run_keeps_the_update_from_beginning(device: Device):
    hook(device, "drain", "exit 1")
    assert [error.code for error in device.reconcile(plant(2, "new", hooks=HOOKS)).failures] == ["MG1621"]
    assert changes(device) == []


# Ends of the agent and of the disk


def killing(monkeypatch: pytest.MonkeyPatch, at: int, what: BaseException) -> Callable[[], None]:
    """Return what ends the agent at this moment, which comes also before and after each write of the journal."""
    moment = count()

    def alive() -> None:
        if next(moment) >= at:
            raise what

    for name in ("record", "set_facts", "forget"):
        real = getattr(Journal, name)

        def write(*given: object, real: Callable[..., None] = real) -> None:
            alive()
            real(*given)
            alive()

        monkeypatch.setattr(Journal, name, write)
    return alive


MOMENTS = 60
ENDS = [plant(3, "new", "new"), plant(3, "new"), plant(3), state({2: app(2)}, 3), state({1: app(1, "new")}, 3)]


@pytest.mark.parametrize("end", range(len(ENDS)))
def test_killed_at_every_step_nothing_stays_stopped(tmp_path: Path, end: int):
    """Each end follows at some of the moments; together, they are all."""
    for moment in range(end, MOMENTS, len(ENDS)):
        folder = tmp_path / str(moment)
        folder.mkdir()
        device = Device(folder, now=NIGHT)
        policy = ("repair", "respect")[moment % 2]
        assert device.reconcile(plant(1, onDrift=policy)).complete
        device.engine.log.clear()
        with pytest.MonkeyPatch.context() as patch:
            double = EngineDouble(device.engine, alive=killing(patch, moment, Killed()), sees_stops=moment % 3 > 0)
            try:
                ended = device.reconcile(plant(2, "new", "new", onDrift=policy), double, patient=True).complete
            except Killed:
                ended = False
        begun, done = (("replace", "app-1/web") in device.engine.tried, ("install", "app-1/web") in device.engine.log)
        assert ended or device.engine.halted or not (begun and not done)
        assert device.reconcile(ENDS[end], replace(device.double(), sees_stops=moment % 3 > 0), patient=True).complete
        assert (device.engine.halted, facts(device)) == (set(), "")
        assert device.engine.running == wanted(ENDS[end])
        if ended:
            break
    assert 20 < moment < MOMENTS - len(ENDS)


def test_a_full_disk_at_any_step_leaves_nothing_stopped(tmp_path: Path):
    for moment in range(0, MOMENTS, 2):  # before each write
        folder = tmp_path / str(moment)
        folder.mkdir()
        device = Device(folder, now=NIGHT)
        assert device.reconcile(plant(1)).complete
        with pytest.MonkeyPatch.context() as patch:
            killing(patch, moment, StorageFull("the disk is full"))
            try:
                done = device.reconcile(plant(2, "new"), patient=True).complete
            except StorageFull:
                done = False
        assert device.engine.halted == set()
        assert device.reconcile(plant(2, "new"), patient=True).complete
        assert (device.engine.halted, facts(device)) == (set(), "")
        if done:
            break
    assert 10 < moment < MOMENTS - 1


@pytest.mark.parametrize("asked", range(0, 12, 2))
def test_an_agent_that_is_asked_to_end_between_two_steps_leaves_nothing_stopped(device: Device, asked: int):
    newer = plant(2, "new", "new")
    device.reconcile(newer, stop_after=asked)
    assert (device.engine.halted, facts(device)) == (set(), "")
    assert device.reconcile(newer, patient=True).complete
