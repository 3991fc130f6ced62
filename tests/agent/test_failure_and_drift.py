"""What a device does when an update fails, and when what runs is changed on it.

Rules BACK-1 to BACK-6, STEP-11, STEP-12, HAND-1 and HAND-2.

A deployment app-1 has the components `db` and `web`, in this order; both change with GREETING.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from device_world import deployment_bytes, deployment_id
from engine_double import EngineDouble, Killed
from test_reconciling import Device, kill_after, state, wanted

from margo_gitops.agent.apply.causes import Causes
from margo_gitops.agent.apply.reconciler import Reconciler
from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.memory.events import Reason
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.orders import ApplyOrder, Orders, order_to_apply
from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.errors import ArtifactUnavailable, EngineUnavailable, ExitCode, StorageFailed

DB, WEB = (WorkloadKey(deployment_id(1), name) for name in ("db", "web"))


def app(number: int = 1, greeting: str = "old", components: tuple[str, ...] = ("db", "web"), **policy: str) -> bytes:
    return deployment_bytes(number, values={"GREETING": greeting}, components=components, extension=policy)


def stateful(greeting: str, version: int, *, others: dict[int, bytes] | None = None, **policy: str):
    return state({1: app(1, greeting, **policy), **(others or {})}, version)


FAILS = {("install", wanted(stateful(greeting, 2))[WEB]) for greeting in ("new", "newer")}
"""What does not come up of component web."""


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def running(device: Device, **policy: str) -> None:
    assert device.reconcile(stateful("old", 1, **policy)).complete
    device.engine.log.clear()


def texts(device: Device, reason: Reason) -> list[str]:
    return [event.text for event in device.events if event.reason is reason]


def row(device: Device, key: WorkloadKey):
    return device.recorded(str(key))


# A failing update


def test_by_default_a_failed_update_leaves_the_components_that_were_updated_well(device: Device):
    running(device)
    newer = stateful("new", 2)
    device.reconcile(newer, EngineDouble(device.engine, broken=FAILS))
    old, new = wanted(stateful("old", 1)), wanted(newer)
    assert device.engine.running == {DB: new[DB], WEB: old[WEB]}
    device.live(newer, EngineDouble(device.engine, broken=FAILS), minutes=70)
    assert device.tried("replace") == 2, "a quarantined update was tried again"


def test_f9_a_rollback_takes_the_whole_deployment_back_and_is_no_success(device: Device):
    running(device, onFailure="rollback")
    newer = stateful("new", 2, onFailure="rollback")
    done = device.reconcile(newer, EngineDouble(device.engine, broken=FAILS))
    assert device.engine.running == wanted(stateful("old", 1))
    assert (done.complete, [error.code for error in done.failures]) == (False, ["MG1604", "MG1623"])
    assert Outcome("new", 2, None, done).exit_code == ExitCode.APPLY
    assert device.states() == {str(DB): "failed", str(WEB): "failed"}
    assert {row(device, key).code for key in (DB, WEB)} == {"MG1623"}
    message = row(device, DB).message
    assert message.startswith("the deployment app-1 is rolled back to 1.0.0, which ran last")
    assert "component web: " in message
    assert "does not start" in message
    assert message.count("remedy: ") == 1
    assert device.statuses() == {deployment_id(1): (2, "failed")}
    assert len(texts(device, Reason.ROLLED_BACK)) == 1


def test_f10_a_rollback_is_not_undone_by_the_next_polls_of_the_same(device: Device):
    running(device, onFailure="rollback")
    newer = stateful("new", 2, onFailure="rollback")
    device.reconcile(newer, EngineDouble(device.engine, broken=FAILS))
    device.engine.tried.clear()
    # The same content in another version, in another life, and without the failure.
    device.live(stateful("new", 3, onFailure="rollback"), minutes=70)
    assert device.engine.running == wanted(stateful("old", 1))
    assert device.engine.tried == []
    again = device.reconcile(newer, patient=True)
    assert (again.plan.empty, [error.code for error in again.failures]) == (True, ["MG1623"])


@pytest.mark.parametrize("how", ["other content", "another policy", "a person asks"])
def test_f8_a_failed_update_is_tried_again_when_content_or_policy_changes_or_a_person_asks(device: Device, how: str):
    running(device, onFailure="rollback")
    device.reconcile(stateful("new", 2, onFailure="rollback"), EngineDouble(device.engine, broken=FAILS))
    newest = {
        "other content": stateful("newest", 3, onFailure="rollback"),
        "another policy": stateful("new", 3),
        "a person asks": stateful("new", 3, onFailure="rollback"),
    }[how]
    done = device.reconcile(newest, patient=True, retry=how == "a person asks")
    assert done.complete
    assert device.engine.running == wanted(newest)
    assert set(device.states().values()) == {"installed"}


def test_a_rollback_removes_what_is_new_and_keeps_what_would_have_gone(device: Device):
    before = state({1: app(1, "old", ("db", "log"), onFailure="rollback")})
    assert device.reconcile(before).complete
    after = state({1: app(1, "new", ("db", "hmi", "web"), onFailure="rollback")}, 2)
    device.reconcile(after, EngineDouble(device.engine, broken={("install", "app-1/web")}))
    assert device.engine.running == wanted(before)


def test_going_back_needs_no_network(device: Device):
    """What the last good state needs stays on the device until its successor is good, through further updates."""
    running(device, onFailure="rollback")
    double = EngineDouble(device.engine, broken={("interrupt", "app-1/web")})
    device.reconcile(stateful("new", 2, onFailure="rollback"), double)  # left half way: db is new
    double = EngineDouble(device.engine, broken=FAILS)
    double.prepare = prepare_online_once(double)  # type: ignore[method-assign]
    device.reconcile(stateful("newer", 3, onFailure="rollback"), double)
    assert device.engine.running == wanted(stateful("old", 1))


def prepare_online_once(double: EngineDouble):
    prepare, seen = double.prepare, set()

    def prepared(workload) -> None:
        double.online = len(seen) < 2  # the two components of the update; then the network is gone
        seen.add(workload.digest)
        prepare(workload)

    return prepared


def test_a_first_installation_that_fails_has_no_way_back_and_is_tried_again(device: Device):
    first = stateful("new", 1, onFailure="rollback")
    done = device.reconcile(first, EngineDouble(device.engine, broken=FAILS))
    assert [error.code for error in done.failures] == ["MG1604"]
    assert device.reconcile(first).complete


def test_an_engine_that_fails_is_no_reason_to_go_back(device: Device):
    running(device, onFailure="rollback")

    class Lost(EngineDouble):
        def install(self, workload) -> None:
            if workload.key == WEB:
                raise EngineUnavailable("it was restarted")
            super().install(workload)

    newer = stateful("new", 2, onFailure="rollback")
    device.reconcile(newer, Lost(device.engine))
    assert texts(device, Reason.ROLLED_BACK) == []
    device.now += 61
    assert device.reconcile(newer, patient=True).complete


def test_what_waits_for_a_deployment_that_went_back_waits_and_others_go_on(device: Device):
    running(device, onFailure="rollback")
    others = {2: deployment_bytes(2, after=[1]), 3: deployment_bytes(3)}
    newer = stateful("new", 2, others=others, onFailure="rollback")
    device.reconcile(newer, EngineDouble(device.engine, broken=FAILS))
    device.reconcile(newer, patient=True)
    states = device.states()
    assert states[f"{deployment_id(2)}/web"] == "pending"
    assert states[f"{deployment_id(3)}/web"] == "installed"


def test_a_last_good_state_that_stopped_is_started_again(device: Device):
    running(device, onFailure="rollback")
    newer = stateful("new", 2, onFailure="rollback")
    device.reconcile(newer, EngineDouble(device.engine, broken=FAILS))
    del device.engine.running[DB]
    device.reconcile(newer, patient=True)
    assert device.engine.running == wanted(stateful("old", 1))
    assert row(device, DB).code == "MG1623"


def test_a_way_back_that_this_agent_did_not_write_is_none(device: Device):
    running(device, onFailure="rollback")
    with Journal.open(device.folder / "journal.sqlite3", device.now) as journal:
        journal.set_facts({"last-good": '{"deployments": 7}'})
    newer = stateful("new", 2, onFailure="rollback")
    device.reconcile(newer, EngineDouble(device.engine, broken=FAILS))
    assert row(device, WEB).failure == "quarantined"


def test_killed_at_every_step_of_a_rollback_the_device_ends_where_it_was(tmp_path: Path):
    newer = stateful("new", 2, onFailure="rollback")
    for steps in range(40):
        device = Device(tmp_path / str(steps))
        device.folder.mkdir()
        running(device, onFailure="rollback")
        double = EngineDouble(device.engine, broken=FAILS, alive=partial(next, kill_after(steps)))
        try:
            device.reconcile(newer, double)
        except Killed:
            with contextlib.suppress(Killed):  # killed once more on the way
                alive = partial(next, kill_after(steps % 5))
                device.reconcile(newer, EngineDouble(device.engine, broken=FAILS, alive=alive), patient=True)
            device.now += 3600
            device.reconcile(newer, EngineDouble(device.engine, broken=FAILS), patient=True)
        else:
            break
        assert device.engine.running == wanted(stateful("old", 1)), steps
        assert device.engine.half == set()
        assert {row(device, key).code for key in (DB, WEB)} == {"MG1623"}
    else:
        pytest.fail("the update has more steps than this test has kills")
    assert steps > 10


@pytest.mark.parametrize("cause", ["disk", "network", "engine"])
def test_f8_what_failed_because_of_the_device_is_tried_when_the_cause_is_gone(device: Device, cause: str):
    """Before its pause is over, and once; until then it rests longer each time, and is not put in quarantine."""
    running(device)
    newer = stateful("new", 2)
    free = [0]
    error = {
        "disk": StorageFailed("the disk is full"),
        "network": ArtifactUnavailable("no route"),
        "engine": EngineUnavailable("it was restarted"),
    }[cause]

    class Failing(EngineDouble):
        def prepare(self, workload) -> None:
            if self.well:
                super().prepare(workload)
                return
            self.engine.tried.append(("prepare", workload.component.name))
            raise error

        well = False

    double = Failing(device.engine)
    with Journal.open(device.folder / "journal.sqlite3", device.now) as journal:
        reconciler = Reconciler(
            {"engine0": double}, journal, device.events.append, lambda: device.now, lambda: False,
            causes=Causes(lambda: free[0]),
        )  # fmt: skip

        def minutes(count: int) -> None:
            for _ in range(count):
                device.now += 60
                reconciler.reconcile(newer, patient=True)

        minutes(40)
        assert device.tried("prepare") < 20
        if cause == "engine":
            double.answers = False
            minutes(1)
        double.answers = double.well = True
        free[0] = 4096  # a log was deleted
        before = device.engine.running.copy()
        device.now += 1
        reconciler.reconcile(newer, patient=True)
        if cause != "engine":
            assert device.engine.running == before
        free[0] = 1024**3
        reconciler.causes.reached()
        device.now += 1
        reconciler.reconcile(newer, patient=True)
    assert device.engine.running == wanted(newer)
    assert set(device.states().values()) == {"installed"}


def test_with_continue_the_other_components_go_on(device: Device):
    components = ("db", "hmi", "web")
    assert device.reconcile(state({1: app(1, "old", components, onFailure="continue")})).complete
    newer = state({1: app(1, "new", components, onFailure="continue")}, 2)
    broken = {("install", "app-1/db"), ("prepare", "app-1/hmi")}
    double = EngineDouble(device.engine, broken=broken)
    device.reconcile(newer, double)
    states = device.states()
    assert [states[f"{deployment_id(1)}/{name}"] for name in components] == ["failed", "failed", "installed"]
    device.live(newer, double, minutes=60)
    assert device.tried("replace") == 2, "the quarantined component, and the one that went well, once each"
    assert device.tried("prepare") < 20


def test_one_bad_application_stops_no_other(device: Device):
    for policy in ("hold", "rollback", "continue"):
        others = {2: deployment_bytes(2, values={"GREETING": policy})}
        newer = stateful(policy, 2, others=others, onFailure=policy)
        device.reconcile(newer, EngineDouble(device.engine, broken={("install", "app-1/web")}))
        assert device.recorded(f"{deployment_id(2)}/web").state == "installed"


# What is changed on the device


@pytest.fixture(params=["removed", "stopped", "paused", "edited"])
def changed(request: pytest.FixtureRequest, device: Device) -> Iterator[str]:
    """Let a person change the component web of a device that the test has installed; yield how."""

    def change() -> None:
        if request.param == "removed":
            del device.engine.running[WEB]
        else:
            device.engine.by_hand[WEB] = request.param

    device.change = change  # type: ignore[attr-defined]
    return request.param


def test_drift_is_repaired_at_once_and_told(device: Device, changed: str):
    running(device)
    device.change()
    done = device.reconcile(stateful("old", 1), patient=True)
    assert done.complete
    assert device.engine.running == wanted(stateful("old", 1))
    assert device.engine.by_hand == {}
    assert len(texts(device, Reason.DRIFT_FOUND)) == 1


def test_drift_is_reported_and_left_where_the_deployment_says_so(device: Device, changed: str):
    asked = stateful("old", 1, onDrift="report")
    running(device, onDrift="report")
    device.change()
    done = device.reconcile(asked, patient=True)
    assert [error.code for error in done.failures] == ["MG1624"]
    device.live(asked, minutes=70)
    assert (WEB in device.engine.running, device.engine.log) == (changed != "removed", [])
    assert (row(device, WEB).state, row(device, DB).state) == ("failed", "installed")
    assert len(texts(device, Reason.DRIFT_FOUND)) == 1
    # Only a person, or other content, brings it back.
    assert device.reconcile(asked, at_once=True).complete
    assert device.engine.running == wanted(asked)


def test_f11_what_a_person_stopped_is_not_started_again(device: Device, changed: str):
    asked = stateful("old", 1, onDrift="respect")
    running(device, onDrift="respect")
    device.change()
    done = device.reconcile(asked, patient=True)
    assert Outcome("none", 1, None, done).exit_code == ExitCode.TRY_LATER
    device.live(asked, minutes=70)
    assert device.engine.log == []
    assert (row(device, WEB).state, row(device, WEB).code) == ("failed", "MG1625")
    assert row(device, WEB).message.startswith("the component web of app-1 is left as a person left it: ")
    assert len(texts(device, Reason.DRIFT_FOUND)) == 1
    # What is known of it survives a restart of the engine, which forgets why it stopped.
    if changed == "stopped":
        device.engine.by_hand.clear()
        device.engine.conditions[WEB] = "degraded"
        device.live(asked, minutes=2)
        assert row(device, WEB).code == "MG1625"
    newer = stateful("new", 2, onDrift="respect")
    device.engine.conditions.clear()
    assert device.reconcile(newer, patient=True).complete
    assert device.engine.running == wanted(newer)


def test_a_person_who_starts_it_again_ends_it(device: Device):
    asked = stateful("old", 1, onDrift="respect")
    running(device, onDrift="respect")
    device.engine.by_hand[WEB] = "paused"
    device.reconcile(asked, patient=True)
    device.engine.by_hand.clear()
    assert device.reconcile(asked, patient=True).complete
    assert row(device, WEB).state == "installed"


def test_a_crash_is_repaired_although_what_a_person_does_is_respected(device: Device):
    asked = stateful("old", 1, onDrift="respect")
    running(device, onDrift="respect")
    device.engine.conditions[WEB] = "degraded"
    device.reconcile(asked, patient=True)
    assert ("restart", "app-1/web") in device.engine.tried


def test_the_other_components_are_updated_while_one_is_left(device: Device):
    """What a person stopped blocks neither its deployment's other components nor independent deployments."""
    running(device, onDrift="respect")
    del device.engine.running[WEB]
    others = {2: deployment_bytes(2, after=[1]), 3: deployment_bytes(3)}
    asked = stateful("old", 2, others=others, onDrift="respect")
    device.reconcile(asked, patient=True)
    states = device.states()
    assert states[f"{deployment_id(2)}/web"] == "pending"
    assert states[f"{deployment_id(3)}/web"] == "installed"
    assert states[str(DB)] == "installed"


def test_what_was_cut_off_is_no_drift(device: Device):
    running(device, onDrift="report")
    newer = stateful("new", 2, onDrift="report")
    device.reconcile(newer, EngineDouble(device.engine, broken={("interrupt", "app-1/web")}))
    assert device.reconcile(newer, patient=True).complete
    assert texts(device, Reason.DRIFT_FOUND) == []


def test_an_order_to_apply_brings_back_what_a_person_stopped(device: Device):
    asked = stateful("old", 1, onDrift="respect")
    running(device, onDrift="respect")
    del device.engine.running[WEB]
    device.reconcile(asked, patient=True)
    order_to_apply(device.folder, ApplyOrder("1", "maria", "2026-11-30T12:00:00Z", ("app-1",)))
    with Journal.open(device.folder / "journal.sqlite3", device.now) as journal:
        orders = Orders(device.folder, journal.facts, journal.set_facts, device.events.append, lambda: device.now)
        appliers = {"engine0": device.double()}
        reconciler = Reconciler(
            appliers, journal, device.events.append, lambda: device.now, lambda: False, orders=orders
        )
        assert reconciler.reconcile(asked, patient=True).complete
        assert device.engine.running == wanted(asked)
        del device.engine.running[WEB]
        assert not reconciler.reconcile(asked, patient=True).complete, "an order counts once"
