"""Large artifacts on a device: KEEP-1 to KEEP-4 of agent.apply.artifacts, before and after what else it does."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from device_world import deployment_bytes, deployment_id
from engine_double import EngineDouble
from test_reconciling import Device, state

from margo_gitops.agent.apply.artifacts import Artifacts, Limit
from margo_gitops.agent.apply.reconciler import Reconciler, Reconciliation
from margo_gitops.agent.apply.workloads import DeviceLimits
from margo_gitops.agent.memory.events import Reason
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.settings.artifacts import ArtifactSettings, FetchLimit
from margo_gitops.content.store import ContentStore
from margo_gitops.digests import sha256
from margo_gitops.documents.maintenance import Maintenance, Window
from margo_gitops.trust.trusted_state import TrustedState

ONE, TWO = b"one" * 50_000, b"two" * 60_000
WEB_1 = f"{deployment_id(1)}/web"


class Delivering(EngineDouble):
    delivers_artifacts = True

    def install(self, workload) -> None:
        assert all(each.path.read_bytes() in (ONE, TWO) for each in workload.artifacts)
        super().install(workload)


class Plant:
    """A device, and a folder from which it gets its artifacts."""

    def __init__(self, folder: Path) -> None:
        self.device, self.folder, self.content = Device(folder), folder, folder / "content"
        self.share = 60.0
        self.timer = lambda: 0.0
        self.settings = ArtifactSettings(keep_free=0)
        self.engine = Delivering(self.device.engine)

    def artifact(self, content: bytes, **more) -> dict:
        path = self.folder / sha256(content)[-8:]
        path.write_bytes(content)
        said = {"name": "model", "urls": [path.as_uri()], "digest": sha256(content), "sizeBytes": len(content)}
        return {**said, **more}

    def app(self, content: bytes | None, number: int = 1, **own) -> bytes:
        large = {"largeArtifacts": [self.artifact(content)]} if content else {}
        return deployment_bytes(number, extension={**large, **own})

    def reconcile(self, wanted: TrustedState, engine: EngineDouble | None = None, **more) -> Reconciliation:
        device = self.device
        with Journal.open(device.folder / "journal.sqlite3", device.now) as journal:
            reconciler = Reconciler(
                {"engine": engine or self.engine},
                journal,
                device.events.append,
                lambda: device.now,
                lambda: False,
                limits=DeviceLimits(content=self.content),
                artifacts=Artifacts(
                    self.content, device.events.append, self.settings, share=self.share, timer=self.timer
                ),
            )
            return reconciler.reconcile(wanted, patient=True, **more)

    @property
    def held(self) -> set[bytes]:
        return {path.read_bytes() for path in (self.content / "files").glob("*")}


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_an_artifact_is_here_before_anything_is_installed_and_shared(plant: Plant):
    assert plant.reconcile(state({1: plant.app(ONE), 2: plant.app(ONE, 2)})).complete
    assert plant.held == {ONE}
    fetched = [event.text for event in plant.device.events if event.reason is Reason.ARTIFACT_FETCHED]
    assert fetched == ["model: 150.0 kB are here, 150.0 kB came"]


def test_what_takes_longer_than_a_share_waits_and_continues(plant: Plant):
    wanted = state({1: plant.app(ONE), 2: plant.app(None, 2)})
    times = iter(range(100_000))
    plant.timer, plant.share = lambda: float(next(times)), 4
    first = plant.reconcile(wanted)
    assert (first.coming, first.only_waits, first.complete) == (True, True, False)
    assert plant.device.recorded(WEB_1).code == "MG2020"
    assert "model is being fetched" in plant.device.recorded(WEB_1).message
    assert plant.device.states()[f"{deployment_id(2)}/web"] == "installed"
    came = ContentStore(plant.content).coming(sha256(ONE))
    assert 0 < came < len(ONE)
    plant.timer = lambda: 0.0
    assert plant.reconcile(wanted).complete
    assert plant.held == {ONE}


def test_what_runs_keeps_its_artifact_until_its_update_runs(plant: Plant):
    plant.reconcile(state({1: plant.app(ONE)}))
    newer = state({1: plant.app(TWO)}, 2)
    plant.engine.broken = {("install", "app-1/web")}
    plant.reconcile(newer)
    assert plant.held == {ONE, TWO}
    plant.engine.broken = set()
    assert plant.reconcile(newer, retry=True).complete
    plant.reconcile(newer)
    assert plant.held == {TWO}
    deleted = [event.text for event in plant.device.events if event.reason is Reason.ARTIFACT_DELETED]
    assert deleted == [f"nothing needs {sha256(ONE)} any more"]


def test_what_a_deployment_may_go_back_to_keeps_its_artifact(plant: Plant):
    own = {"onFailure": "rollback"}
    plant.reconcile(state({1: plant.app(ONE, **own)}))
    plant.reconcile(state({1: plant.app(TWO, **own)}, 2), None)
    plant.engine.broken = {("install", "app-1/web")}
    newest = state({1: deployment_bytes(1, extension=own)}, 3)
    plant.reconcile(newest)
    plant.reconcile(newest)
    assert TWO in plant.held


def test_a_silent_engine_deletes_nothing(plant: Plant):
    plant.reconcile(state({1: plant.app(ONE)}))
    plant.engine.answers = False
    plant.reconcile(state({}, 2))
    assert plant.held == {ONE}
    plant.engine.answers = True
    plant.reconcile(state({}, 2))
    plant.reconcile(state({}, 2))
    assert plant.held == set()


def test_an_engine_that_knows_no_digests_keeps_all_of_a_component(plant: Plant):
    plant.reconcile(state({1: plant.app(ONE)}))
    plant.engine.tells_digest = False
    plant.engine.broken = {("install", "app-1/web")}
    plant.reconcile(state({1: plant.app(TWO)}, 2))
    plant.reconcile(state({1: plant.app(TWO)}, 2))
    assert plant.held == {ONE, TWO}


def test_a_damaged_artifact_is_fetched_again_before_it_is_used(plant: Plant):
    plant.reconcile(state({1: plant.app(ONE)}))
    path = ContentStore(plant.content).place(sha256(ONE))
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    assert plant.reconcile(state({1: plant.app(ONE), 2: plant.app(ONE, 2)}, 2)).complete
    assert plant.held == {ONE}


def test_another_artifact_is_another_content_and_another_place_is_not(plant: Plant):
    plant.reconcile(state({1: plant.app(ONE)}))
    moved = plant.artifact(ONE, urls=["https://files.example/model"])
    elsewhere = state({1: deployment_bytes(1, extension={"largeArtifacts": [moved]})}, 2)
    assert plant.reconcile(elsewhere).plan.changes == ()
    assert [each.reason for each in plant.reconcile(state({1: plant.app(TWO)}, 3)).plan.changes] == ["changed"]


def test_only_the_components_that_are_named_get_an_artifact(plant: Plant):
    given = plant.artifact(ONE, components=["a"])
    own = {"largeArtifacts": [given]}
    got = {}
    plant.engine.install = lambda workload: got.update({workload.component.name: len(workload.artifacts)})
    plant.reconcile(state({1: deployment_bytes(1, components=("a", "b"), extension=own)}))
    assert got == {"a": 1, "b": 0}


def test_an_applier_that_delivers_none_gets_none(plant: Plant):
    outcome = plant.reconcile(state({1: plant.app(ONE)}), EngineDouble(plant.device.engine))
    assert [error.code for error in outcome.failures] == ["MG1606"]
    assert not plant.content.exists()


def test_a_place_that_has_nothing_is_tried_again_when_the_network_is_back(plant: Plant):
    wanted = state({1: plant.app(ONE)})
    (plant.folder / sha256(ONE)[-8:]).unlink()
    assert [error.code for error in plant.reconcile(wanted).failures] == ["MG2021"]
    plant.app(ONE)
    assert not plant.reconcile(wanted).complete
    plant.device.now += 4000
    assert plant.reconcile(wanted).complete


def test_an_idle_cycle_touches_nothing(plant: Plant):
    wanted = state({1: plant.app(ONE)})
    for _ in range(2):
        plant.reconcile(wanted)
    before = {path: path.stat().st_mtime_ns for path in plant.content.rglob("*")}
    plant.reconcile(wanted)
    assert {path: path.stat().st_mtime_ns for path in plant.content.rglob("*")} == before
    assert json.loads((plant.content / "pins.json").read_text()).keys() == {
        f"{WEB_1}@{plant.device.engine.running[next(iter(plant.device.engine.running))]}"
    }


def test_a_limit_holds_in_its_hours():
    day = Maintenance("Europe/Berlin", (Window("FREQ=DAILY", "06:00", "16h"),))
    settings = ArtifactSettings(
        limits=(FetchLimit(125, day), FetchLimit(0, Maintenance("Nowhere/At")), FetchLimit(900))
    )

    def at(text: str) -> float | None:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
        return Limit(settings, lambda: moment, lambda: 0.0)()

    assert (at("2026-11-30T12:00"), at("2026-11-30T22:30")) == (125_000, 900_000)
    assert Limit(ArtifactSettings(), lambda: 0.0, lambda: 0.0)() is None
