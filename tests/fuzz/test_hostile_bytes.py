"""No reader fails on hostile bytes in any way but its own, nor needs more memory than its bounds allow.

A short run; `scripts/fuzz` makes a long one over the same targets (docs/fuzzing.md).
"""

from __future__ import annotations

import tracemalloc

import pytest
from fuzz.mutation import mutated
from fuzz.targets import TARGETS, Target
from hypothesis import given
from hypothesis import strategies as st
from support.properties import times

EACH = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@EACH
def test_valid_input_is_taken_as_it_is(target: Target) -> None:
    content = target.valid[0]
    target.read(target.mended(content) if target.mended else content)


@EACH
@times(2)
@given(data=st.data())
def test_changed_input_is_read_or_refused_within_its_memory(target: Target, data: st.DataObject) -> None:
    content = mutated(target.seeds, lambda low, high: data.draw(st.integers(low, high)))
    if target.mended:
        content = target.mended(content)
    assert needed(target, content) < target.memory


@EACH
@given(content=st.binary(max_size=400))
def test_noise_is_read_or_refused(target: Target, content: bytes) -> None:
    needed(target, content)


@EACH
def test_what_once_went_wrong_stays_mended(target: Target) -> None:
    for content in target.seeds:
        needed(target, target.mended(content) if target.mended else content)


def needed(target: Target, content: bytes) -> int:
    """Return the bytes of memory that reading took at most."""
    tracemalloc.start()
    try:
        target.read(content)
    except target.refuses:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak
