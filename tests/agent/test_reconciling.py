"""Plans, and how they are carried out: STEP-1 to STEP-9, STEP-14 of agent.apply.steps; convergence after any kill."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from device_world import DEVICE, deployment_bytes, deployment_id, snapshot_of
from engine_double import Engine, EngineDouble, Killed
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops import __version__
from margo_gitops.agent.apply.reconciler import Reconciler, Reconciliation
from margo_gitops.agent.apply.switches import Switches
from margo_gitops.agent.apply.workloads import DeviceLimits, Eligibility, desired_deployments
from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.memory.facts import Facts
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.recorded import RecordedWorkload, deployment_status
from margo_gitops.agent.settings.configuration import HookSettings, LockSettings
from margo_gitops.appliers.applier import Observed, Workload, WorkloadKey
from margo_gitops.digests import Digest
from margo_gitops.trust.trusted_state import TrustedState, TrustPolicy, judge


@dataclass
class Device:
    """An engine and a journal that survive; agents come and go."""

    folder: Path
    engine: Engine = field(default_factory=Engine)
    now: float = 1_000_000.0
    events: list[Event] = field(default_factory=list)
    lock_settings: LockSettings | None = None
    hook_settings: HookSettings | None = None

    def double(self) -> EngineDouble:
        return EngineDouble(self.engine)

    def reconcile(
        self,
        state: TrustedState,
        *doubles: EngineDouble,
        patient: bool = False,
        retry: bool = False,
        at_once: bool = False,
        stop_after: int | None = None,
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
                switches=Switches(
                    lambda: self.now,
                    Facts(journal.facts, journal.set_facts),
                    device=DEVICE,
                    lock_settings=self.lock_settings,
                    hook_settings=self.hook_settings,
                ),
                timer=lambda: self.now,
            )
            return reconciler.reconcile(state, patient=patient, retry=retry, at_once=at_once)

    def live(self, state: TrustedState, *doubles: EngineDouble, minutes: int) -> None:
        """Let an agent reconcile once a minute, in one life."""
        with Journal.open(self.folder / "journal.sqlite3", self.now) as journal:
            appliers = {f"engine{at}": double for at, double in enumerate(doubles or (self.double(),))}
            reconciler = Reconciler(appliers, journal, self.events.append, lambda: self.now, lambda: False)
            for _ in range(minutes):
                self.now += 60
                reconciler.reconcile(state, patient=True)

    def tried(self, kind: str) -> int:
        return sum(1 for tried, _ in self.engine.tried if tried == kind)

    def recorded(self, key: str) -> RecordedWorkload:
        with Journal.open(self.folder / "journal.sqlite3", self.now) as journal:
            return next(item for item in journal.workloads() if str(item.key) == key)

    def statuses(self) -> dict[str, tuple[int | None, str]]:
        """Return the adopted version and the state of each deployment that is still known."""
        with Journal.open(self.folder / "journal.sqlite3", self.now) as journal:
            workloads = journal.workloads()
            found = [
                deployment_status(item, [each for each in workloads if each.key.deployment_id == item.id])
                for item in journal.deployments()
            ]
        return {item.deployment_id: (item.adopted_manifest_version, item.status.state) for item in found}

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


def test_after_an_hour_the_device_polls_and_takes_up_the_rest_then(device: Device) -> None:
    class Slow(EngineDouble):
        def install(self, workload: Workload) -> None:
            super().install(workload)
            device.now += 2000

    trusted = state({number: deployment_bytes(number) for number in range(1, 5)})
    first = device.reconcile(trusted, Slow(device.engine), patient=True)
    assert (first.cut, first.complete, len(device.engine.running)) == (True, False, 2)
    assert device.reconcile(trusted, Slow(device.engine), patient=True).complete


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


def test_an_applier_for_the_format_of_the_content_comes_before_one_for_the_type(device: Device) -> None:
    files, cluster = (EngineDouble(Engine(), profile_types=(kind,)) for kind in ("custom", "custom/kubernetes"))
    recipe, manifests = deployment_bytes(1, kind="custom"), deployment_bytes(2, kind="custom", content="kubernetes")
    device.reconcile(state({1: recipe, 2: manifests}), files, cluster)
    assert [str(key) for key in files.engine.running] == [f"{deployment_id(1)}/web"]
    assert [str(key) for key in cluster.engine.running] == [f"{deployment_id(2)}/web"]
    assert device.reconcile(state({2: manifests}, 2), files).complete, "one for the type serves every format"
    assert [error.code for error in device.reconcile(state({1: recipe}, 3), cluster).failures] == ["MG1606"]


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


def test_a_renamed_component_goes_only_when_its_successor_runs(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1, components=("web",))}))
    renamed = state({1: deployment_bytes(1, components=("hmi",))}, 2)
    double = device.double()
    double.broken.add(("install", "app-1/hmi"))
    assert not device.reconcile(renamed, double).complete
    assert [key.component for key in device.engine.running] == ["web"], "nothing runs any more"
    device.live(renamed, double, minutes=300)
    assert [key.component for key in device.engine.running] == ["web"]
    assert device.reconcile(renamed).complete
    assert [key.component for key in device.engine.running] == ["hmi"]


def test_what_is_replaced_by_a_refused_deployment_stays(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1)}))
    assert not device.reconcile(state({2: deployment_bytes(2, kind="helm")}, 2)).complete
    assert [str(key) for key in device.engine.running] == [f"{deployment_id(1)}/web"]


def test_what_is_replaced_by_what_a_silent_engine_should_run_stays(device: Device) -> None:
    files = EngineDouble(Engine(), profile_types=("custom",), answers=False)
    device.reconcile(state({1: deployment_bytes(1)}))
    device.reconcile(state({2: deployment_bytes(2, kind="custom")}, 2), device.double(), files)
    assert [str(key) for key in device.engine.running] == [f"{deployment_id(1)}/web"]


def test_content_that_cannot_be_fetched_rests_longer_each_time_and_nothing_is_removed_meanwhile(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1), 3: deployment_bytes(3)}))
    newer = state({1: deployment_bytes(1, values={"GREETING": "new"})}, 2)
    double = device.double()
    double.broken.add(("prepare", "app-1/web"))
    device.engine.tried.clear()
    device.live(newer, double, minutes=240)
    assert 5 <= device.tried("prepare") <= 10
    assert len(device.engine.running) == 2
    assert device.recorded(f"{deployment_id(1)}/web").failure == "preparing"
    device.now += 3600
    assert device.reconcile(newer, patient=True).complete, "a first installation after a good fetch waits for nothing"
    assert device.engine.running == wanted(newer)


def test_a_broken_update_takes_what_runs_down_once(device: Device) -> None:
    old = state({1: deployment_bytes(1)})
    device.reconcile(old)
    newer = state({1: deployment_bytes(1, values={"GREETING": "new"})}, 2)
    double = device.double()
    double.broken.add(("install", "app-1/web"))
    device.live(newer, double, minutes=1440)
    assert device.tried("replace") == 1
    assert device.engine.running == wanted(old)
    held = device.recorded(f"{deployment_id(1)}/web")
    assert (held.state, held.code, held.failure) == ("failed", "MG1604", "quarantined")
    assert "--retry" in held.message
    assert not device.reconcile(newer, double).complete
    assert device.tried("replace") == 1, "`agent once` took the line down"
    device.reconcile(newer, double, retry=True)
    assert device.tried("replace") == 2, "somebody asked"
    assert device.reconcile(newer, retry=True).complete
    assert device.engine.running == wanted(newer)


def test_a_quarantined_update_is_tried_when_its_content_changes_or_what_ran_before_stops(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1), 2: deployment_bytes(2)}))
    double = device.double()
    double.broken |= {("install", "app-1/web"), ("install", "app-2/web")}
    newer = state({number: deployment_bytes(number, values={"GREETING": "new"}) for number in (1, 2)}, 2)
    device.live(newer, double, minutes=100)
    assert device.tried("replace") == 2
    newest = {1: deployment_bytes(1, values={"GREETING": "newest"}), 2: deployment_bytes(2, values={"GREETING": "new"})}
    device.now += 60
    device.reconcile(state(newest, 3), patient=True)
    (key,) = [key for key in device.engine.running if key.deployment_id == deployment_id(1)]
    assert device.engine.running[key] == wanted(state(newest, 3))[key]
    device.engine.running = {key: digest for key, digest in device.engine.running.items() if "00000001" in str(key)}
    device.reconcile(state(newest, 3), patient=True)
    assert device.engine.running == wanted(state(newest, 3))


def test_a_first_installation_that_fails_is_tried_again_and_again(device: Device) -> None:
    double = device.double()
    double.broken.add(("install", "app-1/web"))
    device.live(state({1: deployment_bytes(1)}), double, minutes=240)
    assert 5 <= device.tried("install") <= 10
    assert device.recorded(f"{deployment_id(1)}/web").failure == "installing"


def test_a_removal_that_fails_rests(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1)}))
    double = device.double()
    double.broken.add(("remove", f"{deployment_id(1)}/web"))
    device.live(state({}, 2), double, minutes=240)
    assert 5 <= device.tried("remove") <= 10
    device.now += 3600
    assert device.reconcile(state({}, 2), patient=True).complete


def test_an_agent_that_can_do_nothing_about_it_tells_of_it_once(device: Device) -> None:
    files = EngineDouble(Engine(), profile_types=("custom",), answers=False)
    trusted = state(
        {
            1: deployment_bytes(1, kind="helm"),
            2: deployment_bytes(2, kind="custom"),
            3: deployment_bytes(3, after=[1]),
            4: deployment_bytes(4, after=[9]),
        }
    )
    device.live(trusted, device.double(), files, minutes=1)
    assert [event.code for event in device.events] == ["MG1601", "MG1606", "MG1707", "MG1708"]
    written = (device.folder / "journal.sqlite3").read_bytes()
    device.events.clear()
    device.live(trusted, device.double(), files, minutes=50)
    assert [event.code for event in device.events] == ["MG1601", "MG1606", "MG1707"], "a new agent tells it once again"
    assert (device.folder / "journal.sqlite3").read_bytes() == written


def test_a_component_that_healed_by_itself_counts_at_once(device: Device) -> None:
    trusted = state({1: deployment_bytes(1), 2: deployment_bytes(2, after=[1])})
    device.reconcile(trusted)
    (key, *_) = device.engine.running
    device.engine.conditions[key] = "degraded"
    device.live(trusted, minutes=130)
    assert device.states()[str(key)] == "failed"
    device.engine.conditions.clear()
    device.now += 60
    assert device.reconcile(trusted, patient=True).complete
    assert set(device.states().values()) == {"installed"}


def test_what_does_not_stay_up_is_failed_and_not_started_at_every_poll(device: Device) -> None:
    trusted = state({1: deployment_bytes(1)})
    device.reconcile(trusted)
    (key,) = device.engine.running
    device.engine.conditions[key] = "degraded"
    device.live(trusted, minutes=240)
    assert 5 <= device.tried("restart") <= 10
    assert device.recorded(str(key)).failure == "installing"


def test_a_component_that_is_not_waited_for_may_take_its_time(device: Device) -> None:
    patient = deployment_bytes(1).replace(b'revision: "1.0.0"\n', b'revision: "1.0.0"\n          wait: false\n')
    for content, restarts in ((patient, 0), (deployment_bytes(1), 1)):
        device.reconcile(state({1: content}))
        device.engine.conditions = dict.fromkeys(device.engine.running, "starting")
        device.reconcile(state({1: content}))
        assert device.tried("restart") == restarts
        device.engine.conditions.clear()


def test_no_status_says_installed_of_a_version_whose_content_does_not_run(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1), 2: deployment_bytes(2), 3: deployment_bytes(3)}))
    newer = state({1: deployment_bytes(1, values={"GREETING": "new"}), 2: deployment_bytes(2)}, 2)
    seen = []

    def look() -> None:
        seen.append(device.statuses())

    class Watched(EngineDouble):
        def observe(self) -> Sequence[Observed]:
            look()
            return super().observe()

    device.reconcile(newer, Watched(device.engine, alive=look))
    assert seen[0] == {deployment_id(number): (1, "installed") for number in (1, 2, 3)}, "nothing was begun yet"
    content = deployment_id(1)
    assert {status[content] for status in seen} == {
        (1, "installed"),
        (2, "pending"),
        (2, "installing"),
        (2, "installed"),
    }
    installed = [at for at, status in enumerate(seen) if status[content] == (2, "installed")]
    assert installed[0] > max(at for at, status in enumerate(seen) if status[content] == (2, "installing"))
    assert {status[deployment_id(2)] for status in seen[1:]} == {(2, "installed")}, "it runs as version 2 asks"
    gone = [status[deployment_id(3)] for status in seen if deployment_id(3) in status]
    assert set(gone) == {(1, "installed"), (2, "removing")}


def test_each_step_gives_a_sign_of_life(device: Device) -> None:
    signs: list[str] = []
    with Journal.open(device.folder / "journal.sqlite3", 0) as journal:
        reconciler = Reconciler(
            {"engine": device.double()},
            journal,
            device.events.append,
            lambda: 0,
            lambda: False,
            heartbeat=lambda: signs.append("alive"),
        )
        reconciler.reconcile(state({1: deployment_bytes(1, components=("a", "b"))}), patient=True)
        reconciler.reconcile(state({}, 2), patient=True)
    assert len(signs) == len(device.steps) == 6


def test_an_interrupted_installation_is_no_failure_and_is_taken_up_again(device: Device) -> None:
    trusted = state({1: deployment_bytes(1), 2: deployment_bytes(2, after=[1])})
    double = device.double()
    double.broken.add(("interrupt", "app-1/web"))
    outcome = device.reconcile(trusted, double)
    assert (outcome.failures, outcome.complete) == ((), False)
    assert device.states()[f"{deployment_id(1)}/web"] == "installing"
    assert device.reconcile(trusted, patient=True).complete


RULE: Final = b"""    type: compose
    deviceConstraints:
      eligibilityRules:
        - labelSelector:
            matchExpressions:
              - key: zone
                operator: In
                values: [explosion-proof]
"""


def test_a_deployment_whose_rules_this_device_does_not_meet_is_refused_and_what_ran_of_it_stays(device: Device) -> None:
    device.reconcile(state({1: deployment_bytes(1), 2: deployment_bytes(2)}))
    ruled = deployment_bytes(1, values={"GREETING": "new"}).replace(b"    type: compose\n", RULE)
    newer = state({1: ruled, 3: deployment_bytes(3)}, 2)
    before = dict(device.engine.running)
    outcome = device.reconcile(newer)
    assert [error.code for error in outcome.failures] == ["MG1711"]
    assert before.items() <= device.engine.running.items()
    assert device.states()[f"{deployment_id(1)}/web"] == "failed"
    assert device.states()[f"{deployment_id(3)}/web"] == "installed"
    assert Eligibility() == DeviceLimits().eligibility


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
            components=draw(st.sampled_from([("web",), ("web", "data"), ("hmi",), ("hmi", "data")])),
            after=draw(st.lists(st.sampled_from(others), max_size=1)) if others else (),
        )
    return deployments


@st.composite
def failures(draw: st.DrawFn) -> set[tuple[str, str]]:
    steps = st.tuples(
        st.sampled_from(["prepare", "install"]),
        st.builds("app-{}/{}".format, numbers, st.sampled_from(["web", "data", "hmi"])),
    )
    return draw(st.sets(steps, max_size=2))


def assert_what_may_go(before: Mapping[WorkloadKey, Digest], trusted: TrustedState, engine: Engine) -> None:
    """STEP-3: nothing goes away before what is wanted is prepared and, of the same deployment, installed."""
    target = wanted(trusted)
    gone = before.keys() - engine.running.keys()
    assert not gone & target.keys(), "something that is wanted went away"
    assert not gone or set(target.values()) <= engine.prepared, "something went although not all is prepared"
    for key in gone:
        own = {other: digest for other, digest in target.items() if other.deployment_id == key.deployment_id}
        assert own.items() <= engine.running.items(), "a deployment lost a component before its successor runs"
        assert not own.keys() & engine.half


def kill_after(steps: int) -> Iterator[None]:
    yield from [None] * steps
    raise Killed


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
            double = EngineDouble(device.engine, broken=broken, alive=partial(next, life))
            before = dict(device.engine.running)
            device.engine.log.clear()
            with contextlib.suppress(Killed):
                device.reconcile(trusted, double)
            kinds = [kind for kind, _ in device.engine.log]
            assert kinds == sorted(kinds, key=["prepare", "install", "remove"].index), "a step came too early"
            assert_what_may_go(before, trusted, device.engine)
        assert device.reconcile(trusted, retry=True).complete
        assert device.engine.running == wanted(trusted)
        assert device.engine.half == set()
        assert device.reconcile(trusted).plan.empty
        assert device.states() == {str(key): "installed" for key in wanted(trusted)}


@given(device_states(), device_states(), failures())
def test_failures_never_wear_a_device_out_and_what_is_mended_comes_up(
    first: dict[int, bytes], second: dict[int, bytes], broken: set[tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        device = Device(Path(folder))
        device.reconcile(state(first))
        before = dict(device.engine.running)
        trusted = state(second, 2)
        device.engine.tried.clear()
        device.live(trusted, EngineDouble(device.engine, broken=broken), minutes=90)
        assert_what_may_go(before, trusted, device.engine)
        tried = Counter(device.engine.tried)
        assert all(tried["replace", name] <= 1 for _, name in broken), "a running line was taken down again"
        assert all(tried[step] <= 8 for step in broken), "what fails does not rest"
        device.now += 3600
        device.reconcile(trusted, patient=True)
        device.now += 3600
        assert device.reconcile(trusted, retry=True).complete
        assert device.engine.running == wanted(trusted)


@pytest.mark.parametrize(
    ("renderer", "remedy"),
    [
        ("margo-gitops 99.1.0", f"this agent is {__version__}; update it to 99.1.0, which rendered the state"),
        (f"margo-gitops {__version__}", "render with a version that this agent knows, or update the agent"),
        ("another program", "render with a version that this agent knows, or update the agent"),
        (None, "render with a version that this agent knows, or update the agent"),
    ],
    ids=["a newer one", "the same", "another", "not known"],
)
def test_what_this_agent_does_not_know_is_refused_with_the_agent_that_does(
    device: Device, renderer: str | None, remedy: str
) -> None:
    newer = {1: deployment_bytes(1, extension={"teleport": True}), 2: deployment_bytes(2)}
    snapshot = snapshot_of(1, newer, key=None, rendered_by=renderer)
    outcome = device.reconcile(judge(snapshot, TrustPolicy(DEVICE, None), None))
    assert [error.remedy for error in outcome.failures] == [remedy]
    assert "teleport" in str(outcome.failures[0])
    assert device.steps == ["prepare app-2/web", "install app-2/web"]
