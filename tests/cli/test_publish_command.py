"""`margo-gitops publish`: exit codes and messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.put(".gitignore", ".cache\n")
    fleet.commit("Make the fleet")
    assert margo_gitops("render", cwd=fleet.root).code == 0
    return fleet


def test_publish_says_what_changed_and_the_next_run_that_nothing_did(fleet: FleetFolder, tmp_path: Path):
    target = tmp_path / "srv"
    first = margo_gitops("publish", target, cwd=fleet.root)
    assert first.code == 0, first
    assert "press-01: manifest 1" in first.stdout
    assert "4 devices changed, 0 unchanged" in first.stdout
    assert margo_gitops("publish", target, "--check", cwd=fleet.root).code == 0
    again = margo_gitops("publish", target, "--output", "json", "--keep", "7d", cwd=fleet.root)
    assert json.loads(again.stdout) == {
        "target": str(target),
        "changed": [],
        "unchanged": 4,
        "left": [],
        "proofsWritten": 0,
        "objectsWritten": 0,
        "objectsCollected": 0,
    }


def test_check_exits_1_and_names_the_devices_that_differ(fleet: FleetFolder, tmp_path: Path):
    target = tmp_path / "srv"
    outcome = margo_gitops("publish", target, "--check", cwd=fleet.root)
    assert outcome.code == 1, outcome
    assert "MG1903" in outcome.stderr
    assert "press-01: not published" in outcome.stderr
    assert not target.exists()


def test_the_state_repo_can_be_named_without_a_fleet(fleet: FleetFolder, tmp_path: Path):
    state = fleet.root.parent / "my-fleet-state.git"
    outcome = margo_gitops("publish", "srv", "--state-repo", state, cwd=tmp_path)
    assert outcome.code == 0, outcome
    assert (tmp_path / "srv" / "press-01" / "api/v1/deployments/manifest").is_symlink()


@pytest.mark.parametrize("keep", ["24", "h", "-1h", "1w", "9999999d"])
def test_a_grace_period_has_a_unit(fleet: FleetFolder, tmp_path: Path, keep: str):
    outcome = margo_gitops("publish", tmp_path / "srv", "--keep", keep, cwd=fleet.root)
    assert outcome.code == 2, outcome
    assert "is not a duration" in outcome.stderr


def test_a_file_as_target_is_refused(fleet: FleetFolder, tmp_path: Path):
    (tmp_path / "srv").write_text("x")
    outcome = margo_gitops("publish", tmp_path / "srv", cwd=fleet.root)
    assert outcome.code == 2, outcome
    assert "MG1901" in outcome.stderr
