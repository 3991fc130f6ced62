"""Capabilities come from reports where a Device document says so: by a commit that people review."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder, profile
from support.reporting import Reporter

from margo_gitops.documents.state_layout import REPORTS_REF
from margo_gitops.state_repo.report_branch import ReportKey

DEVICE = """\
# The press by the door.
apiVersion: margo-gitops/v1
kind: Device
metadata:
  name: press-01
spec:
  site: north # the old hall
  capabilitiesFrom: reports
  capabilities:
    properties:
      id: press-01
      vendor: Acme
      modelNumber: "1"
      serialNumber: "1"
      cpus:
        - cores: 4
          architecture: amd64
      memory: 1 Gi # as delivered
      supportedRuntimes: [oci]
      supportedDeploymentTypes: [compose]
"""


def capabilities(device: str, memory: str = "1 Gi", **more: Any) -> bytes:
    properties = {
        "id": device,
        "vendor": "Acme",
        "modelNumber": "1",
        "serialNumber": "1",
        "cpus": [{"cores": 4, "architecture": "amd64"}],
        "memory": memory,
        "supportedRuntimes": ["oci"],
        "supportedDeploymentTypes": ["compose"],
        **more,
    }
    return json.dumps({"properties": properties}, indent=2).encode()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fleet and its state repo: a press with 1 Gi of memory, and an application that needs 2 Gi."""
    folder = tmp_path_factory.mktemp("rendered")
    fleet = FleetFolder.empty(folder / "fleet")
    needs = {"capacityRequirements": {"memory": "2Gi"}}
    fleet.application(deploymentProfiles=[profile(deviceConstraints=needs)])
    fleet.site("north")
    fleet.device("gw", site="north")
    (fleet.root / "devices/press-01.yaml").write_text(DEVICE)
    fleet.commit("Begin")
    assert margo_gitops("render", cwd=fleet.root).code == 0
    return folder


@pytest.fixture
def fleet(rendered: Path, tmp_path: Path) -> FleetFolder:
    """The fleet, for one test."""
    shutil.copytree(rendered, tmp_path, dirs_exist_ok=True)
    return FleetFolder(tmp_path / "fleet")


@pytest.fixture
def reporter(fleet: FleetFolder) -> Reporter:
    return Reporter(fleet.root.parent / "state.git")


def refresh(fleet: FleetFolder, *arguments: str) -> Outcome:
    return margo_gitops("device", "refresh", *arguments, cwd=fleet.root)


def say(reporter: Reporter, content: bytes, device: str = "press-01", sender: str = "press-01") -> None:
    reporter.commit({ReportKey(sender, "capabilities", device): content}, sender)


def test_placement_goes_by_what_the_device_reported_once_that_is_merged(fleet: FleetFolder, reporter: Reporter):
    fleet.deployment("web", on=["press-01"])
    fleet.commit("Deploy web")
    refused = margo_gitops("plan", cwd=fleet.root)
    assert "memory" in refused.stdout + refused.stderr
    say(reporter, capabilities("press-01", "4 Gi"))
    # A report alone moves nothing: the render goes by commits of the fleet repo.
    assert margo_gitops("render", cwd=fleet.root).code != 0
    assert refresh(fleet, "--check").code == 1
    assert refresh(fleet).code == 0
    assert refresh(fleet, "--check").code == 0
    fleet.commit("Refresh")
    assert margo_gitops("render", cwd=fleet.root).code == 0
    assert margo_gitops("audit", "verify", cwd=fleet.root).code == 0


def test_only_what_is_reported_otherwise_changes_in_the_file(fleet: FleetFolder, reporter: Reporter):
    say(reporter, capabilities("press-01", "4 Gi"))
    outcome = refresh(fleet)
    assert outcome.code == 0, outcome
    written = (fleet.root / "devices/press-01.yaml").read_text()
    before, after = DEVICE.splitlines(), written.splitlines()
    different = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(different) == 1
    assert "4 Gi" in different[0]


def test_the_same_capabilities_change_nothing(fleet: FleetFolder, reporter: Reporter):
    say(reporter, capabilities("press-01"))
    outcome = refresh(fleet)
    assert (outcome.code, outcome.stdout) == (0, "nothing changes: it is so already\n")
    assert refresh(fleet, "--check").code == 0


def test_a_commit_names_the_reports_it_was_made_from(fleet: FleetFolder, reporter: Reporter):
    say(reporter, capabilities("press-01", "4 Gi"))
    outcome = margo_gitops(
        "device",
        "refresh",
        "--commit",
        "--branch",
        "refreshed",
        cwd=fleet.root,
        environment={
            "GIT_CONFIG_COUNT": "4",
            "GIT_CONFIG_KEY_2": "user.name",
            "GIT_CONFIG_VALUE_2": "Ada",
            "GIT_CONFIG_KEY_3": "user.email",
            "GIT_CONFIG_VALUE_3": "ada@example.com",
        },
    )
    assert outcome.code == 0, outcome
    tip = fleet.git.run("--git-dir", str(reporter.folder), "rev-parse", REPORTS_REF)
    trailer = fleet.git.run("log", "-1", "--format=%(trailers:key=Reports-Commit,valueonly)", "refreshed").strip()
    assert trailer == tip
    assert "capabilities of press-01" in fleet.git.run("log", "-1", "--format=%s", "refreshed")


def test_other_devices_are_left_alone_until_they_are_named(fleet: FleetFolder, reporter: Reporter):
    before = (fleet.root / "devices/gw.yaml").read_bytes()
    say(reporter, capabilities("gw", "4 Gi"), "gw", "gw")
    outcome = refresh(fleet)
    assert "press-01 has reported no capabilities" in outcome.stderr
    assert (fleet.root / "devices/gw.yaml").read_bytes() == before
    outcome = refresh(fleet, "gw")
    assert outcome.code == 0, outcome
    assert "from now on" in outcome.stderr
    assert '"4 Gi"' in (fleet.root / "devices/gw.yaml").read_text()
    assert "capabilitiesFrom" in (fleet.root / "devices/gw.yaml").read_text()


def test_a_new_device_is_added_as_it_reported_itself(fleet: FleetFolder, reporter: Reporter):
    say(reporter, capabilities("press-09"), "press-09", "press-09")
    outcome = refresh(fleet, "press-09", "--site", "north")
    assert outcome.code == 0, outcome
    shown = json.loads(margo_gitops("device", "show", "press-09", "--output", "json", cwd=fleet.root).stdout)
    assert (shown["site"], shown["capabilities"]["properties"]["memory"]) == ("north", "1 Gi")
    assert "capabilitiesFrom: reports" in (fleet.root / "devices/press-09.yaml").read_text()


def test_what_one_device_says_of_another_does_not_count(fleet: FleetFolder, reporter: Reporter):
    say(reporter, capabilities("press-01", "64 Gi"), "press-01", "gw")
    outcome = refresh(fleet, "press-01")
    assert outcome.code == 2, outcome
    assert "has reported no capabilities" in outcome.stderr
    say(reporter, capabilities("gw/axis"), "gw/axis", "gw")
    assert refresh(fleet, "gw/axis", "--site", "north").code == 0


def test_a_report_that_is_no_capabilities_document_is_refused(fleet: FleetFolder, reporter: Reporter):
    say(reporter, b'{"properties": {"id": "press-01"}}')
    outcome = refresh(fleet)
    assert outcome.code == 2, outcome
    assert "press-01 reports is not a capabilities document" in outcome.stderr
    assert (fleet.root / "devices/press-01.yaml").read_text() == DEVICE
