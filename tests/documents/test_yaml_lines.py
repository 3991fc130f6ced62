"""What is read line by line is what the parser reads: values, lines and columns; the rest is left to the parser."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from margo_gitops.documents.nodes import Bounds, Json, Node
from margo_gitops.documents.yaml_events import read_events
from margo_gitops.documents.yaml_lines import read_lines
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.errors import UnreadableDocument

INDENTS = st.sampled_from(["", "", "", "  ", "  ", "    ", " ", "   "])
DASHES = st.sampled_from(["", "", "", "- ", "- ", "- - ", "-  ", "-"])
KEYS = st.sampled_from(["a", "b", "key", "yes", "Null", "1", '"q k"', '"a"', "x/y.z", "a b", "-", "?", "<<", ""])
COLONS = st.sampled_from([": ", ": ", ": ", ":", ":", ":  ", " : ", ":\t", ""])
SPLIT = (
    'v 1 012 1.5 1e3 0x1F true no ~ null 2024-01-01 1:30 1s " http://h:80/p a: a:b a#b /x {} [] [a] | > &a *a !t % @'
)
SCALARS = st.one_of(
    st.sampled_from([*SPLIT.split(), "-1", "...", "---", "'s'", "a,b", "a]", "1" * 25, "- x", "a b", "{a: 1}", "", ""]),
    st.sampled_from(['"a: b # c"', '"ä\tü"', '"a\\n"', '"a" b', '""']),
)
ENDS = st.sampled_from(["", "", "", "", " ", " # c", "#c", "  #", "\t", "\r", " #\ta: b"])
LINES = st.one_of(
    st.builds("{}{}{}{}{}{}".format, INDENTS, DASHES, KEYS, COLONS, SCALARS, ENDS),
    st.builds("{}{}{}: {}".format, INDENTS, st.sampled_from(["", "- "]), st.sampled_from("abcde"), st.just("v")),
    st.sampled_from(["", "# c", "  # c", "   ", "---", "...", "%YAML 1.1", "\t", "- a", "a:", "  - b", "    c: d"]),
)
PLAIN = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "  ", "    "]),
    st.sampled_from(["", "", "- ", "- - "]),
    st.sampled_from(["a:", "b:", "c: v", "d: 1", '"e": {}', "f: 1s # c", "v", "g: http://h:80/p"]),
    st.sampled_from(["", "", " ", "  # c"]),
)
TEXTS = st.one_of(st.lists(each, min_size=1, max_size=8).map("\n".join) for each in (LINES, PLAIN, PLAIN | LINES))
BOUNDS = st.builds(Bounds, depth=st.integers(0, 6), nodes=st.integers(1, 12)) | st.just(Bounds())


def parsed(text: str, bounds: Bounds, *, foreign: bool) -> Node | None:
    try:
        return read_events(text.encode(), "x.yaml", bounds, foreign=foreign)
    except UnreadableDocument:
        return None


@given(TEXTS, BOUNDS, st.booleans())
@example("a:\n- b", Bounds(), False)
@example("a: b\n  c", Bounds(), False)
@example("a: b\n\n # c\n  c: d", Bounds(), False)
@example("- a\n  b: c", Bounds(), False)
@example("- - a\n  - b\n- c: 1\n  d:\n    e: 2", Bounds(), False)
def test_what_is_read_is_what_the_parser_reads(text: str, bounds: Bounds, foreign: bool) -> None:
    found = read_lines(text, bounds, foreign=foreign)
    assert found is None or found == parsed(text, bounds, foreign=foreign)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.text("ab1:# -{}\u00e4", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab: #", max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(JSON)
def test_what_this_project_writes_without_an_escape_needs_no_parser(value: Json) -> None:
    written = write_yaml(value).decode()
    found = read_lines(written, Bounds(), foreign=False)
    assert found is not None
    assert found.plain() == value
    assert found == parsed(written, Bounds(), foreign=False)


@pytest.mark.parametrize(
    "text",
    [
        "# a configuration\n\napiVersion: margo-gitops/v1  # ours\npoll:\n  interval: 1s\nurl: http://host:80/x\n",
        "- a: 1\n  b:\n    - /dev/x\n    - {}\n- c: []\n",
    ],
)
def test_what_people_write_is_mostly_of_the_plain_kind(text: str) -> None:
    found = read_lines(text, Bounds(), foreign=False)
    assert found is not None
    assert found == parsed(text, Bounds(), foreign=False)
