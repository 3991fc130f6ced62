"""A socket that counts its bytes and never waits beyond the deadline of the pull.

`http.client` reads a response through `makefile`, so every byte of it, headers included, passes `readinto` here (D-25).
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Mapping
from typing import BinaryIO

from margo_gitops.errors import SourceMisbehaved, SourceUnreachable
from margo_gitops.web.metering import Deadline, Meter

# What may come before the first exchange: a proxy's answer.
_TALK_BYTES = 64 * 1024


class MeteredSocket:
    """The part of a socket that `http.client` uses.

    Silence is `SourceUnreachable`, more bytes than expected `SourceMisbehaved`, a broken connection an `OSError`.

    Attributes:
        received: bytes received since `expect`.
    """

    def __init__(self, raw: socket.socket, meter: Meter, deadline: Deadline) -> None:
        self._raw = raw
        self._meter = meter
        self._deadline = deadline
        self._limit = _TALK_BYTES
        self.received = 0

    def expect(self, limit: int, deadline: Deadline) -> None:
        """Start another exchange: take at most `limit` bytes, until `deadline`."""
        self._limit = limit
        self._deadline = deadline
        self.received = 0

    def sendall(self, data: bytes) -> None:
        """Send all of `data`."""
        self._raw.settimeout(self._deadline.wait())
        try:
            self._raw.sendall(data)
        except TimeoutError:
            raise self._deadline.silence() from None
        self._meter.bytes_up += len(data)

    def receive_into(self, buffer: memoryview) -> int:
        """Receive some bytes into `buffer`, 0 at the end."""
        self._raw.settimeout(self._deadline.wait())
        try:
            size = self._raw.recv_into(buffer)
        except TimeoutError:
            raise self._deadline.silence() from None
        except ssl.SSLEOFError:
            # As if the peer had closed: a cut answer is found by its length.
            size = 0
        self.received += size
        self._meter.bytes_down += size
        # Memory is bounded here, also where a header or a chunk claims another size.
        if self.received > self._limit:
            raise SourceMisbehaved("the answer is longer than an answer of this kind may be")
        return size

    def makefile(self, mode: str) -> BinaryIO:
        """Return a reader of what comes; the name and the argument are those `http.client` uses."""
        if mode != "rb":
            raise ValueError(f"mode {mode!r}: only reading is possible")
        return io.BufferedReader(_Incoming(self))

    def close(self) -> None:
        """Do nothing: `http.client` closes at its own discretion, the connection closes with `shut`."""

    def shut(self) -> ssl.SSLSession | None:
        """Close, and return the TLS session to resume."""
        session = self._raw.session if isinstance(self._raw, ssl.SSLSocket) else None
        self._raw.close()
        return session

    def certificate(self) -> Mapping[str, object] | None:
        """Return the other side's certificate, verified by the context of `encrypt`; None without TLS."""
        return self._raw.getpeercert() if isinstance(self._raw, ssl.SSLSocket) else None

    def encrypt(self, context: ssl.SSLContext, host: str, session: ssl.SSLSession | None, seconds: float) -> None:
        """Start TLS within `seconds`, resuming `session` where the server still knows it."""
        self._raw.settimeout(min(seconds, self._deadline.left()))
        try:
            self._raw = context.wrap_socket(self._raw, server_hostname=host, session=session)
        except TimeoutError:
            raise SourceUnreachable(f"no TLS handshake within {seconds:g} seconds") from None


class _Incoming(io.RawIOBase):
    def __init__(self, source: MeteredSocket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._source.receive_into(buffer)


def connect(host: str, port: int, seconds: float, meter: Meter, deadline: Deadline) -> MeteredSocket:
    """Return a connection to the first address of `host` that takes one (SourceUnreachable: none, or unknown name)."""
    try:
        # Bytes need no codec of internationalised names, which would stay in memory.
        name = host.encode() if host.isascii() else host
        addresses = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SourceUnreachable(
            f"the name {host} cannot be resolved: {error.strerror}", remedy="check name and DNS"
        ) from error

    problem = "it has no address"
    for family, kind, protocol, _, address in addresses:
        raw = socket.socket(family, kind, protocol)
        try:
            raw.settimeout(min(seconds, deadline.left()))
            raw.connect(address)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            problem = (
                f"no answer within {seconds:g} seconds" if isinstance(error, TimeoutError) else str(error.strerror)
            )
            raw.close()
        except SourceUnreachable:
            raw.close()
            raise
        else:
            meter.connections += 1
            return MeteredSocket(raw, meter, deadline)
    raise SourceUnreachable(
        f"no connection to {host} port {port}: {problem}", remedy="check the network and the server"
    )
