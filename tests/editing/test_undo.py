"""Undo goes forward: what a commit changed, or what a deployment was, comes back as a new change."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder
from support.properties import times

from margo_gitops.editing.edit import Edit, read_base
from margo_gitops.editing.landing import check_edit, write_edit
from margo_gitops.editing.revert import revert_commit, revert_deployment
from margo_gitops.errors import ChangesInTheWay, EditImpossible, FleetCommitUnknown, ReferenceUnknown, RevertConflicts


def new_fleet(root: Path) -> FleetFolder:
    fleet = FleetFolder.empty(root)
    fleet.device("press-01")
    fleet.application()
    fleet.deployment("app", on=["press-01"])
    fleet.deployment("other", on=["press-01"])
    fleet.commit("Start")
    return fleet


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    return new_fleet(tmp_path / "fleet")


def undo(fleet: FleetFolder, revision: str) -> Edit:
    base = read_base(fleet.root)
    edit = revert_commit(base, revision)
    check_edit(base, edit)
    write_edit(base, edit)
    return edit


def differing(fleet: FleetFolder, revision: str, *paths: str) -> str:
    """Return which files are not as at a commit, new ones too."""
    fleet.git.run("add", "--all")
    return fleet.git.run("diff", "--cached", "--name-only", revision, "--", *paths)


def upgrade(fleet: FleetFolder, name: str = "app", version: str = "1.1.0") -> str:
    fleet.application(version=version)
    fleet.deployment(name, on=["press-01"], version=version)
    return fleet.commit(f"Upgrade {name} to {version}")


def test_a_commit_is_undone_with_all_its_files_and_later_changes_stay(fleet: FleetFolder):
    start = fleet.git.run("rev-parse", "HEAD")
    changed = upgrade(fleet)
    fleet.device("press-02")
    fleet.commit("Add press-02")
    edit = undo(fleet, changed)
    assert (edit.title, edit.branch) == ('Revert "Upgrade app to 1.1.0"', f"revert-{changed[:12]}")
    assert edit.body == f"This reverts commit {changed}."
    assert not (fleet.root / "applications/app/1.1.0").exists()
    fleet.commit("Undo")
    assert fleet.git.run("diff", "--name-only", start, "HEAD") == "devices/press-02.yaml"
    assert undo(fleet, changed).changes == ()


def test_a_merge_is_undone_as_a_whole(fleet: FleetFolder):
    start = fleet.git.run("rev-parse", "HEAD")
    fleet.git.run("checkout", "--quiet", "-b", "topic")
    upgrade(fleet)
    upgrade(fleet, "other")
    fleet.git.run("checkout", "--quiet", "main")
    fleet.git.run("merge", "--quiet", "--no-ff", "-m", "Merge topic", "topic")
    undo(fleet, "HEAD")
    assert fleet.git.run("diff", "--name-only", start) == ""


def test_conflicts_are_named_by_file_with_the_commit_that_is_in_the_way(fleet: FleetFolder):
    first = upgrade(fleet)
    later = upgrade(fleet, version="1.2.0")
    status = fleet.git.run("status", "--porcelain")
    with pytest.raises(RevertConflicts) as refused:
        undo(fleet, first)
    assert f"deployments/app.yaml: changed since by {later[:12]} Upgrade app to 1.2.0" in refused.value.why
    assert fleet.git.run("status", "--porcelain") == status == ""


def test_files_with_uncommitted_changes_are_not_overwritten(fleet: FleetFolder):
    changed = upgrade(fleet)
    fleet.deployment("app", on=["press-01"], version="1.1.0", profiles=["compose"])
    before = fleet.git.run("diff")
    with pytest.raises(ChangesInTheWay, match=r"deployments/app\.yaml"):
        undo(fleet, changed)
    assert fleet.git.run("diff") == before
    # A commit of its own starts from the last commit, and does not care.
    base = read_base(fleet.root, "HEAD")
    assert {change.path for change in revert_commit(base, changed).changes} >= {"deployments/app.yaml"}


def test_what_cannot_be_undone_is_refused(fleet: FleetFolder):
    with pytest.raises(EditImpossible, match="first commit"):
        undo(fleet, "HEAD")
    with pytest.raises(FleetCommitUnknown):
        undo(fleet, "nowhere")
    fleet.git.run("checkout", "--quiet", "-b", "side")
    side = upgrade(fleet)
    fleet.git.run("checkout", "--quiet", "main")
    with pytest.raises(EditImpossible, match="not part of this history"):
        undo(fleet, side)
    (fleet.root / "link").symlink_to("nowhere")
    fleet.commit("Link")
    with pytest.raises(EditImpossible, match="not a plain file"):
        undo(fleet, "HEAD")


def bring_back(fleet: FleetFolder, name: str, revision: str) -> Edit:
    base = read_base(fleet.root)
    edit = revert_deployment(base, name, revision)
    check_edit(base, edit)
    write_edit(base, edit)
    return edit


def test_a_deployment_comes_back_with_the_version_it_needs_and_others_stay(fleet: FleetFolder):
    start = fleet.git.run("rev-parse", "HEAD")
    upgrade(fleet)
    upgrade(fleet, "other")
    fleet.remove("applications/app/1.0.0")
    fleet.pin()
    fleet.commit("Drop 1.0.0")
    edit = bring_back(fleet, "app", start)
    assert edit.title == f"Return app to what it was at {start[:12]}"
    assert edit.notes == ("versions go up, never back: devices get the old content under a new manifest version",)
    intent = fleet.read()
    assert intent.deployments["app"].value.spec.application.version == "1.0.0"
    assert intent.deployments["other"].value.spec.application.version == "1.1.0"
    assert set(intent.applications) == {("app", "1.0.0"), ("app", "1.1.0")}
    assert differing(fleet, start, "deployments/app.yaml", "applications/app/1.0.0") == ""


def test_content_that_was_replaced_comes_back_and_who_else_uses_it_is_told(fleet: FleetFolder):
    start = fleet.git.run("rev-parse", "HEAD")
    fleet.put("applications/app/1.0.0/more.md", "x")
    fleet.pin()
    fleet.commit("Replace")
    edit = bring_back(fleet, "app", start)
    assert "app 1.0.0 had other content then; it is restored" in edit.notes
    assert "that changes other too" in edit.notes
    assert differing(fleet, start) == ""


def test_a_deployment_that_was_not_there_is_removed(fleet: FleetFolder):
    start = fleet.git.run("rev-parse", "HEAD")
    fleet.deployment("late", on=["press-01"])
    fleet.commit("Late")
    edit = bring_back(fleet, "late", start)
    assert "late was not there then: it is removed" in edit.notes
    assert differing(fleet, "HEAD") == "deployments/late.yaml"


def test_a_deployment_that_is_gone_comes_back(fleet: FleetFolder):
    start = fleet.git.run("rev-parse", "HEAD")
    fleet.remove("deployments/other.yaml")
    fleet.commit("Remove")
    bring_back(fleet, "other", start)
    assert differing(fleet, start) == ""


def test_a_deployment_stays_where_its_file_is_now(fleet: FleetFolder):
    start = fleet.git.run("rev-parse", "HEAD")
    (fleet.root / "deployments/hall").mkdir()
    (fleet.root / "deployments/other.yaml").rename(fleet.root / "deployments/hall/other.yaml")
    fleet.commit("Move")
    assert bring_back(fleet, "other", start).changes == ()


def test_a_deployment_that_never_was_is_named_with_near_matches(fleet: FleetFolder):
    with pytest.raises(ReferenceUnknown) as refused:
        bring_back(fleet, "othr", "HEAD")
    assert refused.value.remedy == "did you mean other?"


def test_a_deployment_that_could_not_be_read_then_is_told(fleet: FleetFolder):
    fleet.put("deployments/other.yaml", "broken: [")
    broken = fleet.commit("Break")
    fleet.deployment("other", on=["press-01"])
    fleet.commit("Mend")
    with pytest.raises(EditImpossible, match="could not be read"):
        bring_back(fleet, "other", broken)


@times(0.3)
@given(st.lists(st.tuples(st.sampled_from(["app", "other"]), st.integers(0, 9)), min_size=1, max_size=4))
def test_undoing_every_commit_from_the_last_to_the_first_leads_back(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int]]
):
    fleet = new_fleet(tmp_path_factory.mktemp("undo") / "fleet")
    start = fleet.git.run("rev-parse", "HEAD^{tree}")
    commits = []
    for number, (name, value) in enumerate(edits):
        fleet.device(f"new-{number}", labels={"value": value})
        fleet.deployment(name, on=["press-01", f"new-{number}"], profiles=["compose"][: value % 2])
        commits.append(fleet.commit(f"Edit {number}"))
    for commit in reversed(commits):
        undo(fleet, commit)
        fleet.commit("Undo")
    assert fleet.git.run("rev-parse", "HEAD^{tree}") == start
