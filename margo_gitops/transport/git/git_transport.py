"""Pull by git: one ref, one commit, in memory.

Nothing is written: what the agent holds is the base of the next difference, and there is no object store that could
grow or break. A pull that fails at any point leaves nothing behind but a closed connection; the next one starts from
what is held.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from margo_gitops import __version__
from margo_gitops.documents.freshness import FRESHNESS_REFS
from margo_gitops.errors import SourceRefused
from margo_gitops.transport.git.device_tree import HeldState, held_state, read_file, read_snapshot
from margo_gitops.transport.git.limits import GitLimits
from margo_gitops.transport.git.objects import Lookup, ObjectID
from margo_gitops.transport.git.protocol_v2 import RemoteRepository
from margo_gitops.transport.git.source import GitSource
from margo_gitops.transport.transport import Answer
from margo_gitops.transport.web.cost import Cost, Meter
from margo_gitops.transport.web.deadline import Deadline
from margo_gitops.trust.freshness_tree import FRESHNESS_FILE, possible_shards
from margo_gitops.trust.snapshot import Snapshot

_AGENT = f"margo-gitops/{__version__}".encode()


class Repository(Protocol):
    """Where the objects of a state come from."""

    def tip(self, ref: bytes, deadline: Deadline) -> ObjectID | None:
        """Return the commit that `ref` points to; None where there is no such ref."""
        ...

    def tips(self, refs: Collection[bytes], deadline: Deadline) -> Mapping[bytes, ObjectID]:
        """Return the commit that each of `refs` points to, where there is such a ref."""
        ...

    def objects(self, tip: ObjectID, held: HeldState | None, deadline: Deadline) -> Lookup:
        """Return the objects of the commit `tip`, given those of `held`."""
        ...

    def finish(self) -> None:
        """End a pull that went well."""
        ...

    def close(self) -> None:
        """Close everything."""
        ...


class GitTransport:
    """Pulls one device's state from one git source. Not for two threads at a time."""

    def __init__(self, source: GitSource, limits: GitLimits | None = None) -> None:
        """Take the settings; nothing is opened or read yet.

        Args:
            source: where from, and as whom.
            limits: bounds on what a source may send; None for the default ones.
        """
        self._source = source
        self._limits = limits or GitLimits()
        self._meter = Meter()
        self._repository = self._make_repository()
        self._proof: tuple[ObjectID, bytes] | None = None

    @property
    def cost(self) -> Cost:
        """What all pulls together have used so far."""
        return self._meter.read()

    def pull(self, held: Snapshot | None, patience: int = 0) -> Answer:
        """Return the state that the ref holds, or that it is the one that `held` is, whole and undamaged.

        Args:
            held: what the device holds; None for nothing.
            patience: not used: git has no way to wait for a change.

        Raises:
            SourceUnreachable: no connection, or no answer in time.
            SourceRefused: the source knows this device or this ref not. A missing ref is never an empty state.
            SourceMisbehaved: the answer breaks the git subset or its bounds.
            SourceMisconfigured: a file or variable that the settings name cannot be used.
            SourceBusy: the source asks to come back later.
        """
        del patience
        before = self.cost
        deadline = Deadline(self._source.pull_seconds, self._source.read_seconds)
        try:
            snapshot = self._pull(held, deadline)
        except BaseException:
            self._repository.close()
            raise
        self._repository.finish()
        return Answer(snapshot, cost=self.cost - before)

    def freshness(self, device: str, held: bytes | None) -> bytes | None:
        """Return the proof of freshness of a device's shard; None where there is none, or it is the one that is held.

        One `ls-refs` for the names that the shard may have, and a fetch where what it points to is not held.

        Args:
            device: the device.
            held: the proof that the device holds.

        Raises:
            TransportError: as `pull`.
        """
        deadline = Deadline(self._source.pull_seconds, self._source.read_seconds)
        try:
            tips = self._repository.tips(
                [f"{FRESHNESS_REFS}{shard}".encode() for shard in possible_shards(device)], deadline
            )
            proof = self._fetch_proof(next(iter(tips.values())), deadline) if tips else None
        except BaseException:
            self._repository.close()
            raise
        self._repository.finish()
        return None if proof == held else proof

    def _fetch_proof(self, tip: ObjectID, deadline: Deadline) -> bytes:
        if self._proof is None or self._proof[0] != tip:
            self._proof = tip, read_file(tip, FRESHNESS_FILE.encode(), self._repository.objects(tip, None, deadline))
        return self._proof[1]

    def close(self) -> None:
        """Close the kept connection. A later `pull` opens a new one."""
        self._repository.close()

    def _pull(self, held: Snapshot | None, deadline: Deadline) -> Snapshot | None:
        ref = self._source.ref_name
        tip = self._repository.tip(ref, deadline)
        if tip is None:
            raise SourceRefused(
                f"the source has no ref {ref.decode()}",
                device=self._source.device,
                remedy="check the device id; render the fleet if the device is new. What runs keeps running",
            )
        base = held_state(held)
        if base is not None and base.tip == tip:
            return None
        return read_snapshot(tip, self._repository.objects(tip, base, deadline), self._limits)

    def _make_repository(self) -> Repository:
        kind = self._source.address.scheme
        # Each kind is imported only where it is used: a device uses one.
        if kind == "file":
            from margo_gitops.transport.git.local_repository import LocalRepository

            return LocalRepository(self._source, self._limits)
        if kind == "ssh":
            from margo_gitops.transport.git.ssh_connection import SshConnection

            connection = SshConnection(self._source, self._meter)
            return RemoteRepository(connection, self._limits, stateless=False)

        from margo_gitops.transport.git.http_connection import HttpConnection

        return RemoteRepository(HttpConnection(self._source, self._meter, _AGENT), self._limits, stateless=True)
