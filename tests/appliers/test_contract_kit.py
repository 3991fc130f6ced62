"""The kit passes an applier that keeps its promises, and fails one that breaks any of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from margo_gitops.appliers import Observed, Workload, WorkloadKey
from margo_gitops.appliers.contract_kit import ApplierContract, Kind, make_workload
from margo_gitops.errors import InstallFailed, RemoveFailed

BROKEN = "broken"


class Recipes:
    """Keeps every promise. A component is one file, named by device, deployment and component."""

    profile_types = ("custom",)

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self.device = device

    def prepare(self, workload: Workload) -> None:
        pass

    def install(self, workload: Workload) -> None:
        path = self.path(workload.key)
        content = json.dumps([workload.digest, dict(workload.values)])
        if path.exists() and path.read_text() == content:
            return
        if BROKEN in workload.values:
            raise InstallFailed("the machine does not take it", remedy="")
        new = path.with_suffix(".new")
        new.write_text(content)
        new.replace(path)

    def remove(self, key: WorkloadKey) -> None:
        self.path(key).unlink(missing_ok=True)

    def observe(self) -> list[Observed]:
        return [self.seen(path) for path in sorted(self.folder.glob(f"{self.device}_*.recipe"))]

    def seen(self, path: Path) -> Observed:
        _, deployment, component = path.stem.split("_")
        return Observed(WorkloadKey(deployment, component), json.loads(path.read_text())[0], "running")

    def path(self, key: WorkloadKey) -> Path:
        return self.folder / f"{self.device}_{key.deployment_id}_{key.component}.recipe"


class TestKept(ApplierContract):
    applier: Callable[[Path, str], Recipes] = Recipes

    def create(self, device: str) -> Recipes:
        return type(self).applier(self.folder, device)

    def workload(self, key: WorkloadKey, kind: Kind) -> Workload:
        return make_workload(key, {kind: 1}, profile_type="custom")

    def running(self) -> object:
        return {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in self.folder.glob("*.recipe")}

    def stop(self, key: WorkloadKey) -> None:
        for path in self.folder.glob(f"*_{key.deployment_id}_{key.component}.recipe"):
            path.unlink()


class InstallsInPrepare(Recipes):
    def prepare(self, workload: Workload) -> None:
        self.install(workload)


class TouchesInPrepare(Recipes):
    def prepare(self, workload: Workload) -> None:
        if (path := self.path(workload.key)).exists():
            path.write_text(path.read_text() + " ")


class WritesAgain(Recipes):
    def install(self, workload: Workload) -> None:
        self.path(workload.key).unlink(missing_ok=True)
        super().install(workload)


class NeverUpdates(Recipes):
    def install(self, workload: Workload) -> None:
        if not self.path(workload.key).exists():
            super().install(workload)


class DeletesBeforeItFails(Recipes):
    def install(self, workload: Workload) -> None:
        if BROKEN in workload.values:
            self.remove(workload.key)
        super().install(workload)


class LeavesWhatFailed(Recipes):
    def install(self, workload: Workload) -> None:
        if BROKEN in workload.values and not self.observe():
            self.path(workload.key).write_text(json.dumps([workload.digest, {}]))
        super().install(workload)


class DoesNotSayThatItRunsAgain(Recipes):
    def install(self, workload: Workload) -> None:
        try:
            super().install(workload)
        except InstallFailed as error:
            error.reinstated = not self.observe()
            raise


class SaysNothingOfAFailure(Recipes):
    def install(self, workload: Workload) -> None:
        if BROKEN not in workload.values:
            super().install(workload)


class RemovesOnce(Recipes):
    def remove(self, key: WorkloadKey) -> None:
        try:
            self.path(key).unlink()
        except FileNotFoundError:
            raise RemoveFailed("there is nothing", remedy="") from None


class RemovesNeighbours(Recipes):
    def remove(self, key: WorkloadKey) -> None:
        if self.path(key).exists():
            for path in self.folder.glob(f"{self.device}_*"):
                path.unlink()


class RemovesForeigners(Recipes):
    def remove(self, key: WorkloadKey) -> None:
        for path in self.folder.glob(f"*_{key.deployment_id}_*"):
            path.unlink()


class RemovesNothing(Recipes):
    def remove(self, key: WorkloadKey) -> None:
        pass


class WritesInPieces(Recipes):
    """Believes a file that it began, and never finished."""

    def install(self, workload: Workload) -> None:
        path = self.path(workload.key)
        text = json.dumps([workload.digest, dict(workload.values)])
        if BROKEN in workload.values:
            raise InstallFailed("the machine does not take it", remedy="")
        if path.exists() and path.read_text() in (text, ""):
            return
        path.write_text("")
        self.pause()
        path.write_text(text)

    def pause(self) -> None:
        """A place to be cut off at."""

    def observe(self) -> list[Observed]:
        return [self.seen(path) for path in sorted(self.folder.glob(f"{self.device}_*.recipe")) if path.read_text()]


class TrustsAMark(Recipes):
    """Takes a removal for done that only began."""

    def remove(self, key: WorkloadKey) -> None:
        mark = self.path(key).with_suffix(".removed")
        if not mark.exists():
            mark.touch()
            super().remove(key)

    def install(self, workload: Workload) -> None:
        self.path(workload.key).with_suffix(".removed").unlink(missing_ok=True)
        super().install(workload)


class Remembers(Recipes):
    def __init__(self, folder: Path, device: str) -> None:
        super().__init__(folder, device)
        self.known = {found.key: found for found in super().observe()}

    def install(self, workload: Workload) -> None:
        super().install(workload)
        self.known[workload.key] = Observed(workload.key, workload.digest, "running")

    def remove(self, key: WorkloadKey) -> None:
        super().remove(key)
        self.known.pop(key, None)

    def observe(self) -> list[Observed]:
        return sorted(self.known.values(), key=lambda found: found.key)


PROMISES = {name.split("_")[2]: name for name in dir(ApplierContract) if name.startswith("test_applier_")}


@pytest.mark.parametrize(
    ("promise", "wrong"),
    [
        ("1", InstallsInPrepare),
        ("1", TouchesInPrepare),
        ("2", WritesAgain),
        ("2", NeverUpdates),
        ("3", DeletesBeforeItFails),
        ("3", LeavesWhatFailed),
        ("3", DoesNotSayThatItRunsAgain),
        ("3", SaysNothingOfAFailure),
        ("4", RemovesOnce),
        ("4", RemovesNeighbours),
        ("4", RemovesForeigners),
        ("4", RemovesNothing),
        ("5", WritesInPieces),
        ("5", TrustsAMark),
        ("6", Remembers),
    ],
)
def test_a_broken_promise_is_found(tmp_path: Path, promise: str, wrong: type[Recipes]) -> None:
    contract = TestKept()
    contract.folder = tmp_path
    contract.cuts = 30
    contract.create = lambda device: wrong(tmp_path, device)  # type: ignore[method-assign]
    with pytest.raises((pytest.fail.Exception, RemoveFailed)):
        getattr(contract, PROMISES[promise])(WorkloadKey("0b5c7b2e-52b1-4d9c-9b1e-5f2f0a3f1c11", "part"))
