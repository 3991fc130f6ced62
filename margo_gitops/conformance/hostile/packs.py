"""Packs, entry by entry, so that each rule of the format can be broken (gitformat-pack)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from hashlib import sha1
from typing import Final

from dulwich.object_format import SHA1
from dulwich.pack import pack_object_header

COMMIT: Final = 1
TREE: Final = 2
BLOB: Final = 3
TAG: Final = 4
REF_DELTA: Final = 7


def entry(kind: int, content: bytes, *, stated_size: int | None = None) -> bytes:
    """Return an entry of a pack; `stated_size` is what its header says in place of the true size."""
    size = len(content) if stated_size is None else stated_size
    return bytes(pack_object_header(kind, None, size, SHA1)) + zlib.compress(content)


def delta_entry(base: str, delta: bytes) -> bytes:
    """Return a delta against the object with this id."""
    return bytes(pack_object_header(REF_DELTA, bytes.fromhex(base), len(delta), SHA1)) + zlib.compress(delta)


def doubling_delta(size: int) -> bytes:
    """Return the delta that makes of a base of `size` bytes its content twice."""
    copy = bytes([0xFF]) + (0).to_bytes(4, "little") + size.to_bytes(3, "little")
    return _varint(size) + _varint(2 * size) + copy * 2


def copying_delta(size: int, copies: int) -> bytes:
    """Return the delta that makes of a base of `size` bytes its content that many times."""
    copy = bytes([0xFF]) + (0).to_bytes(4, "little") + size.to_bytes(3, "little")
    return _varint(size) + _varint(size * copies) + copy * copies


def pack(entries: Iterable[bytes], *, stated_count: int | None = None) -> bytes:
    """Return a pack with a right checksum; `stated_count` is what its header says in place of the true number."""
    parts = list(entries)
    count = len(parts) if stated_count is None else stated_count
    content = b"PACK" + (2).to_bytes(4, "big") + count.to_bytes(4, "big") + b"".join(parts)
    return content + sha1(content, usedforsecurity=False).digest()


def _varint(number: int) -> bytes:
    digits = bytearray()
    while True:
        number, digit = number >> 7, number & 0x7F
        digits.append(digit | 0x80 if number else digit)
        if not number:
            return bytes(digits)
