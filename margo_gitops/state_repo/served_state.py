"""The state repo as programs serve it: the stored bytes of each device, by digest, never rendered again.

SERVED-1  A view never changes: who answers one request from one view sees one state.
SERVED-2  Each client is read from one commit of its branch, so manifest, documents and bundle belong together.
SERVED-3  Content is found by its exact digest, and only below the branch of the client that asks.
SERVED-4  A device that began to fetch just before a render can finish: a few commits back, its digests are still found.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from margo_gitops.digests import sha256
from margo_gitops.documents.device_id import decode_device_id
from margo_gitops.documents.manifest import write_bundle
from margo_gitops.documents.state_layout import (
    DEVICE_REFS,
    FLEET_REF,
    TRUST_REF,
    device_ref,
    state_refs,
    trust_file,
)
from margo_gitops.errors import StateTampered
from margo_gitops.state_repo.git_store import CACHE_BYTES
from margo_gitops.state_repo.objects import DeviceState, StateObjects
from margo_gitops.state_repo.packed_refs import HEADER, RefValues
from margo_gitops.state_repo.refs import RefWatch
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.snapshot import Snapshot

EARLIER_COMMITS: Final = 4
"""How far back a digest is looked for (SERVED-4)."""

Shape: TypeAlias = Callable[[DeviceState], DeviceState]
"""Returns a state as a client gets it: a pure function of the stored bytes."""


def as_stored(state: DeviceState) -> DeviceState:
    """Return a state as it is."""
    return state


class ServedState:
    """The state repo, read by any number of threads while renders run."""

    def __init__(self, repo: StateRepo, cache_bytes: int = CACHE_BYTES) -> None:
        """Serve a state repo.

        Args:
            repo: the state repo; only its folder is used, so that other users of `repo` never wait.
        """
        self._watch = RefWatch(repo.folder)
        self.objects = StateObjects(repo.folder, cache_bytes)
        self._lock = threading.Lock()
        self._view = StateView(RefValues(HEADER, {}), self.objects)
        self._read: RefValues | None = None
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
            served = RefValues(values.packed, state_refs(values.loose, lambda branch: branch.served))
            if served == self._view.refs:
                return False
            self.objects.renew()
            self._view = StateView(served, self.objects)
            return True

    def view(self) -> StateView:
        """Return the state as `refresh` found it."""
        return self._view


class StateView:
    """One state of the whole fleet; it never changes (SERVED-1).

    Every method that reads a branch raises StateTampered where it holds what no renderer writes.
    """

    def __init__(self, refs: Mapping[str, str], objects: StateObjects) -> None:
        self.refs = refs
        self._objects = objects

    @property
    def fleet_commit(self) -> str | None:
        """The commit of the branch `fleet`; None before the first render."""
        return self.refs.get(FLEET_REF)

    def devices(self) -> tuple[str, ...]:
        """Return every client that has a branch, sorted."""
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
        """Return a client's state; None where it has none."""
        commit = self.revision(client)
        return self._objects.state(commit, client) if commit else None

    def manifest(self, client: str) -> bytes | None:
        """Return the exact bytes of a client's manifest; None where it has none."""
        state = self.state(client)
        return state.manifest if state else None

    def deployment(self, client: str, deployment_id: str, digest: str, shape: Shape = as_stored) -> bytes | None:
        """Return a deployment document of this client whose bytes have exactly this digest; None where it has none."""
        for state in map(shape, self.recent(client)):
            content = state.deployments.get(deployment_id)
            if content is not None and sha256(content) == digest:
                return content
        return None

    def commit(self, client: str, manifest: str) -> bytes | None:
        """Return the signed commit of this client whose manifest has exactly this digest; None where it has none."""
        found = (state.signed_commit for state in self.recent(client) if state.manifest_digest == manifest)
        return next(found, None)

    def proof(self, client: str) -> bytes | None:
        """Return the proof of freshness for this client; None if it does not exist."""
        return self._objects.proof(client, self.refs)

    def trust_document(self, version: int) -> bytes | None:
        """Return the envelope of a version of the fleet's trust document; None if it does not exist."""
        tip = self.refs.get(TRUST_REF)
        return self._objects.file(tip, trust_file(version)) if tip else None

    def bundle(self, client: str, digest: str, shape: Shape = as_stored) -> bytes | None:
        """Return the bundle of this client with exactly this digest, rebuilt; None where it has none."""
        wanted = digest.encode()
        for state in map(shape, self.recent(client)):
            # A manifest names its bundle: without the name in it, there is nothing to rebuild.
            if state.deployments and wanted in state.manifest:
                content = write_bundle(state.deployments)
                if sha256(content) == digest:
                    return content
        return None

    def alias(self, client: str) -> str | None:
        """Return what a client calls itself, if that is not its id (StateTampered: the fleet branch cannot be read)."""
        return self._objects.aliases(self.fleet_commit).get(client) if self.fleet_commit else None

    def snapshot(self, client: str) -> Snapshot | None:
        """Return a client's state as a transport hands it over; None where it has none."""
        state = self.state(client)
        return state.snapshot if state else None

    def deployed_lately(self, client: str, deployment_id: str) -> bool:
        """Return whether the client's state holds this deployment, or a state a few commits back does."""
        return any(deployment_id in state.deployments for state in self.recent(client))

    def recent(self, client: str) -> list[DeviceState]:
        """Return the client's state and those a few commits back (SERVED-4), newest first."""
        states: list[DeviceState] = []
        commit = self.revision(client)
        while commit is not None and len(states) <= EARLIER_COMMITS:
            states.append(self._objects.state(commit, client))
            commit = next(iter(self._objects.parents(commit)), None)
        return states
