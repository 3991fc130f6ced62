"""Git's packets and packs, as the kit writes and reads them (gitprotocol-common, gitformat-pack).

Not the device's own code: a kit that shares its reader with the program it judges finds no fault that both have.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from hashlib import sha1, sha256
from typing import Final

from dulwich.errors import ApplyDeltaError
from dulwich.object_format import SHA1
from dulwich.pack import apply_delta, pack_object_header

from margo_gitops.values import dataclass

FLUSH: Final = b"0000"
DELIMITER: Final = b"0001"
RESPONSE_END: Final = b"0002"

LONGEST_PACKET: Final = 65_520

_LENGTH: Final = re.compile(rb"[0-9a-fA-F]{4}")
_MARKS: Final = frozenset({FLUSH, DELIMITER, RESPONSE_END})


class PacketsMalformed(ValueError):
    """The bytes are not packets."""


def packet(payload: bytes) -> bytes:
    """Return a payload as a packet."""
    return b"%04x%b" % (len(payload) + 4, payload)


def packets(content: bytes) -> list[bytes]:
    """Return the packets that bytes are made of: payloads, and the marks `FLUSH`, `DELIMITER` and `RESPONSE_END`.

    A payload is returned as `b"=" + payload`, so that none can be taken for a mark.

    Raises:
        PacketsMalformed: a length cannot be read, or the bytes end inside a packet.
    """
    found = []
    at = 0
    while at < len(content):
        length = content[at : at + 4]
        if not _LENGTH.fullmatch(length):
            raise PacketsMalformed(f"{length!r} at byte {at} is not a length of a packet")
        if length in _MARKS:
            found.append(length)
            at += 4
            continue
        size = int(length, 16)
        if not 4 <= size <= LONGEST_PACKET:
            raise PacketsMalformed(f"a packet at byte {at} states the length {size}")
        if at + size > len(content):
            raise PacketsMalformed(f"the packet at byte {at} is cut off")
        found.append(b"=" + content[at + 4 : at + size])
        at += size
    return found


def command_bytes(name: str, arguments: list[str], capabilities: tuple[str, ...] = ()) -> bytes:
    """Return a command of protocol version 2, with lines of arguments and of capabilities (gitprotocol-v2)."""
    head = b"".join(packet(f"{line}\n".encode()) for line in (f"command={name}", *capabilities))
    return head + DELIMITER + b"".join(packet(f"{line}\n".encode()) for line in arguments) + FLUSH


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


OFS_DELTA: Final = 6
_NAMES: Final = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}
_LARGEST: Final = 16 * 1024 * 1024
_MOST: Final = 100_000


class PackMalformed(ValueError):
    """The bytes are not a sound pack."""


@dataclass(frozen=True, slots=True)
class PackContents:
    """The objects of a pack.

    Attributes:
        kinds: the type of each entry, in order.
        objects: type and content by id; deltas are applied.
        missing: ids of bases that are not in the pack.
    """

    version: int
    kinds: tuple[int, ...]
    objects: dict[str, tuple[int, bytes]]
    missing: frozenset[str]


@dataclass(slots=True)
class _Entry:
    offset: int
    kind: int
    content: bytes
    base: int | str | None


def read_pack(content: bytes, object_format: str = "sha1") -> PackContents:
    """Return what is in a whole pack; the object format is sha1 or sha256.

    Raises:
        PackMalformed: it is not a pack, its checksum is wrong, or it is larger than any device's state.
    """
    hashed = sha1 if object_format == "sha1" else sha256
    size = hashed(b"").digest_size
    if len(content) < 12 + size or content[:4] != b"PACK":
        raise PackMalformed("the pack does not begin with PACK")
    if hashed(content[:-size]).digest() != content[-size:]:
        raise PackMalformed("the checksum of the pack is wrong")
    version, count = int.from_bytes(content[4:8]), int.from_bytes(content[8:12])
    if count > _MOST:
        raise PackMalformed(f"the pack has {count} objects")
    at, entries = 12, []
    for _ in range(count):
        entry, at = _entry(content, at, size)
        entries.append(entry)
    if at != len(content) - size:
        raise PackMalformed("bytes follow the last object of the pack")
    objects, missing = _assembled(entries, object_format)
    return PackContents(version, tuple(each.kind for each in entries), objects, missing)


def _entry(content: bytes, at: int, id_size: int) -> tuple[_Entry, int]:
    offset = at
    byte = content[at]
    at += 1
    kind, size, shift = byte >> 4 & 7, byte & 15, 4
    while byte & 0x80 and at < len(content):
        byte = content[at]
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
    base: int | str | None = None
    if kind == OFS_DELTA:
        byte = content[at]
        at += 1
        distance = byte & 0x7F
        while byte & 0x80:
            byte = content[at]
            at += 1
            distance = (distance + 1 << 7) | byte & 0x7F
        base = offset - distance
    elif kind == REF_DELTA:
        base = content[at : at + id_size].hex()
        at += id_size
    if size > _LARGEST:
        raise PackMalformed(f"an object of the pack states {size} bytes")
    unpacker = zlib.decompressobj()
    try:
        inflated = unpacker.decompress(content[at:], size + 1)
    except zlib.error as error:
        raise PackMalformed(f"an object of the pack cannot be inflated: {error}") from error
    if len(inflated) != size or not (unpacker.eof or not unpacker.decompress(unpacker.unconsumed_tail, 1)):
        raise PackMalformed("an object of the pack has another size than it states")
    return _Entry(offset, kind, inflated, base), len(content) - len(unpacker.unused_data)


def _assembled(entries: list[_Entry], object_format: str) -> tuple[dict[str, tuple[int, bytes]], frozenset[str]]:
    objects: dict[str, tuple[int, bytes]] = {}
    by_offset: dict[int, tuple[int, bytes]] = {}
    left = entries
    while left:
        waiting = []
        for entry in left:
            found = _whole(entry, by_offset, objects)
            if found is None:
                waiting.append(entry)
                continue
            by_offset[entry.offset] = found
            objects[_name(found, object_format)] = found
        if len(waiting) == len(left):
            break
        left = waiting
    else:
        return objects, frozenset()
    return objects, frozenset(str(each.base) for each in left)


def _whole(
    entry: _Entry, by_offset: dict[int, tuple[int, bytes]], objects: dict[str, tuple[int, bytes]]
) -> tuple[int, bytes] | None:
    if entry.base is None:
        return entry.kind, entry.content
    base = by_offset.get(entry.base) if isinstance(entry.base, int) else objects.get(entry.base)
    if base is None:
        return None
    try:
        return base[0], b"".join(apply_delta(base[1], entry.content))
    except (ApplyDeltaError, ValueError) as error:
        raise PackMalformed(f"a delta of the pack cannot be applied: {error}") from error


def _name(found: tuple[int, bytes], object_format: str) -> str:
    kind, content = found
    hashed = sha1 if object_format == "sha1" else sha256
    return hashed(b"%b %d\0" % (_NAMES.get(kind, b"?"), len(content)) + content).hexdigest()
