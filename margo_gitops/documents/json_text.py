"""Read JSON that strangers wrote (RFC 8259), and write it as exact bytes (RFC 8785).

JSON-1  Read: UTF-8 without a byte order mark, one value, no key twice, nesting and size bounded, integers exact and
        within 64 bits, no NaN or Infinity, no lone surrogates; every value with its position.
JSON-2  Written: keys sorted, no white space, shortest escapes. Margo names RFC 8785 for manifests, so that equal
        manifests have equal ETags. Integers are written in full up to 64 bits: RFC 8785 would pass them through a
        double and lose `manifestVersion` above 2^53, which Margo allows up to 2^64 - 1.
JSON-3  What is written in this form needs no positions: it is read by `json`, and counts if it gives the same bytes
        when it is written again. So all that JSON-1 refuses is refused, at a fraction of the cost.
"""

from __future__ import annotations

import json
import math
import re
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]  # public, but not in the stubs
from typing import NoReturn

from margo_gitops.documents.nodes import DEFAULT_BOUNDS, Bounds, Json, Node, SourceText, decoded
from margo_gitops.documents.yaml_scalars import MAX_INTEGER, MIN_INTEGER
from margo_gitops.errors import Location, UnreadableDocument, UnwritableValue
from margo_gitops.wording import json_text

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None}
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(content: bytes, file: str, bounds: Bounds = DEFAULT_BOUNDS, *, foreign: bool = False) -> SourceText:
    """Return a JSON document as nodes (UnreadableDocument: which rule of this module is broken, line and column)."""
    return SourceText(file, _Reader(decoded(content, file, bounds), file, bounds).document(), foreign)


def exact_value(content: bytes, bounds: Bounds = DEFAULT_BOUNDS) -> Json:
    """Return what `write_json` would write as these bytes, if its keys and numbers are right: `exact_node` (JSON-3).

    Raises:
        ValueError: other bytes. `read_json` reads them, or says what is wrong.
    """
    # At most so many values: `json` itself has no bound.
    most = 1 + content.count(b",") + content.count(b"[") + content.count(b"{")
    if len(content) > bounds.size or most > bounds.nodes:
        raise ValueError("too large")
    try:
        value: Json = json.loads(content.decode())
        if write_sorted_json(value) != content:
            raise ValueError("other bytes")
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def exact_node(value: Json, bounds: Bounds = DEFAULT_BOUNDS) -> Node:
    """Return an `exact_value` as nodes without places (ValueError: `write_json` would write it otherwise; too deep)."""
    return _exact_node(value, bounds.depth)


def _exact_node(value: Json, depth: int) -> Node:
    if depth < 0:
        raise ValueError("nested too deep")
    if type(value) is str:
        return Node(value)
    if isinstance(value, dict):
        names = list(value)
        if names != sorted(names, key=None if "".join(names).isascii() else _utf_16):
            raise ValueError("keys are not in order")
        return Node({name: _exact_node(child, depth - 1) for name, child in value.items()})
    if isinstance(value, list):
        return Node([_exact_node(child, depth - 1) for child in value])
    if type(value) is float and type(_number(value)) is int:
        raise ValueError("a whole number with a point")
    if type(value) is int and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise ValueError("more than 64 bits")
    return Node(value)


class _Reader:
    """A recursive descent over the text; recursion is bounded by `Bounds.depth`."""

    def __init__(self, text: str, file: str, bounds: Bounds) -> None:
        self._text = text
        self._file = file
        self._bounds = bounds
        self._nodes = 0
        self._at = 0
        # Positions are asked for in rising order, so lines are counted once.
        self._line = 1
        self._line_start = 0
        self._counted = 0

    def document(self) -> Node:
        node = self._value(0)
        self._skip_space()
        if self._at != len(self._text):
            self._refuse("more text follows the value")
        return node

    def _value(self, depth: int) -> Node:
        self._skip_space()
        self._nodes += 1
        if self._nodes > self._bounds.nodes:
            self._refuse(f"more than {self._bounds.nodes} values")
        if depth > self._bounds.depth:
            self._refuse(f"nested deeper than {self._bounds.depth} levels")
        line, column = self._position()
        node = Node(None, line, column)
        character = self._text[self._at : self._at + 1]
        if character == "{":
            node.value = self._object(depth)
        elif character == "[":
            node.value = self._array(depth)
        elif character == '"':
            node.value = self._string()
        else:
            node.value = self._scalar()
        return node

    def _object(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        self._at += 1
        if self._accept("}"):
            return entries
        while True:
            self._skip_space()
            line, column = self._position()
            if self._text[self._at : self._at + 1] != '"':
                self._refuse("a key in double quotes is missing")
            key = self._string()
            if key in entries:
                self._refuse(f"the key {key!r} appears twice, first in line {entries[key].key_line}", (line, column))
            if not self._accept(":"):
                self._refuse("a colon is missing")
            value = self._value(depth + 1)
            value.key_line, value.key_column = line, column
            entries[key] = value
            if self._accept("}"):
                return entries
            if not self._accept(","):
                self._refuse("a comma or closing brace is missing")

    def _array(self, depth: int) -> list[Node]:
        items: list[Node] = []
        self._at += 1
        if self._accept("]"):
            return items
        while True:
            items.append(self._value(depth + 1))
            if self._accept("]"):
                return items
            if not self._accept(","):
                self._refuse("a comma or closing bracket is missing")

    def _string(self) -> str:
        try:
            text: str
            text, end = scanstring(self._text, self._at + 1, True)
        except JSONDecodeError as error:
            self._at = error.pos
            self._refuse(error.msg)
        if _SURROGATE.search(text):
            self._refuse("the text holds a lone surrogate")
        self._at = end
        return text

    def _scalar(self) -> int | float | bool | None:
        for word, value in _WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return value
        match = _NUMBER.match(self._text, self._at)
        if not match:
            self._refuse("a value is missing")
        integer, fraction, exponent = match.groups()
        if fraction is None and exponent is None:
            number: int | float = int(integer) if len(integer) < 32 else MAX_INTEGER + 1
            if not MIN_INTEGER <= number <= MAX_INTEGER:
                self._refuse("the integer needs more than 64 bits")
        else:
            number = float(match.group())
            if not math.isfinite(number):
                self._refuse("the number is out of range")
        self._at = match.end()
        return number

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _accept(self, character: str) -> bool:
        self._skip_space()
        if self._text.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def _position(self) -> tuple[int, int]:
        newlines = self._text.count("\n", self._counted, self._at)
        if newlines:
            self._line += newlines
            self._line_start = self._text.rindex("\n", self._counted, self._at) + 1
        self._counted = self._at
        return self._line, self._at - self._line_start + 1

    def _refuse(self, why: str, place: tuple[int, int] | None = None) -> NoReturn:
        line, column = place or self._position()
        raise UnreadableDocument(
            "not valid JSON", where=Location(self._file, line, column), why=[why], remedy="fix the syntax here"
        )


_PLAIN_FROM, _PLAIN_UNTIL = 1e-4, 1e16
"""Between these, Python writes a float without an exponent."""


def write_json(value: Json) -> bytes:
    """Return the exact bytes of a JSON document, without a newline at the end.

    Raises:
        UnwritableValue: a float below 0.0001 or above 10^16, an integer beyond 64 bits, or text with a lone surrogate.
    """
    try:
        return write_sorted_json(_ordered(value))
    except (ValueError, UnicodeEncodeError) as error:
        raise UnwritableValue("a value cannot be written as JSON", why=[str(error)]) from error


def write_sorted_json(value: Json) -> bytes:
    """Return what `write_json` does for a value whose keys are sorted, and whose numbers are whole, of 64 bits."""
    return _ENCODER.encode(value).encode()


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
"""`json.dumps` would make one for each value."""


def pretty_json(value: Json) -> str:
    """Return JSON as people read it: indented, with a newline at the end."""
    return f"{json_text(value, indent=2)}\n"


def _ordered(value: Json) -> Json:
    if isinstance(value, dict):
        # RFC 8785 section 3.2.3: keys are sorted by their UTF-16 code units.
        return {key: _ordered(value[key]) for key in sorted(value, key=_utf_16)}
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise ValueError(f"{value} needs more than 64 bits")
    return value


def _utf_16(key: str) -> bytes:
    return key.encode("utf-16-be")


def _number(value: float) -> Json:
    """Return a number that `json` writes as RFC 8785 section 3.2.2.3 has it, where Python's form is that one."""
    if abs(value) >= _PLAIN_UNTIL or 0 < abs(value) < _PLAIN_FROM or value != value:
        raise ValueError(f"{value} is too large or too small a number")
    return int(value) if value.is_integer() else value
