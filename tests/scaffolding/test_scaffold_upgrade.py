"""`init --upgrade`: the tooling becomes this version's, edits survive, what runs where is not touched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder
from support.git_cli import Git

from margo_gitops import __version__
from margo_gitops.digests import sha256
from margo_gitops.errors import FilesNotWritten, InvalidDocument, NoFleetRepo, UpgradeRefused
from margo_gitops.scaffolding.merge import merge_lines, upgrade_file
from margo_gitops.scaffolding.record import RECORD_FILE, scaffolded
from margo_gitops.scaffolding.scaffold import scaffold
from margo_gitops.scaffolding.template import Answers, tooling_files
from margo_gitops.scaffolding.upgrade import Upgraded, upgrade

GITLAB = ".gitlab-ci.yml"
SCHEMA = ".margo-gitops/schemas/site.schema.json"


class OldFleet(FleetFolder):
    """A fleet that an older version scaffolded."""

    def record(self) -> dict[str, dict[str, str]]:
        """Return the recorded files by path."""
        return {file["path"]: file for file in json.loads((self.root / RECORD_FILE).read_text())["files"]}

    def pretend(self, version: str, files: Mapping[str, str | None]) -> None:
        """Write what an older version scaffolded; None: it did not have the file."""
        record = json.loads((self.root / RECORD_FILE).read_text())
        record["version"] = version
        by_path = {file["path"]: file for file in record["files"]}
        for path, text in files.items():
            if text is None:
                (self.root / path).unlink()
                del by_path[path]
                continue
            self.put(path, text)
            digest = sha256(text.encode())
            by_path[path] = {"path": path, "digest": digest} | ({} if path == SCHEMA else {"text": text})
        record["files"] = list(by_path.values())
        self.put(RECORD_FILE, json.dumps(record))
        self.commit(f"As {version} scaffolds it")

    def text(self, path: str) -> str:
        return (self.root / path).read_text()


@pytest.fixture
def fleet(tmp_path: Path) -> OldFleet:
    scaffold(tmp_path / "plant", Answers("plant"))
    fleet = OldFleet(tmp_path / "plant")
    fleet.commit("Scaffold the fleet")
    return fleet


def fates(done: Upgraded) -> dict[str, str]:
    return {file.path: file.fate for file in done.files if file.fate != "same"}


def test_nothing_is_done_to_a_scaffold_of_this_version(fleet: OldFleet) -> None:
    done = upgrade(fleet.root)
    assert (fates(done), done.before, done.after) == ({}, __version__, __version__)
    assert fleet.git.run("status", "--porcelain") == ""


def test_a_scaffold_from_before_schedules_gets_the_one_that_renews_freshness(fleet: OldFleet) -> None:
    now = fleet.text(GITLAB)
    new = (
        ".github/workflows/freshness.yml",
        ".margo-gitops/ci/access.sh",
        ".margo-gitops/ci/freshness.sh",
    )
    fleet.pretend("0.0.1", {GITLAB: now[: now.index("\nfreshness:")], **dict.fromkeys(new)})
    fleet.change(GITLAB, "image: python:3.12", "image: registry.plant.example/python:3.12")
    fleet.commit("Edit")
    assert fates(upgrade(fleet.root)) == {GITLAB: "merged", **dict.fromkeys(new, "added")}
    assert fleet.text(GITLAB) == now.replace("image: python:3.12", "image: registry.plant.example/python:3.12")


def test_unchanged_files_become_new_ones_and_edits_are_merged(fleet: OldFleet) -> None:
    now = fleet.text(GITLAB)
    before = now.replace("GIT_DEPTH: 0", "GIT_DEPTH: 50")
    fleet.pretend(
        "0.0.1",
        {
            GITLAB: before,
            ".editorconfig": "root = true\n",
            "CODEOWNERS": None,
            "old.sh": "exit 0\n",
            "kept.sh": "exit 0\n",
            SCHEMA: "{}\n",
        },
    )
    fleet.change(GITLAB, "image: python:3.12", "image: registry.plant.example/python:3.12")
    fleet.put("kept.sh", "exit 1\n")
    fleet.commit("Edit")
    documents = fleet.git.run("ls-files", "-s", "sites", "devices", "deployments", "applications", "margo-gitops.yaml")

    done = upgrade(fleet.root)
    assert fates(done) == {
        GITLAB: "merged",
        ".editorconfig": "updated",
        "CODEOWNERS": "added",
        "old.sh": "removed",
        "kept.sh": "left",
        SCHEMA: "updated",
    }
    assert fleet.text(GITLAB) == now.replace("image: python:3.12", "image: registry.plant.example/python:3.12")
    assert not (fleet.root / "old.sh").exists()
    assert fleet.text("kept.sh") == "exit 1\n"
    assert "old.sh" not in fleet.record()
    assert "kept.sh" not in fleet.record()
    fleet.commit("Upgrade")
    assert (
        fleet.git.run("ls-files", "-s", "sites", "devices", "deployments", "applications", "margo-gitops.yaml")
        == documents
    )

    assert fates(upgrade(fleet.root)) == {}
    assert fleet.git.run("status", "--porcelain") == "", "a second upgrade changes nothing"


def test_a_deleted_file_stays_deleted_upgrade_after_upgrade(fleet: OldFleet) -> None:
    fleet.pretend("0.0.1", {GITLAB: "old\n"})
    fleet.remove(GITLAB)
    fleet.remove(".github")
    fleet.commit("We have another CI")
    for _ in range(2):
        done = upgrade(fleet.root)
        assert fates(done)[GITLAB] == "deleted"
        assert not (fleet.root / GITLAB).exists()
        assert not (fleet.root / ".github").exists()
        fleet.commit("Upgrade")


def conflicting(fleet: OldFleet) -> tuple[str, str]:
    """Make the scaffold and a person change the same line; returns what each wants."""
    theirs = fleet.text(GITLAB)
    fleet.pretend("0.0.1", {GITLAB: theirs.replace("image: python:3.12", "image: python:3.9")})
    fleet.change(GITLAB, "image: python:3.9", "image: mine:1")
    fleet.change(GITLAB, "GIT_DEPTH: 0", "GIT_DEPTH: 0\n  MORE: 1")
    fleet.commit("Edit")
    return theirs, fleet.text(GITLAB)


def test_lines_that_both_changed_stay_until_somebody_decides(fleet: OldFleet) -> None:
    theirs, mine = conflicting(fleet)
    for _ in range(2):
        done = upgrade(fleet.root)
        (conflict,) = done.conflicts
        assert fleet.text(GITLAB) == mine
        assert "-  image: python:3.9" in conflict.told
        assert "+  image: python:3.12" in conflict.told
        fleet.commit("Upgrade")
    fleet.put(GITLAB, mine.replace("image: mine:1", "image: python:3.12"))
    fleet.commit("Take the scaffold's")
    assert upgrade(fleet.root).conflicts == ()
    assert fleet.text(GITLAB) == theirs.replace("GIT_DEPTH: 0", "GIT_DEPTH: 0\n  MORE: 1")


def test_somebody_decides(fleet: OldFleet) -> None:
    theirs, mine = conflicting(fleet)
    start = fleet.git.run("rev-parse", "HEAD")
    upgrade(fleet.root, on_conflict="mine")
    assert fleet.text(GITLAB) == mine
    fleet.commit("Upgrade")
    assert fates(upgrade(fleet.root)) == {}, "it is decided"

    fleet.git.run("reset", "--quiet", "--hard", start)
    upgrade(fleet.root, on_conflict="theirs")
    assert fleet.text(GITLAB) == theirs.replace("GIT_DEPTH: 0", "GIT_DEPTH: 0\n  MORE: 1"), "the other edit stays"

    fleet.git.run("reset", "--quiet", "--hard", start)
    done = upgrade(fleet.root, on_conflict="mark")
    assert fates(done)[GITLAB] == "marked"
    for line in ("<<<<<<< yours\n", "image: mine:1\n", "image: python:3.9\n", "image: python:3.12\n", ">>>>>>> the"):
        assert line in fleet.text(GITLAB)


def test_a_scaffold_from_before_there_were_records_gets_what_it_lacks(fleet: OldFleet) -> None:
    fleet.put("README.md", "# Our own page\n")
    for path in (RECORD_FILE, GITLAB, ".github", ".editorconfig"):
        fleet.remove(path)
    fleet.commit("As 0.1.0 scaffolded it")
    done = upgrade(fleet.root, ci="gitlab")
    assert done.before is None
    found = fates(done)
    assert (found[GITLAB], found[".editorconfig"], found["README.md"]) == ("added", "added", "conflict")
    assert not (fleet.root / ".github").exists()
    assert fleet.text("README.md") == "# Our own page\n"
    fleet.commit("Upgrade")
    upgrade(fleet.root, on_conflict="mine")
    assert fleet.text("README.md") == "# Our own page\n"
    fleet.commit("Upgrade")
    assert fates(upgrade(fleet.root)) == {}


def test_pipelines_can_be_changed_for_others(fleet: OldFleet) -> None:
    found = fates(upgrade(fleet.root, ci="github"))
    assert found == {GITLAB: "removed"}
    fleet.commit("Leave GitLab")
    found = fates(upgrade(fleet.root, ci="both"))
    assert found == {GITLAB: "added"}


def test_uncommitted_changes_stop_it_unless_asked(fleet: OldFleet) -> None:
    fleet.pretend("0.0.1", {GITLAB: "old\n"})
    fleet.put("README.md", "mine\n")
    with pytest.raises(UpgradeRefused, match="not committed") as refused:
        upgrade(fleet.root)
    assert refused.value.why == ("README.md",)
    assert fleet.text(GITLAB) == "old\n"
    assert fates(upgrade(fleet.root, allow_dirty=True)) == {GITLAB: "updated"}
    assert fleet.text("README.md") == "mine\n"


def test_a_scaffold_of_a_newer_version_is_not_taken_back(fleet: OldFleet) -> None:
    fleet.pretend("99.0.0", {GITLAB: "new\n"})
    with pytest.raises(UpgradeRefused, match="99"):
        upgrade(fleet.root)
    assert fleet.text(GITLAB) == "new\n"


def test_what_a_link_leads_to_is_left_alone(fleet: OldFleet, tmp_path: Path) -> None:
    fleet.pretend("0.0.1", {GITLAB: "old\n", ".github/workflows/review.yml": "old\n"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/review.yml").write_text("old\n")
    fleet.remove(".github/workflows")
    (fleet.root / ".github/workflows").symlink_to(tmp_path / "elsewhere")
    fleet.commit("Link")
    assert fates(upgrade(fleet.root))[".github/workflows/review.yml"] == "left"
    assert (tmp_path / "elsewhere/review.yml").read_text() == "old\n"


@pytest.mark.parametrize("why", ["git ignores it", "git's filter lfs would change it"])
def test_a_file_that_git_would_not_hold_stops_it_before_any_is_written(fleet: OldFleet, why: str) -> None:
    fleet.pretend("0.0.1", {GITLAB: None, ".editorconfig": "root = true\n"})
    about = fleet.root / ".git" / "info"
    about.mkdir(exist_ok=True)
    if "ignores" in why:
        (about / "exclude").write_text("*.yml\n")
    else:
        (about / "attributes").write_text("*.yml filter=lfs\n")
        fleet.git.run("config", "filter.lfs.clean", "git-lfs clean -- %f")
    with pytest.raises(FilesNotWritten) as refused:
        upgrade(fleet.root)
    assert (str(refused.value.where), refused.value.why) == (GITLAB, (why,))
    assert (fleet.text(".editorconfig"), (fleet.root / GITLAB).exists()) == ("root = true\n", False)


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", ".git/config", "a/../../outside"])
def test_a_record_that_names_files_elsewhere_is_refused(fleet: OldFleet, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").write_text("x")
    record = json.loads(fleet.text(RECORD_FILE))
    record["files"].append({"path": path, "digest": sha256(b"x"), "text": "x"})
    fleet.put(RECORD_FILE, json.dumps(record))
    fleet.commit("Forge the record")
    with pytest.raises(InvalidDocument, match="is not in the fleet repo"):
        upgrade(fleet.root)
    assert (tmp_path / "outside").exists()


def test_a_folder_that_is_no_fleet_repo_is_refused(tmp_path: Path) -> None:
    Git(tmp_path / "other").init()
    with pytest.raises(NoFleetRepo):
        upgrade(tmp_path / "other")


LINES = st.lists(st.sampled_from(["a", "b", "c", "d", "image: 1", ""]), max_size=8).map("\n".join).map(str.encode)


@given(base=LINES, mine=LINES, theirs=LINES)
def test_no_edit_is_lost_without_consent(base: bytes, mine: bytes, theirs: bytes) -> None:
    """Whatever the three contents are: what is written is mine, or theirs where I changed nothing, or a clean merge."""
    done = upgrade_file("x", scaffolded("x", base), mine, theirs, "keep")
    if done.content is None:
        return
    if mine == base:
        assert done.content == theirs
    else:
        merged = merge_lines(base, mine, theirs)
        assert merged is not None
        assert (merged.conflicts, done.content) == (0, merged.content)
    again = upgrade_file("x", done.record, done.content, theirs, "keep")
    assert (again.fate, again.content) == ("same", None), "a second upgrade does nothing"


@given(base=LINES, mine=LINES)
def test_without_news_a_file_stays_as_it_is(base: bytes, mine: bytes) -> None:
    assert upgrade_file("x", scaffolded("x", base), mine, base, "keep").content is None


def test_what_is_no_text_is_kept() -> None:
    done = upgrade_file("x", scaffolded("x", b"a\n"), b"\0\1\2", b"b\n", "keep")
    assert (done.fate, done.content) == ("conflict", None)
    done = upgrade_file("x", scaffolded("x", b"a\n"), b"\0\1\2", b"b\n", "mark")
    assert (done.fate, done.content) == ("conflict", None)


def test_every_text_of_the_scaffold_survives_its_record() -> None:
    for path, content in tooling_files(Answers("plant")).items():
        assert scaffolded(path, content).digest == sha256(content)
