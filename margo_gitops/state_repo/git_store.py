"""The objects of a repository, read one by one: commits, trees and files, for any number of threads.

OBJECTS-1  The bytes of each object are compared with its id: git believes the index of a pack, an auditor does not.
OBJECTS-2  What is wrong is named by its object. So nothing is read as libgit2's own commit or tree, which fail whole.
OBJECTS-3  Nothing is searched for by an id that came from the network: readers start from a ref, and walk.
OBJECTS-4  What was read lately stays in memory, up to a number of bytes.
OBJECTS-5  Where git's file `shallow` says that history was cut, it ends at the commits that the newest checkpoint
           names, if the checkpoint's signature is right (D-32). Anywhere else, a missing commit is an error.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar, cast

import pygit2
from pygit2.enums import ObjectType

from margo_gitops.cache import SizedCache
from margo_gitops.disk.stamps import FileWatch
from margo_gitops.documents.state_layout import BOUNDARY_FILE, CHECKPOINTS_REF
from margo_gitops.errors import StateTampered
from margo_gitops.state_repo.refs import Refs
from margo_gitops.trust.git_commit import GitCommit, parse_commit
from margo_gitops.trust.git_objects import BLOB, COMMIT, FILE_MODE, FOLDER_MODE, TREE, TreeEntry, object_id
from margo_gitops.trust.signer import commit_signer
from margo_gitops.values import dataclass

MAX_OBJECT_BYTES: Final = 64 * 1024 * 1024
"""Of one object, far more than any render writes; a few kilobytes can inflate to gigabytes."""
CACHE_BYTES: Final = 64 * 1024 * 1024

_KINDS: Final = {int(ObjectType.BLOB): BLOB, int(ObjectType.TREE): TREE, int(ObjectType.COMMIT): COMMIT}
_LINKS: Final = re.compile(rb"tree ([0-9a-f]{40})\n((?:parent [0-9a-f]{40}\n)*)")
_ENTRY: Final = re.compile(rb"([0-7]{1,7}) ([^\0]*)\0(.{20})", re.DOTALL)
_WHOLE_TREE: Final = re.compile(rb"(?:%b)*+" % _ENTRY.pattern, re.DOTALL)
_ENTRY_BYTES: Final = 200
_LINKS_BYTES: Final = 600
_BOUNDARY_LINE: Final = re.compile(r"([0-9a-f]{40}) (refs/heads/[^\s]+)")

T = TypeVar("T")


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
    """One object of a tree, with its place.

    Attributes:
        path: from the root, segments divided by a slash; empty for the root itself.
        kind: `BLOB` or `TREE`.
    """

    id: str
    path: str
    kind: bytes


class GitStore:
    """The objects of a bare repository.

    Every method that returns what an object holds raises StateTampered, which names the object, where it is missing,
    its bytes have another id, or it is not what was asked for.
    """

    def __init__(self, folder: Path, cache_bytes: int = CACHE_BYTES) -> None:
        """Read the bare repository in `folder`, and keep at most `cache_bytes` of what was read in memory.

        Raises:
            pygit2.GitError: there is no repository.
        """
        self.folder = folder
        self._repository = pygit2.Repository(str(folder))
        self._lock = threading.Lock()  # libgit2's handle is for one thread at a time
        self._kept: SizedCache[tuple[str, str], object] = SizedCache(cache_bytes, self._size)
        self.shallow = folder / "shallow"
        """git's file of commits whose parents are not there; most state repos have none."""
        self._cut = FileWatch(self.shallow, folder / "packed-refs", folder / CHECKPOINTS_REF)
        self._cutting = threading.Lock()
        self._boundary: Mapping[str, str] = {}

    def renew(self) -> None:
        """Close the packs that were merged into others: libgit2 holds the files of each until then."""
        with suppress(pygit2.GitError):  # what is open still reads what was there
            repository = pygit2.Repository(str(self.folder))
            with self._lock:
                self._repository.free()
                self._repository = repository

    def content(self, name: str, limit: int = MAX_OBJECT_BYTES) -> tuple[bytes, bytes]:
        """Return kind and bytes of an object, of at most `limit` bytes."""
        try:
            with self._lock:
                _, size = self._repository.odb.read_header(name)
                if size > limit:
                    raise bad_object(name, f"it has {size} bytes, {limit} are possible")
                found, content = self._repository.odb.read(name)
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise bad_object(name, f"it is missing or damaged ({str(error).strip(chr(39))})") from error
        kind = _KINDS.get(int(found))
        if kind is None:
            raise bad_object(name, "it is of a kind that no state has")
        if (real := object_id(kind, content)) != name:
            raise bad_object(name, f"its bytes have the id {real}")
        return kind, content

    def read(self, name: str, kind: bytes, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """Return an object's bytes, at most `limit`."""
        found, content = self.content(name, limit)
        if found != kind:
            raise bad_object(name, f"it is not a {kind.decode()}")
        return content

    def commit(self, name: str) -> GitCommit:
        """Return a commit."""
        try:
            return parse_commit(self.read(name, COMMIT))
        except ValueError as error:
            raise bad_object(name, str(error)) from error

    def links(self, name: str) -> CommitLinks:
        """Return where a commit leads to, no matter who wrote it."""
        return self.kept("links", name, lambda name: commit_links(name, self.read(name, COMMIT)))

    def tree(self, name: str) -> tuple[TreeEntry, ...]:
        """Return a tree's entries."""
        return self.kept("tree", name, self._tree)

    def _tree(self, name: str) -> tuple[TreeEntry, ...]:
        return tree_entries(name, self.read(name, TREE))

    def child(self, tree: str, name: str) -> str | None:
        """Return the id of a file or folder in a tree; None if it does not exist."""
        encoded = name.encode()
        return next((entry.id for entry in self.tree(tree) if entry.name == encoded), None)

    def file(self, commit: str, name: str) -> bytes | None:
        """Return the bytes of a file at the top of a commit's tree; None where it holds none."""
        found = self.child(self.links(commit).tree, name)
        return self.read(found, BLOB) if found else None

    def below(self, tree: str) -> list[TreeLink]:
        """Return a tree and everything below it."""
        found: list[TreeLink] = []
        waiting = [TreeLink(tree, "", TREE)]
        while waiting:
            link = waiting.pop()
            found.append(link)
            for entry in self.tree(link.id) if link.kind == TREE else ():
                name = entry_name(entry)
                kind = {FOLDER_MODE: TREE, FILE_MODE: BLOB}.get(entry.mode)
                if kind is None:
                    raise bad_object(entry.id, f"{name} is neither a file nor a folder")
                waiting.append(TreeLink(entry.id, f"{link.path}/{name}" if link.path else name, kind))
        return found

    def history(
        self, tips: Iterable[str], limit: int, *, depth: int | None = None, ends: Collection[str] = ()
    ) -> dict[str, int]:
        """Return commits by how far they are from the nearest tip, tips (1) first.

        Args:
            limit: how many commits at most; the walk ends there.
            depth: how far to go; None for all the way.
            ends: commits whose parents are not followed.
        """
        ends = frozenset(ends) | self.boundary().keys()  # there may be thousands, of a client's making
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
                    following.update(dict.fromkeys(self.links(name).parents))
            level = [name for name in following if name not in found]
            at += 1
        return found

    def branch(self, tip: str) -> tuple[str, ...]:
        """Return the ids of a branch's commits, oldest first, by first parents."""
        # Only the first parent is read, so that a commit that is wrong otherwise is named in its turn.
        parents = first_parents(tip, lambda name: next(iter(self.links(name).parents), None), self.boundary())
        return tuple(reversed(tuple(parents)))

    def parents(self, name: str) -> tuple[str, ...]:
        """Return the ids of a commit's parents; none where history ends at a checkpoint (OBJECTS-5)."""
        return () if name in self.boundary() else self.links(name).parents

    def boundary(self) -> Mapping[str, str]:
        """Return the branch that each commit at the end of history is of; empty where nothing was cut (OBJECTS-5)."""
        if not self.shallow.exists():
            return {}
        with self._cutting:
            if self._cut.changed():
                self._cut.mark()
                checkpoint = Refs(self.folder).read(checked=False).get(CHECKPOINTS_REF)
                self._boundary = self.boundary_of(checkpoint) if checkpoint else {}
            return self._boundary

    def boundary_of(self, checkpoint: str) -> Mapping[str, str]:
        """Return the branch of each commit that a checkpoint names; none without a right signature."""
        if commit_signer(self.commit(checkpoint), None).signer is None:
            return {}
        lines = (self.file(checkpoint, BOUNDARY_FILE) or b"").decode("utf-8", "replace").splitlines()
        return {match[1]: match[2] for line in lines if (match := _BOUNDARY_LINE.fullmatch(line))}

    def resolve(self, revision: str) -> str | None:
        """Return the id of the commit that a revision of the state repo names; None where it names none."""
        try:
            with self._lock:
                return str(self._repository.revparse_single(revision).peel(pygit2.Commit).id)
        except (KeyError, ValueError, pygit2.GitError):
            return None

    def kept(self, kind: str, name: str, read: Callable[[str], T]) -> T:
        """Return what was read of an object, from memory where it is there."""
        found = self._kept.get((kind, name))
        if found is None:
            found = read(name)
            self._kept.put((kind, name), found)
        return cast("T", found)

    @staticmethod
    def _size(kept: object) -> int:
        if isinstance(kept, tuple):
            return _ENTRY_BYTES * (1 + len(kept))
        return int(getattr(kept, "size", _LINKS_BYTES))


def bad_object(name: str, reason: str) -> StateTampered:
    """Return the error for an object that is missing, or is not what its id or its place says."""
    return StateTampered(
        f"the state repo's object {name}: {reason}",
        object_id=name,
        remedy="see what is wrong: margo-gitops audit verify; then restore the repository from its remote or a backup",
    )


def commit_links(name: str, raw: bytes) -> CommitLinks:
    """Return where a commit object leads to (StateTampered: it is not a commit)."""
    match = _LINKS.match(raw)
    if match is None:
        raise bad_object(name, "it is not a commit")
    return CommitLinks(match[1].decode(), tuple(each.decode() for each in match[2].split()[1::2]))


def entry_name(entry: TreeEntry) -> str:
    """Return an entry's name as text; bytes that are not UTF-8 are escaped."""
    return entry.name.decode("utf-8", "backslashreplace")


def tree_entries(name: str, content: bytes) -> tuple[TreeEntry, ...]:
    """Return the entries of a tree object, with any mode.

    Args:
        name: its id, for the message.

    Raises:
        StateTampered: it is not a tree.
    """
    return tuple(TreeEntry(each, int(mode, 8), raw.hex()) for mode, each, raw in raw_entries(name, content))


def raw_entries(name: str, content: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Return mode, name and id of each entry of a tree object, as they are in it (StateTampered: it is not a tree)."""
    if not _WHOLE_TREE.fullmatch(content):
        raise bad_object(name, "it is not a tree")
    return _ENTRY.findall(content)


def first_parents(tip: str, parent: Callable[[str], str | None], ends: Collection[str]) -> Iterator[str]:
    """Yield a commit and its ancestors by first parents, newest first.

    Args:
        tip: id of the newest.
        parent: returns the id of a commit's first parent; None for the first commit of all.
        ends: the commits at which history ends (OBJECTS-5).

    Raises:
        StateTampered: a commit is its own ancestor.
    """
    seen: set[str] = set()
    name: str | None = tip
    while name is not None:
        if name in seen:
            raise bad_object(name, "this commit is its own ancestor")
        seen.add(name)
        yield name
        name = None if name in ends else parent(name)
