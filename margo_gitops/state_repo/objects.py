"""The state repo as it is read: where it holds each device, and what a device's state is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.state_layout import (
    ALIASES_FILE,
    DEPLOYMENT_SUFFIX,
    DEPLOYMENTS_FOLDER,
    DEVICES_FOLDER,
    FRESHNESS_FILE,
    FRESHNESS_REFS,
    LEFT_FOLDER,
    MANIFEST_FILE,
    NO_SITE,
    deployment_path,
)
from margo_gitops.errors import StateTampered
from margo_gitops.state_repo.git_store import GitStore, bad_object, commit_links, entry_name, raw_entries
from margo_gitops.state_repo.packed_refs import RefValues
from margo_gitops.state_repo.refs import Refs
from margo_gitops.trust.freshness_tree import possible_shards
from margo_gitops.trust.git_objects import BLOB, COMMIT, FILE_MODE, FOLDER_MODE, TREE
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.values import dataclass, field


class DevicePlace(NamedTuple):
    """Where a fleet commit holds a device.

    Attributes:
        folder: `devices/<site>` or `left`.
        tree: id of the device's tree.
    """

    folder: str
    tree: str

    @property
    def left(self) -> bool:
        """Whether the device left the fleet."""
        return self.folder == LEFT_FOLDER

    @property
    def site(self) -> str | None:
        """The device's site; None where it has none, or left."""
        site = self.folder.removeprefix(f"{DEVICES_FOLDER}/")
        return None if self.left or site == NO_SITE else site


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What one commit of a device's branch holds.

    Attributes:
        commit: id of the commit.
        raw_commit: the commit object, as signed.
        manifest: exact bytes of the manifest.
        manifest_digest: their digest.
        deployments: exact bytes of each deployment document, by deployment id.
    """

    commit: str
    raw_commit: bytes = field(repr=False)
    manifest: bytes = field(repr=False)
    manifest_digest: Digest
    deployments: Mapping[str, bytes] = field(repr=False)

    @property
    def snapshot(self) -> Snapshot:
        """The state as a transport would hand it over."""
        return Snapshot(self.manifest, self.deployments, self.raw_commit, self.commit)

    @property
    def signed_commit(self) -> bytes | None:
        """The commit object; None where it is not signed, and so proves nothing."""
        return self.raw_commit if b"\ngpgsig " in self.raw_commit.partition(b"\n\n")[0] else None

    @property
    def size(self) -> int:
        """Bytes that it occupies, about."""
        return 2_000 + len(self.manifest) + len(self.raw_commit) + sum(map(len, self.deployments.values()))


@dataclass(frozen=True)
class DeviceTree:
    """A device's tree, read as far as it is asked for: the previous state of a render.

    Attributes:
        tree: id of the tree.
    """

    objects: StateObjects
    tree: str

    @cached_property
    def manifest(self) -> bytes:
        """Bytes of `manifest.json` (StateTampered: it does not exist)."""
        name = self.objects.child(self.tree, MANIFEST_FILE)
        if name is None:
            raise bad_object(self.tree, f"this tree of a device holds no {MANIFEST_FILE}")
        return self.objects.read(name, BLOB)

    @cached_property
    def files(self) -> Mapping[str, str]:
        """The blob id of every file, by path."""
        found: dict[str, str] = {}
        for entry in self.objects.tree(self.tree):
            if entry.mode == FOLDER_MODE:
                name = entry_name(entry)
                found |= {f"{name}/{entry_name(inner)}": inner.id for inner in self.objects.tree(entry.id)}
            else:
                found[entry_name(entry)] = entry.id
        return found

    @property
    def names(self) -> Iterator[str]:
        """The ids of everything in the tree."""
        yield from (entry.id for entry in self.objects.tree(self.tree))
        yield from self.files.values()

    def deployment(self, deployment_id: str) -> bytes | None:
        """Return a deployment document's bytes; None if this id does not exist."""
        name = self.files.get(deployment_path(deployment_id))
        return self.objects.read(name, BLOB) if name else None


class StateObjects(GitStore):
    """The objects and refs of a state repo; StateTampered also for what no renderer writes.

    Attributes:
        reports: the repository that devices push their reports to; None where that is this one.
    """

    reports: StateObjects | None = None

    def refs(self) -> RefValues:
        """Return the object id of every ref, by full name (StateRepoUnusable: a ref cannot be read)."""
        return Refs(self.folder).read()

    def places(self, tree: str) -> dict[str, DevicePlace]:
        """Return where the tree of a fleet commit holds each device, by encoded device id; leave other entries out."""
        found: dict[str, DevicePlace] = {}

        def add(folder: str, name: str) -> None:
            entries = raw_entries(name, self.read(name, TREE))
            names = [raw.decode("utf-8", "backslashreplace") for _, raw, _ in entries]
            here = dict(zip(names, (DevicePlace(folder, held.hex()) for _, _, held in entries), strict=True))
            if len(here) < len(names) or found.keys() & here:
                twice = next(each for each in names if each in found or names.count(each) > 1)
                raise bad_object(tree, f"{twice} is in {found.get(twice, here[twice]).folder} and in {folder}")
            found.update(here)

        for top in self.tree(tree):
            if top.mode == FOLDER_MODE and top.name == DEVICES_FOLDER.encode():
                for site in self.tree(top.id):
                    add(f"{DEVICES_FOLDER}/{entry_name(site)}", site.id)
            elif top.mode == FOLDER_MODE and top.name == LEFT_FOLDER.encode():
                add(LEFT_FOLDER, top.id)
        return found

    def sites(self, tree: str) -> dict[str, str]:
        """Return the id of the folder of each site in the tree of a fleet commit, by the folder's name."""
        devices = self.child(tree, DEVICES_FOLDER)
        return {entry_name(site): site.id for site in self.tree(devices)} if devices else {}

    def folders(self, tree: str) -> Iterator[str]:
        """Yield the id of everything above the devices in the tree of a fleet commit."""
        for top in self.tree(tree):
            yield top.id
            if top.mode == FOLDER_MODE and top.name == DEVICES_FOLDER.encode():
                yield from (site.id for site in self.tree(top.id))

    def aliases(self, commit: str) -> Mapping[str, str]:
        """Return what devices call themselves, by id, as a fleet commit says (StateTampered: it cannot be read)."""
        return self.kept("aliases", commit, self._aliases)

    def _aliases(self, commit: str) -> Mapping[str, str]:
        root = self.tree(self.links(commit).tree)
        blob = next((each.id for each in root if each.name == ALIASES_FILE.encode()), None)
        if blob is None:
            return {}
        try:
            found = json.loads(self.read(blob, BLOB))
        except ValueError as error:
            raise bad_object(commit, f"{ALIASES_FILE} is not JSON") from error
        if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
            raise bad_object(commit, f"{ALIASES_FILE} does not hold names")
        return found

    def proof(self, device: str, refs: Mapping[str, str]) -> bytes | None:
        """Return the proof of freshness for a device, or for a child of a gateway; None if it does not exist."""
        commits = (refs.get(f"{FRESHNESS_REFS}{shard}") for shard in possible_shards(device))
        commit = next((commit for commit in commits if commit), None)
        return self.file(commit, FRESHNESS_FILE) if commit else None

    def held(self, places: Mapping[str, DevicePlace], encoded: str) -> DeviceTree | None:
        """Return a device's tree in a fleet commit; None where it has none."""
        place = places.get(encoded)
        return DeviceTree(self, place.tree) if place else None

    def state(self, commit: str, client: str) -> DeviceState:
        """Return what a commit of a client's branch holds."""
        try:
            return self.kept("state", commit, self._state)
        except StateTampered as error:
            error.device = client
            raise

    def _state(self, name: str) -> DeviceState:
        raw = self.read(name, COMMIT)
        root = {(entry_name(entry), entry.mode): entry.id for entry in self._tree(commit_links(name, raw).tree)}
        manifest = root.pop((MANIFEST_FILE, FILE_MODE), None)
        folder = root.pop((DEPLOYMENTS_FOLDER, FOLDER_MODE), None)
        if manifest is None or root:
            raise bad_object(name, "its tree is not a manifest with deployments")
        deployments = {}
        for entry in self._tree(folder) if folder else ():
            file = entry_name(entry)
            if entry.mode != FILE_MODE or not file.endswith(DEPLOYMENT_SUFFIX):
                raise bad_object(name, f"{DEPLOYMENTS_FOLDER}/{file} is not a deployment")
            deployments[file.removesuffix(DEPLOYMENT_SUFFIX)] = self.read(entry.id, BLOB)
        content = self.read(manifest, BLOB)
        return DeviceState(name, raw, content, sha256(content), deployments)


def listed_deployments(content: bytes) -> tuple[int, dict[str, str]]:
    """Return a manifest's version, and the digests of its deployments by id: the least that 10,000 manifests cost.

    Raises:
        ValueError: these bytes are not a manifest.
    """
    try:
        document = json.loads(content)
        version = document["manifestVersion"]
        digests = {each["deploymentId"]: each["digest"] for each in document.get("deployments") or ()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is not a state manifest") from error
    if not isinstance(version, int) or not all(isinstance(each, str) for pair in digests.items() for each in pair):
        raise ValueError("it is not a state manifest")
    return version, digests
