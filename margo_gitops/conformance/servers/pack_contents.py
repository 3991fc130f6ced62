"""What is in a pack, read apart from the device's own reader (gitformat-pack)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from hashlib import sha1, sha256
from typing import Final

from dulwich.errors import ApplyDeltaError
from dulwich.pack import apply_delta

from margo_gitops.conformance.hostile.packs import BLOB, COMMIT, REF_DELTA, TAG, TREE

OFS_DELTA: Final = 6
_NAMES: Final = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}
_LARGEST: Final = 16 * 1024 * 1024
_MOST: Final = 100_000


class PackMalformed(ValueError):
    """The bytes are no sound pack."""


@dataclass(frozen=True, slots=True)
class PackContents:
    """The objects of a pack.

    Attributes:
        version: of the format.
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
    """Return what is in a pack.

    Args:
        content: the whole pack.
        object_format: sha1 or sha256.

    Raises:
        PackMalformed: it is none, its checksum is wrong, or it is larger than any device's state.
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
