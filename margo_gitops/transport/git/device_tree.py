"""The git objects of one device state, and the snapshot they are.

Rules for what a device branch points to, each broken one is `SourceMisbehaved`:

1. A commit whose tree holds exactly `manifest.json`, and `deployments` where there are deployments.
2. `deployments` holds at least one file, each named `<deployment id>.yaml`, the id a UUID in lower case.
3. Files are plain (mode 100644): no links, no executable bits, no submodules, no further folders.
4. Trees are in git's one order, so that the snapshot alone gives back the same commit id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn

from margo_gitops.errors import SourceMisbehaved
from margo_gitops.transport.git.pack import GitObject, Kind, Lookup, ObjectID, object_id
from margo_gitops.transport.git.source import GitLimits
from margo_gitops.trust.git_objects import (
    DEPLOYMENTS_NAME,
    FILE_MODE,
    FOLDER_MODE,
    MANIFEST_NAME,
    deployments_tree,
    device_tree,
)
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.values import dataclass
from margo_gitops.web.refusal import shown

_DEPLOYMENT = re.compile(rb"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.yaml")
_ENTRY = re.compile(rb"([1-7][0-7]{0,6}) ([^\0]+)\0(.{20})", re.DOTALL)
_COMMIT_TREE = re.compile(rb"tree ([0-9a-f]{40})\n")

_FORBIDDEN = {
    0o120000: "a symbolic link",
    0o160000: "a submodule",
    0o100755: "an executable file",
    FOLDER_MODE: "a folder",
    FILE_MODE: "a file",
}
_REMEDY = "let only `margo-gitops render` write the device's branch"


@dataclass(frozen=True, slots=True)
class HeldState:
    """The git objects of a snapshot the device holds, proven against the snapshot's own commit id.

    Attributes:
        tip: the commit.
        objects: the commit, its trees and its blobs, by id.
    """

    tip: ObjectID
    objects: Mapping[ObjectID, GitObject]


def held_state(snapshot: Snapshot | None) -> HeldState | None:
    """Return the objects of `snapshot`; None where it did not come by git, or its bytes are not those of its commit.

    What is damaged counts as not held: then everything is fetched again, and nothing is stuck.
    """
    if snapshot is None or snapshot.commit is None:
        return None
    objects: dict[ObjectID, GitObject] = {}

    def keep(kind: Kind, content: bytes) -> ObjectID:
        name = object_id(kind, content)
        objects[name] = GitObject(kind, content)
        return name

    try:
        folder = None
        if snapshot.deployments:
            blobs = {name: keep(Kind.BLOB, content).decode() for name, content in snapshot.deployments.items()}
            folder = keep(Kind.TREE, deployments_tree(blobs)).decode()
        tree = keep(Kind.TREE, device_tree(keep(Kind.BLOB, snapshot.manifest).decode(), folder))
    except ValueError:
        return None
    tip = keep(Kind.COMMIT, snapshot.commit)

    stated = _COMMIT_TREE.match(snapshot.commit)
    if stated is None or stated[1] != tree or tip != snapshot.revision.encode(errors="backslashreplace"):
        return None
    return HeldState(tip, objects)


def read_snapshot(tip: ObjectID, lookup: Lookup, limits: GitLimits) -> Snapshot:
    """Return the snapshot that the commit `tip` is."""
    commit, root = _commit(tip, lookup)
    for name, (mode, _) in root.items():
        if (name, mode) not in ((MANIFEST_NAME, FILE_MODE), (DEPLOYMENTS_NAME, FOLDER_MODE)):
            _refuse(shown(name), mode, "manifest.json and deployments/")
    if MANIFEST_NAME not in root:
        raise SourceMisbehaved("the tree of the commit holds no manifest.json", remedy=_REMEDY)
    manifest = _need(root[MANIFEST_NAME][1], Kind.BLOB, lookup, "manifest.json")

    deployments: dict[str, bytes] = {}
    if DEPLOYMENTS_NAME in root:
        folder = _entries(root[DEPLOYMENTS_NAME][1], lookup, "the folder deployments")
        if not folder or len(folder) > limits.deployments:
            raise SourceMisbehaved(
                f"the folder deployments holds {len(folder)} files; 1 to {limits.deployments} are allowed",
                remedy=_REMEDY,
            )
        for name, (mode, blob) in folder.items():
            named = _DEPLOYMENT.fullmatch(name)
            if named is None or mode != FILE_MODE:
                _refuse(f"deployments/{shown(name)}", mode, "plain files named <deployment id>.yaml")
            deployments[named[1].decode()] = _need(blob, Kind.BLOB, lookup, f"deployments/{shown(name)}")

    snapshot = Snapshot(manifest, deployments, commit, tip.decode())
    if held_state(snapshot) is None:
        raise SourceMisbehaved("the trees of the commit are not in the order git writes them", remedy=_REMEDY)
    return snapshot


def read_file(tip: ObjectID, name: bytes, lookup: Lookup) -> bytes:
    """Return the one file, `name`, of the commit `tip`."""
    _, entries = _commit(tip, lookup)
    mode, blob = entries.get(name, (0, ObjectID(b"")))
    if len(entries) != 1 or mode != FILE_MODE:
        raise SourceMisbehaved(f"the tree of the commit does not hold the file {shown(name)} alone")
    return _need(blob, Kind.BLOB, lookup, shown(name))


def read_files(tip: ObjectID, lookup: Lookup, name: re.Pattern[bytes], limit: int) -> dict[bytes, bytes]:
    """Return the files of the commit `tip`, by name: plain files of such names and no others.

    Args:
        limit: the most bytes of one file.
    """
    _, entries = _commit(tip, lookup)
    files = {}
    for each, (mode, blob) in entries.items():
        if mode != FILE_MODE or not name.fullmatch(each):
            raise SourceMisbehaved(f"the tree of the commit holds {shown(each)}, which does not belong there")
        files[each] = _need(blob, Kind.BLOB, lookup, shown(each))
        if len(files[each]) > limit:
            raise SourceMisbehaved(f"{shown(each)} is longer than the {limit} bytes it may have")
    return files


def _commit(tip: ObjectID, lookup: Lookup) -> tuple[bytes, dict[bytes, tuple[int, ObjectID]]]:
    """Return the bytes of a commit, and the entries of its tree."""
    commit = _need(tip, Kind.COMMIT, lookup, "the commit the ref points to")
    stated = _COMMIT_TREE.match(commit)
    if stated is None:
        raise SourceMisbehaved("the commit does not start with the id of its tree")
    return commit, _entries(ObjectID(stated[1]), lookup, "the tree of the commit")


def _need(name: ObjectID, kind: Kind, lookup: Lookup, what: str) -> bytes:
    found = lookup(name)
    if found is None:
        raise SourceMisbehaved(f"{what} is missing: the source did not send object {name.decode()}")
    if found.kind is not kind:
        raise SourceMisbehaved(f"{what} is a {found.kind.name.lower()}, not a {kind.name.lower()}")
    return found.content


def _entries(tree: ObjectID, lookup: Lookup, what: str) -> dict[bytes, tuple[int, ObjectID]]:
    content = _need(tree, Kind.TREE, lookup, what)
    entries: dict[bytes, tuple[int, ObjectID]] = {}
    at = 0
    while at < len(content):
        entry = _ENTRY.match(content, at)
        if entry is None:
            raise SourceMisbehaved(f"{what} is not a git tree")
        mode, name, identity = entry.groups()
        entries[name] = (int(mode, 8), ObjectID(identity.hex().encode()))
        at = entry.end()
    return entries


def _refuse(name: str, mode: int, allowed: str) -> NoReturn:
    what = _FORBIDDEN.get(mode, f"an entry of mode {mode:06o}")
    raise SourceMisbehaved(f"{name} is {what}; a device tree holds only {allowed}", remedy=_REMEDY)
