"""Packets, the framing of git's wire protocol (gitprotocol-common, pkt-line; gitprotocol-v2, packet-line framing)."""

from __future__ import annotations

from enum import Enum

from margo_gitops.errors import SourceMisbehaved, SourceRefused
from margo_gitops.web.refusal import Read, shown

FLUSH = b"0000"
DELIMITER = b"0001"

_LONGEST = 65520
_HEX = frozenset(b"0123456789abcdefABCDEF")


class Mark(Enum):
    """The packets that carry no bytes but a meaning."""

    FLUSH = 0
    DELIMITER = 1
    RESPONSE_END = 2


def packet(payload: bytes) -> bytes:
    """Return `payload` framed as one packet."""
    return b"%04x%s" % (len(payload) + 4, payload)


class PacketReader:
    """Reads packets from a stream, up to a bound on all their bytes.

    A broken frame is `SourceMisbehaved`, an error message in place of a line `SourceRefused`.
    """

    def __init__(self, read: Read, limit: int) -> None:
        """Read from `read`, which returns fewer bytes than asked for only at the end; refuse more than `limit`."""
        self._read = read
        self._left = limit

    def packet(self) -> bytes | Mark:
        """Return the next payload or mark."""
        size = self._length(self._exactly(4))
        if size <= Mark.RESPONSE_END.value:
            return Mark(size)
        if not 4 <= size <= _LONGEST:
            raise SourceMisbehaved(f"a packet states the impossible length {size}")
        return self._exactly(size - 4)

    def line(self) -> bytes | Mark:
        """Return the next payload without its line feed."""
        payload = self.packet()
        if isinstance(payload, Mark):
            return payload
        if payload.startswith(b"ERR "):
            raise SourceRefused(
                f"the server says: {shown(payload[4:])}", remedy="check the URL, and what this device may read"
            )
        return payload.removesuffix(b"\n")

    @staticmethod
    def _length(prefix: bytes) -> int:
        if not _HEX.issuperset(prefix):
            raise SourceMisbehaved(
                f"a packet starts with {shown(prefix)!r} instead of its length",
                remedy="check that the URL is the one of a git repository",
            )
        return int(prefix, 16)

    def _exactly(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise SourceMisbehaved("the answer is longer than an answer of this kind may be")
        content = self._read(size)
        if len(content) != size:
            raise SourceMisbehaved("the answer ends in the middle of a packet")
        return content
