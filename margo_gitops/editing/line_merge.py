"""Put an edit of normalised lines back into the lines as people wrote them.

The two spellings of a document are the same events in the same order, so it is known exactly which lines say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

import yaml

from margo_gitops.documents.yaml_events import Loader

Span = tuple[int, int]
"""Lines, as (first, last + 1)."""

_OWN_LINE = re.compile(r"\s*(#.*)?")
_DASHES = re.compile(r"[\s?-]*")


Opcode = tuple[str, int, int, int, int]
"""As `difflib.SequenceMatcher.get_opcodes` gives them."""


def merge_edit(
    original: Sequence[str], normal: Sequence[str], edited: Sequence[str], *, whole_blocks: bool = False
) -> list[str]:
    """Return `original` with what was changed between `normal` and `edited`.

    Comment lines and empty lines are never removed.

    Args:
        normal: the same document in a normal form, without an edit.
        edited: the normal form with the edit.
        whole_blocks: take everything below a top-level key from `edited`, if any of it changes: where a file is
            indented in several ways, lines of both would not fit together.
    """
    kept = lines_of_values(original)
    opcodes: Sequence[Opcode] = SequenceMatcher(None, normal, edited, autojunk=False).get_opcodes()
    before, after = _boundaries(len(normal), _whole_blocks(normal, edited) if whole_blocks else opcodes)
    merged: list[str] = []
    done = 0
    for (first, last), (begin, end) in _pairs(normal, [original[at] for at in kept]):
        merged += edited[before[first] : after[first]]
        start, stop = kept[begin], kept[end - 1] + 1
        merged += original[done:start]
        made = edited[after[first] : before[last]]
        if list(normal[first:last]) == list(made):
            merged += original[start:stop]
        else:
            merged += [original[at] for at in range(start, stop) if at not in kept[begin:end]]
            merged += made
        done = stop
    merged += edited[before[len(normal)] : after[len(normal)]]
    return [*merged, *original[done:]]


def lines_of_values(lines: Sequence[str]) -> list[int]:
    """Return the lines (from 0) that are neither a comment nor empty."""
    inside = {line for first, last in _scalars("\n".join([*lines, ""])) for line in range(first + 1, last)}
    return [at for at, line in enumerate(lines) if at in inside or not _OWN_LINE.fullmatch(line)]


def _boundaries(lines: int, opcodes: Sequence[Opcode]) -> tuple[list[int], list[int]]:
    """Return where each boundary between normal lines is in the edited ones: before and after what is inserted."""
    before, after = [0] * (lines + 1), [0] * (lines + 1)
    for tag, first, last, begin, end in opcodes:
        for at in range(first + 1, last + 1):
            # What replaces several lines goes to the first of them.
            before[at] = after[at] = begin + at - first if tag == "equal" else end
        if tag == "insert":
            after[first] = end
    return before, after


def _whole_blocks(normal: Sequence[str], edited: Sequence[str]) -> Sequence[Opcode]:
    """Return one replacement, of everything from the first to the last top-level key that changes."""
    shorter = min(len(normal), len(edited))
    head = next((at for at in range(shorter) if normal[at] != edited[at]), shorter)
    while head and not (head < len(normal) and _is_top(normal[head]) and head < len(edited) and _is_top(edited[head])):
        head -= 1
    tail = next((at for at in range(shorter - head) if normal[-1 - at] != edited[-1 - at]), shorter - head)
    while tail and not _is_top(normal[-tail]):
        tail -= 1
    middle = (len(normal) - tail, len(edited) - tail)
    return [
        ("equal", 0, head, 0, head),
        ("replace", head, middle[0], head, middle[1]),
        ("equal", middle[0], len(normal), middle[1], len(edited)),
    ]


def _is_top(line: str) -> bool:
    return line[:1] not in (" ", "-", "?", ":", "")


def _pairs(normal: Sequence[str], original: Sequence[str]) -> list[tuple[Span, Span]]:
    """Return which lines of the original say what which normal lines say, in the smallest groups."""
    groups: list[list[int]] = []
    places = zip(_places("\n".join([*normal, ""])), _places("\n".join([*original, ""])), strict=True)
    for (first, last), (begin, end) in places:
        if groups and (first < groups[-1][1] or begin < groups[-1][3]):
            groups[-1][1], groups[-1][3] = max(last, groups[-1][1]), max(end, groups[-1][3])
        else:
            groups.append([first, last, begin, end])
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        # A closing bracket or a folded end belongs to the line above it.
        if following is not None:
            group[1] = following[0]
    if groups:
        groups[0][0], groups[-1][1] = 0, len(normal)
    for group in groups:
        while (
            group[2] and _DASHES.fullmatch(original[group[2] - 1]) and original[group[2] - 1].strip() not in ("", "---")
        ):
            group[2] -= 1
    return [((first, last), (begin, end)) for first, last, begin, end in groups]


def _places(text: str) -> Iterator[Span]:
    """Yield the lines of everything that a document says, in its order."""
    lines = text.split("\n")
    flow: list[bool] = []
    for event in yaml.parse(text, Loader=Loader):
        start, end = event.start_mark, event.end_mark
        if start is None or end is None:
            continue
        if isinstance(event, yaml.CollectionStartEvent):
            flow.append(bool(event.flow_style))
            yield start.line, start.line + 1
        elif isinstance(event, yaml.CollectionEndEvent):
            # The end of a block is where the next thing begins; a bracket has a place of its own.
            if flow.pop():
                yield start.line, start.line + 1
        elif isinstance(event, yaml.ScalarEvent):
            yield _span(event, lines)


def _scalars(text: str) -> Iterator[Span]:
    lines = text.split("\n")
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.ScalarEvent):
            yield _span(event, lines)


def _span(event: yaml.ScalarEvent, lines: Sequence[str]) -> Span:
    if event.start_mark is None or event.end_mark is None:
        return 0, 0
    first = event.start_mark.line
    last = max(first, event.end_mark.line - (event.end_mark.column == 0))
    if event.style in ("|", ">") and not event.value.endswith("\n\n"):
        # Empty lines below a block are not part of it.
        while last > first and not lines[last].strip():
            last -= 1
    return first, last + 1
