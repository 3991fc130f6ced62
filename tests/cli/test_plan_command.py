"""`margo-gitops plan`: exit 0 for no difference, 1 for differences, 2 and up for errors; what it prints is the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    """The template, committed and rendered."""
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.put(".gitignore", ".cache\n")
    fleet.commit("Make the fleet")
    assert margo_gitops("render", cwd=fleet.root).code == 0
    return fleet


def plan(fleet: FleetFolder, *arguments: str) -> Outcome:
    return margo_gitops("plan", *arguments, cwd=fleet.root)


def test_the_exit_code_tells_no_difference_from_differences_and_errors(fleet: FleetFolder):
    same = plan(fleet)
    assert (same.code, "no difference: 4 devices unchanged" in same.stdout) == (0, True)
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    differs = plan(fleet)
    assert differs.code == 1
    assert "sites/north.yaml:9" in differs.stdout
    fleet.put("sites/west.yaml", "x: [")
    fleet.change("deployments/greeting.yaml", "cell-01]", "cell-1]")
    refused = plan(fleet)
    assert refused.code == 2
    assert "sites/west.yaml:1:4" in refused.stdout
    # A render stops before it looks at references; a plan says all that `validate` says.
    assert "cell-1 is not a device" in refused.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--rev", "nothing"], 2, "nothing is not a commit"),
        (["--base", "nothing"], 2, "nothing is not a commit"),
        (["press-99"], 2, "press-99 is not a device"),
        (["--state-repo", "fleet-is-no-state/margo"], 1, ""),
        (["--state-repo", "."], 2, "MG1301"),
        (["--state-repo", "https://127.0.0.1:1/state.git"], 3, "MG1306"),
        (["--output", "yaml"], 2, "yaml"),
    ],
)
def test_what_goes_wrong_is_said_with_an_exit_code_above_1(
    fleet: FleetFolder, arguments: list[str], code: int, message: str
):
    outcome = plan(fleet, *arguments)
    assert outcome.code == code, outcome
    assert message in outcome.stderr


def test_outside_of_a_fleet_repo_it_says_so(tmp_path: Path):
    outcome = margo_gitops("plan", cwd=tmp_path)
    assert outcome.code == 2
    assert "MG1102" in outcome.stderr


def test_nothing_is_written(fleet: FleetFolder):
    def everything() -> dict[str, bytes]:
        folder = fleet.root.parent
        return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    before = everything()
    assert plan(fleet, "--details").code == 1
    assert everything() == before


def test_a_commit_is_compared_with_another(fleet: FleetFolder):
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    fleet.commit("Servus")
    compared = plan(fleet, "--rev", "HEAD", "--base", "HEAD~1", "--output", "json")
    assert compared.code == 1
    document = json.loads(compared.stdout)
    assert [each["device"] for each in document["devices"]] == ["press-01"]
    assert plan(fleet, "--rev", "HEAD~1").code == 0


def test_one_device_is_shown_with_its_details(fleet: FleetFolder):
    fleet.change("deployments/greeting.yaml", "Hello", "Hi")
    shown = plan(fleet, "mixer-01")
    assert shown.code == 1
    assert "greeting = " in shown.stdout
    assert "cell-01" not in shown.stdout
    assert plan(fleet, "sensor-01").code == 0


def test_markdown_is_printed_for_a_comment(fleet: FleetFolder):
    fleet.change("deployments/greeting.yaml", "Hello", "Hi")
    shown = plan(fleet, "--output", "markdown")
    assert shown.code == 1
    assert shown.stdout.startswith("<!-- margo-gitops plan -->\n### Plan: devices: ")


@pytest.mark.parametrize("option", ["--rev", "--base"])
def test_an_empty_revision_is_no_revision(fleet: FleetFolder, option: str):
    done = plan(fleet, option, "")
    assert done.code == 2
    assert "see that the variable is set" in done.stderr


def test_a_bare_repository_is_planned_by_commit_as_the_remedy_says(fleet: FleetFolder, tmp_path: Path):
    fleet.git.run("clone", "--quiet", "--bare", str(fleet.root), str(tmp_path / "bare.git"))
    refused = margo_gitops("plan", cwd=tmp_path / "bare.git")
    assert refused.code == 2
    assert "--rev HEAD" in refused.stderr
    assert margo_gitops("plan", "--rev", "HEAD", cwd=tmp_path / "bare.git").code in (0, 1)


def test_a_shallow_clone_is_told_to_fetch_what_it_lacks(fleet: FleetFolder, tmp_path: Path):
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    fleet.commit("Greet in Bavarian")
    shallow = tmp_path / "shallow"
    fleet.git.run("clone", "--quiet", "--depth", "1", fleet.root.as_uri(), str(shallow))
    state = str(next(fleet.root.parent.glob("*.git")))
    planned = margo_gitops("plan", "--state-repo", state, cwd=shallow)
    assert "which this clone lacks: a render is refused" in planned.stdout
    assert "git fetch --unshallow" in planned.stdout
    based = margo_gitops("plan", "--base", "HEAD~1", cwd=shallow)
    assert (based.code, "git fetch --unshallow" in based.stderr) == (2, True)
    undone = margo_gitops("revert", "HEAD", cwd=shallow)
    assert (undone.code, "this clone is shallow" in undone.stderr) == (2, True)
    fleet.git.run("-C", str(shallow), "fetch", "--quiet", "--unshallow")
    assert margo_gitops("plan", "--base", "HEAD~1", cwd=shallow).code == 1
    assert margo_gitops("revert", "HEAD", cwd=shallow).code == 0
