"""A slow pipeline of an older commit must not undo a newer render; going back is a new commit."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fleet import FleetFolder

from margo_gitops.errors import FleetCommitOlder
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


def render(fleet: Path, revision: str, *, allow_older: bool = False) -> Rendered:
    state = fleet.parent / "state.git"
    cache = fleet.parent / "cache"
    return render_fleet(RenderRequest(fleet, revision, str(state), cache, allow_older=allow_older))


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
