"""Read documents that differ only in some values, as the devices of a fleet do, without parsing each of them.

The form of a document is its text without the simple values that end a line. The first document of a form is parsed;
of the others, only the values that differ from it are read, and the records that hold these.

ALIKE-1  A value is simple if it is after `: `, ends its line or has only a comma or comment after it, and is one plain
         scalar or one in double quotes, of characters that have no meaning in YAML. Another such value in its place
         changes nothing else: all nodes stay, each in its line and column.
ALIKE-2  The parser says what is a value: only where it found exactly this one, in this line and column, may another
         document of the form have another one. In comments and in text of several lines it finds none.
ALIKE-3  Only a document without findings is a model for others. One with a value that is not clear to every reader is
         parsed.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from functools import cached_property
from typing import TypeVar, cast

from margo_gitops.documents.nodes import Node, SourceText
from margo_gitops.documents.records import find
from margo_gitops.documents.yaml_scalars import AmbiguousScalarError, read_plain
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import Finding
from margo_gitops.values import dataclass

T = TypeVar("T")

_SIMPLE = re.compile(
    r"""(?<=:[ ]) (
        [A-Za-z0-9][A-Za-z0-9_./-]{0,200} (?:[ ][A-Za-z0-9_./-]{1,200}){0,8}
      | "[ !#-\[\]-~]{0,400}"
    ) (?=,?$ | [ ]+\#)""",
    re.VERBOSE | re.MULTILINE,
)
_MOST_FORMS = 1024

_Way = tuple[tuple[Node, str | int], ...]
"""From a node to the root: each node that holds the one before, and under which key or index."""


@dataclass
class _Form:
    """The first document of a form.

    Attributes:
        made: the values of its nodes, by the node's identity.
        parts: its text: simple values at odd places, what is between them at even ones.
    """

    root: Node
    made: Mapping[int, object]
    parts: list[str]

    def filled(self, values: list[str]) -> Node | None:
        """Return the document with these simple values; None where the form does not say what it is.

        What does not differ are the same nodes.
        """
        copies: dict[int, Node] = {}
        for value, model, place in zip(values, self.parts[1::2], self._places, strict=True):
            if value == model:
                continue
            child = _read(value, place[0]) if place and (value[0] == '"') == (model[0] == '"') else None
            if child is None or place is None:
                return None
            for holder, step in place[1]:
                known = copies.get(id(holder))
                copy = known or _copy(holder)
                copy.value[step] = child  # type: ignore[index]  # a step into what holds the node
                if known:
                    break
                copies[id(holder)] = child = copy
        return copies.get(id(self.root), self.root)

    @cached_property
    def _places(self) -> list[tuple[Node, _Way] | None]:
        """The node of each simple value, and the way to it; None where the parser found no such value (ALIKE-2)."""
        found = {(node.line, node.column): (node, way) for node, way in _scalars(self.root, ())}
        places: list[tuple[Node, _Way] | None] = []
        line = 1
        for before, value in zip(self.parts[::2], self.parts[1::2], strict=False):
            line += before.count("\n")
            # What is between two values holds the start of the second one's line; if not, this is in a comment.
            is_first = "\n" in before or not places
            place = found.get((line, len(before) - before.rfind("\n"))) if is_first else None
            read = _read(value, place[0]) if place else None
            is_same = place and read and type(read.value) is type(place[0].value) and read == place[0]
            places.append(place if is_same else None)
        return places


def find_alike(cls: type[T], content: bytes, file: str) -> tuple[T | None, list[Finding]]:
    """Return what `records.find` says of a YAML document (UnreadableDocument: as `read_yaml`)."""
    try:
        parts = _SIMPLE.split(content.decode())
    except UnicodeDecodeError:
        parts = []
    key = (cast("Hashable", cls), *parts[::2])
    form = _FORMS.get(key)
    root = form.filled(parts[1::2]) if form else None
    if form and root:
        return find(cls, SourceText(file, root), known=form.made)
    source = read_yaml(content, file)
    made: dict[int, object] = {}
    value, findings = find(cls, source, made=made)
    if not (form or findings or b"\r" in content):  # a lone \r ends a line too
        if len(_FORMS) >= _MOST_FORMS:
            _FORMS.clear()
        _FORMS[key] = _Form(source.root, made, parts)
    return value, findings


_FORMS: dict[tuple[Hashable, ...], _Form] = {}


def _scalars(node: Node, way: _Way) -> Iterator[tuple[Node, _Way]]:
    value = node.value
    if not isinstance(value, (dict, list)):
        yield node, way
        return
    for step, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _scalars(child, ((node, step), *way))


def _copy(node: Node) -> Node:
    value = node.value.copy() if isinstance(node.value, (dict, list)) else node.value
    return Node(value, node.line, node.column, node.key_line, node.key_column)


def _read(text: str, place: Node) -> Node | None:
    """Return a simple value in a node's place; None where it is not clear to every reader."""
    try:
        value = text[1:-1] if text[0] == '"' else read_plain(text)
    except AmbiguousScalarError:
        return None
    return Node(value, place.line, place.column, place.key_line, place.key_column)
