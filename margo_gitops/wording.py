"""Text for people: counts, amounts, tables, and what others wrote, made harmless for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, `1 device` or `3 devices`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def one(noun: str) -> str:
    """Return a noun with its article, `a device` or `an application`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def few(names: Sequence[str], most: int) -> str:
    """Return the first names and how many more there are, `a, b and 3 more`."""
    return f"{', '.join(names[:most])}{f' and {len(names) - most} more' if len(names) > most else ''}"


def printable(text: str) -> str:
    """Return text whose control characters cannot move a terminal's cursor or colour it."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def byte_count(number: int) -> str:
    """Return an amount of bytes as people read it: `512 bytes`, `1.5 kB`, `2.0 GB`."""
    if number < 1000:
        return counted(number, "byte")
    amount, unit = number / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if amount < 999.95:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}"


def table_lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows with their columns side by side, two spaces apart, with no blanks at the end of a line."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
