"""The state repo as programs serve it: the stored bytes of each device, by digest, never rendered again.

S-1  A view never changes: who answers one request from one view sees one state.
S-2  Each client is read from one commit of its branch, so manifest, documents and bundle belong together.
S-3  Content is found by its exact digest, and only below the branch of the client that asks.
S-4  A device that began to fetch just before a render can finish: a few commits back, its digests are still found.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pygit2

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.bundle import write_bundle
from margo_gitops.documents.device_id import decode_device_id
from margo_gitops.documents.state_layout import (
    DEPLOYMENTS_FOLDER,
    DEVICE_REFS,
    FLEET_REF,
    FRESHNESS_FILE,
    FRESHNESS_REFS,
    MANIFEST_FILE,
    device_ref,
)
from margo_gitops.errors import StateTampered
from margo_gitops.state_repo.ref_watch import RefWatch
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.freshness_tree import possible_shards
from margo_gitops.trust.git_commit import GitCommit, parse_commit
from margo_gitops.trust.snapshot import Snapshot

CACHE_BYTES: Final = 64 * 1024 * 1024
EARLIER_COMMITS: Final = 4
"""How far back a digest is looked for (S-4)."""


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
    def parsed(self) -> GitCommit:
        """The commit's fields.

        Raises:
            ValueError: it is none that a renderer writes.
        """
        return parse_commit(self.raw_commit)

    @property
    def snapshot(self) -> Snapshot:
        """The state as a transport would hand it over."""
        return Snapshot(self.manifest, self.deployments, self.raw_commit, self.commit)

    @property
    def size(self) -> int:
        """Bytes that it occupies, about."""
        return 2_000 + len(self.manifest) + len(self.raw_commit) + sum(map(len, self.deployments.values()))


class ServedState:
    """The state repo, read by any number of threads while renders go on."""

    def __init__(self, repo: StateRepo, cache_bytes: int = CACHE_BYTES) -> None:
        """Serve a state repo.

        Args:
            repo: the state repo; only its folder is used, so that other users of `repo` never wait.
            cache_bytes: how much content is kept in memory.
        """
        self._watch = RefWatch(repo.folder)
        self._objects = _Objects(pygit2.Repository(str(repo.folder)), cache_bytes)
        self._lock = threading.Lock()
        self._view = StateView({}, self._objects)
        self._read: Mapping[str, str] | None = None
        self.refresh()

    def refresh(self) -> bool:
        """See whether a render moved anything; return whether the view is another one now.

        Raises:
            StateRepoUnusable: the refs cannot be read; the view stays.
        """
        with self._lock:
            values = self._watch.read()
            if values is self._read:
                return False
            self._read = values
            # Other branches, as that of the reports, are no state.
            served = {name: value for name, value in values.items() if name.startswith((DEVICE_REFS, FRESHNESS_REFS))}
            if FLEET_REF in values:
                served[FLEET_REF] = values[FLEET_REF]
            if served == self._view.refs:
                return False
            self._view = StateView(served, self._objects)
            return True

    def view(self) -> StateView:
        """Return the state as `refresh` found it."""
        return self._view


class StateView:
    """One state of the whole fleet; it never changes (S-1)."""

    def __init__(self, refs: Mapping[str, str], objects: _Objects) -> None:
        self.refs = refs
        self._objects = objects

    @property
    def fleet_commit(self) -> str | None:
        """The commit of the branch `fleet`; None before the first render."""
        return self.refs.get(FLEET_REF)

    def devices(self) -> tuple[str, ...]:
        """Return every client that has a branch, sorted.

        Raises:
            StateTampered: a branch has a name that no renderer makes.
        """
        names = []
        for ref in self.refs:
            if ref.startswith(DEVICE_REFS):
                try:
                    names.append(decode_device_id(ref.removeprefix(DEVICE_REFS)))
                except ValueError as error:
                    raise StateTampered(
                        f"the state repo holds a ref {ref}, which no renderer made", why=[str(error)]
                    ) from error
        return tuple(sorted(names))

    def revision(self, client: str) -> str | None:
        """Return the commit id of a client's state, without reading it; None where it has none."""
        try:
            return self.refs.get(device_ref(client))
        except ValueError:
            return None  # it comes from the network, and is no device id

    def state(self, client: str) -> DeviceState | None:
        """Return a client's state; None where it has none.

        Raises:
            StateTampered: its branch holds something else than a device's state.
        """
        commit = self.revision(client)
        return self._objects.state(commit, client) if commit else None

    def manifest(self, client: str) -> bytes | None:
        """Return the exact bytes of a client's manifest; None where it has none.

        Raises:
            StateTampered: its branch holds something else than a device's state.
        """
        state = self.state(client)
        return state.manifest if state else None

    def deployment(self, client: str, deployment_id: str, digest: str) -> bytes | None:
        """Return a deployment document of this client whose bytes have exactly this digest; None where it has none.

        Raises:
            StateTampered: its branch holds something else than a device's state.
        """
        for state in self._recent(client):
            content = state.deployments.get(deployment_id)
            if content is not None and sha256(content) == digest:
                return content
        return None

    def proof(self, client: str) -> bytes | None:
        """Return the proof of freshness for this client; None where there is none.

        Raises:
            StateTampered: its ref holds something else.
        """
        commits = (self.refs.get(f"{FRESHNESS_REFS}{shard}") for shard in possible_shards(client))
        commit = next((commit for commit in commits if commit), None)
        return self._objects.file(commit, FRESHNESS_FILE, client) if commit else None

    def bundle(self, client: str, digest: str) -> bytes | None:
        """Return the bundle of this client with exactly this digest, rebuilt; None where it has none.

        Raises:
            StateTampered: its branch holds something else than a device's state.
        """
        wanted = digest.encode()
        for state in self._recent(client):
            # A manifest names its bundle: without the name in it, there is nothing to rebuild.
            if state.deployments and wanted in state.manifest:
                content = write_bundle(state.deployments)
                if sha256(content) == digest:
                    return content
        return None

    def snapshot(self, client: str) -> Snapshot | None:
        """Return a client's state as a transport hands it over; None where it has none.

        Raises:
            StateTampered: its branch holds something else than a device's state.
        """
        state = self.state(client)
        return state.snapshot if state else None

    def deployed_lately(self, client: str, deployment_id: str) -> bool:
        """Return whether the client's state holds this deployment, or a state a few commits back does.

        Raises:
            StateTampered: its branch holds something else than a device's state.
        """
        return any(deployment_id in state.deployments for state in self._recent(client))

    def _recent(self, client: str) -> list[DeviceState]:
        """Return the client's state and those a few commits back (S-4), newest first."""
        states: list[DeviceState] = []
        commit = self.revision(client)
        while commit is not None and len(states) <= EARLIER_COMMITS:
            state = self._objects.state(commit, client)
            states.append(state)
            try:
                parents = state.parsed.parents
            except ValueError:
                break
            commit = parents[0] if parents else None
        return states


class _Objects:
    """Device states by commit, the lately used ones kept in memory; libgit2's handle is for one thread at a time."""

    def __init__(self, repository: pygit2.Repository, cache_bytes: int) -> None:
        self._repository = repository
        self._limit = cache_bytes
        self._kept: OrderedDict[str, DeviceState] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def state(self, commit: str, client: str) -> DeviceState:
        with self._lock:
            found = self._kept.get(commit)
            if found is not None:
                self._kept.move_to_end(commit)
                return found
            found = self._read(commit, client)
            self._kept[commit] = found
            self._held += found.size
            while self._held > self._limit and len(self._kept) > 1:
                self._held -= self._kept.popitem(last=False)[1].size
            return found

    def file(self, name: str, path: str, client: str) -> bytes:
        """Return a file of a commit."""
        with self._lock:
            try:
                blob = self._repository[name].peel(pygit2.Commit).tree[path].peel(pygit2.Blob)
                return bytes(blob.data)
            except (KeyError, ValueError, pygit2.GitError) as error:
                raise _not_a_state(client, f"{name} holds no {path}") from error

    def _read(self, name: str, client: str) -> DeviceState:
        try:
            commit = self._repository[name].peel(pygit2.Commit)
            root = {str(entry.name): entry for entry in commit.tree}
            manifest, folder = root.pop(MANIFEST_FILE, None), root.pop(DEPLOYMENTS_FOLDER, None)
            if root or not isinstance(manifest, pygit2.Blob) or not isinstance(folder, pygit2.Tree | None):
                raise _not_a_state(client, f"the tree of {name} is not a manifest with deployments")
            deployments = {}
            for entry in folder or ():
                stem, dot, kind = str(entry.name).rpartition(".")
                if not isinstance(entry, pygit2.Blob) or not dot or kind != "yaml":
                    raise _not_a_state(client, f"{DEPLOYMENTS_FOLDER}/{entry.name} in {name} is no deployment")
                deployments[stem] = bytes(entry.data)
            content = bytes(manifest.data)
            return DeviceState(name, commit.read_raw(), content, sha256(content), deployments)
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise StateTampered(
                f"the state repo lacks what the branch of {client} leads to",
                device=client,
                why=[str(error)],
                remedy="restore the repository from its remote or a backup",
            ) from error


def _not_a_state(client: str, reason: str) -> StateTampered:
    return StateTampered(
        f"the branch of {client} does not hold a device's state",
        device=client,
        why=[reason],
        remedy="put the branch back to the last commit of the renderer",
    )
