"""Pull by git: one ref, one commit, in memory.

Nothing is written: what the agent holds is the base of the next difference, and there is no object store that could
grow or break. A pull that fails leaves nothing behind but a closed connection; the next starts from what is held.

Where each request is complete in itself, the first one is the question (git subset, G-C-3): an idle poll is one
request, on a new connection and after a restart too. The capabilities are asked for only where no answer comes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from margo_gitops.documents.state_layout import (
    FRESHNESS_FILE,
    FRESHNESS_REFS,
    TRUST_REF,
    trust_file,
)
from margo_gitops.errors import SourceMisbehaved, SourceRefused
from margo_gitops.transport.git.device_tree import HeldState, held_state, read_file, read_files, read_snapshot
from margo_gitops.transport.git.pack import Lookup, ObjectID, read_pack
from margo_gitops.transport.git.pktline import PacketReader
from margo_gitops.transport.git.protocol_v2 import (
    check_capabilities,
    fetch_request,
    ls_refs_request,
    read_fetch,
    read_refs,
)
from margo_gitops.transport.git.source import GitLimits, GitSource
from margo_gitops.transport.transport import Answer
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.web.metering import Cost, Deadline, Meter

if TYPE_CHECKING:  # each is loaded only where it is used: a device uses one
    from margo_gitops.transport.git.http_connection import HttpConnection
    from margo_gitops.transport.git.local_repository import LocalRepository
    from margo_gitops.transport.git.ssh_connection import SshConnection

_TRUST_FILE: Final = re.compile(rb"[1-9][0-9]{0,9}\.json")


class GitTransport:
    """Pulls one device's state from one git source. Not for two threads at a time."""

    def __init__(self, source: GitSource, limits: GitLimits | None = None) -> None:
        """Take the settings; nothing is opened or read yet."""
        self._source = source
        self._limits = limits or GitLimits()
        self._meter = Meter()
        self._repository = self._make_repository()
        self._proof: tuple[ObjectID, bytes] | None = None
        self._documents: tuple[ObjectID, Mapping[bytes, bytes]] | None = None
        self._asked = 0

    @property
    def cost(self) -> Cost:
        """What all pulls together have used so far."""
        return self._meter.read()

    def pull(self, held: Snapshot | None, patience: int = 0) -> Answer:
        """Return the state that the ref holds, or that it is the one that `held` is, whole and undamaged."""
        del patience
        before = self.cost
        with self._session() as deadline:
            snapshot = self._pull(held, deadline)
        return Answer(snapshot, cost=self.cost - before)

    def freshness(self, device: str, held: bytes | None) -> bytes | None:
        """Return the proof of freshness of a device's shard; None where there is no other than the held one.

        One `ls-refs` for the names that the shard may have, and a fetch where what it points to is not held.
        """
        from margo_gitops.trust.freshness_tree import possible_shards  # few devices ask for proofs

        with self._session() as deadline:
            refs = [f"{FRESHNESS_REFS}{shard}".encode() for shard in possible_shards(device)]
            tips = self._repository.tips(refs, deadline)
            proof = self._fetch_proof(next(iter(tips.values())), deadline) if tips else None
        return None if proof == held else proof

    def trust_document(self, version: int) -> bytes | None:
        """Return a version of the trust document; None where the source has none.

        One `ls-refs`, and a fetch where what it points to was not fetched last: one for all versions. Who asks for a
        version again did not take it, so the source is asked again, too.
        """
        from margo_gitops.documents.trust_document import MAX_ENVELOPE_BYTES  # needed after a rotation, in years

        name, ref = trust_file(version).encode(), TRUST_REF.encode()
        if self._documents is None or version <= self._asked or name not in self._documents[1]:
            with self._session() as deadline:
                tip = self._repository.tip(ref, deadline)
                if tip is None:
                    return None
                if self._documents is None or self._documents[0] != tip:
                    objects = self._repository.objects(tip, None, deadline)
                    self._documents = tip, read_files(tip, objects, _TRUST_FILE, MAX_ENVELOPE_BYTES)
        self._asked = version
        return self._documents[1].get(name)

    @contextmanager
    def _session(self) -> Iterator[Deadline]:
        """Give an exchange its time; where it breaks, everything is closed."""
        try:
            yield Deadline(self._source.pull_seconds, self._source.read_seconds)
        except BaseException:
            self._repository.close()
            raise
        self._repository.finish()

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

    def _make_repository(self) -> RemoteRepository | LocalRepository:
        kind = self._source.address.scheme
        if kind == "file":
            from margo_gitops.transport.git.local_repository import LocalRepository

            return LocalRepository(self._source, self._limits)
        if kind == "ssh":
            from margo_gitops.transport.git.ssh_connection import SshConnection

            return RemoteRepository(SshConnection(self._source, self._meter), self._limits, stateless=False)
        from margo_gitops.transport.git.http_connection import HttpConnection

        return RemoteRepository(HttpConnection(self._source, self._meter), self._limits, stateless=True)


class RemoteRepository:
    """One repository on a server; `TransportError` where no usable answer comes.

    Where a connection is not stateless, a pull begins with the server's capabilities.
    """

    def __init__(self, connection: HttpConnection | SshConnection, limits: GitLimits, *, stateless: bool) -> None:
        self._connection = connection
        self._limits = limits
        self._stateless = stateless
        self._is_known = False

    def tip(self, ref: bytes, deadline: Deadline) -> ObjectID | None:
        """Return the commit that `ref` points to; None where there is no such ref."""
        return self.tips((ref,), deadline).get(ref)

    def tips(self, refs: Collection[bytes], deadline: Deadline) -> Mapping[bytes, ObjectID]:
        """Return the commit that each of `refs` points to, where there is such a ref."""
        if not self._stateless and not self._is_known:
            self._greet(deadline)
        limit = self._limits.listing_bytes
        reading = False
        try:
            with self._connection.ask(ls_refs_request(*refs), limit, deadline) as read:
                reading = True
                found = read_refs(PacketReader(read, limit), refs)
                reading = False
        except (SourceMisbehaved, SourceRefused):
            if reading and not self._is_known:
                # It took the request and says something else: its capabilities tell which git it speaks.
                self._greet(deadline)
            raise
        self._is_known = True
        return found

    def objects(self, tip: ObjectID, held: HeldState | None, deadline: Deadline) -> Lookup:
        """Return the objects of the commit `tip`: fetched, as a difference to `held` where something is held."""
        known = held.objects if held is not None else {}
        limit = self._limits.answer_bytes
        with self._connection.ask(fetch_request(tip, held.tip if held else None), limit, deadline) as read:
            fetched = read_pack(read_fetch(PacketReader(read, limit)), known.get, self._limits)
        return lambda name: fetched.get(name) or known.get(name)

    def finish(self) -> None:
        """End a pull that went well."""
        self._is_known = self._stateless
        self._connection.finish()

    def close(self) -> None:
        """Close the connection, and forget what is known of the server."""
        self._is_known = False
        self._connection.close()

    def _greet(self, deadline: Deadline) -> None:
        limit = self._limits.listing_bytes
        with self._connection.greet(limit, deadline) as read:
            check_capabilities(PacketReader(read, limit))
        self._is_known = True
