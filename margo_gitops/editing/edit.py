"""An edit as a value: which files of the fleet repo change, from which bytes to which, and what it is called."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from margo_gitops.catalog.file_tree import HeldTree, RootTree, TreeFile
from margo_gitops.catalog.fleet import find_fleet
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.errors import EditImpossible, FleetInvalid
from margo_gitops.rendering.intent import Intent
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file before and after; None where it is not there.

    Attributes:
        path: relative to the fleet repo.
    """

    path: str
    before: bytes | None
    after: bytes | None

    @property
    def verb(self) -> str:
        """What happens to the file."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


@dataclass(frozen=True, slots=True)
class Edit:
    """A change to the fleet repo that somebody asked for.

    Attributes:
        title: what it does, as the subject of a commit.
        branch: a name for a branch that holds it alone.
        changes: sorted by path; empty where everything is so already.
        notes: what else the person should know.
    body: more of the commit's message; may be empty.
    """

    title: str
    branch: str
    changes: tuple[FileChange, ...]
    notes: tuple[str, ...] = ()
    body: str = ""

    def contents(self) -> dict[str, bytes]:
        """Return the files that are there after the change."""
        return {change.path: change.after for change in self.changes if change.after is not None}


def make_edit(
    title: str, words: Sequence[str], changes: Iterable[FileChange], notes: Sequence[str] = (), body: str = ""
) -> Edit:
    """Return an edit of the files that really change."""
    real = sorted((each for each in changes if each.before != each.after), key=lambda each: each.path)
    return Edit(title, _branch(words), tuple(real), tuple(notes), body)


def _branch(words: Sequence[str]) -> str:
    """Return a name that git takes for a branch (git check-ref-format)."""
    name = re.sub(r"[^A-Za-z0-9._-]+|\.\.+", "-", "-".join(words)).strip("-.")
    return f"{name.removesuffix('.lock')[:100].rstrip('-.')}"


@dataclass(frozen=True, slots=True)
class Base:
    """What edits start from.

    Attributes:
        revision: id of the commit whose files these are; None: the files as they are now.
        intent: what they say, as far as it can be read.
    """

    repo: FleetRepo
    revision: str | None
    tree: RootTree
    intent: Intent


def read_base(fleet: Path, revision: str | None = None) -> Base:
    """Return the fleet repo as a start for edits; findings in documents that an edit does not need are ignored.

    Args:
        fleet: a folder in it.
        revision: a commit; None: the files as they are now.

    Raises:
        NoFleetRepo, FleetCommitUnknown: there is no such repo or commit.
        FleetInvalid: `margo-gitops.yaml` cannot be read.
        EditImpossible: the repo has no files but those of commits.
    """
    repo = FleetRepo.find(fleet)
    if revision is None and repo.is_bare:
        raise EditImpossible(
            f"{repo.root} is a bare repository: it has no files to change",
            remedy="pass --commit, or work in a clone",
        )
    # Named once: a branch may move while the edit is made.
    commit = repo.commit(revision).id if revision is not None else None
    tree = repo.working_tree() if commit is None else repo.tree(commit)
    intent, findings = find_fleet(tree)
    if intent is None:
        raise FleetInvalid("the fleet repo cannot be read", findings)
    return Base(repo, commit, tree, intent)


class EditedTree:
    """The files of a tree as they are after an edit."""

    def __init__(self, tree: RootTree, changes: tuple[FileChange, ...]) -> None:
        self._tree = tree
        self._changed = {change.path for change in changes}
        self._held = HeldTree({change.path: change.after for change in changes if change.after is not None})

    def files(self, folder: str) -> Iterator[TreeFile]:
        """Yield every file below a folder."""
        for file in self._tree.files(folder):
            if file.path not in self._changed:
                yield file
        yield from self._held.files(folder)

    def paths(self, folder: str) -> Iterator[str]:
        """Yield the path of every file below a folder."""
        return (file.path for file in self.files(folder))

    def file(self, path: str) -> TreeFile | None:
        """Return one entry that is not a folder."""
        return (self._held if path in self._changed else self._tree).file(path)

    def names(self) -> list[str]:
        """Return the names in the root."""
        return sorted({*self._tree.names(), *self._held.names()})


def unified_diff(edit: Edit) -> str:
    """Return an edit as a patch for people; content that is not text is mentioned, not shown."""
    return "".join(line for change in edit.changes for line in _file_diff(change))


def _file_diff(change: FileChange) -> Iterator[str]:
    try:
        before, after = (
            (content or b"").decode().splitlines(keepends=True) for content in (change.before, change.after)
        )
    except UnicodeDecodeError:
        yield f"{change.verb} {change.path} (no text)\n"
        return
    old = "/dev/null" if change.before is None else f"a/{change.path}"
    new = "/dev/null" if change.after is None else f"b/{change.path}"
    for line in difflib.unified_diff(before, after, old, new):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
