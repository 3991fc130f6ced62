"""What git's protocol version 2 needs of a connection, whatever carries it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from margo_gitops.transport.incoming import Read
from margo_gitops.transport.web.deadline import Deadline


class Connection(Protocol):
    """Carries requests to one server and brings the answers."""

    def greet(self, limit: int, deadline: Deadline) -> AbstractContextManager[Read]:
        """Return a reader of the advertisement of capabilities, of at most `limit` bytes.

        Raises:
            TransportError: no usable answer came.
        """
        ...

    def ask(self, request: bytes, limit: int, deadline: Deadline) -> AbstractContextManager[Read]:
        """Return a reader of the answer to `request`, of at most `limit` bytes.

        Raises:
            TransportError: no usable answer came.
        """
        ...

    def finish(self) -> None:
        """End a pull; keep what may be kept for the next one."""
        ...

    def close(self) -> None:
        """Close everything; the next request opens it again."""
        ...
