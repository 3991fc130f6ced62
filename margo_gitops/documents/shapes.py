"""What one kind of value looks like in a file: how it is read, written, and described as JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import cast

from margo_gitops.documents.declarations import Items, Keys, Range, Spelled, Text
from margo_gitops.documents.nodes import FieldPath, Json, Node, dotted
from margo_gitops.errors import Finding, Location
from margo_gitops.wording import did_you_mean

INVALID = object()
"""What a shape returns instead of a value after it has added findings."""

MAX_FINDINGS = 100
"""What is shown of one document: a hostile one could have a finding in every value, and agents log what they refuse."""


class FindingList:
    """Collects the findings of one document.

    Attributes:
        older_shape: whether it was upgraded from an older shape, which lacks what only the current one requires.
        foreign: whether another program may have written it (`SourceText.foreign`).
        folder: the folder of the file, which paths in it are relative to; "" where it is not known.
        findings: the first `MAX_FINDINGS`.
        errors: how many of all findings refuse the document.
        omitted: how many findings came after the first `MAX_FINDINGS`.
        known: the values of nodes that were read before without a finding, by the node's identity.
        made: the values of the fields of records that are read now.
    """

    def __init__(self, file: str, *, older_shape: bool = False, folder: str = "", foreign: bool = False) -> None:
        self.file = file
        self.older_shape = older_shape
        self.folder = folder
        self.foreign = foreign
        self.findings: list[Finding] = []
        self.errors = 0
        self.omitted = 0
        self.known: Mapping[int, object] = {}
        self.made: dict[int, object] = {}

    def add(
        self, node: Node, path: FieldPath, message: str, remedy: str = "", *, key: bool = False, severity: str = "error"
    ) -> object:
        """Record a finding at a node (or at its key) and return the marker for "no value"."""
        self.errors += severity == "error"
        if len(self.findings) >= MAX_FINDINGS:
            self.omitted += 1
            return INVALID
        line, column = (node.key_line, node.key_column) if key and node.key_line else (node.line, node.column)
        location = Location(self.file, line or None, column or None)
        self.findings.append(Finding(message, location, dotted(path), remedy, severity))
        return INVALID


class Shape:
    """What one kind of value looks like in a file."""

    json_types: frozenset[str] = frozenset()
    noun = "a value"

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        """Return the typed value, or a marker after adding its findings."""
        raise NotImplementedError

    def write(self, value: object) -> Json:
        """Return the plain value for the writers."""
        return cast("Json", value)

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        """Return the JSON Schema of this value; records add themselves to `definitions`."""
        raise NotImplementedError

    def mismatch(self, node: Node, path: FieldPath, found: FindingList) -> object:
        """Record that the node is of another type."""
        remedy = "quote it" if self.json_types == {"string"} and not isinstance(node.value, (dict, list)) else ""
        if node.value is None:
            remedy = "give it a value, or remove the key"
        return found.add(node, path, f"must be {self.noun}, is {describe(node)}", remedy)


def json_type(node: Node) -> str:
    """Return the JSON Schema type of a node; whole numbers are "integer"."""
    value = node.value
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    names = {str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return names[type(value)]


def describe(node: Node) -> str:
    """Return what a node is in words, with its value where it is short."""
    kind = json_type(node)
    if kind == "object":
        return "a mapping"
    if kind == "array":
        return "a list"
    if kind == "null":
        return "empty"
    text = repr(node.value) if kind != "boolean" else str(node.value).lower()
    article = "an" if kind[0] in "aeiou" else "a"
    return f"{article} {kind} ({text if len(text) <= 60 else text[:57] + '...'})"


class TextShape(Shape):
    json_types = frozenset({"string"})
    noun = "text"

    def __init__(self, rule: Text) -> None:
        self.rule = rule

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return re.compile(self.rule.pattern) if self.rule.pattern else None

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        value = node.value
        if not isinstance(value, str):
            return self.mismatch(node, path, found)
        rule = self.rule
        if len(value) < rule.min_length or (rule.max_length is not None and len(value) > rule.max_length):
            upper = f" to {rule.max_length}" if rule.max_length is not None else " or more"
            return found.add(node, path, f"must have {rule.min_length}{upper} characters, has {len(value)}")
        if self._pattern and not (self._pattern.search(value) and "\n" not in value[-1:]):
            return found.add(node, path, f"{value[:80]!r} is not {rule.what or 'of the pattern ' + rule.pattern}")
        return value

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        schema: dict[str, Json] = {"type": "string"}
        rule = self.rule
        optional: dict[str, Json] = {
            "pattern": rule.pattern,
            "minLength": rule.min_length,
            "maxLength": rule.max_length or 0,
            "format": rule.format,
        }
        schema.update({key: value for key, value in optional.items() if value})
        return schema


class NumberShape(Shape):
    def __init__(self, rule: Range, *, whole: bool) -> None:
        self.rule = rule
        self.whole = whole
        self.json_types = frozenset({"integer"} if whole else {"integer", "number"})
        self.noun = "a whole number" if whole else "a number"

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return self.mismatch(node, path, found)
        low, high = self.rule.minimum, self.rule.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = " and ".join(
                text for text in (f"at least {low}" * (low is not None), f"at most {high}" * (high is not None)) if text
            )
            return found.add(node, path, f"must be {bounds}, is {value}")
        return value

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        schema: dict[str, Json] = {"type": "integer" if self.whole else "number"}
        if self.rule.minimum is not None:
            schema["minimum"] = self.rule.minimum
        if self.rule.maximum is not None:
            schema["maximum"] = self.rule.maximum
        return schema


class BooleanShape(Shape):
    json_types = frozenset({"boolean"})
    noun = "true or false"

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        return node.value if isinstance(node.value, bool) else self.mismatch(node, path, found)

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        return {"type": "boolean"}


class ChoiceShape(Shape):
    json_types = frozenset({"string"})
    noun = "text"

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.choices = choices

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        if not isinstance(node.value, str):
            return self.mismatch(node, path, found)
        if node.value not in self.choices:
            remedy = did_you_mean(node.value, self.choices, "")
            return found.add(node, path, f"{node.value[:80]!r} is not one of {', '.join(self.choices)}", remedy)
        return node.value

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        return {"type": "string", "enum": list(self.choices)}


class ListShape(Shape):
    json_types = frozenset({"array"})
    noun = "a list"

    def __init__(self, item: Shape, rule: Items) -> None:
        self.item = item
        self.rule = rule

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        if not isinstance(node.value, list):
            return self.mismatch(node, path, found)
        if len(node.value) < self.rule.minimum:
            return found.add(node, path, f"must have at least {self.rule.minimum} items, has {len(node.value)}")
        if self.rule.maximum is not None and len(node.value) > self.rule.maximum:
            return found.add(node, path, f"may have at most {self.rule.maximum} items, has {len(node.value)}")
        items = [self.item.read(child, (*path, index), found) for index, child in enumerate(node.value)]
        self._check_unique(node.value, path, found)
        return INVALID if any(item is INVALID for item in items) else tuple(items)

    def _check_unique(self, children: list[Node], path: FieldPath, found: FindingList) -> None:
        seen: set[str] = set()
        for index, child in enumerate(children if self.rule.unique else ()):
            name = child.text(self.rule.unique)
            if name is None:
                continue
            key = name.lower() if self.rule.any_case else name
            if key in seen:
                at = (*path, index, self.rule.unique)
                found.add(child.get(self.rule.unique) or child, at, f"the {self.rule.noun} {key} appears twice")
            seen.add(key)

    def write(self, value: object) -> Json:
        return [self.item.write(item) for item in cast("tuple[object, ...]", value)]

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        schema: dict[str, Json] = {"type": "array", "items": self.item.schema(definitions)}
        if self.rule.minimum:
            schema["minItems"] = self.rule.minimum
        if self.rule.maximum is not None:
            schema["maxItems"] = self.rule.maximum
        return schema


class MapShape(Shape):
    json_types = frozenset({"object"})
    noun = "a mapping"

    def __init__(self, item: Shape, keys: Keys | None) -> None:
        self.item = item
        self.keys = keys

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return re.compile(self.keys.pattern) if self.keys else None

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        if not isinstance(node.value, dict):
            return self.mismatch(node, path, found)
        entries: dict[str, object] = {}
        for key, child in node.value.items():
            if self._pattern and self.keys and not (self._pattern.search(key) and "\n" not in key[-1:]):
                found.add(child, (*path, key), f"the key {key[:80]!r} is not {self.keys.what}", key=True)
                entries[key] = INVALID
                continue
            entries[key] = self.item.read(child, (*path, key), found)
        return INVALID if any(item is INVALID for item in entries.values()) else entries

    def write(self, value: object) -> Json:
        return {key: self.item.write(item) for key, item in cast("Mapping[str, object]", value).items()}

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        schema: dict[str, Json] = {"type": "object", "additionalProperties": self.item.schema(definitions)}
        if self.keys:
            schema["propertyNames"] = {"pattern": self.keys.pattern}
        return schema


class SpelledShape(Shape):
    """A value that a file spells in its own way."""

    def __init__(self, inner: Shape, note: Spelled) -> None:
        self.json_types, self.noun = inner.json_types, inner.noun
        self._inner = inner
        self._note = note

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        held = self._inner.read(node, path, found)
        return held if held is INVALID else self._note.read(held, found.folder)

    def write(self, value: object) -> Json:
        return self._note.write(value)

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        return self._inner.schema(definitions)


class AnyShape(Shape):
    """Any JSON value, kept as it is."""

    json_types = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        return node.plain()

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        return {}


class UnionShape(Shape):
    """The member that takes the node's type; members do not overlap."""

    def __init__(self, members: tuple[Shape, ...], *, nullable: bool) -> None:
        self.members = members
        self.nullable = nullable
        self.json_types = frozenset().union(*(member.json_types for member in members))
        self.noun = " or ".join(dict.fromkeys(member.noun for member in members))

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        if node.value is None and self.nullable:
            return None
        kind = json_type(node)
        for member in self.members:
            if kind in member.json_types:
                return member.read(node, path, found)
        return self.mismatch(node, path, found)

    def write(self, value: object) -> Json:
        if value is None or isinstance(value, (str, int, float)):
            return value
        wanted = "array" if isinstance(value, tuple) else "object"
        member = next(member for member in self.members if wanted in member.json_types)
        return member.write(value)

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        choices: list[Json] = [member.schema(definitions) for member in self.members]
        if self.nullable:
            choices.append({"type": "null"})
        return {"anyOf": choices} if len(choices) > 1 else cast("dict[str, Json]", choices[0])
