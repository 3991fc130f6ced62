"""A compose file as Compose reads it: YAML with anchors, aliases and merge keys, each value with its place.

The file is a stranger's: its depth and its values are counted, those of aliases each time, before any of it is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import yaml

from margo_gitops.documents.yaml_events import Loader
from margo_gitops.documents.yaml_mistakes import not_yaml
from margo_gitops.errors import Location, UnreadableDocument
from margo_gitops.values import dataclass

MAX_VALUES = 50_000
MAX_DEPTH = 32

Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | bool | None"

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9A-Fa-f]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
# Another tag may hide what a value or a key is to Compose: `!!binary aW5jbHVkZQ==` is `include`.
_TAGS = re.compile(r"tag:yaml\.org,2002:(str|int|float|bool|null|map|seq|merge|timestamp|value)|!reset|!override|!")
_PLAIN: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class ComposeText:
    """A compose file.

    Attributes:
        value: its content.
        places: where each value is, by its path; fewer than the values if the file is in an archive.
    """

    file: str
    value: Value
    places: dict[tuple[str | int, ...], tuple[int, int]]

    def at(self, path: tuple[str | int, ...]) -> Location:
        """Return where a value is written; where it is not known, where the nearest one around it is."""
        while path and path not in self.places:
            path = path[:-1]
        line, column = self.places.get(path, (None, None))
        return Location(self.file, line, column)

    def leaves(self) -> Iterator[tuple[tuple[str | int, ...], Value]]:
        """Yield every value that is neither a mapping nor a list, with its path."""
        waiting: list[tuple[tuple[str | int, ...], Value]] = [((), self.value)]
        while waiting:
            path, value = waiting.pop()
            if isinstance(value, dict):
                waiting += [((*path, key), each) for key, each in reversed(value.items())]
            elif isinstance(value, list):
                waiting += [((*path, at), each) for at, each in reversed(list(enumerate(value)))]
            else:
                yield path, value


def plain(value: Value) -> dict[str, Value]:
    """Return a mapping; an empty one for another value."""
    return value if isinstance(value, dict) else {}


def mapping(value: Value, name: str) -> dict[str, Value]:
    """Return the mapping below a key; an empty one if it does not exist."""
    return plain(plain(value).get(name))


def read_compose(content: bytes, file: str, *, in_archive: bool = False) -> ComposeText:
    """Return a compose file.

    Args:
        content: its bytes.
        file: its name, for messages.
        in_archive: its lines mean nothing to an editor.

    Raises:
        UnreadableDocument: it is not YAML as Compose reads it, or too large.
    """
    try:
        _check_depth(content, file)
        loader = Loader(content)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
        builder = _Builder(file)
        value = builder.build(root, ()) if root is not None else None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        refused = not_yaml(error, content, file)
        if in_archive:
            refused.where = Location(file)
        raise refused from error
    return ComposeText(file, value, {} if in_archive else builder.places)


def _check_depth(content: bytes, file: str) -> None:
    """Refuse what is nested deeper than the builder of nodes, which calls itself, may go."""
    loader: Any = Loader(content)  # PyYAML has no types for events
    depth = count = 0
    try:
        while (event := loader.get_event()) is not None:
            count += 1
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or count > 2 * MAX_VALUES:
                raise UnreadableDocument(
                    f"has more than {MAX_DEPTH} levels or {MAX_VALUES} values", where=Location(file)
                )
    finally:
        loader.dispose()


class _Builder:
    """Builds values from nodes, and remembers where each came from."""

    def __init__(self, file: str) -> None:
        self.places: dict[tuple[str | int, ...], tuple[int, int]] = {}
        self._file = file
        self._count = 0

    def build(self, node: Any, path: tuple[str | int, ...]) -> Value:  # noqa: ANN401  # PyYAML has no types
        self._count += 1
        mark = node.start_mark
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            where = Location(self._file, mark.line + 1)
            raise UnreadableDocument("its aliases make it too large", where=where)
        self.places[path] = (mark.line + 1, mark.column + 1)
        _check_tag(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(each, (*path, at)) for at, each in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return node.value if node.style else _plain_value(node.value)

    def _mapping(self, node: Any, path: tuple[str | int, ...]) -> dict[str, Value]:  # noqa: ANN401
        own: dict[str, Value] = {}
        merged: dict[str, Value] = {}
        for key, value in node.value:
            _check_tag(key)
            if key.value == "<<" and not key.style:
                sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for source in sources:
                    built = self.build(source, path)
                    if not isinstance(built, dict):
                        raise yaml.MarkedYAMLError(problem="a merge key needs a mapping", problem_mark=key.start_mark)
                    merged = {**built, **merged}
            elif not isinstance(key, yaml.ScalarNode) or key.value in own:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r:.60} appears twice", problem_mark=key.start_mark
                )
            else:
                own[key.value] = self.build(value, (*path, key.value))
                if not isinstance(value, yaml.ScalarNode):
                    self.places[*path, key.value] = (key.start_mark.line + 1, key.start_mark.column + 1)
        return {**merged, **own}


def _check_tag(node: Any) -> None:  # noqa: ANN401
    hidden = isinstance(node, yaml.ScalarNode) and node.style and node.tag == "tag:yaml.org,2002:merge"
    if hidden or not _TAGS.fullmatch(node.tag):
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag!r:.60} is not Compose's", problem_mark=node.start_mark)


def _plain_value(text: str) -> Value:
    """Return what a scalar without quotes is to Compose (YAML 1.2, core schema)."""
    if text.lower() in _PLAIN and text in (text.lower(), text.title(), text.upper()):
        return _PLAIN[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
