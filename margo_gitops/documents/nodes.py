"""A document as read: plain values that still know their line and column.

Readers build nodes, the upgrade step rewrites them, and `shape` turns them into typed values. Nothing else of the
project sees a node, so no `dict` of unknown shape travels further.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from margo_gitops.errors import Location, UnreadableDocument
from margo_gitops.values import dataclass, field

Scalar: TypeAlias = str | int | float | bool | None
Json: TypeAlias = "Scalar | list[Json] | dict[str, Json]"
FieldPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a reader accepts of an untrusted document.

    Attributes:
        size: bytes.
        depth: nesting of mappings and lists.
        nodes: values in the whole document.
    """

    size: int = 1024 * 1024
    depth: int = 32
    nodes: int = 50_000


DEFAULT_BOUNDS = Bounds()


def decoded(content: bytes, file: str, bounds: Bounds) -> str:
    """Return the text of a document (UnreadableDocument: it is too large, not UTF-8, or has a byte order mark)."""
    where = Location(file)
    if len(content) > bounds.size:
        raise UnreadableDocument(
            f"{len(content)} bytes are more than the {bounds.size} that a document may have",
            where=where,
            remedy="documents hold settings; put large content into an artifact",
        )
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableDocument(
            "starts with a byte order mark", where=where, remedy="save the file as UTF-8 without one"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableDocument(
            f"byte {error.start} is not UTF-8", where=Location(file, line), remedy="save the file as UTF-8"
        ) from error


@dataclass(slots=True)
class Node:
    """One value of a document: a scalar, a list of nodes, or a mapping of nodes in file order.

    Attributes:
        line, column: where the value starts, from 1.
        key_line, key_column: for a mapping's value, where its key starts; 0 elsewhere.
    """

    value: Scalar | list[Node] | dict[str, Node]
    line: int = 0
    column: int = 0
    key_line: int = 0
    key_column: int = 0

    def get(self, *path: str | int) -> Node | None:
        """Return the node at `path`; None if it does not exist."""
        node: Node | None = self
        for step in path:
            if node is None:
                return None
            if isinstance(node.value, dict) and isinstance(step, str):
                node = node.value.get(step)
            elif isinstance(node.value, list) and isinstance(step, int) and 0 <= step < len(node.value):
                node = node.value[step]
            else:
                return None
        return node

    def text(self, *path: str | int) -> str | None:
        """Return the string at `path`, or None where there is no string."""
        node = self.get(*path)
        return node.value if node is not None and isinstance(node.value, str) else None

    def entries(self, *path: str | int) -> dict[str, Node]:
        """Return the entries of the mapping at `path`; none where there is no mapping."""
        node = self.get(*path)
        return node.value if node is not None and isinstance(node.value, dict) else {}

    def items(self, *path: str | int) -> list[Node]:
        """Return the items of the list at `path`; none where there is no list."""
        node = self.get(*path)
        return node.value if node is not None and isinstance(node.value, list) else []

    def plain(self) -> Json:
        """Return the value without positions."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def walk(self) -> Iterator[Node]:
        """Yield this node and everything below it."""
        yield self
        for child in (*self.entries().values(), *self.items()):
            yield from child.walk()

    @staticmethod
    def of(value: Json, *, line: int = 0, column: int = 0) -> Node:
        """Return `value` as nodes that all have one place: for values that never were in a file."""
        if isinstance(value, Mapping):
            return Node({key: Node.of(child, line=line, column=column) for key, child in value.items()}, line, column)
        if isinstance(value, list):
            return Node([Node.of(child, line=line, column=column) for child in value], line, column)
        return Node(value, line, column)


@dataclass(frozen=True, slots=True)
class SourceText:
    """A parsed file: its name as people know it, and its root node.

    Attributes:
        foreign: whether another program may have written it. Then members that the standard's schema leaves open are
            skipped, and numbers may have the spellings of other libraries.
    """

    file: str
    root: Node = field(repr=False)
    foreign: bool = False


def exact(value: Json | Sequence[Json]) -> str:
    """Return text that is equal only for equal values of one type: 1, 1.0, true and "1" are four values.

    Python's `==` takes the first three for one, so values from documents are compared by this.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def dotted(path: FieldPath) -> str:
    """Return a path as people write it: `spec.components[0].name`; keys that hold dots are quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
            continue
        step = step if len(step) <= 80 else f"{step[:77]}..."
        if "." in step or "[" in step or not step:
            text += f'["{step}"]'
        else:
            text += f".{step}" if text else step
    return text
