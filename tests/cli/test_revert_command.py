"""`margo-gitops revert`: undo a commit, bring a deployment back."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit("Start")
    fleet.change("deployments/line-monitor.yaml", "intervalSeconds: 60", "intervalSeconds: 90")
    fleet.commit("Slow down")
    return fleet


def test_a_commit_is_undone_by_a_new_one_and_versions_go_up(fleet: FleetFolder):
    state = ("--state-repo", str(fleet.root.parent / "state.git"))
    assert margo_gitops("render", *state, cwd=fleet.root).code == 0
    done = margo_gitops("revert", "HEAD", "--commit", cwd=fleet.root)
    assert done.code == 0, done
    assert "versions go up, never back" in done.stderr
    branch = fleet.git.run("branch", "--list", "--format=%(refname:short)", "revert-*")
    assert fleet.git.run("log", "-1", "--format=%s", branch) == 'Revert "Slow down"'
    assert fleet.git.run("diff", "--name-only", "main~1", branch) == ""
    plan = margo_gitops("plan", "--rev", branch, *state, cwd=fleet.root)
    assert plan.code == 1, plan
    assert "north/sensor-01: manifest 1 -> 2" in plan.stdout


def test_a_deployment_is_brought_back_in_the_files(fleet: FleetFolder):
    done = margo_gitops("revert", "--deployment", "line-monitor", "--to", "HEAD~1", cwd=fleet.root)
    assert done.code == 0, done
    assert done.stdout.startswith("changed deployments/line-monitor.yaml\n")
    assert fleet.git.run("diff", "HEAD~1") == ""


def test_conflicts_end_with_findings_and_write_nothing(fleet: FleetFolder):
    fleet.change("deployments/line-monitor.yaml", "intervalSeconds: 90", "intervalSeconds: 120")
    fleet.commit("Slower still")
    done = margo_gitops("revert", "HEAD~1", cwd=fleet.root)
    assert done.code == 1, done
    assert "deployments/line-monitor.yaml: changed since by" in done.stderr
    assert fleet.git.run("status", "--porcelain") == ""


@pytest.mark.parametrize("arguments", ["", "HEAD --deployment x --to y", "--deployment x", "--to HEAD", "HEAD --to x"])
def test_one_of_the_two_forms_is_needed(fleet: FleetFolder, arguments: str):
    done = margo_gitops("revert", *arguments.split(), cwd=fleet.root)
    assert done.code == 2, done
    assert "name a COMMIT, or --deployment NAME with --to REV" in done.stderr
