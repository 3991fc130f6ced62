"""A slow pipeline of an older commit, or another branch, must not undo a newer render; going back is a new commit."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fleet import FleetFolder

from margo_gitops.errors import FleetBranchOther, FleetCommitOlder
from margo_gitops.operations.render.fleet_render import Rendered, RenderRequest, render_fleet
from margo_gitops.state_repo.state_repo import StateRepo


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    """A fleet with two commits, a day apart."""
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    commit_at(fleet, "2026-01-01T12:00:00Z", "one")
    fleet.change("sites/north.yaml", "Grüezi", "Guten Morgen")
    commit_at(fleet, "2026-01-02T12:00:00Z", "two")
    return fleet


def commit_at(fleet: FleetFolder, date: str, message: str) -> None:
    if not (fleet.root / ".git").exists():
        fleet.git.init()
    fleet.git.run("add", "--all")
    fleet.git.run("commit", "--quiet", f"--date={date}", "--message", message)


def render(fleet: Path, revision: str, *, allow_older: bool = False, other_branch: bool = False) -> Rendered:
    state = fleet.parent / "state.git"
    cache = fleet.parent / "cache"
    return render_fleet(
        RenderRequest(fleet, revision, str(state), cache, allow_older=allow_older, other_branch=other_branch)
    )


def refs(fleet: FleetFolder) -> dict[str, str]:
    return StateRepo.open(fleet.root.parent / "state.git").refs.read()


def test_a_commit_before_the_rendered_one_is_refused_and_nothing_moves(fleet: FleetFolder):
    render(fleet.root, "HEAD")
    before = refs(fleet)
    with pytest.raises(FleetCommitOlder, match="does not build on"):
        render(fleet.root, "HEAD~1")
    assert refs(fleet) == before


def test_a_side_branch_is_refused(fleet: FleetFolder):
    render(fleet.root, "HEAD")
    fleet.git.run("switch", "--quiet", "--create", "side", "HEAD~1")
    fleet.change("sites/north.yaml", "Grüezi", "Salve")
    commit_at(fleet, "2026-01-03T12:00:00Z", "side")
    with pytest.raises(FleetCommitOlder, match="does not build on"):
        render(fleet.root, "HEAD")


def test_a_clone_that_does_not_know_the_rendered_commit_cannot_tell(fleet: FleetFolder, tmp_path: Path):
    render(fleet.root, "HEAD")
    before = refs(fleet)
    fleet.change("sites/north.yaml", "Guten Morgen", "Salve")
    commit_at(fleet, "2026-01-03T12:00:00Z", "three")
    fleet.git.run("clone", "--quiet", "--depth=1", f"file://{fleet.root}", str(tmp_path / "shallow"))
    with pytest.raises(FleetCommitOlder) as caught:
        render(tmp_path / "shallow", "HEAD")
    assert "fetch-depth: 0" in caught.value.remedy
    assert refs(fleet) == before
    fleet.git.run("-C", str(tmp_path / "shallow"), "fetch", "--quiet", "--unshallow")
    assert render(tmp_path / "shallow", "HEAD").publication.changes


def test_whoever_means_it_may_render_an_older_commit_and_versions_still_go_up(fleet: FleetFolder):
    render(fleet.root, "HEAD")
    (change,) = render(fleet.root, "HEAD~1", allow_older=True).publication.changes
    assert (change.device, change.version) == ("press-01", 2)


def test_a_revert_is_a_newer_commit(fleet: FleetFolder):
    render(fleet.root, "HEAD")
    fleet.git.run("revert", "--no-edit", "HEAD")
    (change,) = render(fleet.root, "HEAD").publication.changes
    assert (change.device, change.version) == ("press-01", 2)


@pytest.fixture
def clone(fleet: FleetFolder, tmp_path: Path) -> FleetFolder:
    """A clone with a commit on a branch beside main."""
    fleet.git.run("clone", "--quiet", str(fleet.root), str(tmp_path / "clone"))
    clone = FleetFolder(tmp_path / "clone")
    clone.git.run("switch", "--quiet", "--create", "side")
    clone.change("sites/north.yaml", "Guten Morgen", "Salve")
    clone.commit()
    return clone


def test_only_the_branch_that_counts_is_rendered(clone: FleetFolder):
    with pytest.raises(FleetBranchOther, match="is not on main"):
        render(clone.root, "HEAD")
    assert not (clone.root.parent / "state.git").exists()
    assert render(clone.root, "main").first
    assert not render(clone.root, "side", other_branch=True).first
    clone.git.run("switch", "--quiet", "main")
    clone.git.run("merge", "--quiet", "side")  # not pushed: what this clone calls main counts too
    assert render(clone.root, "HEAD").cloned


def test_a_pipeline_has_no_branch_checked_out(clone: FleetFolder):
    clone.git.run("switch", "--quiet", "--detach", "origin/main")
    clone.git.run("branch", "--quiet", "-D", "main")
    assert render(clone.root, "HEAD").first
    clone.git.run("switch", "--quiet", "--detach", "side")
    with pytest.raises(FleetBranchOther):
        render(clone.root, "HEAD")


def test_the_fleet_names_the_branch_and_a_clone_may_lack_it(clone: FleetFolder):
    clone.change("margo-gitops.yaml", "spec:", "spec:\n  branch: live")
    clone.commit()
    with pytest.raises(FleetBranchOther) as caught:
        render(clone.root, "HEAD")
    assert caught.value.why == ("this clone has no branch live",)
    assert caught.value.remedy.startswith("git fetch origin live")
    clone.git.run("branch", "live")
    assert render(clone.root, "HEAD").first


def test_without_a_remote_or_its_default_branch_any_branch_is_rendered(clone: FleetFolder, fleet: FleetFolder):
    clone.git.run("remote", "set-head", "origin", "--delete")
    assert render(clone.root, "HEAD").first
    fleet.git.run("switch", "--quiet", "--create", "other")
    assert not render(fleet.root, "HEAD", allow_older=True).cloned
