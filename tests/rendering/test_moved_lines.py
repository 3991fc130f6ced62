"""A finding about what a change takes away stands where that stood, on a line that the new file has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.errors import Location
from margo_gitops.rendering.policies.facts import nearest_place

LINES = st.lists(st.sampled_from([b"a", b"b", b"  c", b"d"]), max_size=12)


def file_of(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        pytest.param(1, [b"spec:", b"  new: 1", b"end: 1"], 1, id="before the change, the same line"),
        pytest.param(4, [b"spec:", b"end: 1"], 2, id="after the change, the line moved along"),
        pytest.param(3, [b"spec:", b"end: 1"], 1, id="taken away, the line before it"),
        pytest.param(3, [b"spec:", b"  other: 1", b"end: 1"], 2, id="replaced, the last of what replaces it"),
        pytest.param(4, [b"spec:"], 1, id="at the end, the last line"),
    ],
)
def test_a_place_is_found_again(line: int, after: list[bytes], expected: int):
    before = [b"spec:", b"  policy:", b"    freezes: []", b"end: 1"]
    found = nearest_place(Location("fleet.yaml", line, 3), file_of(before), file_of(after))
    assert (found.file, found.line) == ("fleet.yaml", expected)


@given(LINES, LINES, st.data())
def test_the_place_is_one_that_the_newer_file_has(before: list[bytes], after: list[bytes], data: st.DataObject):
    line = data.draw(st.integers(1, max(len(before), 1)))
    found = nearest_place(Location("f", line, 1), file_of(before), file_of(after))
    if not after or line > len(before):
        assert found == Location("f", line, 1)
        return
    assert found.line is not None
    assert 1 <= found.line <= len(after)
    if before == after:
        assert found.line == line


@given(LINES, LINES)
def test_what_both_files_share_keeps_its_text(before: list[bytes], between: list[bytes]):
    for line, text in enumerate(before, start=1):
        found = nearest_place(Location("f", line, 1), file_of(before), file_of([*before, *between]))
        assert found.line is not None
        assert [*before, *between][found.line - 1] == text


def test_a_place_without_a_line_stays():
    assert nearest_place(Location("f"), b"a\n", b"b\n") == Location("f")
