"""An upgrade says what changes for those who deploy, and moves what it may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.fleet import FleetFolder, parameter, profile, rules

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.package import Package, read_package
from margo_gitops.editing.applications import Difference, Upgrade, UpgradeRequest, upgrade
from margo_gitops.editing.edit import read_base
from margo_gitops.editing.landing import check_edit, write_edit
from margo_gitops.errors import EditImpossible, EditRefused, PackageExists, ReferenceUnknown


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.device("press-01")
    fleet.application(**first())
    fleet.deployment("app", on=["press-01"], parameters={"setting": 5})
    fleet.deployment("spare", on=["press-01"])
    fleet.git.init()
    return fleet


def first() -> dict[str, Any]:
    needs = {"capacityRequirements": {"memory": "1Gi"}}
    return {
        "deploymentProfiles": [profile(deviceConstraints=needs)],
        "parameters": {"setting": parameter(value=1), "old": parameter()},
        "configuration": rules({"dataType": "integer", "maxValue": 9}),
    }


def second(**changes: Any) -> dict[str, Any]:
    needs = {"capacityRequirements": {"memory": "2Gi"}, "eligibilityRules": []}
    return {
        "deploymentProfiles": [profile(deviceConstraints=needs), profile("chart", "helm")],
        "parameters": {"setting": parameter(value=2), "new": parameter(value="x")},
        "configuration": rules({"dataType": "integer", "maxValue": 5}, immutable=True),
        **changes,
    }


def package(tmp_path: Path, version: str = "1.1.0", name: str = "app", **description: Any) -> Package:
    source = FleetFolder.empty(tmp_path / "supplier")
    folder = source.root / source.application(name, version, **description)
    return read_package(DiskTree(folder))


def upgraded(fleet: FleetFolder, request: UpgradeRequest) -> Upgrade:
    base = read_base(fleet.root)
    made = upgrade(base, request)
    check_edit(base, made.edit)
    write_edit(base, made.edit)
    return made


def test_a_package_is_vendored_pinned_and_used(fleet: FleetFolder, tmp_path: Path):
    new = package(tmp_path, **second())
    made = upgraded(fleet, UpgradeRequest("app", new))
    assert [change.path for change in made.edit.changes] == [
        "applications.lock",
        "applications/app/1.1.0/margo.yaml",
        "deployments/app.yaml",
        "deployments/spare.yaml",
    ]
    intent = fleet.read()
    assert intent.applications["app", "1.1.0"].digest == new.application.digest
    assert {each.value.spec.application.version for each in intent.deployments.values()} == {"1.1.0"}
    lock = (fleet.root / "applications.lock").read_text()
    fleet.pin()
    assert (fleet.root / "applications.lock").read_text() == lock


def test_an_upgrade_tells_what_changes_for_those_who_deploy(fleet: FleetFolder, tmp_path: Path):
    (step,) = upgraded(fleet, UpgradeRequest("app", package(tmp_path, **second()))).steps
    assert (step.version, step.deployments) == ("1.0.0", ("app", "spare"))
    targets = 'targets: [{"pointer": "VALUE", "components": ["compose"]}]'
    assert step.differences == (
        Difference("parameter setting", "changed", ("default: 1 -> 2", "maxValue: 9 -> 5", "immutable: none -> true")),
        Difference("parameter old", "removed", ()),
        Difference("parameter new", "added", ('default: "x"', targets)),
        Difference("profile compose", "changed", ('needs memory: "1Gi" -> "2Gi"',)),
        Difference("profile chart", "added", ('type: "helm"', 'component chart: "1.0.0"')),
    )


BREAKING = {
    "a parameter that is set is gone": (
        {"parameters": {"new": parameter()}, "configuration": rules({"dataType": "string"}, "new")},
        "setting is not a parameter of app",
    ),
    "a value breaks a new rule": ({"configuration": rules({"dataType": "integer", "maxValue": 4})}, "at most 4"),
    "a device is too small": (
        {"deploymentProfiles": [profile(deviceConstraints={"capacityRequirements": {"memory": "16Gi"}})]},
        "16Gi needed",
    ),
}


@pytest.mark.parametrize("case", BREAKING)
def test_an_upgrade_that_breaks_a_deployment_is_refused(fleet: FleetFolder, tmp_path: Path, case: str):
    changes, said = BREAKING[case]
    with pytest.raises(EditRefused, match=said):
        upgraded(fleet, UpgradeRequest("app", package(tmp_path, **second(**changes))))
    assert not (fleet.root / "applications/app/1.1.0").exists()


def test_only_the_deployments_that_are_named_are_moved(fleet: FleetFolder):
    fleet.application(version="1.1.0", **second())
    fleet.application(version="1.10.0", **second())
    made = upgraded(fleet, UpgradeRequest("app", deployments=("spare",)))
    assert (made.version, made.steps[0].deployments) == ("1.10.0", ("spare",))
    (step,) = upgraded(fleet, UpgradeRequest("app", version="1.1.0", deployments=("app",))).steps
    assert step.version == "1.0.0"
    down = upgraded(fleet, UpgradeRequest("app", version="1.1.0"))
    assert down.edit.notes == ("1.1.0 is older than 1.10.0, which spare runs now",)
    assert upgraded(fleet, UpgradeRequest("app", version="1.1.0")).edit.changes == ()


def test_what_cannot_be_upgraded_is_refused(fleet: FleetFolder, tmp_path: Path):
    base = read_base(fleet.root)
    with pytest.raises(ReferenceUnknown, match="did you mean app"):
        upgrade(base, UpgradeRequest("apps"))
    with pytest.raises(ReferenceUnknown, match="no version 2"):
        upgrade(base, UpgradeRequest("app", version="2"))
    with pytest.raises(ReferenceUnknown, match="not a deployment of app"):
        upgrade(base, UpgradeRequest("app", deployments=("spar",)))
    with pytest.raises(EditImpossible, match="is of other, not of app"):
        upgrade(base, UpgradeRequest("app", package(tmp_path, name="other")))
    with pytest.raises(EditImpossible, match=r"is 1\.1\.0, not 1\.2\.0"):
        upgrade(base, UpgradeRequest("app", package(tmp_path), "1.2.0"))
    with pytest.raises(PackageExists):
        upgrade(base, UpgradeRequest("app", package(tmp_path, "1.0.0")))
