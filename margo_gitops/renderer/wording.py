"""How counts are told to people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, `1 device` or `3 devices`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
