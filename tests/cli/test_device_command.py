"""`margo-gitops device`: add, list and show devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.command_line import margo_gitops
from support.fleet import FleetFolder

CAPABILITIES = """\
properties:
  id: press-02
  vendor: Northstar
  modelNumber: NIA-300
  serialNumber: "000150"
  cpus: [{cores: 4, architecture: amd64}]
  memory: 8 Gi
  storage: 64 Gi
  supportedRuntimes: [oci]
  supportedDeploymentTypes: [compose]
"""


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit()
    (tmp_path / "capabilities.yaml").write_text(CAPABILITIES)
    return fleet


def add(fleet: FleetFolder, *arguments: str, device: str = "press-02"):
    file = str(fleet.root.parent / "capabilities.yaml")
    return margo_gitops("device", "add", device, "--capabilities", file, *arguments, cwd=fleet.root)


def test_a_device_is_added_listed_and_shown(fleet: FleetFolder):
    done = add(fleet, "--site", "north", "--label", "line=1", "--label", "hall=3b", "--param", "greeting=Hi")
    assert done.code == 0, done
    assert done.stdout == "added   devices/press-02.yaml\nnext:\n  margo-gitops plan\n"
    device = fleet.read().devices["press-02"].value
    assert (device.metadata.labels, device.spec.site) == ({"line": 1, "hall": "3b"}, "north")
    listed = json.loads(margo_gitops("device", "list", "--output", "json", cwd=fleet.root).stdout)
    assert [each["id"] for each in listed] == ["cell-01", "mixer-01", "press-01", "press-02", "sensor-01"]
    text = margo_gitops("device", "list", "--site", "north", cwd=fleet.root).stdout
    assert 'press-02   north  compose  country="CH" hall="3b" line=1\n' in text
    assert "mixer-01" not in text
    shown = margo_gitops("device", "show", "press-02", cwd=fleet.root).stdout
    for line in (
        "press-02  devices/press-02.yaml",
        '  parameter greeting = "Hi"',
        "  deployment line-monitor: com-example-line-monitor 1.0.0  [line-monitor-compose]",
        "  memory    8 Gi",
    ):
        assert f"{line}\n" in shown
    as_json = json.loads(margo_gitops("device", "show", "press-02", "--output", "json", cwd=fleet.root).stdout)
    as_yaml = yaml.safe_load(margo_gitops("device", "show", "press-02", "--output", "yaml", cwd=fleet.root).stdout)
    assert as_json == as_yaml
    assert as_json["capabilities"] == yaml.safe_load(CAPABILITIES)
    assert as_json["deployments"] == [
        {
            "name": "line-monitor",
            "application": "com-example-line-monitor",
            "version": "1.0.0",
            "profile": "line-monitor-compose",
        }
    ]


def test_mistakes_are_refused_and_nothing_is_written(fleet: FleetFolder):
    for outcome, code, said in (
        (add(fleet, "--site", "nrth"), 1, "nrth is not a site; remedy: did you mean north?"),
        (add(fleet, "--param", "greting=x"), 1, "did you mean greeting?"),
        (add(fleet, device="press-09"), 1, "the capabilities are those of press-02"),
        (add(fleet, device="press-01"), 2, "pass --update to change it"),
        (add(fleet, "--label", "line"), 2, "KEY=VALUE"),
        (margo_gitops("device", "add", "x", "--capabilities", "nowhere.json", cwd=fleet.root), 2, "cannot be read"),
        (margo_gitops("device", "show", "press-1", cwd=fleet.root), 1, "did you mean press-01"),
    ):
        assert (outcome.code, said in outcome.stderr) == (code, True), outcome
    assert fleet.git.run("status", "--porcelain") == ""


def test_a_device_is_updated_and_committed_on_a_branch(fleet: FleetFolder):
    arguments = ("device", "add", "press-01", "--update", "--site", "south", "--commit", "--branch", "move-press")
    done = margo_gitops(*arguments, cwd=fleet.root)
    assert done.code == 0, done
    assert fleet.git.run("status", "--porcelain") == ""
    diff = fleet.git.run("diff", "-U0", "main", "move-press").splitlines()[-2:]
    assert diff == ["-  site: north", "+  site: south"]


def test_a_device_that_cannot_run_what_is_placed_on_it_says_why(fleet: FleetFolder):
    fleet.change("deployments/greeting.yaml", "devices: [press-01", "devices: [sensor-01, press-01")
    shown = margo_gitops("device", "show", "sensor-01", cwd=fleet.root)
    assert shown.code == 0, shown
    assert "deployment greeting: com-example-greeting 1.0.0  cannot run: " in shown.stdout
