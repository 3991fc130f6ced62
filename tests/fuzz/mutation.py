"""How a valid input becomes a hostile one: the small changes that break readers, made by whoever chooses."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Choose = Callable[[int, int], int]
"""Returns a number between two bounds, both included: Hypothesis chooses, or a random generator."""

_NUMBER = re.compile(rb"[0-9]+|[0-9a-f]{4}")
_NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"255",
    b"65535",
    b"65536",
    b"4294967296",
    b"18446744073709551616",
    b"1e999",
    b"ffff",
    b"0000",
)
_BYTES = (0x00, 0x01, 0x0A, 0x20, 0x22, 0x2F, 0x7F, 0x80, 0xFF)
_LONGEST = 1 << 16


def mutated(seeds: Sequence[bytes], choose: Choose) -> bytes:
    """Return one of the seeds with some changes; with luck still valid enough to get far."""
    content = seeds[choose(0, len(seeds) - 1)]
    for _ in range(choose(0, 6)):
        change = _CHANGES[choose(0, len(_CHANGES) - 1)]
        content = change(content, seeds, choose)[:_LONGEST]
    return content


def _at(content: bytes, choose: Choose) -> int:
    return choose(0, len(content))


def _part(content: bytes, choose: Choose) -> tuple[int, int]:
    start = _at(content, choose)
    return start, min(len(content), start + choose(0, 64))


def _flip(content: bytes, _: Sequence[bytes], choose: Choose) -> bytes:
    if not content:
        return content
    at = choose(0, len(content) - 1)
    return content[:at] + bytes([content[at] ^ 1 << choose(0, 7)]) + content[at + 1 :]


def _put(content: bytes, _: Sequence[bytes], choose: Choose) -> bytes:
    at = _at(content, choose)
    return content[:at] + bytes([_BYTES[choose(0, len(_BYTES) - 1)]]) + content[at + 1 :]


def _insert(content: bytes, _: Sequence[bytes], choose: Choose) -> bytes:
    at = _at(content, choose)
    return content[:at] + bytes(choose(0, 255) for _ in range(choose(1, 8))) + content[at:]


def _remove(content: bytes, _: Sequence[bytes], choose: Choose) -> bytes:
    start, end = _part(content, choose)
    return content[:start] + content[end:]


def _repeat(content: bytes, _: Sequence[bytes], choose: Choose) -> bytes:
    start, end = _part(content, choose)
    return content[:end] + content[start:end] * choose(1, 200) + content[end:]


def _cut(content: bytes, _: Sequence[bytes], choose: Choose) -> bytes:
    return content[: _at(content, choose)]


def _splice(content: bytes, seeds: Sequence[bytes], choose: Choose) -> bytes:
    other = seeds[choose(0, len(seeds) - 1)]
    return content[: _at(content, choose)] + other[_at(other, choose) :]


def _number(content: bytes, _: Sequence[bytes], choose: Choose) -> bytes:
    found = list(_NUMBER.finditer(content))
    if not found:
        return content
    place = found[choose(0, len(found) - 1)]
    return content[: place.start()] + _NUMBERS[choose(0, len(_NUMBERS) - 1)] + content[place.end() :]


_CHANGES = (_flip, _put, _insert, _remove, _repeat, _cut, _splice, _number)
