"""JSON that strangers wrote (RFC 8259): exact integers, no key twice, bounds, and findings with line and column."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.yaml_scalars import MAX_INTEGER, MIN_INTEGER
from margo_gitops.errors import Location, UnreadableDocument

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(MIN_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@given(values, st.sampled_from([None, 2, "\t"]), st.booleans())
def test_any_json_is_read_as_the_standard_library_reads_it(value, indent, escaped):
    content = json.dumps(value, indent=indent, ensure_ascii=escaped).encode()
    plain = read_json(content, "x.json").root.plain()
    assert plain == value
    assert repr(plain) == repr(value)


@given(st.binary(max_size=60) | st.text('{}[]",:truefalsn0123456789.eE+-\\u \n', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused_never_anything_else(content):
    try:
        ours = read_json(content, "x.json").root.plain()
    except UnreadableDocument:
        return
    assert ours == json.loads(content)


def refused(content, bounds=None):
    with pytest.raises(UnreadableDocument) as caught:
        read_json(content, "x.json", bounds or Bounds())
    return caught.value


@pytest.mark.parametrize(
    ("content", "why", "line", "column"),
    [
        (b'{"a": 1,\n "a": 2}', "the key 'a' appears twice, first in line 1", 2, 2),
        (b'{"a": NaN}', "a value is missing", 1, 7),
        (b'{"a": Infinity}', "a value is missing", 1, 7),
        (b'{"a": -Infinity}', "a value is missing", 1, 7),
        (b'{"a": 1e999}', "the number is out of range", 1, 7),
        (b'{"a": 18446744073709551616}', "the integer needs more than 64 bits", 1, 7),
        (b'{"a": -9223372036854775809}', "the integer needs more than 64 bits", 1, 7),
        (b'{"a": ' + b"9" * 100_000 + b"}", "the integer needs more than 64 bits", 1, 7),
        (b'{"a": 012}', "a comma or closing brace is missing", 1, 8),
        (b'{"a": .5}', "a value is missing", 1, 7),
        (b'{"a": +1}', "a value is missing", 1, 7),
        (b'{"a": 1.}', "a comma or closing brace is missing", 1, 8),
        (b'{"a": 0x1f}', "a comma or closing brace is missing", 1, 8),
        (b'{"a": "\\ud800"}', "the text holds a lone surrogate", 1, 7),
        (b'{"\\udfff": 1}', "the text holds a lone surrogate", 1, 2),
        (b'{"a": "x\ny"}', "Invalid control character at", 1, 9),
        (b'{"a": "\\x41"}', "Invalid \\escape", 1, 8),
        (b'{"a": "open}', "Unterminated string starting at", 1, 7),
        (b"{'a': 1}", "a key in double quotes is missing", 1, 2),
        (b"{a: 1}", "a key in double quotes is missing", 1, 2),
        (b'{"a": 1,}', "a key in double quotes is missing", 1, 9),
        (b'{"a": [1, 2,]}', "a value is missing", 1, 13),
        (b'{"a" 1}', "a colon is missing", 1, 6),
        (b'{"a": 1} x', "more text follows the value", 1, 10),
        (b'{"a": 1}\n{"b": 2}', "more text follows the value", 2, 1),
        (b'{"a": 1 // one\n}', "a comma or closing brace is missing", 1, 9),
        (b"", "a value is missing", 1, 1),
        (b'{"a": True}', "a value is missing", 1, 7),
    ],
)
def test_hostile_json_is_refused_where_it_stands(content, why, line, column):
    error = refused(content)
    assert why in error.why[0]
    assert error.where == Location("x.json", line, column)


def test_deep_nesting_is_refused():
    assert refused(b"[" * 500_000).why == ("nested deeper than 32 levels",)
    assert refused(b'{"a":' * 100_000).why == ("nested deeper than 32 levels",)
    assert read_json(b"[" * 32 + b"]" * 32, "x.json")


def test_too_many_values_are_refused():
    assert refused(b"[" + b"1," * 60_000 + b"1]").why == ("more than 50000 values",)


def test_a_file_beyond_the_size_bound_is_refused():
    assert "more than the 10 that a document may have" in refused(b'{"a": 12345}', Bounds(size=10)).what


@pytest.mark.parametrize(
    ("content", "what"),
    [(b'{"a": "\xff"}', "byte 7 is not UTF-8"), (b"\xef\xbb\xbf{}", "starts with a byte order mark")],
)
def test_bytes_that_are_no_utf_8_text_are_refused(content, what):
    assert what in refused(content).what


def test_integers_beyond_2_to_the_53_are_exact():
    assert read_json(b'{"v": 18446744073709551615}', "x.json").root.plain() == {"v": 18446744073709551615}
    assert read_json(b"9007199254740993", "x.json").root.plain() == 9007199254740993


def test_every_value_knows_its_line_and_column_and_those_of_its_key():
    node = read_json(b'{\n  "a": [1,\n    {"b": true}]}', "x.json").root.get("a", 1, "b")
    assert (node.line, node.column, node.key_line, node.key_column) == (3, 11, 3, 6)
