"""Read YAML that strangers wrote, and write it as exact bytes: one value, one spelling, the same to every reader.

YAML-1  Bytes are UTF-8, at most `Bounds.size`; a byte order mark and raw control characters are refused, and so are
        U+0085, U+2028 and U+2029, which end a line (and a comment) for YAML 1.1 only.
YAML-2  Exactly one document.
YAML-3  No anchors, no aliases (alias bombs), no tags, no directives, no merge keys.
YAML-4  Keys are strings, and none appears twice in one mapping.
YAML-5  Nesting and the number of values are bounded.
YAML-6  A plain scalar whose meaning differs between YAML 1.1 and 1.2 is refused; quoting it makes it clear.
YAML-7  Written: block style, two spaces, keys in the order given, lists indented below their key, text quoted unless it
        is plainly text, no line folding, one newline at the end. The bytes depend on nothing but the value: no library
        version, locale or platform takes part, because they have digests (Margo desired state, exact bytes rule).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Self

from margo_gitops.documents.nodes import DEFAULT_BOUNDS, Bounds, Json, Scalar, SourceText, decoded
from margo_gitops.documents.yaml_lines import read_lines
from margo_gitops.documents.yaml_scalars import write_number, write_text
from margo_gitops.errors import Location, UnreadableDocument, UnwritableValue
from margo_gitops.values import dataclass

_NEVER_RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def read_yaml(content: bytes, file: str, bounds: Bounds = DEFAULT_BOUNDS, *, foreign: bool = False) -> SourceText:
    """Return the one document of a YAML file as nodes (UnreadableDocument: the broken rule, with line and column)."""
    text = decoded(content, file, bounds)
    _check_characters(text, file)
    root = read_lines(text, bounds, foreign=foreign)
    if root is None:
        from margo_gitops.documents.yaml_events import read_events

        root = read_events(content, file, bounds, foreign=foreign)
    return SourceText(file, root, foreign)


def _check_characters(text: str, file: str) -> None:
    if raw := _NEVER_RAW.search(text):
        place = Location(file, text.count("\n", 0, raw.start()) + 1, raw.start() - text.rfind("\n", 0, raw.start()))
        code = ord(raw.group())
        raise UnreadableDocument(
            f"the character U+{code:04X} is not allowed",
            where=place,
            remedy=f"remove it, or write it as \\u{code:04x} in double quotes",
        )


_IMPLICIT_KEY_LENGTH = 1000
"""Readers look for the colon in the first 1024 characters only (YAML 1.2.2 section 7.4.2); longer keys need `?`."""


class Prewritten(dict[str, Json]):
    """A mapping that is in many documents: its lines are made once for each indentation.

    It must not change any more once it was written.
    """

    def __init__(self, value: dict[str, Json]) -> None:
        super().__init__(value)
        self._lines: dict[str, list[str]] = {}

    def lines(self, indent: str) -> list[str]:
        """Return the mapping's lines."""
        if indent not in self._lines:
            lines: list[str] = []
            _block(dict(self), indent, lines)
            self._lines[indent] = lines  # not before: what cannot be written is refused each time
        return self._lines[indent]


def write_yaml(value: Json) -> bytes:
    """Return the exact bytes of a document.

    Raises:
        UnwritableValue: a number that is not finite or beyond 64 bits, or text with a lone surrogate.
    """
    try:
        return _text(value).encode()
    except ValueError as error:
        raise UnwritableValue("a value cannot be written as YAML", why=[str(error)]) from error


class Hole(str):
    """A scalar of a document that is not known yet; no YAML that is written holds its control character raw."""

    __slots__ = ()

    def __new__(cls, number: int) -> Self:
        """Make the hole that the value of this number fills."""
        return super().__new__(cls, f"\0{number}\0")


@dataclass(frozen=True, slots=True)
class YamlForm:
    """A document with holes, written once.

    A scalar is written the same in each place, so a filled form has the bytes that `write_yaml` gives.
    """

    parts: tuple[bytes, ...]
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, value: Json) -> YamlForm:
        """Return the form of a document (ValueError: as `UnwritableValue` of `write_yaml`)."""
        parts = _text(value).split("\0")
        return cls(tuple(part.encode() for part in parts), tuple(map(int, parts[1::2])))

    def filled(self, values: Sequence[Scalar]) -> FilledForm:
        """Return the document with these values (ValueError: as `UnwritableValue` of `write_yaml`)."""
        return FilledForm(self.parts, tuple(_inline(values[number]).encode() for number in self.numbers))


@dataclass(frozen=True, slots=True)
class FilledForm:
    """A document whose bytes are put together when they are needed: all of a fleet take much memory."""

    parts: tuple[bytes, ...]
    values: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        """Return the document."""
        parts = list(self.parts)
        parts[1::2] = self.values
        return b"".join(parts)


def _text(value: Json) -> str:
    lines: list[str] = []
    if isinstance(value, (dict, list)) and value:
        _block(value, "", lines)
    else:
        lines.append(_inline(value))
    lines.append("")
    return "\n".join(lines)


def _block(value: dict[str, Json] | list[Json], indent: str, lines: list[str]) -> None:
    if isinstance(value, Prewritten):
        lines += value.lines(indent)
        return
    if isinstance(value, dict):
        for key, child in value.items():
            name = write_text(key)
            if len(name) > _IMPLICIT_KEY_LENGTH:
                lines.append(f"{indent}? {name}")
                name = ""
            head = f"{indent}{name}:"
            if type(child) is str:  # most values; asked first
                lines.append(f"{head} {write_text(child)}")
            elif isinstance(child, (dict, list)) and child:
                lines.append(head)
                _block(child, indent + "  ", lines)
            else:
                lines.append(f"{head} {_inline(child)}")
        return
    for child in value:
        if isinstance(child, (dict, list)) and child:
            start = len(lines)
            _block(child, indent + "  ", lines)
            # The first line of the item moves up behind its dash.
            lines[start] = f"{indent}- {lines[start][len(indent) + 2 :]}"
        else:
            lines.append(f"{indent}- {_inline(child)}")


def _inline(value: Json) -> str:
    if isinstance(value, str):
        return str(value) if type(value) is Hole else write_text(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return write_number(value)
    return "{}" if isinstance(value, dict) else "[]"
