"""The body of an answer, decoded, and never more of it than was asked for (Margo desired state, exact bytes)."""

from __future__ import annotations

import zlib
from typing import Final

from margo_gitops.errors import SourceMisbehaved
from margo_gitops.transport.incoming import Read, shown
from margo_gitops.transport.web.connection import Answer

_PIECE: Final = 64 * 1024
_GZIP: Final = 31  # zlib's window bits: gzip, and nothing else
_MEMBERS: Final = 256  # each costs a copy of what follows it; programs that write many put 64 KiB into each


def read_body(answer: Answer, limit: int) -> bytes:
    """Return the body of an answer, after undoing its Content-Encoding.

    Args:
        answer: of which nothing was read yet.
        limit: the most bytes it may have, decoded.

    Raises:
        SourceMisbehaved: it is longer, cut off, or in an encoding that nobody asked for.
    """
    encoding = (answer.header("Content-Encoding") or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise SourceMisbehaved(f"the answer is encoded as {shown(encoding.encode())}, which nobody asked for")
    packed = _read(answer.read, limit + _PIECE)
    promised = answer.response.length
    if promised:
        raise SourceMisbehaved(f"the answer ends {promised} bytes early")
    if encoding == "identity":
        if len(packed) > limit:
            raise SourceMisbehaved(f"the answer is longer than the {limit} bytes it may have")
        return packed
    try:
        return gunzip(packed, limit)
    except ValueError as error:
        raise SourceMisbehaved(f"the answer cannot be unpacked: {error}") from error


def gunzip(packed: bytes, limit: int) -> bytes:
    """Return the content of a gzip file of one or more members (RFC 1952).

    Raises:
        ValueError: it is damaged, cut off, holds more than `limit` bytes, or has more members than any program writes.
    """
    parts: list[bytes] = []
    size = members = 0
    while packed:
        members += 1
        if members > _MEMBERS:
            raise ValueError(f"it has more than {_MEMBERS} members")
        unpacking = zlib.decompressobj(wbits=_GZIP)
        try:
            part = unpacking.decompress(packed, limit - size + 1)
        except zlib.error as error:
            raise ValueError(f"it is no sound gzip ({error})") from error
        size += len(part)
        if size > limit:
            raise ValueError(f"it holds more than {limit} bytes")
        if not unpacking.eof:
            raise ValueError("it is cut off")
        parts.append(part)
        packed = unpacking.unused_data
    return b"".join(parts)


def _read(read: Read, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := read(_PIECE):
        size += len(part)
        if size > limit:
            raise SourceMisbehaved("the answer is longer than an answer of this kind may be")
        parts.append(part)
    return b"".join(parts)
