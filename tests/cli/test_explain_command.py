"""`margo-gitops explain`: why a device gets what it gets, with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.put(".gitignore", ".cache\n")
    fleet.commit()
    return fleet


def explained(fleet: FleetFolder, *arguments: str) -> dict[str, Any]:
    outcome = margo_gitops("explain", *arguments, "--output", "json", cwd=fleet.root)
    assert outcome.code == 0, outcome
    return json.loads(outcome.stdout)


def test_every_value_has_its_layer_file_and_line_and_what_it_overrides(fleet: FleetFolder):
    found = explained(fleet, "press-01", "greeting")
    assert found["profile"] == {"id": "greeting-compose", "type": "compose"}
    assert found["rejectedProfiles"] == {"greeting-helm": ["the type is helm, the device supports compose"]}
    (greeting,) = (each for each in found["parameters"] if each["name"] == "greeting")
    assert greeting["value"] == "Grüezi from press-01"
    assert greeting["from"]["layer"] == "site north"
    assert greeting["from"]["written"] == "Grüezi from {{ device.id }}"
    assert [each["layer"] for each in greeting["overrides"]] == ["deployment greeting", "application default"]
    for origin in (greeting["from"], *greeting["overrides"]):
        line = (fleet.root / origin["file"]).read_text().splitlines()[origin["line"] - 1]
        assert origin["written"] in line


def test_the_text_says_the_same(fleet: FleetFolder):
    outcome = margo_gitops("explain", "sensor-01", "line-monitor", cwd=fleet.root)
    assert outcome.code == 0, outcome
    assert "intervalSeconds = 60" in outcome.stdout
    assert "from overlay slow-devices  deployments/line-monitor.yaml:22:26" in outcome.stdout
    assert "over application default  applications/com-example-line-monitor/1.0.0/margo.yaml:" in outcome.stdout
    assert "not line-monitor-compose: the type is compose, the device supports custom" in outcome.stdout


def test_it_explains_the_files_as_they_are_or_a_commit(fleet: FleetFolder):
    fleet.change("sites/north.yaml", "Grüezi", "Hoi")
    assert "Hoi" in str(explained(fleet, "press-01", "greeting"))
    assert "Grüezi" in str(explained(fleet, "press-01", "greeting", "--rev", "HEAD"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["press-1", "greeting"], "press-1 is not a device of this fleet"),
        (["press-01", "greting"], "greting is not a deployment of this fleet"),
        (["sensor-01", "greeting"], "does not go to device sensor-01"),
    ],
)
def test_what_is_not_there_is_said(fleet: FleetFolder, arguments: list[str], text: str):
    outcome = margo_gitops("explain", *arguments, cwd=fleet.root)
    assert outcome.code == 1, outcome
    assert text in outcome.stderr
    assert "[MG1206]" in outcome.stderr


def test_a_value_that_is_wrong_is_shown_as_an_error(fleet: FleetFolder):
    fleet.change("deployments/line-monitor.yaml", "60", "4000")
    outcome = margo_gitops("explain", "sensor-01", "line-monitor", cwd=fleet.root)
    assert outcome.code == 1
    assert "must be at most 3600, is 4000" in outcome.stderr
