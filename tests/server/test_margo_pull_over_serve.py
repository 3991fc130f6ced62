"""scripts/margo-pull.sh against `margo-gitops serve`: the whole way of a device that is too small for Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from server.serving import FLEET, HMI, ServedFleet, until
from support.git_cli import Git
from support.pull_script import SHELLS, Device, small_device

from margo_gitops.documents.state_layout import device_ref

pytestmark = pytest.mark.real


@pytest.fixture(params=SHELLS)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    return small_device(tmp_path / "device", request.param)


def rendered(git: Git, device: str) -> dict[str, bytes]:
    """Return what the device's branch holds: content by name of the deployment's file."""
    paths = git.run("ls-tree", "-r", "--name-only", device_ref(device), "deployments/").split()
    return {Path(path).name: git.run_bytes("show", f"{device_ref(device)}:{path}") for path in paths}


def test_the_device_holds_the_very_bytes_of_its_branch(fleet: ServedFleet, device: Device) -> None:
    fleet.start()
    outcome = device.pull(fleet.url, fleet.tokens["press-01"])
    assert outcome.code == 0, outcome
    assert device.documents() == rendered(fleet.renderer.git, "press-01")
    assert sorted(device.documents().values()) == sorted([HMI, b"b: 1\n"])
    assert len(device.hooks()) == 1


def test_a_render_reaches_the_device_and_nothing_new_calls_no_hook(fleet: ServedFleet, device: Device) -> None:
    fleet.start()
    assert device.pull(fleet.url, fleet.tokens["press-01"]).code == 0
    assert device.pull(fleet.url, fleet.tokens["press-01"]).code == 0
    assert len(device.hooks()) == 1
    fleet.render(FLEET | {"press-01": {"hmi": b"new\n"}})
    assert device.pull(fleet.url, fleet.tokens["press-01"]).code == 0
    assert list(device.documents().values()) == [b"new\n"]
    assert len(device.hooks()) == 2


def test_the_server_learns_what_the_device_adopted(fleet: ServedFleet, device: Device) -> None:
    fleet.start()
    assert device.pull(fleet.url, fleet.tokens["press-01"], "--status", "yes").code == 0
    listed = {Path(name).stem for name in device.documents()}
    reports = until(lambda: reports_of(fleet, len(listed)))
    assert {report["deploymentId"] for report in reports} == listed
    assert {report["adoptedManifestVersion"] for report in reports} == {1}


def reports_of(fleet: ServedFleet, count: int) -> list[dict]:
    if not fleet.renderer.git.run("for-each-ref", "refs/heads/reports"):
        return []
    found = [report for path, report in fleet.reports().items() if "capabilities" not in path]
    return found if len(found) == count else []


def test_another_devices_token_and_a_revoked_one_change_nothing(fleet: ServedFleet, device: Device) -> None:
    fleet.start()
    old = fleet.tokens["press-01"]
    assert device.pull(fleet.url, old).code == 0
    before = device.documents()
    fleet.token("press-01")
    fleet.render(FLEET | {"press-01": {"hmi": b"new\n"}})
    until(lambda: device.pull(fleet.url, old).code == 3)
    assert device.documents() == before
    assert device.pull(fleet.url, fleet.tokens["press-01"]).code == 0
    assert json.loads(device.manifest())["manifestVersion"] == 2


def test_a_server_behind_a_prefix_is_asked_there(fleet: ServedFleet, device: Device) -> None:
    fleet.start(listen={"port": 0, "basePath": "/v1alpha2/margo"})
    assert device.pull(f"{fleet.url}/v1alpha2/margo", fleet.tokens["press-01"]).code == 0
    assert device.documents() == rendered(fleet.renderer.git, "press-01")
