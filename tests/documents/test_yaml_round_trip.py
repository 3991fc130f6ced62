"""What the YAML writer writes, every reader reads back: ours, YAML 1.1 (PyYAML) and YAML 1.2 (ruamel.yaml)."""

import io
import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from margo_gitops.documents.yaml_scalars import MAX_INTEGER, MIN_INTEGER, AmbiguousScalarError, read_plain, write_text
from margo_gitops.documents.yaml_text import Prewritten, read_yaml, write_yaml
from margo_gitops.errors import UnreadableDocument, UnwritableValue

# fmt: off
TRICKY = [
    "", " ", "  lead", "trail ", "\t", "\n", "a\n", "\na", "a\n\n\nb", "a\r\nb", "\r", "\x00", "\x07", "\x1b[31m",
    "\x7f", "\x85", "\u2028",
    "\u2029", "\ufeff", "\ufffe", "\U0001f600", "\U0001fffe", "ümläut", "漢字", "e\u0301", "no", "No", "NO", "on",
    "off", "y", "n", "yes", "true",
    "True", "TRUE", "null", "Null", "~", "1e3", "1E3", "1.5e3", "1.5e+3", "012", "0o14", "0b11", "0x1f", "0X1F",
    "-0x1f", "+0x1f", "1_000", "1:30",
    "190:20:30", "190:20:30.15", "1.", ".5", "+.5", "-.5", "-1", "+1", "-0", "00", "09", ".inf", "-.inf", "+.INF",
    ".nan", ".NaN", "inf", "nan",
    "2026-11-21", "2026-11-21T10:00:00Z", "2026-11-21 10:00:00", "=", "<<", "-", "- a", "?", "? a", ":", ": a",
    "a: b", "a:", "a #b", "#a", "&a",
    "*a", "!a", "!!str a", "%a", "@a", "`a", "'", '"', "''", "\\", "\\n", "{", "}", "[", "]", "{}", "[]",
    "{{ device.id }}", ",", "|", ">", "|-",
    "---", "...", "--- a", "key: [1, 2]", "x" * 5000, "x " * 3000, "\\" * 2000, "1" * 400, "v1.4.2", "1.4.2",
    "sha256:" + "0" * 64, "oci://host/name",
]
# fmt: on

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(TRICKY)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(MIN_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def read_by_us(content):
    return read_yaml(content, "x.yaml").root.plain()


def read_by_yaml_11(content):
    return yaml.load(content, yaml.SafeLoader)


def read_by_yaml_12(content):
    return YAML(typ="safe", pure=True).load(io.BytesIO(content))


READERS = pytest.mark.parametrize("reader", [read_by_us, read_by_yaml_11, read_by_yaml_12])


def same(left, right):
    """Whether two values are equal with equal types: 1, 1.0 and True are three, 0.0 and -0.0 are two."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return left == right


@READERS
@given(value=values)
@example(value={"a": [{"b": [[], {}, [[1]]]}, {}]})
@example(value=[[["x", {"k": None}]]])
@example(value={"n" * 1025: {"k": 1}, "m": [{"o" * 5000: ["p"]}]})
@example(value=5e-324)
@example(value=1.7976931348623157e308)
@example(value=-0.0)
@example(value=1e16)
def test_every_reader_gets_back_the_value_and_its_type(reader, value):
    content = write_yaml(value)
    assert same(reader(content), value), content


@READERS
@pytest.mark.parametrize("text", TRICKY)
def test_text_stays_text_as_value_key_and_item(reader, text):
    document = {text: text, "list": [text, {text: [text]}]}
    assert same(reader(write_yaml(document)), document)


@READERS
@pytest.mark.parametrize("number", [MAX_INTEGER, MIN_INTEGER, 2**53 + 1, 0, -1, 0.1, 1e300, 1e-7, 123456789012345680.0])
def test_numbers_keep_their_value_and_type(reader, number):
    assert same(reader(write_yaml({"n": number})), {"n": number})


@given(st.one_of(texts, st.from_regex(r"[-+.0-9a-fA-FxXoOB_:]{1,12}|[-+]?[0-9_.xobe:]{1,5}", fullmatch=True)))
@example("-_0")
@example("+_")
@example("1_")
def test_a_plain_scalar_that_we_accept_has_no_other_meaning_in_yaml_11_or_12(text):
    content = f"- {text}\n".encode()
    try:
        ours = read_by_us(content)
    except UnreadableDocument:
        return
    for reader in (read_by_yaml_11, read_by_yaml_12):
        try:
            theirs = reader(content)
        except (yaml.YAMLError, YAMLError):
            continue  # a reader that refuses does not misread
        assert same(ours, theirs), content


@pytest.mark.parametrize(
    "text",
    [
        "no", "No", "yes", "on", "off", "y", "n", "1e3", "1.5e3", "012", "0o14", "0b11", "-0x1f", "1_000", "1:30",
        "190:20:30.15", "+.5", ".inf",
        "-.inf", ".nan", "2026-11-21", "2026-11-21T10:00:00Z", "=", "<<", "18446744073709551616",
        "-9223372036854775809", "1" * 400, "1.0e+400",
    ],
)  # fmt: skip
def test_a_plain_scalar_that_readers_disagree_about_is_refused(text):
    with pytest.raises(AmbiguousScalarError):
        read_plain(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("FALSE", False), ("0", 0), ("-17", -17),
        ("+17", 17), ("0x1f", 31),
        ("18446744073709551615", MAX_INTEGER), ("1.5", 1.5), ("-0.0", -0.0), (".5", 0.5), ("1.0e+3", 1000.0),
        ("1.4.2", "1.4.2"), ("8m30s", "8m30s"),
        ("512Mi", "512Mi"), ("nothing", "nothing"), ("on-line", "on-line"), ("1:60", "1:60"), ("a:b", "a:b"),
    ],
)  # fmt: skip
def test_a_plain_scalar_that_is_clear_is_read(text, value):
    assert same(read_plain(text), value)


@given(values)
def test_equal_values_have_equal_bytes_that_end_with_one_newline(value):
    content = write_yaml(value)
    assert content == write_yaml(read_by_us(content))
    assert content.endswith(b"\n")
    assert not content.endswith(b"\n\n")


def test_the_layout_is_block_style_with_keys_in_the_order_given():
    value = {"b": 1, "a": {"list": [1, {"x": "no", "z": []}], "empty": {}}, "text": "two words"}
    assert write_yaml(value).decode() == (
        'b: 1\na:\n  list:\n    - 1\n    - x: "no"\n      z: []\n  empty: {}\ntext: "two words"\n'
    )


def test_long_text_is_not_folded_and_non_ascii_text_is_not_escaped():
    assert write_yaml("ä" * 3000) == ('"' + "ä" * 3000 + '"\n').encode()


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**64, -(2**63) - 1, "\ud800", {"\udfff": 1}, [["\ud800"]]]
)
def test_what_no_reader_could_read_back_is_not_written(value):
    with pytest.raises(UnwritableValue):
        write_yaml(value)


@pytest.mark.parametrize("text", ["press-07", "v1", "a/b.c_d", "Hello"])
def test_text_that_is_plainly_text_stays_unquoted(text):
    assert write_text(text) == text


def test_a_mapping_written_once_is_refused_each_time_where_it_cannot_be_written() -> None:
    shared = Prewritten({"value": "\ud800"})
    for _ in range(2):
        with pytest.raises(UnwritableValue):
            write_yaml({"parameters": shared})
