"""Read any YAML by PyYAML's parser, and keep the rules YAML-2 to YAML-6 (`documents/yaml_text.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import yaml

from margo_gitops.documents.nodes import Bounds, Node, Scalar
from margo_gitops.documents.yaml_mistakes import not_yaml
from margo_gitops.documents.yaml_scalars import AmbiguousScalarError, read_plain
from margo_gitops.errors import Location, UnreadableDocument
from margo_gitops.wording import shortened

if TYPE_CHECKING:
    Loader = yaml.SafeLoader
else:
    Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

T = TypeVar("T")

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_events(content: bytes, file: str, bounds: Bounds, *, foreign: bool) -> Node:
    """Return the one document of a YAML file as nodes (UnreadableDocument: the broken rule, with line and column)."""
    return _read(content, file, bounds, lambda text: read_plain(text, foreign=foreign), _EventReader.document)


def read_stream(content: bytes, file: str, bounds: Bounds, plain: Callable[[str], Scalar]) -> list[Node]:
    """Return all documents of a YAML file as nodes, without those that are empty (UnreadableDocument: as above).

    Args:
        bounds: of all of them.
        plain: returns the value of a plain scalar (AmbiguousScalarError: it is refused).
    """
    return _read(content, file, bounds, plain, _EventReader.documents)


def _read(
    content: bytes, file: str, bounds: Bounds, plain: Callable[[str], Scalar], read: Callable[[_EventReader], T]
) -> T:
    loader = Loader(content)
    try:
        return read(_EventReader(loader, file, bounds, plain))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise not_yaml(error, content, file) from error
    finally:
        loader.dispose()


class _EventReader:
    """Turns parser events into nodes; recursion is bounded by `Bounds.depth`."""

    def __init__(self, loader: Any, file: str, bounds: Bounds, plain: Callable[[str], Scalar]) -> None:  # noqa: ANN401  # PyYAML's two loaders share no base
        self._next = loader.get_event
        self._file = file
        self._bounds = bounds
        self._plain = plain
        self._nodes = 0

    def documents(self) -> list[Node]:
        self._next()  # stream start
        found: list[Node] = []
        while not isinstance(start := self._next(), yaml.StreamEndEvent):
            self._check_start(start)
            found.append(self._node(self._next(), 0))
            self._next()  # document end
        return [each for each in found if each.value is not None]

    def document(self) -> Node:
        self._next()  # stream start
        start = self._next()
        if isinstance(start, yaml.StreamEndEvent):
            raise UnreadableDocument(
                "is empty", where=Location(self._file), remedy="write the document, or delete the file"
            )
        self._check_start(start)
        root = self._node(self._next(), 0)
        self._next()  # document end
        rest = self._next()
        if not isinstance(rest, yaml.StreamEndEvent):
            self._refuse(rest, "a second document starts here", "one document a file: move it to a file of its own")
        return root

    def _check_start(self, start: Any) -> None:  # noqa: ANN401
        if start.version or start.tags:
            self._refuse(start, "directives (%YAML, %TAG) are not allowed", "remove the line")

    def _node(self, event: Any, depth: int) -> Node:  # noqa: ANN401
        self._nodes += 1
        if self._nodes > self._bounds.nodes:
            self._refuse(event, f"more than {self._bounds.nodes} values", "split the document")
        if depth > self._bounds.depth:
            self._refuse(event, f"nested deeper than {self._bounds.depth} levels", "flatten the document")
        if type(event) is yaml.AliasEvent:
            self._refuse(event, f"the alias *{event.anchor} is not allowed", "write the value out")
        if event.anchor is not None:
            self._refuse(event, f"the anchor &{event.anchor} is not allowed", "write the value out where it is used")
        mark = event.start_mark
        if type(event) is yaml.ScalarEvent:
            return Node(self._scalar(event), mark.line + 1, mark.column + 1)
        if event.tag is not None:
            self._refuse(event, f"the tag {event.tag} is not allowed", "remove the tag")
        if type(event) is yaml.SequenceStartEvent:
            return Node(self._sequence(depth), mark.line + 1, mark.column + 1)
        return Node(self._mapping(depth), mark.line + 1, mark.column + 1)

    def _sequence(self, depth: int) -> list[Node]:
        items: list[Node] = []
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            items.append(self._node(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while type(event := self._next()) is not yaml.MappingEndEvent:
            key = self._node(event, depth + 1)
            if not isinstance(key.value, str):
                self._refuse_key(event, key)
            if key.value in entries:
                first = entries[key.value].key_line
                self._refuse(event, f"the key {key.value!r} appears twice, first in line {first}", "remove one of them")
            value = self._node(self._next(), depth + 1)
            value.key_line, value.key_column = key.line, key.column
            entries[key.value] = value
        return entries

    def _refuse_key(self, event: Any, key: Node) -> NoReturn:  # noqa: ANN401
        if isinstance(key.value, dict):
            # `{{ x }}` is a mapping as the key of a mapping to YAML.
            self._refuse(
                event,
                "this is a template that was not filled in, like {{ x }}, or a mapping as a key",
                "fill the template in; if the text is meant, quote it",
            )
        self._refuse(event, "a key must be text", "quote the key")

    def _scalar(self, event: Any) -> Scalar:  # noqa: ANN401
        if event.tag is not None:
            self._refuse(
                event, f"the tag {event.tag} is not allowed", "remove the tag; quote the value to make it text"
            )
        text: str = event.value
        if event.style:  # quoted, literal or folded: always text
            if _SURROGATE.search(text):
                self._refuse(event, "the text holds a lone surrogate", "write the character itself")
            return text
        try:
            return self._plain(text)
        except AmbiguousScalarError as error:
            self._refuse(event, f"{shortened(text, 40)} {error.why}", error.remedy)

    def _refuse(self, event: Any, what: str, remedy: str) -> NoReturn:  # noqa: ANN401
        mark = event.start_mark
        raise UnreadableDocument(what, where=Location(self._file, mark.line + 1, mark.column + 1), remedy=remedy)
