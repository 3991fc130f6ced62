"""A device that calls itself otherwise than the fleet does: refused with what to do, and served under its alias."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from server.serving import FLEET, ServedFleet, capabilities, status, until
from support.command_line import margo_gitops
from support.fleet import FleetFolder
from support.git_cli import Git

from margo_gitops.documents.deployment import ApplicationDeployment, fleet_device
from margo_gitops.documents.kinds import read_as, read_source

ALIAS = "SN-4711"


@pytest.mark.parametrize("used", [ALIAS, "press-02", "nothing/below"])
def test_another_name_is_refused_with_what_to_do(fleet: ServedFleet, used: str) -> None:
    fleet.start()
    deployment = fleet.manifest("press-01")["deployments"][0]["deploymentId"]
    with fleet.client("press-01") as client:
        answers = [
            client.put(f"/api/v1/capabilities/{used}", json=capabilities(used)),
            client.delete(f"/api/v1/capabilities/{used}"),
            client.post(f"/api/v1/deployments/{deployment}/status", json=status(deployment, deviceId=used)),
        ]
    for answer in answers:
        assert answer.status_code == 403
        assert answer.json()["type"].endswith("#not-authorized")
        assert "does not start with 'press-01'" in answer.json()["detail"]
        assert "the alias of the device 'press-01' (spec.alias)" in answer.json()["detail"]


def test_a_device_reports_under_its_alias_and_the_fleet_knows_it_by_its_name(fleet: ServedFleet) -> None:
    fleet.start()
    path = f"/api/v1/capabilities/{ALIAS}"
    with fleet.client("press-01") as client:
        assert client.put(path, json=capabilities(ALIAS)).status_code == 403
        fleet.render(FLEET, aliases={"press-01": ALIAS})
        deployment = fleet.manifest("press-01")["deployments"][0]["deploymentId"]
        assert client.put(path, json=capabilities(ALIAS)).status_code == 201
        assert client.put("/api/v1/capabilities/press-01", json=capabilities("press-01")).status_code == 200
        assert client.put(f"{path}/axis", json=capabilities(f"{ALIAS}/axis")).status_code == 201
        report = status(deployment, deviceId=ALIAS)
        assert client.post(f"/api/v1/deployments/{deployment}/status", json=report).status_code == 201
    with fleet.client("press-02") as client:
        assert client.put(path, json=capabilities(ALIAS)).status_code == 403
    until(lambda: len(fleet.reports()) == 3)
    reports = fleet.reports()
    assert reports["press-01/capabilities/press-01.json"]["properties"]["id"] == "press-01"
    assert reports["press-01/capabilities/press-01_2faxis.json"]["properties"]["id"] == "press-01/axis"
    assert reports[f"press-01/status/{deployment}.json"]["deviceId"] == "press-01"


def document(fleet: FleetFolder, device: str) -> ApplicationDeployment:
    """Return the first deployment document of a device."""
    state, ref = Git(fleet.root.parent / "my-fleet-state.git"), f"refs/heads/devices/{device}"
    names = state.run("ls-tree", "-r", "--name-only", ref).split()
    name = next(name for name in names if name.startswith("deployments/"))
    return read_as(ApplicationDeployment, read_source(state.run("show", f"{ref}:{name}").encode(), name))


def test_a_render_names_the_device_by_its_alias_and_verifies(tmp_path: Path) -> None:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.put(".gitignore", ".cache\n")
    fleet.commit("Make the fleet")
    assert margo_gitops("render", cwd=fleet.root).code == 0
    file = next(path for path in fleet.root.glob("devices/**/*.yaml") if "name: press-01" in path.read_text())
    content = yaml.safe_load(file.read_text())
    content["spec"]["alias"] = ALIAS
    fleet.put(str(file.relative_to(fleet.root)), yaml.safe_dump(content))
    fleet.commit("Say what press-01 calls itself")
    checked = margo_gitops("render", "--check", cwd=fleet.root)
    assert (checked.code, f"press-01 would be called {ALIAS}" in checked.stdout + checked.stderr) == (1, True), checked
    assert margo_gitops("render", cwd=fleet.root).code == 0
    assert margo_gitops("render", "--check", cwd=fleet.root).code == 0
    found = document(fleet, "press-01")
    assert (found.metadata.device_id, fleet_device(found)) == (ALIAS, "press-01")
    assert document(fleet, "mixer-01").metadata.device_id == "mixer-01"
    audited = margo_gitops("audit", "verify", cwd=fleet.root)
    assert audited.code == 0, audited


def test_an_alias_is_of_a_device_that_pulls(tmp_path: Path) -> None:
    properties = {"id": "gw/axis", "vendor": "a", "modelNumber": "b", "serialNumber": "c"}
    device = {
        "apiVersion": "margo-gitops/v1",
        "kind": "Device",
        "metadata": {"name": "gw/axis"},
        "spec": {"capabilities": {"properties": properties}, "alias": "x"},
    }
    (tmp_path / "device.yaml").write_text(json.dumps(device))
    done = margo_gitops("document", "check", "device.yaml", cwd=tmp_path)
    assert "give the alias to gw" in done.stdout + done.stderr, done
