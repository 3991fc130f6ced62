"""Exact JSON bytes (RFC 8785), with integers of 64 bits in full."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.json_text import exact_node, exact_value, read_json, write_json
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.yaml_scalars import MAX_INTEGER, MIN_INTEGER
from margo_gitops.errors import UnreadableDocument, UnwritableValue

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(MIN_INTEGER, MAX_INTEGER) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)


@given(values)
def test_what_is_written_reads_back(value):
    content = write_json(value)
    assert json.loads(content) == value
    assert repr(read_json(content, "x.json").root.plain()) == repr(json.loads(content))


@given(st.dictionaries(texts, st.integers(0, 9), min_size=2, max_size=6), st.randoms())
def test_the_order_of_keys_takes_no_part(value, random):
    keys = list(value)
    random.shuffle(keys)
    assert write_json({key: value[key] for key in keys}) == write_json(value)


def test_keys_are_sorted_by_utf_16_code_units():
    # RFC 8785 section 3.2.3, the example
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    assert list(json.loads(write_json(value)).values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


def test_text_and_literals_have_the_shortest_escapes():
    # RFC 8785 section 3.2.2, the example without its floats
    value = {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/", "literals": [None, True, False], "n": [56, -1]}
    expected = '{"literals":[null,true,false],"n":[56,-1],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert write_json(value) == expected.encode()


def test_short_escapes_are_used_where_there_are_any():
    assert write_json("\b\t\n\f\r\x00\x1f\x7f\u2028") == b'"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\xe2\x80\xa8"'


@pytest.mark.parametrize("version", [1, 2**53 + 1, MAX_INTEGER])
def test_manifest_versions_are_written_in_full(version):
    assert write_json({"manifestVersion": version}) == f'{{"manifestVersion":{version}}}'.encode()


@pytest.mark.parametrize(
    ("value", "content"), [(2.4, b"2.4"), (4.0, b"4"), (-0.0, b"0"), (0.0001, b"0.0001"), (1e15, b"1000000000000000")]
)
def test_numbers_are_written_as_ecmascript_does(value, content):
    # RFC 8785 section 3.2.2.3; 2.4 cores are what a device may offer
    assert write_json(value) == content


@given(st.floats(1e-4, 1e15) | st.floats(-1e15, -1e-4))
def test_a_number_reads_back_as_it_was(value):
    assert json.loads(write_json(value)) == value
    assert b"e" not in write_json(value)


@pytest.mark.parametrize(
    "value", [1e-5, 1e16, float("inf"), float("nan"), 2**64, -(2**63) - 1, "\ud800", {"\ud800": 1}, [{"a": 1e-9}]]
)
def test_what_no_reader_could_read_back_is_not_written(value):
    with pytest.raises(UnwritableValue):
        write_json(value)


def exact(content, bounds=None):
    """Return whether the quick reader (JSON-3) takes bytes; then it reads what `read_json` reads."""
    bounds = bounds or Bounds()
    try:
        node = exact_node(exact_value(content, bounds), bounds)
    except ValueError:
        return False
    assert repr(node.plain()) == repr(read_json(content, "x.json", bounds).root.plain())
    return True


@given(values)
def test_what_is_written_is_read_the_quick_way(value):
    assert exact(write_json(value))


@given(
    st.binary(max_size=60)
    | st.text('{}[]",:truefalsn0123456789.eE+-\\u \n', max_size=60).map(str.encode)
    | st.dictionaries(texts, values | st.floats(), max_size=3).map(lambda value: json.dumps(value).encode())
)
def test_the_quick_way_takes_only_what_would_be_written(content):
    if exact(content):
        assert write_json(json.loads(content)) == content


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":1,"a":1}', b'{"a":1,"a":2}', b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1}\n', b'{"a":NaN}', b"[Infinity]",
        b"[1.0]", b"[-0]", b"[-0.0]", b"[1e2]", b"[1e-7]", b"[1e22]", b"[18446744073709551616]",
        b"[-9223372036854775809]", b"[" + b"9" * 5000 + b"]", b'["\\u0041"]', b'["\\/"]', b'["\\ud800"]', b'["\xff"]',
        b"\xef\xbb\xbf[]", b"[" * 34 + b"]" * 34, b"[" * 33 + b'"x"' + b"]" * 33, b"[" * 100_000 + b"]" * 100_000,
        b"[" + b"1," * 60_000 + b"1]", "[1]".encode("utf-16"), b"", b"[", b"[1]]",
        '{"\U0001f600":1,"\ufb33":2,"a":3}'.encode(), '{"\ufb33":2,"\U0001f600":1}'.encode(),
    ],
)  # fmt: skip
def test_other_bytes_are_not_read_the_quick_way(content):
    assert not exact(content)


def test_the_quick_way_has_the_bounds_of_the_other():
    deep = b"[" * 32 + b'"x"' + b"]" * 32
    assert exact(deep)
    assert read_json(deep, "x.json")
    with pytest.raises(UnreadableDocument):
        read_json(b"[" * 33 + b'"x"' + b"]" * 33, "x.json")
    assert not exact(b"[1,2,3]", Bounds(nodes=3))
    assert not exact(b"[1,2,3]", Bounds(size=6))
