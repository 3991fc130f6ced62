"""Scaffold a fleet repo from the template: files, a git repository, and a first commit where git knows who commits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import pygit2

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.catalog.fleet_repo import FLEET_FILE
from margo_gitops.documents.yaml_scalars import write_text
from margo_gitops.errors import ScaffoldRefused

_TEMPLATE_NAME = "my-fleet"
_TEMPLATE_URL = "file:///srv/my-fleet/applications/"
_TEMPLATE_STATE = "../my-fleet-state.git"
_BRANCH = "main"


@dataclass(frozen=True, slots=True)
class Scaffold:
    """What `init` made.

    Attributes:
        folder: the fleet repo.
        commit: id of the first commit; None where git does not know who commits.
    """

    folder: Path
    commit: str | None


def scaffold(folder: Path, name: str, state_repo: str | None, artifacts_url: str | None) -> Scaffold:
    """Make a fleet repo that renders as it is; on any error nothing is left behind.

    Args:
        folder: must not exist, or be empty.
        name: of the fleet.
        state_repo: path or URL of the state repo; None: a folder beside the fleet repo.
        artifacts_url: the applications/ folder as devices see it; None: this very folder.

    Raises:
        ScaffoldRefused: something is there already, or the file system refuses.
    """
    target = folder.absolute()
    # A clone of an empty repository holds .git, and is the usual start on a git host.
    if target.exists() and (not target.is_dir() or any(entry.name != ".git" for entry in target.iterdir())):
        raise ScaffoldRefused(f"{folder} is not empty", remedy="name a new folder")
    made = not target.exists()
    try:
        with _template() as template:
            shutil.copytree(template, target, dirs_exist_ok=True)
        _fill_in(
            target / FLEET_FILE,
            {
                _TEMPLATE_STATE: state_repo or f"../{target.name}-state.git",
                _TEMPLATE_URL: artifacts_url or f"file://{quote(str(target))}/applications/",
                _TEMPLATE_NAME: name,
            },
        )
        read_fleet(DiskTree(target))
        return Scaffold(target, _commit(target))
    except BaseException as error:
        for entry in target.iterdir() if target.is_dir() else ():
            if not made and entry.name == ".git":
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if made and target.is_dir():
            target.rmdir()
        if isinstance(error, OSError):
            raise ScaffoldRefused(
                f"{folder} cannot be written", why=[str(error)], remedy="name another folder"
            ) from error
        raise


@contextmanager
def _template() -> Iterator[Path]:
    """Yield the template's folder: inside the installed package, or beside it in a checkout."""
    packaged = resources.files("margo_gitops") / "_data" / "repo-template"
    with resources.as_file(packaged) as folder:
        yield folder if folder.is_dir() else Path(__file__).parents[2] / "repo-template"


def _fill_in(path: Path, replacements: dict[str, str]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        key, _, value = line.partition(": ")
        if value in replacements:
            lines[index] = f"{key}: {write_text(replacements[value])}"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _commit(folder: Path) -> str | None:
    repository = pygit2.init_repository(str(folder), initial_head=_BRANCH)
    repository.index.add_all()
    repository.index.write()
    try:
        author = repository.default_signature
    except KeyError:
        return None
    tree = repository.index.write_tree()
    return str(repository.create_commit("HEAD", author, author, "Scaffold the fleet\n", tree, []))
