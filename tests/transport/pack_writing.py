"""Packs written by hand, byte by byte, so that every rule of the format can be broken (gitformat-pack)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from hashlib import sha1

COMMIT, TREE, BLOB, TAG, OFS_DELTA, REF_DELTA = 1, 2, 3, 4, 6, 7


def entry(kind: int, content: bytes, *, base: bytes = b"", size: int | None = None) -> bytes:
    """Return an entry; `base` stands between header and content, `size` is what the header claims."""
    left = len(content) if size is None else size
    head = [kind << 4 | left & 15]
    left >>= 4
    while left:
        head[-1] |= 0x80
        head.append(left & 0x7F)
        left >>= 7
    return bytes(head) + base + zlib.compress(content)


def distance(number: int) -> bytes:
    """Return the offset of a delta's base, as such an entry holds it."""
    digits = [number & 0x7F]
    while number := number >> 7:
        number -= 1
        digits.append(0x80 | number & 0x7F)
    return bytes(reversed(digits))


def varint(number: int) -> bytes:
    digits = bytearray()
    while True:
        number, digit = number >> 7, number & 0x7F
        digits.append(digit | 0x80 if number else digit)
        if not number:
            return bytes(digits)


def delta(base_size: int, result_size: int, instructions: bytes) -> bytes:
    return varint(base_size) + varint(result_size) + instructions


def insert(content: bytes) -> bytes:
    """Return the instructions that insert `content`."""
    parts = [content[at : at + 127] for at in range(0, len(content), 127)]
    return b"".join(bytes([len(part)]) + part for part in parts)


def copy(offset: int, size: int) -> bytes:
    """Return the instruction that copies from the base."""
    return bytes([0xFF]) + offset.to_bytes(4, "little") + size.to_bytes(3, "little")


def pack(entries: Sequence[bytes], *, count: int | None = None, version: int = 2) -> bytes:
    """Return a pack of `entries` with a correct checksum."""
    content = b"PACK" + version.to_bytes(4, "big") + (len(entries) if count is None else count).to_bytes(4, "big")
    content += b"".join(entries)
    return content + sha1(content, usedforsecurity=False).digest()
