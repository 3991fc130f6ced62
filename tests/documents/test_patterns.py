"""Patterns of applications: what the linear engine does not have is found, with its place, without the engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.patterns import pattern_mistake
from margo_gitops.rendering.value_rules import compiled


@pytest.mark.parametrize(
    ("pattern", "mistake"),
    [
        ("ab(?=c)", "look-ahead at character 3"),
        ("(?!a)b", "look-ahead at character 1"),
        ("a(?<=a)", "look-behind at character 2"),
        ("a(?<!a)", "look-behind at character 2"),
        (r"(a)\1", "a back-reference at character 4"),
        ("(?P<x>a)(?P=x)", "a back-reference at character 9"),
        ("(?>a)", "an atomic group at character 1"),
        ("(a)?(?(1)b)", "a condition at character 5"),
        ("a++", "a possessive quantifier at character 2"),
        ("a{2}+", "a possessive quantifier at character 2"),
        ("a{2,1001}", "more than 1000 repetitions at character 2"),
        ("a{1001}", "more than 1000 repetitions at character 2"),
        (r"abc\Z", r"the escape \Z at character 4"),
        (r"\u00e4", r"the escape \u at character 1"),
        ("a(?#b)", "a comment at character 2"),
        ("(?x)a", "the flags (?x) at character 1"),
        ("[a-", "unterminated character set at character 1"),
        ("(a", "missing ), unterminated subpattern at character 1"),
        ("a)", "unbalanced parenthesis at character 2"),
        ("*a", "nothing to repeat at character 1"),
        ("[[:letter:]]", "the class [[:letter:]] at character 1"),
        (r"\p{Lu}[\pN[:digit:]]*(b", "missing ), unterminated subpattern at character 22"),
        (r"[a\b]", r"the escape \b in a class at character 1"),
        (r"x[\u00e4]", r"the escape \u at character 2"),
        ("a**", "multiple repeat at character 3"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(pattern: str, mistake: str) -> None:
    found = pattern_mistake(pattern)
    assert found is not None
    assert mistake in found


@pytest.mark.parametrize(
    "pattern",
    [
        r"[A-Za-z ,!]+",
        r"^(\d{1,3}\.){3}\d{1,3}$",
        r"(?i)press-[0-9]+|line",
        r"(?P<name>a)(?:b)?",
        r"[\](?=]+",
        r"\(\?=\)",
        r"\p{L}+ \pN \P{Greek}",
        r"[\p{L}\d_]{2,1000}",
        r"\\1",
        r"a?b*?c+?",
        r"[[:alpha:]_][^[:space:]]*",
    ],
)
def test_what_both_kinds_of_engines_have_can_be_used(pattern: str) -> None:
    assert pattern_mistake(pattern) is None
    compiled(pattern)


_PARTS = [
    *("a", "b", "-", ".", "|", "^", "$", "(", ")", "[", "]", "[^", "*", "+", "?", "{2}", "{2,}", "{,2}", "{", "}", ","),
    *(
        r"\d",
        r"\w",
        r"\b",
        r"\B",
        r"\A",
        r"\1",
        r"\Z",
        r"\.",
        r"\\",
        r"\n",
        r"\x41",
        r"\0",
        r"\p{L}",
        "(?:",
        "(?P<n>",
        "(?i)",
    ),
    *("(?i:", "(?=", "(?<!", "(?>", "(?#", "(?s-i:", "[:alpha:]", "\u00e4"),
]


@given(st.lists(st.sampled_from(_PARTS), max_size=10).map("".join))
def test_the_engine_takes_every_pattern_that_has_no_mistake(pattern: str) -> None:
    if pattern_mistake(pattern) is None:
        compiled(pattern)
