"""A repository behind git's protocol version 2: where does the one ref point, and what is new there?"""

from __future__ import annotations

from margo_gitops.transport.git.capabilities import Capabilities, read_capabilities
from margo_gitops.transport.git.connection import Connection
from margo_gitops.transport.git.device_tree import HeldState
from margo_gitops.transport.git.fetch import fetch_request, read_fetch
from margo_gitops.transport.git.limits import GitLimits
from margo_gitops.transport.git.ls_refs import ls_refs_request, read_ls_refs
from margo_gitops.transport.git.objects import Lookup, ObjectID
from margo_gitops.transport.git.pack import read_pack
from margo_gitops.transport.git.pktline import PacketReader
from margo_gitops.transport.web.deadline import Deadline


class RemoteRepository:
    """One repository on a server."""

    def __init__(self, connection: Connection, limits: GitLimits, agent: bytes, *, stateless: bool) -> None:
        """Ask nothing yet.

        Args:
            connection: carries the requests.
            limits: bounds on the answers.
            agent: this program's name and version.
            stateless: requests stand alone, so that what the server can do is asked once and remembered until
                something goes wrong. Else each pull starts with it.
        """
        self._connection = connection
        self._limits = limits
        self._agent = agent
        self._stateless = stateless
        self._capabilities: Capabilities | None = None

    def tip(self, ref: bytes, deadline: Deadline) -> ObjectID | None:
        """Return the commit that `ref` points to; None where there is no such ref.

        Raises:
            TransportError: no usable answer came.
        """
        limit = self._limits.listing_bytes
        request = ls_refs_request(self._greeted(deadline), ref, self._agent)
        with self._connection.ask(request, limit, deadline) as read:
            return read_ls_refs(PacketReader(read, limit), ref)

    def objects(self, tip: ObjectID, held: HeldState | None, deadline: Deadline) -> Lookup:
        """Return the objects of the commit `tip`: fetched, as a difference to `held` where something is held.

        Raises:
            TransportError: no usable answer came.
        """
        known = held.objects if held is not None else {}
        limit = self._limits.answer_bytes
        request = fetch_request(self._greeted(deadline), tip, held.tip if held else None, self._agent)
        with self._connection.ask(request, limit, deadline) as read:
            fetched = read_pack(read_fetch(PacketReader(read, limit)), known.get, self._limits)
        return lambda name: fetched.get(name) or known.get(name)

    def finish(self) -> None:
        """End a pull that went well."""
        if not self._stateless:
            self._capabilities = None
        self._connection.finish()

    def close(self) -> None:
        """Close the connection, and forget what the server can do."""
        self._capabilities = None
        self._connection.close()

    def _greeted(self, deadline: Deadline) -> Capabilities:
        if self._capabilities is None:
            limit = self._limits.listing_bytes
            with self._connection.greet(limit, deadline) as read:
                self._capabilities = read_capabilities(PacketReader(read, limit))
        return self._capabilities
