"""The git objects below a served ref, read one by one: raw bytes for packs, parents for history.

Nothing is found by an id that came from the network: who serves starts from a ref, and walks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pygit2

from margo_gitops.errors import StateTampered
from margo_gitops.trust.git_objects import BLOB, COMMIT, TREE

_KEPT_COMMITS: Final = 100_000
_KINDS: Final = {pygit2.Commit: COMMIT, pygit2.Tree: TREE, pygit2.Blob: BLOB}


@dataclass(frozen=True, slots=True)
class CommitLinks:
    """Where a commit leads to.

    Attributes:
        tree: id of its tree.
        parents: ids of its parents, in order.
    """

    tree: str
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TreeLink:
    """One object of a tree, with where it stands.

    Attributes:
        id: the object.
        path: from the root, segments divided by a slash; empty for the root itself.
        kind: `BLOB` or `TREE`.
    """

    id: str
    path: str
    kind: bytes


class ServedObjects:
    """Objects of the state repo, for any number of threads; libgit2's handle is for one at a time."""

    def __init__(self, folder: Path) -> None:
        """Read from the repository in `folder`."""
        self._repository = pygit2.Repository(str(folder))
        self._commits: OrderedDict[str, CommitLinks] = OrderedDict()
        self._lock = threading.Lock()

    def commit(self, name: str) -> CommitLinks:
        """Return where a commit leads to; commits read lately are remembered.

        Raises:
            StateTampered: it is not there, or no commit.
        """
        with self._lock:
            found = self._commits.get(name)
            if found is not None:
                self._commits.move_to_end(name)
                return found
            value = self._object(name)
            if value.type != pygit2.enums.ObjectType.COMMIT:
                raise _lacking(name, "it is no commit")
            commit = value.peel(pygit2.Commit)
            found = CommitLinks(str(commit.tree_id), tuple(map(str, commit.parent_ids)))
            self._commits[name] = found
            if len(self._commits) > _KEPT_COMMITS:
                self._commits.popitem(last=False)
            return found

    def content(self, name: str) -> tuple[bytes, bytes]:
        """Return kind and bytes of an object.

        Raises:
            StateTampered: it is not there, or a tag.
        """
        with self._lock:
            value = self._object(name)
            kind = _KINDS.get(type(value))
            if kind is None:
                raise _lacking(name, "it is of a kind that no state has")
            return kind, value.read_raw()

    def tree(self, name: str) -> list[TreeLink]:
        """Return a tree and everything below it.

        Raises:
            StateTampered: something is missing, or no tree of plain files and folders.
        """
        found: list[TreeLink] = []
        waiting = [TreeLink(name, "", TREE)]
        with self._lock:
            while waiting:
                link = waiting.pop()
                found.append(link)
                if link.kind != TREE:
                    continue
                value = self._object(link.id)
                if not isinstance(value, pygit2.Tree):
                    raise _lacking(link.id, "it is no tree")
                for entry in value:
                    kind = _KINDS.get(type(entry), b"")
                    if not kind:
                        raise _lacking(str(entry.id), f"{entry.name} is neither a file nor a folder")
                    path = f"{link.path}/{entry.name}" if link.path else str(entry.name)
                    waiting.append(TreeLink(str(entry.id), path, kind))
        return found

    def history(
        self, tips: Iterable[str], limit: int, *, depth: int | None = None, ends: Collection[str] = ()
    ) -> dict[str, int]:
        """Return commits by how far they are from the nearest tip, tips (1) first.

        Args:
            tips: where to start.
            limit: how many commits at most; the walk ends there.
            depth: how far to go; None for all the way.
            ends: commits whose parents are not followed.

        Raises:
            StateTampered: a commit is missing.
        """
        ends = frozenset(ends)  # there may be thousands, of a client's making
        found: dict[str, int] = {}
        level = list(dict.fromkeys(tips))
        at = 1
        while level and (depth is None or at <= depth):
            following: dict[str, None] = {}
            for name in level:
                if len(found) == limit:
                    return found
                found[name] = at
                if name not in ends:
                    following.update(dict.fromkeys(self.commit(name).parents))
            level = [name for name in following if name not in found]
            at += 1
        return found

    def _object(self, name: str) -> pygit2.Object:
        try:
            found = self._repository[name]
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise _lacking(name, str(error)) from error
        return found


def _lacking(name: str, reason: str) -> StateTampered:
    return StateTampered(
        f"the state repo lacks the object {name}, which one of its refs leads to",
        why=[reason],
        remedy="restore the repository from its remote or a backup",
    )
