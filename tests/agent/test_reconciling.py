"""Plans, and how they are carried out: rules L-1 to L-8 of margo_gitops.agent.plan; convergence after any kill."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from device_world import DEVICE, deployment_bytes, deployment_id, snapshot_of
from engine_double import Engine, EngineDouble, Killed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from margo_gitops.agent.events import Event, Reason
from margo_gitops.agent.journal import Journal
from margo_gitops.agent.reconcile import Reconciler, Reconciliation
from margo_gitops.agent.workloads import desired_deployments
from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.digests import Digest
from margo_gitops.trust.trusted_state import TrustedState, TrustPolicy, judge


@dataclass
class Device:
    """An engine and a journal that survive; agents come and go."""

    folder: Path
    engine: Engine = field(default_factory=Engine)
    now: float = 1_000_000.0
    events: list[Event] = field(default_factory=list)

    def double(self) -> EngineDouble:
        return EngineDouble(self.engine)

    def reconcile(
        self, state: TrustedState, *doubles: EngineDouble, patient: bool = False, stop_after: int | None = None
    ) -> Reconciliation:
        asked = iter(range(10_000))
        with Journal.open(self.folder / "journal.sqlite3", self.now) as journal:
            appliers = {f"engine{at}": double for at, double in enumerate(doubles or (self.double(),))}
            reconciler = Reconciler(
                appliers,
                journal,
                self.events.append,
                lambda: self.now,
                lambda: stop_after is not None and next(asked) >= stop_after,
            )
            return reconciler.reconcile(state, patient=patient)

    def states(self) -> dict[str, str]:
        with Journal.open(self.folder / "journal.sqlite3", self.now) as journal:
            return {str(item.key): item.state for item in journal.workloads()}

    @property
    def steps(self) -> list[str]:
        return [f"{kind} {what}" for kind, what in self.engine.log]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def state(deployments: Mapping[int, bytes], version: int = 1) -> TrustedState:
    return judge(snapshot_of(version, deployments, key=None), TrustPolicy(DEVICE, None), None)


def wanted(trusted: TrustedState) -> dict[WorkloadKey, Digest]:
    return {item.key: item.digest for one in desired_deployments(trusted.deployments) for item in one.workloads}


def test_everything_is_prepared_before_anything_is_installed_and_removal_comes_last(device: Device) -> None:
    device.reconcile(state({3: deployment_bytes(3)}))
    device.engine.log.clear()
    device.reconcile(state({1: deployment_bytes(1, components=("b", "a")), 2: deployment_bytes(2)}, 2))
    assert device.steps == [
        "prepare app-1/b",
        "prepare app-1/a",
        "prepare app-2/web",
        "install app-1/b",
        "install app-1/a",
        "install app-2/web",
        f"remove {deployment_id(3)}/web",
    ]


def test_nothing_is_done_when_nothing_changed(device: Device) -> None:
    trusted = state({1: deployment_bytes(1), 2: deployment_bytes(2)})
    device.reconcile(trusted)
    device.engine.log.clear()
    again = device.reconcile(trusted)
    assert again.complete
    assert again.plan.empty
    assert device.steps == []


def test_deployments_are_installed_after_those_they_wait_for(device: Device) -> None:
    device.reconcile(
        state({1: deployment_bytes(1, after=[3]), 2: deployment_bytes(2), 3: deployment_bytes(3, after=[2])})
    )
    assert device.steps[3:] == ["install app-2/web", "install app-3/web", "install app-1/web"]


def test_f1_what_cannot_be_prepared_keeps_everything_old_running(device: Device) -> None:
    old = state({1: deployment_bytes(1), 2: deployment_bytes(2)})
    device.reconcile(old)
    double = device.double()
    double.broken.add(("prepare", "app-1/web"))
    outcome = device.reconcile(state({1: deployment_bytes(1, values={"GREETING": "new"})}, 2), double)
    assert [error.code for error in outcome.failures] == ["MG1602"]
    assert not outcome.complete
    assert device.engine.running == wanted(old), "something went away although the new content is not there"


def test_a_failed_installation_stops_those_that_wait_for_it_and_nobody_else(device: Device) -> None:
    double = device.double()
    double.broken.add(("install", "app-1/a"))
    outcome = device.reconcile(
        state(
            {
                1: deployment_bytes(1, components=("a", "b")),
                2: deployment_bytes(2, after=[1]),
                3: deployment_bytes(3, after=[2]),
                4: deployment_bytes(4),
            }
        ),
        double,
    )
    assert [step for step in device.steps if step.startswith("install")] == ["install app-4/web"]
    assert [error.code for error in outcome.failures] == ["MG1604"]
    states = device.states()
    assert states[f"{deployment_id(1)}/a"] == "failed"
    assert states[f"{deployment_id(1)}/b"] == "pending"
    assert states[f"{deployment_id(2)}/web"] == "pending"
    assert states[f"{deployment_id(3)}/web"] == "pending"
    assert states[f"{deployment_id(4)}/web"] == "installed"
    assert [event.reason for event in device.events].count(Reason.DEPLOYMENT_WAITS) == 2


def test_a_failed_update_leaves_the_old_content_running(device: Device) -> None:
    old = state({1: deployment_bytes(1)})
    device.reconcile(old)
    double = device.double()
    double.broken.add(("install", "app-1/web"))
    device.reconcile(state({1: deployment_bytes(1, values={"GREETING": "new"})}, 2), double)
    assert device.engine.running == wanted(old)


def test_f8_what_failed_rests_and_is_tried_again_later(device: Device) -> None:
    trusted = state({1: deployment_bytes(1)})
    double = device.double()
    double.broken.add(("install", "app-1/web"))
    device.reconcile(trusted, double, patient=True)
    device.now += 30
    assert not device.reconcile(trusted, patient=True).complete
    assert device.engine.running == {}
    device.now += 31
    assert device.reconcile(trusted, patient=True).complete
    assert device.engine.running == wanted(trusted)


def test_other_content_than_what_failed_is_tried_at_once(device: Device) -> None:
    double = device.double()
    double.broken.add(("install", "app-1/web"))
    device.reconcile(state({1: deployment_bytes(1)}), double, patient=True)
    mended = state({1: deployment_bytes(1, values={"GREETING": "mended"})}, 2)
    assert device.reconcile(mended, patient=True).complete


def test_a_clock_that_went_back_does_not_lengthen_the_rest(device: Device) -> None:
    trusted = state({1: deployment_bytes(1)})
    double = device.double()
    double.broken.add(("install", "app-1/web"))
    device.reconcile(trusted, double, patient=True)
    device.now -= 100_000
    assert device.reconcile(trusted, patient=True).complete


def test_what_somebody_stopped_comes_back(device: Device) -> None:
    trusted = state({1: deployment_bytes(1)})
    device.reconcile(trusted)
    device.engine.running.clear()
    assert device.reconcile(trusted).complete
    assert device.engine.running == wanted(trusted)


def test_an_engine_that_cannot_tell_digests_is_believed_to_run_what_was_installed(device: Device) -> None:
    trusted = state({1: deployment_bytes(1)})
    mute = EngineDouble(device.engine, tells_digest=False)
    device.reconcile(trusted, mute)
    device.engine.log.clear()
    assert device.reconcile(trusted, mute).plan.empty


def test_an_engine_that_does_not_answer_holds_up_only_its_own_deployments(device: Device) -> None:
    other = Engine()
    compose, files = device.double(), EngineDouble(other, profile_types=("custom",))
    trusted = state({1: deployment_bytes(1), 2: deployment_bytes(2, kind="custom")})
    device.reconcile(trusted, compose, files)
    compose.answers = False
    newer = state({2: deployment_bytes(2, kind="custom", values={"GREETING": "new"})}, 2)
    outcome = device.reconcile(newer, compose, files)
    assert [error.code for error in outcome.failures] == ["MG1601"]
    assert other.running == wanted(newer)
    assert device.engine.running, "what a silent engine holds was touched"
    compose.answers = True
    assert device.reconcile(newer, compose, files).complete
    assert device.engine.running == {}


def test_a_profile_type_is_served_by_the_first_applier_that_names_it(device: Device) -> None:
    second = EngineDouble(Engine(), profile_types=("compose", "helm"))
    device.reconcile(state({1: deployment_bytes(1), 2: deployment_bytes(2, kind="helm")}), device.double(), second)
    assert [str(key) for key in device.engine.running] == [f"{deployment_id(1)}/web"]
    assert [str(key) for key in second.engine.running] == [f"{deployment_id(2)}/web"]


def test_a_workload_that_moves_to_another_applier_is_installed_there_before_it_goes_here(device: Device) -> None:
    trusted = state({1: deployment_bytes(1)})
    device.reconcile(trusted)
    second = EngineDouble(Engine(log=device.engine.log))
    first = EngineDouble(device.engine, profile_types=("helm",))
    device.engine.log.clear()
    assert device.reconcile(trusted, first, second).complete
    assert device.steps == ["prepare app-1/web", "install app-1/web", f"remove {deployment_id(1)}/web"]
    assert second.engine.running == wanted(trusted)
    assert set(device.states().values()) == {"installed"}


def test_a_profile_that_no_applier_serves_is_refused_and_what_ran_of_it_stays(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1), 2: deployment_bytes(2)}))
    outcome = device.reconcile(state({1: deployment_bytes(1, kind="helm"), 2: deployment_bytes(2)}, 2))
    assert [error.code for error in outcome.failures] == ["MG1606"]
    assert len(device.engine.running) == 2


def test_a_removal_that_was_begun_is_done_again_although_the_engine_shows_nothing(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1)}))
    empty = state({}, 2)
    double = device.double()
    double.broken.add(("remove", f"{deployment_id(1)}/web"))
    assert not device.reconcile(empty, double).complete
    device.engine.running.clear()
    device.engine.log.clear()
    assert device.reconcile(empty).complete
    assert device.steps == [f"remove {deployment_id(1)}/web"]
    assert device.states() == {}


def test_a_component_that_is_dropped_goes_and_its_deployment_stays(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1, components=("web", "data"))}))
    assert device.reconcile(state({1: deployment_bytes(1)}, 2)).complete
    assert [str(key) for key in device.engine.running] == [f"{deployment_id(1)}/web"]
    assert device.states() == {f"{deployment_id(1)}/web": "installed"}


def test_a_defect_of_an_applier_holds_up_only_the_deployment_it_met(device: Device) -> None:
    double = device.double()
    double.broken.add(("crash", "app-1/web"))
    outcome = device.reconcile(state({1: deployment_bytes(1), 2: deployment_bytes(2)}), double)
    assert [error.code for error in outcome.failures] == ["MG1710"]
    assert "ZeroDivisionError" in str(outcome.failures[0])
    assert [str(key) for key in device.engine.running] == [f"{deployment_id(2)}/web"]


def test_asked_to_stop_it_ends_between_two_steps_and_removes_nothing(device: Device) -> None:
    device.reconcile(state({3: deployment_bytes(3)}))
    newer = state({1: deployment_bytes(1), 2: deployment_bytes(2)}, 2)
    device.engine.log.clear()
    assert not device.reconcile(newer, stop_after=3).complete
    assert device.steps == ["prepare app-1/web", "prepare app-2/web", "install app-1/web"]
    assert device.reconcile(newer).complete
    assert device.engine.running == wanted(newer)


def test_the_outbox_says_what_became_of_each_deployment(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1), 2: deployment_bytes(2)}))
    device.reconcile(state({2: deployment_bytes(2)}, 2))
    with Journal.open(device.folder / "journal.sqlite3", device.now) as journal:
        outbox = {name: content.decode() for name, content in journal.outbox().items()}
    assert '"status":{"state":"removed"}' in outbox[deployment_id(1)]
    assert '"adoptedManifestVersion":2' in outbox[deployment_id(1)]
    assert '"status":{"state":"installed"}' in outbox[deployment_id(2)]
    assert '"adoptedManifestVersion":2' in outbox[deployment_id(2)]


# Properties: any sequence of states, any failures, killed anywhere.

numbers = st.integers(min_value=1, max_value=4)


@st.composite
def device_states(draw: st.DrawFn) -> dict[int, bytes]:
    chosen = sorted(draw(st.sets(numbers)))
    deployments = {}
    for number in chosen:
        others = [other for other in chosen if other < number]
        deployments[number] = deployment_bytes(
            number,
            values={"GREETING": draw(st.sampled_from(["a", "b"]))},
            components=draw(st.sampled_from([("web",), ("web", "data")])),
            after=draw(st.lists(st.sampled_from(others), max_size=1)) if others else (),
        )
    return deployments


@st.composite
def failures(draw: st.DrawFn) -> set[tuple[str, str]]:
    steps = st.tuples(
        st.sampled_from(["prepare", "install"]),
        st.builds("app-{}/{}".format, numbers, st.sampled_from(["web", "data"])),
    )
    return draw(st.sets(steps, max_size=2))


def kill_after(steps: int) -> Iterator[None]:
    yield from [None] * steps
    raise Killed


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(device_states(), failures(), st.integers(0, 40)), min_size=1, max_size=4))
def test_killed_anywhere_with_any_failures_the_device_ends_in_the_same_state(
    rounds: list[tuple[dict[int, bytes], set[tuple[str, str]], int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        device = Device(Path(folder))
        trusted = state({})
        for version, (deployments, broken, steps) in enumerate(rounds, start=1):
            trusted = state(deployments, version)
            life = kill_after(steps)
            double = EngineDouble(device.engine, broken=broken, alive=lambda life=life: next(life))
            before = set(device.engine.running)
            device.engine.log.clear()
            with contextlib.suppress(Killed):
                device.reconcile(trusted, double)
            kinds = [kind for kind, _ in device.engine.log]
            assert kinds == sorted(kinds, key=["prepare", "install", "remove"].index), "a step came too early"
            assert before & set(wanted(trusted)) <= set(device.engine.running), "something that is wanted went away"
        assert device.reconcile(trusted).complete
        assert device.engine.running == wanted(trusted)
        assert device.engine.half == set()
        assert device.reconcile(trusted).plan.empty
        assert device.states() == {str(key): "installed" for key in wanted(trusted)}
