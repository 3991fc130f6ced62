"""Render a fleet commit again, and say how a device's tree differs from what the render makes.

StateTampered where an object of the state repo cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from margo_gitops.digests import sha256
from margo_gitops.documents.device_id import client_of, encode_device_id
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import StateManifest
from margo_gitops.documents.state_layout import (
    ALIASES_FILE,
    DEVICES_FOLDER,
    MANIFEST_FILE,
    NO_SITE,
    deployment_path,
    write_aliases,
)
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.processes import without_collections
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.render import PlacementsByDevice, affected, place, render
from margo_gitops.state_repo.git_store import bad_object
from margo_gitops.state_repo.objects import DevicePlace, DeviceTree, StateObjects
from margo_gitops.trust.git_objects import (
    BLOB,
    FILE_MODE,
    FOLDER_MODE,
    TREE,
    TreeEntry,
    blob_id,
    object_id,
    tree_bytes,
    tree_id,
)
from margo_gitops.values import dataclass, field


@dataclass(frozen=True, slots=True)
class TreeDifference:
    """One file or folder that is not what a render makes.

    Attributes:
        path: in the fleet commit's tree.
        expected, found: what should be there and what is, as text; None where that says nothing.
    """

    path: str
    what: str
    expected: str | None
    found: str | None


def files_differ(
    objects: StateObjects, folder: str, expected: Mapping[str, bytes], tree: str
) -> Iterator[TreeDifference]:
    """Yield every file of a device's tree that is not what a render makes; the deployments before the manifest."""
    found = DeviceTree(objects, tree).files
    # The manifest differs with each deployment: it is named first only where nothing else differs.
    for path in sorted({*expected, *found}, key=lambda path: (path == MANIFEST_FILE, path)):
        place = f"{folder}/{path}"
        if path not in expected:
            yield TreeDifference(place, "no render writes this file", None, found[path])
        elif path not in found:
            yield TreeDifference(place, "the file is missing", blob_id(expected[path]), None)
        elif blob_id(expected[path]) != found[path]:
            yield _content(place, path, expected[path], objects.read(found[path], BLOB))


def _content(place: str, path: str, expected: bytes, found: bytes) -> TreeDifference:
    if path == MANIFEST_FILE:
        versions = manifest_version(expected), manifest_version(found)
        if versions[0] != versions[1]:
            return TreeDifference(place, "manifestVersion is wrong", str(versions[0]), str(versions[1]))
        return TreeDifference(place, "the manifest is another one", _short(expected), _short(found))
    ours, theirs = expected.split(b"\n"), found.split(b"\n")
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False), start=1):
        if one != other:
            return TreeDifference(place, f"line {number} is another one", _short(one.strip()), _short(other.strip()))
    return TreeDifference(place, "the file has another length", f"{len(expected)} bytes", f"{len(found)} bytes")


_MAX_SHOWN = 120


def _short(content: bytes) -> str:
    text = "".join(each if each.isprintable() else "?" for each in content.decode("utf-8", "replace"))
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def manifest_version(content: bytes) -> int | None:
    """Return the version that a manifest says; None where it is not a manifest."""
    manifest = read_manifest(content)
    return manifest.manifest_version if manifest else None


def read_manifest(content: bytes) -> StateManifest | None:
    """Return a manifest; None where these bytes are not one."""
    try:
        return read_as(StateManifest, read_source(content, MANIFEST_FILE))
    except (UnreadableDocument, InvalidDocument):
        return None


def unsound(objects: StateObjects, folder: str, tree: str, version: int) -> Iterator[TreeDifference]:
    """Yield what is wrong with any device's tree: its files must be those that its manifest names.

    Args:
        folder: of the device in the fleet commit's tree.
        tree: id of the device's tree.
        version: that the manifest must have.
    """
    held = DeviceTree(objects, tree)
    manifest = read_manifest(held.manifest)
    if manifest is None:
        yield TreeDifference(f"{folder}/{MANIFEST_FILE}", "this is not a manifest", None, None)
        return
    if manifest.manifest_version != version:
        place = f"{folder}/{MANIFEST_FILE}"
        yield TreeDifference(place, "manifestVersion is wrong", str(version), str(manifest.manifest_version))
    named = {deployment_path(each.deployment_id): each.digest for each in manifest.deployments}
    files = held.files
    for path in sorted({*named, *files} - {MANIFEST_FILE}):
        if path not in named:
            yield TreeDifference(f"{folder}/{path}", "the manifest does not name this file", None, files[path])
        elif path not in files:
            yield TreeDifference(f"{folder}/{path}", "the file is missing", named[path], None)
        elif (digest := sha256(objects.read(files[path], BLOB))) != named[path]:
            yield TreeDifference(f"{folder}/{path}", "the file is not what the manifest names", named[path], digest)


def root_tree(places: Mapping[str, DevicePlace], aliases: Mapping[str, str]) -> str:
    """Return the id of the tree that holds devices at these places and these aliases, and nothing else.

    Raises:
        StateTampered: a name that no tree can hold.
    """
    inside: dict[str, dict[str, list[TreeEntry]]] = {}
    for encoded, each in places.items():
        top, _, site = each.folder.partition("/")
        entry = TreeEntry(encoded.encode("utf-8", "surrogateescape"), FOLDER_MODE, each.tree)
        inside.setdefault(top, {}).setdefault(site, []).append(entry)
    try:
        tops = []
        for top, sites in inside.items():
            entries = sites.pop("", [])
            entries += [TreeEntry(site.encode(), FOLDER_MODE, tree_id(devices)) for site, devices in sites.items()]
            tops.append(TreeEntry(top.encode(), FOLDER_MODE, object_id(TREE, tree_bytes(entries))))
        if aliases:
            tops.append(TreeEntry(ALIASES_FILE.encode(), FILE_MODE, blob_id(write_aliases(aliases))))
        return tree_id(tops)
    except ValueError as error:
        raise bad_object("", str(error)) from error


encoded_name = lru_cache(maxsize=65_536)(encode_device_id)
"""The name of a device in refs and folders."""


@dataclass(slots=True)
class Rerender:
    """Renders one fleet commit after the other.

    After the first, only what the commit can concern is rendered, and every device whose tree is another one than
    before; the rest is what was verified with the commit before.
    """

    objects: StateObjects
    _intent: Intent | None = None
    _placed: PlacementsByDevice = field(default_factory=dict)

    def __call__(
        self, intent: Intent, before: Mapping[str, DevicePlace], after: Mapping[str, DevicePlace]
    ) -> dict[str, DesiredState]:
        """Return the states that were rendered, by encoded device id; every other device keeps what it had.

        Args:
            before: where the state commit's parent holds each device.
            after: where the state commit holds each.

        Raises:
            RenderingRefused: the fleet commit cannot be rendered.
            StateTampered: the previous state cannot be read.
        """
        with without_collections():
            placed = place(intent)
            only = affected(self._intent, self._placed, intent, placed) if self._intent is not None else None
            self._intent = None  # until this commit is done, nothing is known
            if only is not None:
                clients = {client_of(device) for device in intent.devices}
                only |= {each for each in clients if _tree(before, each) != _tree(after, each)}
            states = render(intent, lambda device: self.objects.held(before, encoded_name(device)), only, placed)
        self._intent, self._placed = intent, placed
        return {encoded_name(state.device): state for state in states}


def _tree(places: Mapping[str, DevicePlace], client: str) -> str | None:
    found = places.get(encoded_name(client))
    return found.tree if found else None


def folders(intent: Intent) -> dict[str, str]:
    """Return where a fleet commit holds each device that pulls, by encoded device id."""
    return {
        encoded_name(name): f"{DEVICES_FOLDER}/{device.value.spec.site or NO_SITE}"
        for name, device in intent.devices.items()
        if client_of(name) == name
    }
