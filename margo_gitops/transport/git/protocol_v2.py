"""A repository behind git's protocol version 2: where does the one ref point, and what is new there?

Where requests stand alone, the first one is the question itself (git subset, G-C-3): an idle poll is one request, on a
new connection and after a restart too. The capabilities are asked for only where no answer comes: they tell why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from margo_gitops.errors import SourceMisbehaved, SourceRefused
from margo_gitops.transport.git.capabilities import check_capabilities
from margo_gitops.transport.git.connection import Connection
from margo_gitops.transport.git.device_tree import HeldState
from margo_gitops.transport.git.fetch import fetch_request, read_fetch
from margo_gitops.transport.git.limits import GitLimits
from margo_gitops.transport.git.ls_refs import ls_refs_request, read_refs
from margo_gitops.transport.git.objects import Lookup, ObjectID
from margo_gitops.transport.git.pack import read_pack
from margo_gitops.transport.git.pktline import PacketReader
from margo_gitops.transport.web.deadline import Deadline


class RemoteRepository:
    """One repository on a server."""

    def __init__(self, connection: Connection, limits: GitLimits, *, stateless: bool) -> None:
        """Ask nothing yet.

        Args:
            connection: carries the requests.
            limits: bounds on the answers.
            stateless: requests stand alone. Else each pull begins with the server's capabilities.
        """
        self._connection = connection
        self._limits = limits
        self._stateless = stateless
        self._is_known = False

    def tip(self, ref: bytes, deadline: Deadline) -> ObjectID | None:
        """Return the commit that `ref` points to; None where there is no such ref.

        Raises:
            TransportError: no usable answer came.
        """
        return self.tips((ref,), deadline).get(ref)

    def tips(self, refs: Collection[bytes], deadline: Deadline) -> Mapping[bytes, ObjectID]:
        """Return the commit that each of `refs` points to, where there is such a ref.

        Raises:
            TransportError: no usable answer came.
        """
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
        """Return the objects of the commit `tip`: fetched, as a difference to `held` where something is held.

        Raises:
            TransportError: no usable answer came.
        """
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
