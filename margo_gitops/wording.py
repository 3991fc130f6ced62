"""Text for people and pipelines: counts, amounts, tables, and what others wrote, made harmless for every output.

A control character can move a terminal's cursor and colour it, and a mark of direction (U+202E) can make text look like
other text on a page, too. Every output spells out what is not printable, with `printable` or `json_text`.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, `1 device` or `3 devices`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def one(noun: str) -> str:
    """Return a noun with its article, `a device` or `an application`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def few(names: Sequence[str], most: int) -> str:
    """Return the first names and how many more there are, `a, b and 3 more`."""
    return f"{', '.join(names[:most])}{f' and {len(names) - most} more' if len(names) > most else ''}"


def how_it_ended(status: int | None) -> str:
    """Return how a program ended.

    Args:
        status: as `subprocess` gives it, below 0 for a signal.
    """
    if status is None or status >= 0:
        return f"it ended with status {status}"
    return f"signal {-status} ended it{': is there enough memory?' if status == -signal.SIGKILL else ''}"


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Return the question after the nearest known names.

    Args:
        name: what a person wrote.
        otherwise: what to return where no name is near; None: the known names.
    """
    import difflib  # most programs end without such a mistake

    names = sorted(known)
    close = difflib.get_close_matches(name, names, 3, 0.9) or difflib.get_close_matches(name, names, 1)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {few(names, 8) or 'none'}" if otherwise is None else otherwise


def shortened(text: str, most: int) -> str:
    """Return text of at most `most` characters, three dots for what is cut off."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def abridged(text: str, most: int) -> str:
    """Return text of at most `most` characters without its middle: a program says what it did, and last the reason."""
    head = most // 3
    return text if len(text) <= most else f"{text[:head]} … {text[len(text) - (most - head - 3) :]}"


def cut(lines: Sequence[str], most: int | None) -> Iterator[str]:
    """Yield the first lines, and how to see the others; all for None."""
    yield from lines[:most]
    if most is not None and len(lines) > most:
        yield f"  and {len(lines) - most} more lines: see them with --details"


def printable(text: str) -> str:
    r"""Return text as one line in which every character is printable; others are spelled out, `\x1b` or `\u202e`."""
    return _spelled_out(text, repr)


def printable_lines(text: str) -> str:
    """Return text of several lines, each printable; tabs stay."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def json_text(value: object, indent: int | None = None) -> str:
    """Return a value as JSON; in its text, everything that is not printable is an escape, which means the same."""
    made = json.dumps(value, indent=indent, ensure_ascii=False)
    return "\n".join(_spelled_out(line, json.dumps) for line in made.split("\n"))


def _spelled_out(text: str, spell: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else spell(each)[1:-1] for each in text)


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
