import hashlib
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.content.chunks import Chunk, ChunkIndex, Copy, Get, bytes_to_fetch, plan, read_index, write_index


def index_of(pieces):
    chunks, start = [], 0
    for piece in pieces:
        chunks.append(Chunk(start, start + len(piece), hashlib.sha256(piece).digest()))
        start += len(piece)
    return ChunkIndex(write_index(chunks, average=32768)), b"".join(pieces)


PIECES = [random.Random(number).randbytes(100 + number) for number in range(12)]
pieces = st.lists(st.sampled_from(PIECES), min_size=1, max_size=30)


@given(pieces)
def test_an_index_is_read_as_it_was_written(content):
    index, whole = index_of(content)
    read = read_index(index.content, len(whole))
    assert [whole[each.start : each.end] for each in read] == content
    assert read.count == len(content)


@given(pieces, st.lists(pieces, max_size=3), st.integers(0, 30), st.sampled_from([0, 150, 10_000]))
def test_a_plan_puts_the_file_together_from_any_chunk_on(content, others, begin, gap):
    index, whole = index_of(content)
    held = [index_of(each) for each in others]
    start = list(index)[min(begin, len(content)) - 1].end if begin else 0
    made = b""
    for step in plan(index, [each for each, _ in held], start, gap):
        if isinstance(step, Copy):
            made += held[step.file][1][step.at : step.at + step.chunk.end - step.chunk.start]
        else:
            assert step.start == start + len(made)
            made += whole[step.start : step.end]
    assert made == whole[start:]


def test_what_is_held_is_not_fetched_and_ranges_are_as_few_as_they_can_be():
    old, _ = index_of(PIECES[:10])
    new, whole = index_of([*PIECES[:3], b"x" * 50, b"y" * 60, *PIECES[3:9], b"z" * 70])
    steps = list(plan(new, [old], gap=0))
    assert sum(isinstance(each, Get) for each in steps) == 2
    assert sum(each.end - each.start for each in steps if isinstance(each, Get)) == 180
    assert bytes_to_fetch(new, []) == len(whole)


def test_a_small_gap_is_fetched_along():
    old, _ = index_of(PIECES[:3])
    new, _ = index_of([b"x" * 50, PIECES[0], b"y" * 60])
    assert [type(each) for each in plan(new, [old], gap=0)] == [Get, Copy, Get]
    assert [type(each) for each in plan(new, [old], gap=100)] == [Get]


@pytest.mark.parametrize(
    "change",
    [
        lambda good: good[:-1],
        lambda _good: b"",
        lambda good: b"x" * len(good),
        lambda good: good[:64] + struct.pack("<Q", 0) + good[72:],
        lambda good: good[:64] + struct.pack("<Q", 1 << 40) + good[72:],
        lambda good: good[:16] + struct.pack("<Q", 0x2000000000000000) + good[24:],
    ],
)
def test_what_is_no_index_of_the_file_is_refused(change):
    index, whole = index_of(PIECES)
    with pytest.raises(ValueError, match=r"it |its |the chunk"):
        read_index(change(index.content), len(whole))


def test_an_index_of_another_size_is_refused():
    index, whole = index_of(PIECES)
    with pytest.raises(ValueError, match="and the file at"):
        read_index(index.content, len(whole) + 1)
