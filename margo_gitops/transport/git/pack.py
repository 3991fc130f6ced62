"""Read a pack that a stranger sends, within bounds (gitformat-pack).

A pack names the size of everything before the bytes come, and a few bytes can name a huge size: each size is checked
against the bounds before memory is taken for it. No chain of deltas recurses. An agent has this in memory for years, so
the format is read here, in a hundred lines, instead of by a library for all that git can do.

Rules, each broken one refuses the pack (`SourceMisbehaved`):

1. `PACK`, version 2 or 3, not more objects than allowed.
2. Commits, trees, blobs and deltas of them only; no tags.
3. Each object inflates to exactly the size it states; one object and all together stay within the bounds.
4. Each delta has a base, in this pack or among what is held; its result has the size it states.
5. The checksum at the end is right, and nothing follows it.
"""

from __future__ import annotations

import zlib
from binascii import hexlify
from collections.abc import Callable, Iterator
from enum import IntEnum
from hashlib import sha1
from typing import NamedTuple, NewType, TypeAlias

from margo_gitops.errors import SourceMisbehaved
from margo_gitops.transport.git.source import GitLimits
from margo_gitops.trust import git_objects

ObjectID = NewType("ObjectID", bytes)
"""The id of an object: 40 lower-case hex digits."""


class Kind(IntEnum):
    """The kinds of object a device state is made of, by their number in a pack (gitformat-pack, object types)."""

    COMMIT = 1
    TREE = 2
    BLOB = 3


class GitObject(NamedTuple):
    """One object: its kind, and its bytes without git's header."""

    kind: Kind
    content: bytes


Lookup: TypeAlias = Callable[[ObjectID], GitObject | None]
"""Finds an object by its id; None where it is not there. What it finds has been checked against the id."""


def object_id(kind: Kind, content: bytes) -> ObjectID:
    """Return the id of an object, in hex."""
    return ObjectID(git_objects.object_id(_NAMES[kind], content).encode())


_NAMES = {Kind.COMMIT: git_objects.COMMIT, Kind.TREE: git_objects.TREE, Kind.BLOB: git_objects.BLOB}


_KINDS = frozenset(Kind)
_TAG, _OFS_DELTA, _REF_DELTA = 4, 6, 7
_CHECKSUM = 20
# Fewer, larger pieces: a stream of one-byte packets must not become a list of one-byte strings.
_PIECE = 16 * 1024
_LONGEST_VARINT = 10


class PackBytes:
    """The bytes of a pack, in pieces of a fair size, counted and hashed."""

    def __init__(self, pieces: Iterator[bytes], limit: int) -> None:
        """Read `pieces` on demand; refuse more than `limit` bytes."""
        self._pieces = pieces
        self._limit = limit
        self._buffer = b""
        self._at = 0
        self._hash = sha1(usedforsecurity=False)
        self._tail = b""
        self._received = 0

    @property
    def position(self) -> int:
        """Bytes consumed so far."""
        return self._received - len(self._buffer) + self._at

    def take(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        if len(self._buffer) - self._at < size:
            self._fill(size)
        taken = self._buffer[self._at : self._at + size]
        if len(taken) < size:
            raise SourceMisbehaved(f"the pack is truncated after {self._received} bytes")
        self._at += size
        return taken

    def some(self, size: int) -> bytes:
        """Return up to `size` bytes, none only at the end."""
        if self._at == len(self._buffer):
            self._fill(size)
        taken = self._buffer[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def put_back(self, size: int) -> None:
        """Give back the last `size` bytes of what `some` returned last."""
        self._at -= size

    def finish(self) -> None:
        """Check the checksum, and that the pack ends with it."""
        stated = self.take(_CHECKSUM)
        if self.some(1):
            raise SourceMisbehaved("bytes follow the end of the pack")
        if stated != self._tail or stated != self._hash.digest():
            raise SourceMisbehaved("the checksum of the pack is wrong")

    def _fill(self, size: int) -> None:
        pieces = [self._buffer[self._at :]]
        have = len(pieces[0])
        while have < max(size, _PIECE):
            piece = next(self._pieces, None)
            if piece is None:
                break
            have += len(piece)
            self._received += len(piece)
            if self._received > self._limit:
                raise SourceMisbehaved(f"the pack is larger than the {self._limit} bytes allowed")
            # The last 20 bytes so far may be the checksum, which is not part of itself.
            self._tail += piece
            self._hash.update(self._tail[:-_CHECKSUM])
            self._tail = self._tail[-_CHECKSUM:]
            pieces.append(piece)
        self._buffer, self._at = b"".join(pieces), 0


class Budget:
    """What may still be inflated in this pull."""

    def __init__(self, limits: GitLimits) -> None:
        self._object = limits.object_bytes
        self._limit = limits.inflated_bytes
        self._left = limits.inflated_bytes

    def spend(self, size: int) -> None:
        """Take `size` bytes for one object or delta, before they are allocated."""
        if size > self._object:
            raise SourceMisbehaved(f"an object of {size} bytes is larger than the {self._object} bytes allowed")
        self._left -= size
        if self._left < 0:
            raise SourceMisbehaved(f"the objects together inflate to more than the {self._limit} bytes allowed")


class Entry(NamedTuple):
    """One entry of a pack: an object, or a delta with the offset or the id of its base."""

    kind: Kind | None
    content: bytes
    base: int | ObjectID | None


def read_entry(source: PackBytes, offset: int, budget: Budget) -> Entry:
    """Read the entry that starts at `offset`, the next byte of `source`."""
    number, size = _header(source)
    base: int | ObjectID | None = None
    if number == _OFS_DELTA:
        base = offset - _distance(source)
        if not 0 < base < offset:
            raise SourceMisbehaved("a delta names a base outside the pack")
    elif number == _REF_DELTA:
        base = ObjectID(hexlify(source.take(20)))
    elif number not in _KINDS:
        what = "a tag, which no device state needs" if number == _TAG else f"an object of the unknown type {number}"
        raise SourceMisbehaved(f"the pack holds {what}")

    budget.spend(size)
    return Entry(None if base is not None else Kind(number), _inflated(source, size), base)


def _inflated(source: PackBytes, size: int) -> bytes:
    """Return the `size` bytes of the zlib stream that comes next."""
    inflater = zlib.decompressobj()
    parts: list[bytes] = []
    left = size
    try:
        while not inflater.eof and left >= 0:
            piece = inflater.unconsumed_tail or source.some(_PIECE)
            if not piece:
                break  # the pack is truncated
            parts.append(inflater.decompress(piece, left + 1))
            left -= len(parts[-1])
    except zlib.error as error:
        raise SourceMisbehaved(f"an object of the pack cannot be inflated: {error}") from error
    if left or not inflater.eof:
        raise SourceMisbehaved(f"an object of the pack does not inflate to the {size} bytes that it states")
    source.put_back(len(inflater.unused_data))
    return b"".join(parts)


def apply(base: GitObject, delta: bytes, budget: Budget) -> GitObject:
    """Return the object that `delta` makes of `base`."""
    stated, start = _delta_size(delta, 0)
    size, at = _delta_size(delta, start)
    budget.spend(size)
    parts: list[bytes] = []
    left = size
    while at < len(delta) and left >= 0:
        command, at = delta[at], at + 1
        if command & 0x80:
            part, length, at = _copied(base.content, delta, command, at)
        else:
            part, length, at = delta[at : at + command], command, at + command
        if not length or len(part) != length:
            raise SourceMisbehaved("a delta of the pack cannot be applied: it takes bytes that are not there")
        parts.append(part)
        left -= length
    if left or stated != len(base.content):
        raise SourceMisbehaved("a delta of the pack cannot be applied: it is for objects of another size")
    return GitObject(base.kind, b"".join(parts))


def _copied(base: bytes, delta: bytes, command: int, at: int) -> tuple[bytes, int, int]:
    """Return what an instruction copies, how much that should be, and where the next one starts."""
    numbers = bytearray(7)  # four bytes of an offset, three of a length: those that are not 0 follow
    for place in range(7):
        if command & 1 << place:
            if at == len(delta):
                return b"", 0, at
            numbers[place], at = delta[at], at + 1
    offset, length = int.from_bytes(numbers[:4], "little"), int.from_bytes(numbers[4:], "little") or 0x10000
    return base[offset : offset + length], length, at


def read_pack(pieces: Iterator[bytes], held: Lookup, limits: GitLimits) -> dict[ObjectID, GitObject]:
    """Return all objects of a pack by id; the ids are computed here, not taken from anywhere."""
    source = PackBytes(pieces, limits.pack_bytes)
    signature, version, count = source.take(4), source.take(4), int.from_bytes(source.take(4))
    if signature != b"PACK" or version not in (b"\0\0\0\2", b"\0\0\0\3"):
        raise SourceMisbehaved("the pack does not start as a pack does")
    if count > limits.objects:
        raise SourceMisbehaved(f"a pack of {count} objects is larger than the {limits.objects} objects allowed")

    assembly = _Assembly(held, Budget(limits))
    for _ in range(count):
        offset = source.position
        assembly.add(offset, read_entry(source, offset, assembly.budget))
    source.finish()
    return assembly.finish()


class _Assembly:
    """Puts objects together; a delta waits until its base is there."""

    def __init__(self, held: Lookup, budget: Budget) -> None:
        self.budget = budget
        self._held = held
        self._by_offset: dict[int, GitObject] = {}
        self._by_id: dict[ObjectID, GitObject] = {}
        self._waiting: dict[int | ObjectID, list[tuple[int, bytes]]] = {}

    def add(self, offset: int, entry: Entry) -> None:
        if entry.base is None:
            if entry.kind is not None:
                self._store(offset, GitObject(entry.kind, entry.content))
            return
        base = self._base(entry.base)
        if base is None:
            self._waiting.setdefault(entry.base, []).append((offset, entry.content))
        else:
            self._store(offset, apply(base, entry.content, self.budget))

    def finish(self) -> dict[ObjectID, GitObject]:
        if self._waiting:
            raise SourceMisbehaved("the pack holds a delta whose base is neither in the pack nor held here")
        return self._by_id

    def _base(self, key: int | ObjectID) -> GitObject | None:
        if isinstance(key, int):
            return self._by_offset.get(key)
        return self._by_id.get(key) or self._held(key)

    def _store(self, offset: int, first: GitObject) -> None:
        ready = [(offset, first)]
        while ready:
            offset, found = ready.pop()
            name = object_id(found.kind, found.content)
            self._by_offset[offset] = found
            self._by_id[name] = found
            for dependent, delta in self._waiting.pop(offset, []) + self._waiting.pop(name, []):
                ready.append((dependent, apply(found, delta, self.budget)))


def _header(source: PackBytes) -> tuple[int, int]:
    byte = source.take(1)[0]
    number, size, shift = byte >> 4 & 7, byte & 15, 4
    while byte & 0x80:
        byte = source.take(1)[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if shift > 7 * _LONGEST_VARINT:
            raise SourceMisbehaved("an object of the pack states an impossible size")
    return number, size


def _distance(source: PackBytes) -> int:
    byte = source.take(1)[0]
    distance = byte & 0x7F
    for _ in range(_LONGEST_VARINT):
        if not byte & 0x80:
            return distance
        byte = source.take(1)[0]
        distance = (distance + 1 << 7) | byte & 0x7F
    raise SourceMisbehaved("a delta names a base outside the pack")


def _delta_size(delta: bytes, at: int) -> tuple[int, int]:
    size = 0
    for place, byte in enumerate(delta[at : at + _LONGEST_VARINT]):
        size |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return size, at + place + 1
    raise SourceMisbehaved("a delta of the pack states an impossible size")
