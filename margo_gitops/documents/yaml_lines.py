"""Read the plain kind of YAML, line by line, without a parser: what this project writes, and most of what people do.

It is one block mapping or list, indented, of one scalar to a line: plainly text, a number, in double quotes without an
escape, or `{}` and `[]`. A comment may be a line, or end one. What is anything else, or has a fault, is for the parser,
which says the same of the plain kind: values, lines and columns.

An agent that reads nothing else does not load the parser, a tenth of its start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from margo_gitops.documents.nodes import Bounds, Node, Scalar
from margo_gitops.documents.yaml_scalars import AmbiguousScalarError, read_plain

_LINE = re.compile(
    r"""(?P<indent>[ ]*) (?P<dashes>(?:-[ ])*)
    (?: (?P<key>[A-Za-z][A-Za-z0-9_./-]*|"[^"\\]*") :(?:[ ](?P<held>SCALAR))? | (?P<item>SCALAR) )
    (?:[ ]+\#.*|[ ]*)""".replace("SCALAR", r'[A-Za-z0-9/](?:[A-Za-z0-9_./@+-]|:(?=[A-Za-z0-9/]))*|"[^"\\]*"|\{\}|\[\]'),
    re.VERBOSE,
)
_NOTHING = re.compile(r"[ ]*(?:#.*)?")
_LONGEST_KEY = 200
_END: tuple[int, re.Match[str] | None] = (0, None)


class _OtherKindError(Exception):
    """The document is not of the plain kind."""


def read_lines(text: str, bounds: Bounds, *, foreign: bool) -> Node | None:
    """Return the document that a text holds; None where it is not of the plain kind.

    Args:
        text: with no other character than those that YAML-1 allows.
        foreign: as for `read_plain`.
    """
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        if match := _LINE.fullmatch(line):
            lines.append((number, match))
        elif not _NOTHING.fullmatch(line):
            return None
    if not lines:
        return None
    try:
        return _Reader(lines, bounds, foreign=foreign).document()
    except (_OtherKindError, AmbiguousScalarError, ValueError):
        return None


class _Reader:
    """Reads lines in turn; of the line that is next, some dashes may be read already.

    Attributes:
        column: of what is next in it, from 0; -1 after the last line.
    """

    def __init__(self, lines: list[tuple[int, re.Match[str]]], bounds: Bounds, *, foreign: bool) -> None:
        self._lines: Iterator[tuple[int, re.Match[str] | None]] = iter(lines)
        self._left = bounds.nodes
        self._depth = bounds.depth
        self._foreign = foreign
        self._next_line()

    def document(self) -> Node:
        root = self._node(0)
        if self.column >= 0:
            raise _OtherKindError
        return root

    def _next_line(self) -> None:
        self._number, self._match = next(self._lines, _END)
        if self._match is None:
            self.column, self._dashes = -1, 0
        else:
            self.column = len(self._match["indent"])
            self._dashes = len(self._match["dashes"]) // 2

    def _count(self, depth: int) -> None:
        self._left -= 1
        if self._left < 0 or depth > self._depth:
            raise _OtherKindError

    def _node(self, depth: int) -> Node:
        """Return what begins in the next line, and read its lines."""
        self._count(depth)
        line, column, match = self._number, self.column, self._match
        if match is None:
            raise _OtherKindError
        if self._dashes:
            return Node(self._items(column, depth), line, column + 1)
        if match["key"] is not None:
            return Node(self._entries(column, depth), line, column + 1)
        self._next_line()
        return Node(self._scalar(match["item"]), line, column + 1)

    def _items(self, column: int, depth: int) -> list[Node]:
        items = []
        while self.column == column and self._dashes:
            self._dashes -= 1
            self.column += 2
            items.append(self._node(depth + 1))
        return items

    def _entries(self, column: int, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while self.column == column and not self._dashes and self._match is not None and self._match["key"] is not None:
            line, match = self._number, self._match
            key = self._scalar(match["key"])
            self._count(depth + 1)
            if not isinstance(key, str) or key in entries or len(key) > _LONGEST_KEY:
                raise _OtherKindError
            self._next_line()
            if match["held"] is not None:
                self._count(depth + 1)
                value = Node(self._scalar(match["held"]), line, match.start("held") + 1)
            elif self.column > column:
                value = self._node(depth + 1)
            else:
                raise _OtherKindError
            value.key_line, value.key_column = line, column + 1
            entries[key] = value
        return entries

    def _scalar(self, text: str) -> Scalar | list[Node] | dict[str, Node]:
        if text[0] == '"':
            return text[1:-1]
        if text in ("{}", "[]"):
            return {} if text == "{}" else []
        return read_plain(text, foreign=self._foreign)
