"""Files as they are on disk against files as git holds them: ignore rules, line ends, filters (WORK-1 to WORK-4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder
from support.git_cli import Git
from support.properties import times

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.fleet import find_fleet
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.package import read_package
from margo_gitops.catalog.vendor import add_package
from margo_gitops.editing.applications import add_edit
from margo_gitops.editing.edit import FileChange, make_edit, read_base
from margo_gitops.editing.landing import commit_edit, write_edit
from margo_gitops.errors import FilesNotWritten

FOLDER = "applications/app/1.0.0"


@pytest.fixture
def fleet(fleet: FleetFolder) -> FleetFolder:
    """A fleet with a commit, whose clone knows a filter."""
    for key, value in (("user.name", "Ada"), ("user.email", "ada@plant.example"), ("filter.small.clean", "cut -c1")):
        fleet.git.run("config", key, value)
    fleet.commit()
    return fleet


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A package with a file that people ignore, and line ends of Windows."""
    supplier = FleetFolder(tmp_path / "supplier")
    supplier.put(f"{FOLDER}/resources/.env", "A=1\r\n")
    supplier.application(pin=False)
    return supplier.root / FOLDER


def added_to_files(source: Path, fleet: FleetFolder) -> None:
    add_package(source, FleetRepo.find(fleet.root))


def written(source: Path, fleet: FleetFolder) -> None:
    base = read_base(fleet.root)
    write_edit(base, add_edit(base, read_package(DiskTree(source), "")))


def committed(source: Path, fleet: FleetFolder) -> None:
    base = read_base(fleet.root, "HEAD")
    commit_edit(base, add_edit(base, read_package(DiskTree(source), "")), "new")


Adds = Callable[[Path, FleetFolder], None]
ADDS = pytest.mark.parametrize("add", [added_to_files, written, committed])


@ADDS
@pytest.mark.parametrize(
    ("file", "lines", "why"),
    [
        (".git/info/exclude", ".env", "git ignores it"),
        (".gitattributes", "* text=auto", "line ends"),
        (".gitattributes", "*.env eol=lf", "line ends"),
        (".git/info/attributes", "*.env filter=small", "filter small"),
        (".git/config", "[core]\n\tautocrlf = input", "line ends"),
    ],
)
def test_a_package_is_held_as_it_is_or_refused(
    fleet: FleetFolder, source: Path, add: Adds, file: str, lines: str, why: str
):
    with (fleet.root / file).open("a") as place:
        place.write(f"{lines}\n")
    if not (add is committed and "ignores" in why):
        with pytest.raises(FilesNotWritten) as caught:
            add(source, fleet)
        assert why in caught.value.why[0]
        assert not (fleet.root / FOLDER).exists()
        name, _, line = caught.value.remedy.removeprefix("add a line to ").partition(": ")
        fleet.put(name, f"{lines}\n{line}\n" if name == file else f"{line}\n")
        if file == ".git/info/attributes":  # stronger than the fleet's
            (fleet.root / file).unlink()
    add(source, fleet)
    if add is not committed:
        fleet.git.commit({}, "Add")
    held = fleet.git.run_bytes("show", f"{'new' if add is committed else 'HEAD'}:{FOLDER}/resources/.env")
    assert held == b"A=1\r\n"


def test_what_the_scaffold_carries_is_enough(fleet: FleetFolder, source: Path):
    for name in (".gitattributes", ".gitignore"):
        fleet.put(name, (Path(__file__).parents[2] / "repo-template" / name).read_bytes())
    with (fleet.root / ".git/config").open("a") as config:
        config.write(
            f"[core]\n\tautocrlf = true\n\texcludesFile = {source}/ignore\n\tattributesFile = {source}/attributes\n"
        )
    (source / "ignore").write_text(".env\nresources/\n*.yaml\n")
    (source / "attributes").write_text("* filter=small\n")
    added_to_files(source, fleet)
    fleet.git.run("add", "--force", "margo-gitops.yaml", "applications.lock")
    fleet.git.commit({}, "Add")
    assert fleet.git.run_bytes("show", f"HEAD:{FOLDER}/resources/.env") == b"A=1\r\n"


def test_a_clone_with_other_line_ends_reads_what_others_read(fleet: FleetFolder, source: Path, tmp_path: Path):
    (source / "resources/.env").write_bytes(b"A=1\n")
    added_to_files(source, fleet)
    fleet.device("press-01")
    fleet.deployment("app")
    fleet.commit()
    Git(tmp_path).run("clone", "--quiet", "--config", "core.autocrlf=true", str(fleet.root), "clone")
    clone = tmp_path / "clone"
    assert b"\r\n" in (clone / FOLDER / "resources/.env").read_bytes()
    intent, findings = find_fleet(FleetRepo.find(clone).working_tree())
    assert (findings, len(intent.applications if intent else ())) == ([], 1)
    base = read_base(clone)
    file = base.tree.file("deployments/app.yaml")
    assert file is not None
    write_edit(base, make_edit("Remove", ["x"], [FileChange(file.path, file.read(), None)]))
    assert not (clone / "deployments").exists()
    assert add_package(source, FleetRepo.find(clone)).outcome == "unchanged"


def test_a_file_that_a_filter_stores_in_another_form_is_a_finding(fleet: FleetFolder):
    fleet.device("press-01")
    fleet.put(".gitattributes", "devices/** filter=small")
    _, findings = find_fleet(FleetRepo.find(fleet.root).working_tree())
    assert [(each.rule, each.location.file) for each in findings if each.location] == [
        ("MG1002", "devices/press-01.yaml")
    ]
    assert "filter small" in str(findings[0])
    base = read_base(fleet.root)
    for write in (write_edit, lambda base, edit: commit_edit(base, edit, None)):
        with pytest.raises(FilesNotWritten):
            write(base, make_edit("Add", ["x"], [FileChange("devices/b.yaml", None, b"x")]))


@times(0.5)
@given(st.data())
def test_what_the_index_says_is_changed_is_what_git_says(data: st.DataObject):
    with TemporaryDirectory() as folder:
        fleet = FleetFolder.empty(Path(folder))
        fleet.put(".gitignore", "*.log\n")
        fleet.put("devices/b.txt", "0")
        base = fleet.commit()
        repo = FleetRepo.find(fleet.root)
        for _ in range(data.draw(st.integers(1, 4))):
            path = data.draw(st.sampled_from(["devices/a.txt", "devices/b.txt", "new/c.log", "ä"]))
            match data.draw(st.sampled_from(["write", "write", "remove", "mode", "stage", "commit"])):
                case "write":
                    fleet.put(path, data.draw(st.sampled_from("012")))
                case "remove":
                    (fleet.root / path).unlink(missing_ok=True)
                case "mode":
                    fleet.put(path, "0").chmod(0o755)
                case "stage":
                    fleet.git.run("add", "--all")
                case "commit":
                    fleet.git.commit({}, "Change")
        found = repo.changed_files(base, None)
        assert found == repo._changed_by_git(base)
