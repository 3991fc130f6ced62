"""A connection of uvicorn's, with the bounds it lacks: how long, and how large, a request may be.

uvicorn keeps trailers among the headers of a request. Here they are dropped: a proxy in front sets and removes headers
by what stands before the body, so nothing after it may say who calls; and their number has no bound.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS: Final = 20.0
HEAD_BYTES: Final = 512 * 1024
"""Counted by what arrives, so the start of a body is in it."""

BODY_SECONDS: Final = 30.0
MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""Of a whole request: the largest body in the smallest chunks, and some."""


class BoundedConnection(HttpToolsProtocol):
    """Ends when a request, or its head, does not come, or does not end."""

    _deadline: asyncio.TimerHandle | None = None
    _received: int = 0
    _in_head: bool = True
    _between: bool = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take over the connection; its first request must come soon."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            transport.close()  # who is nobody yet may not hold the places of devices without end
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came, unless it grows without end."""
        if self._between and self._deadline is None:
            self._await_head()  # empty lines before a request end uvicorn's own waiting, and begin no request
        self._received += len(data)
        if self._received > (HEAD_BYTES if self._in_head else MESSAGE_BYTES):
            self.transport.close()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._between = False
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, and no trailer."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer a request, whose body must come soon."""
        self._in_head = False
        self._wait(BODY_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request; its answer may take its time."""
        self._between = True
        self._stop_waiting()
        super().on_message_complete()

    def _await_head(self) -> None:
        self._in_head, self._received = True, 0
        self._wait(HEAD_SECONDS)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
