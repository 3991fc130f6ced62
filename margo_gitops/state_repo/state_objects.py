"""The state repo as an auditor reads it: every object's bytes are held against its id, and no branch is believed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pygit2
from pygit2.enums import ObjectType

from margo_gitops.documents.state_layout import (
    DEVICES_FOLDER,
    FLEET_REF,
    LEFT_FOLDER,
    MANIFEST_FILE,
    deployment_path,
)
from margo_gitops.state_repo.refs import Refs
from margo_gitops.trust.git_commit import GitCommit, parse_commit
from margo_gitops.trust.git_objects import (
    BLOB,
    COMMIT,
    FOLDER_MODE,
    TREE,
    TreeEntry,
    object_id,
)


class BadObjectError(Exception):
    """An object is missing, or is not what its id or its place says."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"object {name}: {what}")
        self.name = name
        self.what = what


@dataclass(frozen=True, slots=True)
class DevicePlace:
    """Where a fleet commit holds a device.

    Attributes:
        folder: `devices/<site>` or `left`.
        tree: id of the device's tree.
    """

    folder: str
    tree: str


@dataclass(frozen=True, slots=True)
class HeldTree:
    """A device's tree as the previous state of a render."""

    objects: StateObjects
    tree: str

    @property
    def manifest(self) -> bytes:
        """Bytes of `manifest.json`.

        Raises:
            BadObjectError: there is none.
        """
        files = self.files()
        if MANIFEST_FILE not in files:
            raise BadObjectError(self.tree, f"this tree of a device holds no {MANIFEST_FILE}")
        return self.objects.read(files[MANIFEST_FILE], BLOB)

    def deployment(self, deployment_id: str) -> bytes | None:
        """Return a deployment document's bytes; None where there is none of this id."""
        name = self.files().get(deployment_path(deployment_id))
        return self.objects.read(name, BLOB) if name else None

    def files(self) -> dict[str, str]:
        """Return the blob id of every file, by path."""
        found: dict[str, str] = {}
        for entry in self.objects.tree(self.tree):
            name = _text(entry.name)
            if entry.mode == FOLDER_MODE:
                found |= {f"{name}/{_text(inner.name)}": inner.id for inner in self.objects.tree(entry.id)}
            else:
                found[name] = entry.id
        return found


_MAX_CACHED_TREES: Final = 50_000
_TYPES: Final = {BLOB: ObjectType.BLOB, TREE: ObjectType.TREE, COMMIT: ObjectType.COMMIT}
_PARENT: Final = re.compile(rb"tree [0-9a-f]{40}\nparent ([0-9a-f]{40})\n")


class StateObjects:
    """The objects and refs of a state repo."""

    def __init__(self, folder: Path) -> None:
        """Read the bare repository in `folder`."""
        self._repository = pygit2.Repository(str(folder))
        self._trees: dict[str, tuple[TreeEntry, ...]] = {}
        self.folder = folder

    def refs(self) -> dict[str, str]:
        """Return the object id of every ref, by full name.

        Raises:
            StateRepoUnusable: a ref cannot be read.
        """
        return Refs(self.folder).read()

    def read(self, name: str, kind: bytes) -> bytes:
        """Return an object's bytes.

        Raises:
            BadObjectError: it is missing, of another kind, or its bytes have another id.
        """
        try:
            # Not as libgit2's own commit or tree: what it does not like is named by what is wrong with it.
            found, content = self._repository.read(name)
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise BadObjectError(name, f"it is missing or damaged ({str(error).strip(chr(39))})") from error
        if found != _TYPES[kind]:
            raise BadObjectError(name, f"it is no {kind.decode()}")
        # git believes the index of a pack; an auditor does not.
        if (real := object_id(kind, content)) != name:
            raise BadObjectError(name, f"its bytes have the id {real}")
        return content

    def commit(self, name: str) -> GitCommit:
        """Return a commit.

        Raises:
            BadObjectError: as `read`, or it is no commit that a renderer writes.
        """
        try:
            return parse_commit(self.read(name, COMMIT))
        except ValueError as error:
            raise BadObjectError(name, str(error)) from error

    def tree(self, name: str) -> tuple[TreeEntry, ...]:
        """Return a tree's entries.

        Raises:
            BadObjectError: as `read`, or it is no tree.
        """
        entries = self._trees.get(name)
        if entries is None:
            if len(self._trees) >= _MAX_CACHED_TREES:
                self._trees.clear()
            entries = self._trees[name] = tree_entries(name, self.read(name, TREE))
        return entries

    def places(self, tree: str) -> dict[str, DevicePlace]:
        """Return where the tree of a fleet commit holds each device, by encoded device id; other entries are left out.

        Raises:
            BadObjectError: a tree cannot be read, or a device stands in two places.
        """
        found: dict[str, DevicePlace] = {}

        def add(folder: str, name: str) -> None:
            for entry in self.tree(name):
                encoded = _text(entry.name)
                if encoded in found:
                    raise BadObjectError(tree, f"{encoded} stands in {found[encoded].folder} and in {folder}")
                found[encoded] = DevicePlace(folder, entry.id)

        for top in self.tree(tree):
            if top.mode == FOLDER_MODE and top.name == DEVICES_FOLDER.encode():
                for site in self.tree(top.id):
                    add(f"{DEVICES_FOLDER}/{_text(site.name)}", site.id)
            elif top.mode == FOLDER_MODE and top.name == LEFT_FOLDER.encode():
                add(LEFT_FOLDER, top.id)
        return found

    def branch(self, tip: str) -> tuple[str, ...]:
        """Return the ids of a branch's commits, oldest first, by first parents.

        Raises:
            BadObjectError: a commit cannot be read.
        """
        return tuple(reversed(tuple(first_parents(tip, self._first_parent))))

    def _first_parent(self, name: str) -> str | None:
        # Only the first parent is looked at, so that a commit that is wrong otherwise is named in its turn.
        parent = _PARENT.match(self.read(name, COMMIT))
        return parent[1].decode() if parent else None

    def held(self, places: Mapping[str, DevicePlace], encoded: str) -> HeldTree | None:
        """Return a device's tree in a fleet commit; None where it has none."""
        place = places.get(encoded)
        return HeldTree(self, place.tree) if place else None

    def resolve(self, revision: str) -> str | None:
        """Return the id of the commit that a revision of the state repo names; None where it names none."""
        try:
            return str(self._repository.revparse_single(revision).peel(pygit2.Commit).id)
        except (KeyError, ValueError, pygit2.GitError):
            return None

    def fleet_tip(self, refs: Mapping[str, str]) -> str | None:
        """Return the newest commit of the fleet branch; None before the first render."""
        return refs.get(FLEET_REF)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def tree_entries(name: str, content: bytes) -> tuple[TreeEntry, ...]:
    """Return the entries of a tree object, whatever their modes.

    Args:
        name: its id, for the message.
        content: its bytes.

    Raises:
        BadObjectError: it is no tree.
    """
    entries = []
    at = 0
    while at < len(content):
        space = content.find(b" ", at)
        end = content.find(b"\0", space)
        mode = content[at:space]
        if space < 0 or end < 0 or end + 21 > len(content) or not mode.isdigit() or len(mode) > 7:
            raise BadObjectError(name, "it is no tree")
        entries.append(TreeEntry(content[space + 1 : end], int(mode, 8), content[end + 1 : end + 21].hex()))
        at = end + 21
    return tuple(entries)


def first_parents(tip: str, parent: Callable[[str], str | None]) -> Iterator[str]:
    """Yield a commit and its ancestors by first parents, newest first.

    Args:
        tip: id of the newest.
        parent: returns the id of a commit's first parent; None for the first commit of all.

    Raises:
        BadObjectError: a commit is its own ancestor.
    """
    seen: set[str] = set()
    name: str | None = tip
    while name is not None:
        if name in seen:
            raise BadObjectError(name, "this commit is its own ancestor")
        seen.add(name)
        yield name
        name = parent(name)
