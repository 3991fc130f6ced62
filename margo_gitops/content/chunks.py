"""The chunk index of a file, and which of its ranges a device must fetch; pure.

An index lists the chunks of a file in order: where each ends, and its SHA-256. A chunk ends where its content says so,
so that an insertion moves chunks and does not change them. The layout is casync's (`.caibx`), which other tools write
and read as well; the file's own digest decides what is accepted, the index only what is fetched.

CHUNK-1  An index is read as a whole or not at all: its chunks follow each other and end at the file's size.
CHUNK-2  No chunk is longer than 4 MiB, so that a device holds one chunk at a time.
CHUNK-3  Ranges whose gap is small are one request: the gap costs less than another round trip.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from margo_gitops.values import dataclass

INDEX_SUFFIX: Final = ".caibx"
"""An index is next to its file, under the file's name with this ending."""
LONGEST_CHUNK: Final = 4 * 1024 * 1024
LARGEST_INDEX: Final = 64 * 1024 * 1024
GAP: Final = 8 * 1024
"""Bytes that are fetched along rather than asked for in two requests."""

_HEADER: Final = struct.Struct("<6Q")
_TABLE: Final = struct.Struct("<2Q")
_ITEM: Final = struct.Struct("<Q32s")
_TAIL: Final = struct.Struct("<5Q")
_INDEX_TYPE: Final = 0x96824D9C7B129FF9
_TABLE_TYPE: Final = 0xE75B9E112F17417D
_TAIL_MARK: Final = 0x4B4F050E5549ECD1
_ENDLESS: Final = 0xFFFFFFFFFFFFFFFF
_SHA512: Final = 0x2000000000000000
_ITEMS_AT: Final = _HEADER.size + _TABLE.size


class Chunk(NamedTuple):
    """A piece of a file: where it is, and the SHA-256 of its content."""

    start: int
    end: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """The chunks of a file, kept as the bytes of its index: 40 for each chunk."""

    content: bytes

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return (len(self.content) - _ITEMS_AT - _TAIL.size) // _ITEM.size

    def __iter__(self) -> Iterator[Chunk]:
        start = 0
        items = memoryview(self.content)[_ITEMS_AT : len(self.content) - _TAIL.size]
        for end, digest in _ITEM.iter_unpack(items):
            yield Chunk(start, end, digest)
            start = end


class Copy(NamedTuple):
    """A chunk that is in a file the device holds: which of them, and where in it."""

    chunk: Chunk
    file: int
    at: int


class Get(NamedTuple):
    """Chunks that follow each other and are fetched by one request."""

    chunks: Sequence[Chunk]

    @property
    def start(self) -> int:
        """Where the range begins."""
        return self.chunks[0].start

    @property
    def end(self) -> int:
        """Where the range ends."""
        return self.chunks[-1].end


def write_index(chunks: Iterable[Chunk], *, average: int) -> bytes:
    """Return the bytes of an index; the same chunks give the same bytes.

    Args:
        average: bytes of a chunk that the chunker aims at; for other tools.
    """
    items = b"".join(_ITEM.pack(chunk.end, chunk.digest) for chunk in chunks)
    head = _HEADER.pack(_HEADER.size, _INDEX_TYPE, 0, average // 4, average, average * 4)
    table = len(items) + _TABLE.size + _TAIL.size
    return head + _TABLE.pack(_ENDLESS, _TABLE_TYPE) + items + _TAIL.pack(0, 0, _HEADER.size, table, _TAIL_MARK)


def read_index(content: bytes, size: int) -> ChunkIndex:
    """Return the index of a file (CHUNK-1, CHUNK-2).

    Args:
        size: of the file.

    Raises:
        ValueError: these bytes are not an index with SHA-256, or they are one of another file.
    """
    if len(content) < _ITEMS_AT + _TAIL.size or (len(content) - _ITEMS_AT - _TAIL.size) % _ITEM.size:
        raise ValueError("it has another length")
    header, kind, flags, *_ = _HEADER.unpack_from(content)
    if (header, kind) != (_HEADER.size, _INDEX_TYPE) or _TABLE.unpack_from(content, _HEADER.size)[1] != _TABLE_TYPE:
        raise ValueError("it does not begin like one")
    if flags & _SHA512:
        raise ValueError("its chunks are named by SHA-512/256, not by SHA-256")
    index = ChunkIndex(content)
    end = 0
    for chunk in index:
        if not chunk.start < chunk.end <= chunk.start + LONGEST_CHUNK:
            raise ValueError(f"the chunk at {chunk.start} has an impossible length")
        end = chunk.end
    if end != size:
        raise ValueError(f"its chunks end at {end}, and the file at {size}")
    return index


def plan(wanted: ChunkIndex, held: Sequence[ChunkIndex], begin: int = 0, gap: int = GAP) -> Iterator[Copy | Get]:
    """Yield how a file is put together from `begin` on, in order.

    Args:
        held: the indexes of files that the device holds.
        begin: the end of a chunk, or 0.
        gap: how many bytes may be fetched although the device holds them, to save a request.
    """
    places = _places(wanted, held)
    waiting: list[Chunk] = []
    between: list[Copy] = []
    for chunk in wanted:
        if chunk.end <= begin:
            continue
        place = places.get(chunk.digest)
        if place is None:
            waiting += [copy.chunk for copy in between]
            between = []
            waiting.append(chunk)
            continue
        copy = Copy(chunk, *place)
        if waiting and chunk.end - waiting[-1].end <= gap:
            between.append(copy)
            continue
        if waiting:
            yield Get(waiting)
            waiting = []
            yield from between
            between = []
        yield copy
    if waiting:
        yield Get(waiting)
        yield from between


def bytes_to_fetch(wanted: ChunkIndex, held: Sequence[ChunkIndex]) -> int:
    """Return how many bytes of a file a device fetches that holds the others."""
    return sum(step.end - step.start for step in plan(wanted, held) if isinstance(step, Get))


def _places(wanted: ChunkIndex, held: Sequence[ChunkIndex]) -> Mapping[bytes, tuple[int, int]]:
    """Return where chunks of the wanted file are, by digest; others are not kept, so that memory stays small."""
    asked = {chunk.digest for chunk in wanted}
    found: dict[bytes, tuple[int, int]] = {}
    for number, index in enumerate(held):
        for chunk in index:
            if chunk.digest in asked:
                found.setdefault(chunk.digest, (number, chunk.start))
    return found
