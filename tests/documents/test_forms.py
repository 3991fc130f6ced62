"""A document that is read by the form of another one says what the parser says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents import forms
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.declarations import Range, Text
from margo_gitops.documents.forms import find_alike
from margo_gitops.documents.records import find
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import UnreadableDocument
from margo_gitops.values import dataclass, field


@dataclass(frozen=True, slots=True)
class Part:
    name: Annotated[str, Text(pattern="^[a-z0-9-]+$", what="a name", max_length=8)]
    size: Annotated[int, Range(maximum=10)] = 1
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Whole:
    first: Part
    parts: tuple[Part, ...] = ()
    rest: Mapping[str, ParameterValue] = field(default_factory=dict)


# fmt: off
TRICKY = [
    "a", "b", "abc-1", '"a"', '"b c"', '""', "1", "2", "11", "-1", "0x1f", "012", "no", "yes", "null", "~", "1.5",
    "1e3", "1:30", "2026-01-01", "a b", "a  b", "a: b", "a #b", "a#b", "'a'", '"a: b"', '"a #b"', '"\\u0041"', '"é"',
    "é", "[a, b]", "[]", "{}", "{a: b}", "&x a", "*x", "!t a", "@a", "%a", "- a", "? a", "a,b", "a]", "a\\b", '"a\\""',
    "a\r", "a\x85", "\ufeffa", "a\0", '"a\tb"', "a\tb", "# a", "a # b", "{{ a }}", '"{{ a }}"', '"a\n    b"',
    "'a\n    b: c'", '"a\n    b: c"', "a\n    b", "a\n\n    b", "a\n    b: c", "|\n    a: b\n    c: d", ">-\n    a: b",
    '>\n    a: "b"', "{a:\n    b}", "[a: b,\n    c: d]",
    "no\n    more", "{a: b,\n    c: d}", "\n    a: b\n    c: d", "\n    - a: b\n    - a",
    "a\n  a: b", "a\r  a: b", "1\n#: a", "1\n---\na: b", "1 # c: d", "x" * 300,
]
# fmt: on
VALUES = st.sampled_from(TRICKY) | st.text("ab1 :#\"'-.,[]{}\n\\\r|>é", max_size=8)
TEMPLATE = """# rest: {0}
first:
  name: {1}
  size: {2}  # size: 1
  tags: {3}
parts:
  - name: {4}
    size: {5}
  - {{
      "name": "a",
      "size": {6},
      "tags": [{7}]
    }}
rest:
  x: {7}
  z: {8}
"""


def said(reader: object, content: bytes) -> object:
    """Return all that a reader says of a document."""
    try:
        value, findings = reader(content)  # type: ignore[operator]
    except UnreadableDocument as error:
        return repr(error), str(error), error.where
    return repr(value), repr(findings)


def parsed(content: bytes) -> object:
    return find(Whole, read_yaml(content, "x.yaml"))


def alike(content: bytes) -> object:
    return find_alike(Whole, content, "x.yaml")


COMMON = ("a", "a", "1", "[]", "a", "1", "1", "a", '"b"')


@given(st.lists(st.tuples(st.integers(0, 8), VALUES), min_size=2, max_size=8))
def test_it_says_what_the_parser_says(changes: list[tuple[int, str]]) -> None:
    forms._FORMS.clear()
    values = list(COMMON)
    for index, value in changes:
        values[index] = value
        content = TEMPLATE.format(*values).encode("utf-8", "surrogatepass")
        assert said(alike, content) == said(parsed, content)


def test_only_the_first_of_a_form_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    forms._FORMS.clear()
    find_alike(Whole, TEMPLATE.format(*COMMON).encode(), "x.yaml")
    monkeypatch.delattr(forms, "read_yaml")
    other = TEMPLATE.format("a", "b-2", "3", "[]", "c", "3", "4", "a", '"x: y # z"').encode()
    assert said(alike, other) == said(parsed, other)
