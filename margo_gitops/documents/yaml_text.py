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
from typing import TYPE_CHECKING, Any, NoReturn, Self

import yaml

from margo_gitops.documents.nodes import DEFAULT_BOUNDS, Bounds, Json, Node, Scalar, SourceText, decoded
from margo_gitops.documents.yaml_mistakes import not_yaml
from margo_gitops.documents.yaml_scalars import AmbiguousScalarError, read_plain, write_number, write_text
from margo_gitops.errors import Location, UnreadableDocument, UnwritableValue
from margo_gitops.values import dataclass
from margo_gitops.wording import shortened

if TYPE_CHECKING:
    Loader = yaml.SafeLoader
else:
    Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NEVER_RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_yaml(content: bytes, file: str, bounds: Bounds = DEFAULT_BOUNDS, *, foreign: bool = False) -> SourceText:
    """Return the one document of a YAML file as nodes (UnreadableDocument: the broken rule, with line and column)."""
    _check_characters(decoded(content, file, bounds), file)
    loader = Loader(content)
    try:
        return SourceText(file, _EventReader(loader, file, bounds, foreign=foreign).document(), foreign)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise not_yaml(error, content, file) from error
    finally:
        loader.dispose()


def _check_characters(text: str, file: str) -> None:
    if raw := _NEVER_RAW.search(text):
        place = Location(file, text.count("\n", 0, raw.start()) + 1, raw.start() - text.rfind("\n", 0, raw.start()))
        code = ord(raw.group())
        raise UnreadableDocument(
            f"the character U+{code:04X} is not allowed",
            where=place,
            remedy=f"remove it, or write it as \\u{code:04x} in double quotes",
        )


class _EventReader:
    """Turns parser events into nodes; recursion is bounded by `Bounds.depth`."""

    def __init__(self, loader: Any, file: str, bounds: Bounds, *, foreign: bool) -> None:  # noqa: ANN401  # PyYAML's two loaders share no base
        self._next = loader.get_event
        self._file = file
        self._bounds = bounds
        self._foreign = foreign
        self._nodes = 0

    def document(self) -> Node:
        self._next()  # stream start
        start = self._next()
        if isinstance(start, yaml.StreamEndEvent):
            raise UnreadableDocument(
                "is empty", where=Location(self._file), remedy="write the document, or delete the file"
            )
        if start.version or start.tags:
            self._refuse(start, "directives (%YAML, %TAG) are not allowed", "remove the line")
        root = self._node(self._next(), 0)
        self._next()  # document end
        rest = self._next()
        if not isinstance(rest, yaml.StreamEndEvent):
            self._refuse(rest, "a second document starts here", "one document a file: move it to a file of its own")
        return root

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

    def _scalar(self, event: Any) -> str | int | float | bool | None:  # noqa: ANN401
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
            return read_plain(text, foreign=self._foreign)
        except AmbiguousScalarError as error:
            self._refuse(event, f"{shortened(text, 40)} {error.why}", error.remedy)

    def _refuse(self, event: Any, what: str, remedy: str) -> NoReturn:  # noqa: ANN401
        mark = event.start_mark
        raise UnreadableDocument(what, where=Location(self._file, mark.line + 1, mark.column + 1), remedy=remedy)


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
