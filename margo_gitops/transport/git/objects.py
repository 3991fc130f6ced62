"""Git objects in memory: there is no object store, so nothing can grow."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from dulwich.objects import ObjectID

from margo_gitops.trust import git_objects

__all__ = ["GitObject", "Kind", "Lookup", "ObjectID", "object_id"]


class Kind(IntEnum):
    """The kinds of object a device state is made of, by their number in a pack (gitformat-pack, object types)."""

    COMMIT = 1
    TREE = 2
    BLOB = 3


class GitObject(NamedTuple):
    """One object: its kind, and its bytes without git's header."""

    kind: Kind
    content: bytes


Lookup: TypeAlias = Callable[[ObjectID], GitObject | None]
"""Finds an object by its id; None where it is not there. What it finds has been checked against the id."""


def object_id(kind: Kind, content: bytes) -> ObjectID:
    """Return the id of an object, in hex."""
    return ObjectID(git_objects.object_id(_NAMES[kind], content).encode())


_NAMES = {Kind.COMMIT: git_objects.COMMIT, Kind.TREE: git_objects.TREE, Kind.BLOB: git_objects.BLOB}
