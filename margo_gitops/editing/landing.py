"""Check that an edit makes nothing invalid, then write it: into the files, or into a commit.

Into the files: every one, or none. Into a commit: on a branch of its own; no file, index or checked-out branch of the
person is touched. libgit2 makes the objects; the git program makes the commit, because it knows who the person is and
how they sign.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pygit2
from pygit2.enums import FileMode

from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.working_tree import WorkingTree
from margo_gitops.disk.files import umask
from margo_gitops.editing.edit import Base, Edit, EditedTree, FileChange
from margo_gitops.errors import CommitNotMade, EditRefused, FilesNotWritten, Location
from margo_gitops.git_program import last_lines, run_git
from margo_gitops.operations.validate.fleet_validation import validate_tree
from margo_gitops.operations.validate.rule_findings import RuleFinding
from margo_gitops.wording import counted


def check_edit(base: Base, edit: Edit) -> list[str]:
    """Check that an edit makes nothing invalid that was valid.

    Returns:
        Notes for the person: what was invalid before, and still is.

    Raises:
        EditRefused: with every new error.
    """
    if not edit.changes:
        return []
    found = _errors(validate_tree(EditedTree(base.tree, edit.changes), "the change").findings)
    if not found:
        return []
    known = {each.identity for each in _errors(validate_tree(base.tree, "before").findings)}
    new = [each for each in found if each.identity not in known]
    if new:
        why = []
        if base.revision is not None and base.repo.uncommitted():
            why = [f"checked against {base.revision[:12]}: what is not committed does not count with --commit"]
        raise EditRefused(
            f"this change would make the fleet invalid: {counted(len(new), 'error')}",
            [_told(each) for each in new],
            why=why,
        )
    return [
        f"the fleet has {counted(len(found), 'error')} already, which this change does not fix: margo-gitops validate"
    ]


def _errors(findings: tuple[RuleFinding, ...]) -> list[RuleFinding]:
    return [each for each in findings if each.severity == "error"]


def _told(each: RuleFinding) -> str:
    return f"{each.place}: {each.sentence} [{each.rule}]" if each.place else f"{each.sentence} [{each.rule}]"


def write_edit(base: Base, edit: Edit) -> None:
    """Write the files of an edit.

    Raises:
        FilesNotWritten: one cannot be written, git would not hold it so (WORK-4), or it is not what the edit was made
            for; all are as before.
    """
    root, tree = base.repo.root, base.repo.working_tree()
    tree.check_written(edit.contents())
    for change in edit.changes:
        _check(tree, change)
    done: list[FileChange] = []
    try:
        for change in edit.changes:
            done.append(change)
            _put(root / change.path, change.after)
    except OSError as error:
        for change in reversed(done):
            _put_back(root / change.path, change.before)
        raise FilesNotWritten(
            "the change cannot be written", where=Location(done[-1].path), why=[error.strerror or str(error)]
        ) from error
    for change in edit.changes:
        if change.after is None:
            _remove_empty(root, (root / change.path).parent)


def _check(tree: WorkingTree, change: FileChange) -> None:
    place = tree.root / change.path
    try:
        now = tree.held(change.path, place.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        now = None
    except OSError as error:
        raise FilesNotWritten(
            "the file cannot be read", where=Location(change.path), why=[error.strerror or str(error)]
        ) from error
    if now != change.before:
        remedy = "run the command again" if now is not None and change.before is not None else "git may ignore the file"
        raise FilesNotWritten(
            "the file is not what the change was made for", where=Location(change.path), remedy=remedy
        )


def _put(place: Path, content: bytes | None) -> None:
    if content is None:
        place.unlink(missing_ok=True)
        return
    mode = place.stat().st_mode & 0o777 if place.exists() else None
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).chmod(mode if mode is not None else 0o666 & ~umask())
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _put_back(place: Path, content: bytes | None) -> None:
    try:
        _put(place, content)
    except OSError:
        return  # the first error is the one to tell


def _remove_empty(root: Path, folder: Path) -> None:
    """Remove folders that an edit has emptied, as git does."""
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


TIMEOUT_SECONDS = 300
"""Signing may ask for a passphrase or a touch of a key."""

_NONE = "0" * 40


def branch_start(repo: FleetRepo, branch: str | None) -> str:
    """Return the revision that an edit for a branch starts from: the branch if it exists, or the last commit.

    Args:
        branch: as the person named it; None: one will be made.

    Raises:
        CommitNotMade: it is not a name for a branch, or it is checked out, so that moving it would disturb files.
    """
    if branch is None:
        return "HEAD"
    _check_name(branch)
    branches = repo.repository.branches.local
    if branch not in branches:
        return "HEAD"
    if branches[branch].is_checked_out():
        raise CommitNotMade(
            f"the branch {branch} is checked out",
            remedy="leave out --commit and commit the files yourself, or name another branch",
        )
    return f"refs/heads/{branch}"


def _check_name(branch: str) -> None:
    if not pygit2.reference_is_valid_name(f"refs/heads/{branch}") or branch.startswith("-"):
        raise CommitNotMade(f"{branch!r} is not a name for a branch", remedy="name another one with --branch")


def commit_edit(base: Base, edit: Edit, branch: str | None) -> tuple[str, str]:
    """Make the commit, and the branch that holds it.

    Args:
        base: a commit, and what the edit was made for.
        branch: its name; one that exists gets one commit more. None: the edit's own, which must not exist.

    Returns:
        The branch and the commit's id.

    Raises:
        FilesNotWritten: git would not hold a file so (WORK-4).
        CommitNotMade: git does not know the author, the branch exists or was moved meanwhile, or git refuses.
    """
    name = branch or edit.branch
    _check_name(name)
    if not base.repo.is_bare:
        base.repo.working_tree().check_written(edit.contents(), committed=True)
    branches = base.repo.repository.branches.local
    if branch is None and name in branches:
        raise CommitNotMade(
            f"there is a branch {name} already",
            remedy=f"name another one with --branch, or add to this one with --branch {name}",
        )
    parent = base.repo.commit(base.revision or "HEAD").id
    try:
        tree = _tree(base.repo, parent, edit)
    except (pygit2.GitError, OSError) as error:
        remedy = "see that you may write in the folder .git, and that its disk has room"
        raise CommitNotMade("the commit cannot be written", why=last_lines(str(error)), remedy=remedy) from error
    where = ["-C", str(base.repo.root)]
    sign = ["-S"] if _git([*where, "config", "--type=bool", "--get", "commit.gpgSign"]).stdout.strip() == "true" else []
    message = f"{edit.title}\n\n{edit.body}\n" if edit.body else f"{edit.title}\n"
    made = _git([*where, "-c", "user.useConfigOnly=true", "commit-tree", *sign, tree, "-p", parent, "-F", "-"], message)
    if made.returncode:
        raise _refused(made.stderr)
    commit = made.stdout.strip()
    old = parent if name in branches else _NONE
    moved = _git([*where, "update-ref", "-m", f"margo-gitops: {edit.title}", f"refs/heads/{name}", commit, old])
    if moved.returncode:
        raise CommitNotMade(f"the branch {name} cannot be set", why=last_lines(moved.stderr))
    return name, commit


def _refused(said: str) -> CommitNotMade:
    if "user.email" in said or "user.name" in said or "identity" in said or "no email was given" in said:
        remedy = "git config --global user.name NAME && git config --global user.email ADDRESS"
        return CommitNotMade("git does not know who you are, so nothing is committed", remedy=remedy)
    return CommitNotMade("git refuses to make the commit", why=last_lines(said))


def _tree(repo: FleetRepo, parent: str, edit: Edit) -> str:
    repository = repo.repository
    index = pygit2.Index()
    index.read_tree(repository[parent].peel(pygit2.Tree))
    for change in edit.changes:
        path = repo.path(change.path)
        if change.after is None:
            index.remove(path)
            continue
        mode = index[path].mode if path in index else FileMode.BLOB
        index.add(pygit2.IndexEntry(path, repository.create_blob(change.after), mode))
    return str(index.write_tree(repository))


def _git(arguments: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return run_git(arguments, seconds=TIMEOUT_SECONDS, variables={"LC_ALL": "C.UTF-8"}, given=given)
    except FileNotFoundError:
        raise CommitNotMade("the git program is missing", remedy="install git, or leave out --commit") from None
    except subprocess.TimeoutExpired:
        raise CommitNotMade(f"git did not finish within {TIMEOUT_SECONDS} s") from None
