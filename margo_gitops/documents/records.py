"""One declaration per document: a frozen dataclass whose annotations say what a file may hold.

From the same declaration come the reader (every finding in one run, with line and column), the writer (plain values in
declared order) and the JSON Schema in `schemas/`. Wire names are the camelCase of the attribute names.

    @dataclass(frozen=True, slots=True)
    class Cpu:
        cores: Annotated[float, About("Cores of this CPU."), Range(minimum=0)]
        architecture: Literal["amd64", "arm64"] | None = None

    read(Cpu, read_yaml(content, "cpu.yaml"))

The standard closes the schema of records with a slot for `x-<name>-extensions`, and leaves the others open. So in what
another program wrote (`SourceText.foreign`), an unknown key is an error in the former and skipped in the latter.

A field without a default is required. A class attribute `CURRENT_REQUIRES` names optional fields that are required in
the current shape of a Margo document but absent from older ones. `X | None` with the default None may be absent;
without a default it must be present and may be null. A method `problems(self)` yields what single fields cannot say.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Hashable, Iterator, Mapping
from functools import cache, cached_property
from typing import Annotated, Literal, TypeVar, cast, get_args, get_origin

from margo_gitops.documents.declarations import (
    API_VERSION,
    EXTENSION_KEY,
    EXTENSION_PATTERN,
    About,
    ExtensionSlot,
    Items,
    Keys,
    OtherKeysSlot,
    OwnKind,
    Range,
    Spelled,
    Text,
    Wire,
)
from margo_gitops.documents.json_text import exact_node, exact_value, read_json, write_json
from margo_gitops.documents.nodes import DEFAULT_BOUNDS, Bounds, FieldPath, Json, Node, SourceText
from margo_gitops.documents.shapes import (
    INVALID,
    AnyShape,
    BooleanShape,
    ChoiceShape,
    FindingList,
    ListShape,
    MapShape,
    NumberShape,
    Shape,
    SpelledShape,
    TextShape,
    UnionShape,
    describe,
)
from margo_gitops.errors import Finding, InvalidDocument, Location, UnreadableDocument
from margo_gitops.values import MISSING, Field, annotations_of, dataclass, field, fields, is_dataclass
from margo_gitops.wording import did_you_mean

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Field:
    attribute: str
    wire: str
    shape: Shape
    required: bool
    currently_required: bool
    default: object
    about: About | None
    fixed: bool = False


@dataclass(slots=True)
class _Slots:
    """Where a record keeps what a file says: its fields, extensions, and keys that the standard leaves open."""

    fields: list[_Field] = field(default_factory=list)
    known: frozenset[str] = frozenset()
    extensions: str = ""
    others: str = ""


class RecordShape(Shape):
    """A mapping with known keys, as a frozen dataclass."""

    json_types = frozenset({"object"})
    noun = "a mapping"

    def __init__(self, cls: type) -> None:
        self.cls = cls

    @cached_property
    def slots(self) -> _Slots:
        """The record's fields; found on first use, so that a record may hold itself."""
        slots = _Slots(_header(self.cls) if issubclass(self.cls, OwnKind) else [])
        hints = _hints(self.cls)
        for item in fields(self.cls):
            hint = hints[item.name]
            notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
            if _note(notes, ExtensionSlot):
                slots.extensions = item.name
            elif _note(notes, OtherKeysSlot):
                slots.others = item.name
            else:
                slots.fields.append(_field(self.cls, item, hint, notes))
        slots.known = frozenset(item.wire for item in slots.fields)
        return slots

    def read(self, node: Node, path: FieldPath, found: FindingList) -> object:
        entries = node.value
        if not isinstance(entries, dict):
            return self.mismatch(node, path, found)
        before, slots = found.errors, self.slots
        values: dict[str, object] = {}
        for item in slots.fields:
            child = entries.get(item.wire)
            if child is not None:
                value = found.known.get(id(child)) or item.shape.read(child, (*path, item.wire), found)
                found.made[id(child)] = value
                if not item.fixed:
                    values[item.attribute] = value
            elif item.required or (item.currently_required and not found.older_shape):
                found.add(node, path, f"{item.wire} is missing", f"add {item.wire}")
        if not slots.known.issuperset(entries):
            self._read_others(entries, values, path, found)
        if found.errors > before:
            return INVALID
        record = self.cls(**values)
        for problem in record.problems() if hasattr(record, "problems") else ():
            at = node.get(*problem.path) or node
            found.add(at, (*path, *problem.path), problem.message, problem.remedy, severity=problem.severity)
        return record

    def _read_others(
        self, entries: dict[str, Node], values: dict[str, object], path: FieldPath, found: FindingList
    ) -> None:
        extensions: dict[str, Json] = {}
        others: dict[str, Json] = {}
        for key, child in entries.items():
            if key in self.slots.known:
                continue
            if self.slots.extensions and EXTENSION_KEY.fullmatch(key):
                if not isinstance(child.value, dict):
                    found.add(child, (*path, key), f"an extension must be a mapping, is {describe(child)}")
                    continue
                extensions[key] = child.plain()
            elif self.slots.others:
                others[key] = child.plain()
            elif self.slots.extensions or not found.foreign:
                every = f"known here: {', '.join(sorted(self.slots.known))}"
                remedy = did_you_mean(key, self.slots.known, every)
                found.add(child, (*path, key), f"unknown key {key[:80]!r}", remedy, key=True)
        if extensions:
            values[self.slots.extensions] = extensions
        if others:
            values[self.slots.others] = others

    def write(self, value: object) -> Json:
        plain: dict[str, Json] = {}
        for item in self.slots.fields:
            attribute = getattr(value, item.attribute)
            if item.required or attribute != item.default:
                plain[item.wire] = item.shape.write(attribute)
        for slot in (self.slots.others, self.slots.extensions):
            if slot:
                plain.update(getattr(value, slot))
        return plain

    def schema(self, definitions: dict[str, Json]) -> dict[str, Json]:
        name = self.cls.__name__
        if name not in definitions:
            definitions[name] = {}  # a placeholder, so that a record may hold itself
            definitions[name] = self._definition(definitions)
        return {"$ref": f"#/$defs/{name}"}

    def _definition(self, definitions: dict[str, Json]) -> dict[str, Json]:
        properties: dict[str, Json] = {}
        for item in self.slots.fields:
            schema = item.shape.schema(definitions)
            if item.about:
                schema["description"] = item.about.text
                if item.about.examples:
                    schema["examples"] = list(item.about.examples)
            if not item.required and isinstance(item.default, (str, int, float, bool)):
                schema["default"] = item.shape.write(item.default)
            properties[item.wire] = schema
        definition: dict[str, Json] = {
            "type": "object",
            "title": self.cls.__name__,
            "description": _summary(self.cls),
            "properties": properties,
            "required": [item.wire for item in self.slots.fields if item.required or item.currently_required],
        }
        if self.slots.extensions:
            definition["patternProperties"] = {EXTENSION_PATTERN: {"type": "object"}}
        if not self.slots.others:
            definition["additionalProperties"] = False
        return definition


def _hints(cls: type) -> dict[str, object]:
    """Return what the annotations of a record mean, as `typing.get_type_hints` does in three times the time."""
    hints: dict[str, object] = {}
    for each in reversed(cls.__mro__):
        if not (declared := annotations_of(each)):
            continue
        known = vars(sys.modules[each.__module__])
        meant = eval(f"({','.join(declared.values())},)", known)  # noqa: S307  # our own source
        hints.update(zip(declared, meant, strict=True))
    return hints


def _header(cls: type) -> list[_Field]:
    """Return the fields that each document of this project begins with."""
    return [
        _Field(attribute, camel_case(attribute), ChoiceShape((value,)), True, False, MISSING, About(text), fixed=True)
        for attribute, value, text in (
            ("api_version", API_VERSION, "Version of this project's kinds."),
            ("kind", cls.__name__, "What this document is."),
        )
    ]


def _field(cls: type, item: Field[object], hint: object, notes: tuple[object, ...]) -> _Field:
    default = item.default if item.default_factory is MISSING else item.default_factory()
    wire = _note(notes, Wire)
    name = wire.name if wire else camel_case(item.name)
    return _Field(
        attribute=item.name,
        wire=name,
        shape=shape_of(hint, optional=default is None),
        required=default is MISSING,
        currently_required=name in getattr(cls, "CURRENT_REQUIRES", ()),
        default=default,
        about=_note(notes, About),
    )


def _summary(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def camel_case(name: str) -> str:
    """Return `snake_case` as `camelCase`."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def shape_of(hint: object, *, optional: bool = False) -> Shape:
    """Return the shape that a type annotation declares.

    Args:
        optional: whether None means "absent", so that null is not accepted in the file.
    """
    notes: tuple[object, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        notes = tuple(rest)
    if (spelled := _note(notes, Spelled)) is not None:
        return SpelledShape(shape_of(spelled.hint), spelled)
    if hint == Json:
        return AnyShape()
    origin = get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _union_of(get_args(hint), notes, optional=optional)
    return _plain_shape_of(hint, origin, notes)


def _union_of(members: tuple[object, ...], notes: tuple[object, ...], *, optional: bool) -> Shape:
    shapes = tuple(
        shape_of(Annotated[member, *notes] if notes else member) for member in members if member is not type(None)
    )
    nullable = type(None) in members and not optional
    if len(shapes) == 1 and not nullable:
        return shapes[0]
    return UnionShape(shapes, nullable=nullable)


def _note(notes: tuple[object, ...], kind: type[T]) -> T | None:
    return next((note for note in notes if isinstance(note, kind)), None)


def _plain_shape_of(hint: object, origin: object, notes: tuple[object, ...]) -> Shape:
    if hint is str or getattr(hint, "__supertype__", None) is str:
        return TextShape(_note(notes, Text) or Text())
    if hint is bool:
        return BooleanShape()
    if hint in (int, float):
        return NumberShape(_note(notes, Range) or Range(), whole=hint is int)
    if origin is Literal:
        return ChoiceShape(tuple(get_args(hint)))
    if origin is tuple:
        return ListShape(shape_of(get_args(hint)[0]), _note(notes, Items) or Items())
    if origin is Mapping:
        return MapShape(shape_of(get_args(hint)[1]), _note(notes, Keys))
    if isinstance(hint, type) and is_dataclass(hint):
        return record_shape(hint)
    raise TypeError(f"no shape for {hint!r}")


def record_shape(cls: type) -> RecordShape:
    """Return the shape of a record class; built once."""
    return _record_shape(cast("Hashable", cls))


@cache
def _record_shape(cls: Hashable) -> RecordShape:
    return RecordShape(cast("type", cls))


def find(
    cls: type[T],
    source: SourceText,
    *,
    older_shape: bool = False,
    folder: str = "",
    known: Mapping[int, object] | None = None,
    made: dict[int, object] | None = None,
) -> tuple[T | None, list[Finding]]:
    """Return the document as a value, or None where it is invalid, and every finding, warnings too.

    Args:
        cls: the record class of the document's kind.
        source: the document as read, in its current shape.
        older_shape: whether it was upgraded from an older shape of the standard.
        folder: the folder that paths in the document are relative to.
        known: the values of nodes that were read before without a finding, by the node's identity.
        made: gets the values of this document's nodes.
    """
    found = FindingList(source.file, older_shape=older_shape, folder=folder, foreign=source.foreign)
    found.known, found.made = known or {}, {} if made is None else made
    value = record_shape(cls).read(source.root, (), found)
    findings = found.findings
    if found.omitted:
        severity = "error" if found.errors else "warning"
        findings.append(
            Finding(f"{found.omitted} more findings are not shown", Location(source.file), severity=severity)
        )
    return (None if found.errors else cast("T", value)), findings


def read(cls: type[T], source: SourceText) -> T:
    """Return the document as a value (InvalidDocument: with every finding of the document)."""
    value, findings = find(cls, source)
    if value is None:
        errors = [finding for finding in findings if finding.severity == "error"]
        raise InvalidDocument(f"not a valid {cls.__name__}", errors, where=Location(source.file))
    return value


def read_ours(cls: type[T], content: bytes, file: str, bounds: Bounds = DEFAULT_BOUNDS, *, exact: bool = False) -> T:
    """Return a JSON document that this project writes: several times faster than `read_json` where it is exact.

    Args:
        exact: refuse other bytes than `write_json` makes (RFC 8785).

    Raises:
        UnreadableDocument, InvalidDocument: as `read_json` and `read`, with the same places.
    """
    try:
        value = find(cls, SourceText(file, exact_node(exact_value(content, bounds), bounds)))[0]
    except ValueError:
        value = None
    if value is not None:
        return value
    source = read_json(content, file, bounds)
    if exact and write_json(source.root.plain()) != content:
        raise UnreadableDocument("the document is not in its exact form (RFC 8785)", where=Location(file))
    return read(cls, source)


def write(value: object) -> dict[str, Json]:
    """Return a record as plain values in declared order; fields that hold their default are left out."""
    return cast("dict[str, Json]", record_shape(type(value)).write(value))


def iterate_fields(cls: type) -> Iterator[tuple[str, str, bool]]:
    """Yield (wire name, description, required) of a record's fields, for the reference documentation."""
    for item in record_shape(cls).slots.fields:
        yield item.wire, item.about.text if item.about else "", item.required
