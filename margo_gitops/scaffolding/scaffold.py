"""Scaffold a fleet repo from the template: files, a git repository, and a first commit where git knows who commits."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pygit2

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.documents.fleet_kinds import ARTIFACTS_URL_PATTERN
from margo_gitops.errors import ScaffoldRefused
from margo_gitops.scaffolding.record import RECORD_FILE, new_record, scaffolded, write_record
from margo_gitops.scaffolding.template import DEFAULT_BRANCH, Answers, FirstSettings, fleet_files, tooling_files
from margo_gitops.values import dataclass, replace


@dataclass(frozen=True, slots=True)
class Scaffold:
    """What `init` made.

    Attributes:
        commit: id of the first commit; None where git does not know who commits, or the folder is in a repository.
    """

    folder: Path
    commit: str | None


def repository_around(folder: Path) -> Path | None:
    """Return the work tree that a new folder would be part of; None where it gets a repository of its own."""
    place = folder.resolve()
    start = next(each for each in (place, *place.parents) if each.is_dir())
    try:
        found = pygit2.discover_repository(str(start))
        repository = pygit2.Repository(found) if found else None
    except pygit2.GitError:
        return None
    top = Path(repository.workdir).resolve() if repository and repository.workdir else place
    if repository is None or top not in place.parents:
        return None
    return None if repository.path_is_ignored(f"{place.relative_to(top).as_posix()}/") else top


def default_state_repo(folder: Path) -> str:
    """Return where the state of a fleet repo goes by default: a folder next to its repository."""
    around = repository_around(folder)
    up = len(folder.resolve().relative_to(around).parts) if around else 0
    return f"{'../' * (up + 1)}{folder.absolute().name}-state.git"


def default_artifacts_url(folder: Path) -> str:
    """Return where devices find content by default: in this folder, for those that share the disk."""
    return f"file://{quote(str(folder.absolute()))}/applications/"


def check_artifacts_url(url: str) -> None:
    """Refuse an address that no device could fetch content from (ScaffoldRefused)."""
    if re.search(ARTIFACTS_URL_PATTERN, url) is None:
        raise ScaffoldRefused(
            f"{url!r} is not an address of applications/",
            remedy="pass --artifacts-url with file:///…/ or https://…/, and a slash at the end",
        )


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something (ScaffoldRefused)."""
    # A clone of an empty repository holds .git, and is the usual start on a git host.
    if folder.exists() and (not folder.is_dir() or any(entry.name != ".git" for entry in folder.iterdir())):
        remedy = "name a new folder"
        if (folder / RECORD_FILE).exists():
            remedy += f", or bring this scaffold up to date: margo-gitops init --upgrade {folder}"
        raise ScaffoldRefused(f"{folder} is not empty", remedy=remedy)


def scaffold(
    folder: Path,
    answers: Answers,
    *,
    state_repo: str | None = None,
    artifacts_url: str | None = None,
    sign: bool = False,
    empty: bool = False,
    requirements: bytes | None = None,
) -> Scaffold:
    """Make a fleet repo that renders as it is; on any error nothing is left behind.

    Args:
        folder: must not exist, or be empty.
        answers: what the scaffold depends on; the branch is that of the clone, where there is one.
        state_repo: path or URL of the state repo; None: a folder next to the fleet repo.
        artifacts_url: the applications/ folder as devices see it; None: this folder.
        sign: whether unsigned state is refused.
        empty: without examples: no site, device, application or deployment.
        requirements: what pipelines install; None: it is not known where they find it.

    Raises:
        ScaffoldRefused: something is there already, a name is not valid, or the file system refuses.
    """
    check_target(folder)
    answers = replace(answers, branch=_branch(folder))
    answers.check()
    if artifacts_url:
        check_artifacts_url(artifacts_url)
    target = folder.absolute()
    made = not target.exists()
    settings = FirstSettings(
        state_repo or default_state_repo(folder), artifacts_url or default_artifacts_url(folder), sign, empty
    )
    tooling = tooling_files(answers, requirements)
    record = new_record(answers, {path: scaffolded(path, content) for path, content in tooling.items()})
    files = {**fleet_files(answers, settings), **tooling, RECORD_FILE: write_record(record)}
    try:
        for path, content in files.items():
            place = target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        read_fleet(DiskTree(target))
        return Scaffold(target, _commit(target, files))
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


def _branch(folder: Path) -> str:
    """Return the branch that the first commit makes: a clone of an empty repository has the host's default branch."""
    try:
        head = pygit2.Repository(str(repository_around(folder) or folder)).lookup_reference("HEAD").target
    except (KeyError, ValueError, pygit2.GitError):
        return DEFAULT_BRANCH
    return str(head).removeprefix("refs/heads/")


def _commit(folder: Path, files: Iterable[str]) -> str | None:
    around = repository_around(folder)
    if around is None:
        repository, prefix = pygit2.init_repository(str(folder), initial_head=DEFAULT_BRANCH), ""
    else:
        repository, prefix = pygit2.Repository(str(around)), f"{folder.resolve().relative_to(around).as_posix()}/"
    for path in files:  # each by its name: a person may ignore *.yaml everywhere
        repository.index.add(prefix + path)
    repository.index.write()
    if around is not None:  # other things of the person may be staged there
        return None
    author, committer = _person(repository, "AUTHOR"), _person(repository, "COMMITTER")
    if author is None or committer is None:
        return None
    tree = repository.index.write_tree()
    return str(repository.create_commit("HEAD", author, committer, "Scaffold the fleet\n", tree, []))


def _person(repository: pygit2.Repository, role: Literal["AUTHOR", "COMMITTER"]) -> pygit2.Signature | None:
    """Return who commits, as git finds it: its environment, then its configuration; None where neither says it."""
    name, email = (os.environ.get(f"GIT_{role}_{each}") for each in ("NAME", "EMAIL"))
    if not (name and email):
        try:
            known = repository.default_signature
        except KeyError:
            return None
        name, email = name or known.name, email or known.email
    return pygit2.Signature(name, email)
