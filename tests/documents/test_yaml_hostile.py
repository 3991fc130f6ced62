"""YAML that strangers wrote: each of the rules YAML-1 to YAML-6 is broken once; each refusal says where and why."""

import pytest
import yaml

from margo_gitops.documents import yaml_events
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import Location, UnreadableDocument

BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b]\n"


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def loader(request, monkeypatch):
    """Both of PyYAML's parsers: a machine without libyaml must not be easier to attack."""
    if request.param == "python":
        monkeypatch.setattr(yaml_events, "Loader", yaml.SafeLoader)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("PyYAML was built without libyaml")


def refused(content, bounds=None):
    with pytest.raises(UnreadableDocument) as caught:
        read_yaml(content, "x.yaml", bounds or Bounds())
    return caught.value


@pytest.mark.parametrize(
    ("content", "what", "line", "column"),
    [
        (BOMB, "the anchor &a is not allowed", 1, 4),
        (b"a: 1\nb: *a\n", "the alias *a is not allowed", 2, 4),
        (b"*a : 1\n", "the alias *a is not allowed", 1, 1),
        (b"a: !!python/object/apply:os.system [ls]\n", "python/object", 1, 4),
        (b"a: !!str 1\n", "the tag tag:yaml.org,2002:str is not allowed", 1, 4),
        (b"!mine\na: 1\n", "the tag !mine is not allowed", 1, 1),
        (b"%YAML 1.2\n---\na: 1\n", "directives", 1, 1),
        (b"a: 1\n---\nb: 2\n", "a second document starts here", 2, 1),
        (b"a: 1\nb:\n  c: 1\n  c: 2\n", "the key 'c' appears twice, first in line 3", 4, 3),
        (b'a: 1\n"a": 2\n', "the key 'a' appears twice, first in line 1", 2, 1),
        (b"a:\n  <<: {b: 1}\n", "<< merges mappings for readers of YAML 1.1 only", 2, 3),
        (b"a: 1\n2: b\n", "a key must be text", 2, 1),
        (b"[a]: b\n", "a key must be text", 1, 1),
        (b"a: 1\n? \n: b\n", "a key must be text", 2, 2),
        (b"a: no\n", "no means different things to readers of YAML 1.1 and 1.2", 1, 4),
        (b"a: .inf\n", ".inf is not a number that JSON can hold", 1, 4),
        (b"a: 18446744073709551616\n", "18446744073709551616 needs more than 64 bits", 1, 4),
        (b"a: 1.0e+999\n", "1.0e+999 is out of the range of numbers", 1, 4),
        (b"a:\n  b: c\n\td: e\n", "a tab indents this line", 3, 1),
        (b"a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> x\n", "git left a conflict here", 2, 1),
        (b"a: [1, 2\nb: 3\n", "the [ that opens here is not closed", 1, 4),
        (b"a: [\n", "the [ that opens here is not closed", 1, 4),
        (b"a: {x: 1\nb: 3\n", "the { that opens here is not closed", 1, 4),
        (b'a: "x\nb: 1\n', 'the " that opens here is never closed', 1, 4),
        (b'a: "x\nb: "y"\n', 'the " that opens here is not closed in this line', 1, 4),
        (b"a: 'it's'\n", "a text in quotes ends before this", 1, 8),
        (b"a: b\n  c: d\n", "this line is indented below a line that has a value already", 2, 3),
        (b"a:\n  b: 1\n c: 2\n", "not indented as the entries around it, which begin in line 1", 3, 2),
        (b"a:\n  - 1\n  b: 2\n", "not indented as the entries around it, which begin in line 2", 3, 3),
        (b"a: b: c\n", "the value of this line holds a colon", 1, 5),
        (b"a: 1\nword\nb: 2\n", "this line has no colon", 2, 1),
        (b"a: @x\n", "a value cannot start with @", 1, 4),
        (b"a: *\n", "is not valid YAML", 1, 5),
        (b"a: 1\nb: \x07\n", "the character U+0007 is not allowed", 2, 4),
        (b"a: 1\x00\n", "the character U+0000 is not allowed", 1, 5),
        ("a: 1 # x\u2028b: 2\n".encode(), "the character U+2028 is not allowed", 1, 9),
        ("a: 1\nb: x\u0085y\n".encode(), "the character U+0085 is not allowed", 2, 5),
        ("a: x\ufeffy\n".encode(), "the character U+FEFF is not allowed", 1, 5),
    ],
)
def test_hostile_yaml_is_refused_where_it_stands(content, what, line, column):
    error = refused(content)
    assert what in error.what
    assert error.where == Location("x.yaml", line, column)
    assert error.remedy


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"\xef\xbb\xbfa: 1\n", "byte order mark"),
        ("a: 1\n".encode("utf-16"), "byte order mark"),
        (b"a: 1\nb: \xff\n", "byte 8 is not UTF-8"),
        (b"a: \xed\xa0\x80\n", "byte 3 is not UTF-8"),  # a surrogate in UTF-8
        (b"a: \xc0\xaf\n", "byte 3 is not UTF-8"),  # an overlong slash
    ],
)
def test_bytes_that_are_no_yaml_text_are_refused(content, what):
    error = refused(content)
    assert what in error.what
    assert error.where.file == "x.yaml"
    assert error.remedy


@pytest.mark.parametrize("escape", [r"\ud800", r"\U00110000", r"\uZZZZ", r"\q"])
def test_an_escape_that_stands_for_no_character_is_refused(escape):
    assert refused(f'a: "{escape}"\n'.encode()).where.file == "x.yaml"


def test_a_file_beyond_the_size_bound_is_refused_before_it_is_parsed():
    error = refused(b"a: " + b"x" * 100, Bounds(size=50))
    assert error.what == "103 bytes are more than the 50 that a document may have"


@pytest.mark.parametrize(
    "content",
    [
        b"a: " + b"[" * 100 + b"]" * 100,
        b"[" * 500_000,
        b"{a: " * 200_000,
        b"- " * 400_000,
        b"? " * 400_000,
        "\n".join(" " * depth + "a:" for depth in range(200)).encode(),
    ],
)
def test_deep_nesting_is_refused_before_it_costs_anything(content):
    assert refused(content).what == "nested deeper than 32 levels"


def test_the_deepest_level_allowed_is_read():
    content = b"[" * 32 + b"]" * 32
    assert read_yaml(content, "x.yaml")


def test_too_many_values_are_refused():
    error = refused(b"a: [" + b"1," * 60_000 + b"]")
    assert error.what == "more than 50000 values"
    assert error.where.line == 1


def test_a_long_ambiguous_scalar_is_not_printed_in_full():
    error = refused(b"a: " + b"1" * 100_000)
    assert len(str(error)) < 300


def test_quoted_literal_and_folded_scalars_are_always_text():
    content = b"a: \"no\"\nb: 'no'\nc: |\n  no\nd: >-\n  no\n"
    assert read_yaml(content, "x.yaml").root.plain() == {"a": "no", "b": "no", "c": "no\n", "d": "no"}


def test_every_value_knows_its_line_and_column_and_those_of_its_key():
    node = read_yaml(b"a: 1\nspec:\n  list:\n    - x\n    - name: z\n", "x.yaml").root.get("spec", "list", 1, "name")
    assert (node.line, node.column, node.key_line, node.key_column) == (5, 13, 5, 7)


def test_comments_markers_and_windows_line_ends_are_read():
    assert read_yaml(b"# hello\r\n---\r\na: 1 # one\r\n...\r\n", "x.yaml").root.plain() == {"a": 1}


def test_broken_syntax_says_what_the_parser_expected():
    error = refused(b"a: *\n")
    assert error.why
    assert error.code == "MG1002"
