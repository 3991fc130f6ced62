"""Expressions in parameter values: rules EXPR-1 to EXPR-5 of `rendering/templates.py`."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.errors import TemplateInvalid
from margo_gitops.rendering.templates import MAX_RESULT, MAX_SOURCE, evaluate

NAMES: dict[str, Any] = {
    "device": {"id": "press-01", "labels": {"line": 3, "zones": ["a", "b"], "ratio": 0.5, "spare": True}},
    "site": {"name": "north", "labels": {}},
}


def refused(source: Any) -> TemplateInvalid:
    with pytest.raises(TemplateInvalid) as caught:
        evaluate(source, NAMES)
    return caught.value


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{{ device.labels.line }}", 3),
        ("{{device.labels.line}}", 3),
        ("{{- device.labels.line -}}", 3),
        ("{{ device.labels.ratio }}", 0.5),
        ("{{ device.labels.spare }}", True),
        ("{{ device.labels.zones }}", ("a", "b")),
        ("{{ device.labels.line + 1 }}", 4),
        ("{{ -1 }}", -1),
        ("{{ 7 // 2 }}", 3),
        ("{{ '}}' }}", "}}"),
        ("{{ device.labels.line }}{{ device.labels.line }}", "33"),
        (" {{ device.labels.line }}", " 3"),
        ("{{ device.labels.line }}\n", "3\n"),
        ("line-{{ device.labels.line }}", "line-3"),
        ("{{ device.id | upper }}", "PRESS-01"),
        ("{{ device.labels.zones | join('+') }}", "a+b"),
        ("is {{ device.labels.line == 3 }}", "is true"),
        ("{{ '%s/%03d' | format(device.id, device.labels.line) }}", "press-01/003"),
        ("{{ device.labels.spare and 'yes' or 'no' }}", "yes"),
        ("{{ 'x' if site.name == 'south' else 'y' }}", "y"),
        (("{{ device.id }}", "plain", 1, "{{ device.labels.line }}"), ("press-01", "plain", 1, 3)),
    ],
)
def test_an_expression_alone_keeps_its_type_and_among_text_becomes_text(written: Any, expected: Any):
    result = evaluate(written, NAMES)
    assert result == expected
    assert type(result) is type(expected)


@given(st.one_of(st.text().filter(lambda text: "{" not in text), st.integers(), st.booleans(), st.floats()))
def test_a_value_without_expression_is_taken_as_it_is(value: Any):
    assert evaluate(value, {}) is value


@pytest.mark.parametrize(
    "source", ["{% set x = 1 %}{{ x }}", "{% include 'x' %}", "{# note #}{{ 1 }}", "{{ 1 }}{% if x %}"]
)
def test_statements_and_comments_are_refused(source: str):
    assert "only {{ expressions }}" in refused(source).why[0]


@pytest.mark.parametrize(
    "source", ["{{", "{{ }}", "{{ 1 + }}", "{{ device. }}", "{{ (1 }}", "{{ 1 }", "{{ 'a }}", "{{ x | nosuch }}"]
)
def test_broken_syntax_is_refused(source: str):
    refused(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ nosuch }}",
        "{{ device.nosuch }}",
        "{{ device.labels.nosuch.deeper }}",
        "x {{ nosuch }}",
        "{{ nosuch | upper }}",
    ],
)
def test_an_undefined_name_is_an_error_that_says_what_is_known(source: str):
    error = refused(source)
    assert "not defined" in str(error)
    assert "known names: device, site" in error.remedy


def test_a_missing_label_may_have_a_default():
    assert evaluate("{{ device.labels.nosuch | default(7) }}", NAMES) == 7


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ device.id.__class__.__mro__ }}",
        "{{ device.__class__ }}",
        "{{ (device.id|list).append }}",
        "{{ ''['__class__'] }}",
        "{{ device.id | attr('__class__') }}",
        "{{ device.id.format(1) }}",
        "{{ device.labels.update({'a': 1}) }}",
        "{{ device.id.upper() }}",
        "{{ device.id.upper }}",
        "{{ [1] | map(attribute='__class__') | list }}",
        "{{ [device.id] | map(attribute='__class__.__name__') | join }}",
        "{{ self }}",
        "{{ self._TemplateReference__context }}",
        "x {{ self }}",
        "x {{ caller }}",
        "{{ range(3) }}",
        "{{ lipsum() }}",
        "{{ cycler('a') }}",
        "{{ namespace() }}",
        "{{ dict(a=1) }}",
        "{{ config }}",
        "{{ [1, 2] | random }}",
        "{{ 'x' | pprint }}",
        "{{ device | tojson }}",
        "{{ 'a' | filesizeformat }}",
        "{{ '{0.__class__}' | format(1) }}",
    ],
)
def test_nothing_but_plain_values_and_a_few_filters_can_be_reached(source: str):
    refused(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 9 ** 9 ** 9 }}",
        "{{ 2 ** 65 }}",
        "{{ (2 ** 64) * (2 ** 64) }}",
        "{{ 'x' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '%.1000000000f' | format(1) }}",
        "{{ '%*d' | format(1000000000, 1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x' | indent(1000000000) }}",
        "{{ 1e308 * 10 }}",
        "{{ 1 / 0 }}",
        "{{ 1 % 0 }}",
        "{{ 2.0 ** 64 ** 64 }}",
        "{{ " + " ~ ".join(["'xxxxxxxx'"] * 300) + " }}",
    ],
    ids=lambda source: source[:40],
)
def test_huge_results_are_refused_before_they_are_made(source: str):
    if " ~ " in source:  # linear in its source: possible, and small
        assert len(str(evaluate(source, NAMES))) == 2400
    else:
        refused(source)


def eightfold(times: int) -> str:
    return "'aaaaaaaa'" + "|replace('a', 'aaaaaaaa')" * times


MANY = eightfold(4)
"""An expression for 32,768 characters."""


@pytest.mark.parametrize(
    "source",
    [
        f"{{{{ {eightfold(12)} }}}}",
        f"{{{{ {MANY}|list|map('replace', 'a', {MANY})|join }}}}",
        f"{{{{ {MANY}|list|map('replace', 'a', {MANY})|list|length }}}}",
        f"{{{{ {MANY}|list|map('replace', 'a', '%s')|map('format', {MANY})|list|length }}}}",
        f"{{{{ {MANY}|list|map('replace', 'a', 'bb')|map('join', {MANY})|list|length }}}}",
        f"{{{{ {MANY}|list|map('truncate', 0, true, {MANY}, 0)|list|length }}}}",
        f"{{{{ {MANY}|list|join({MANY}) }}}}",
    ],
    ids=lambda source: f"{source[:3]}..{source[-60:]}",
)
def test_filters_cannot_be_chained_into_a_bomb(source: str):
    refused(source)


@pytest.mark.parametrize("opening", ["(", "[", "not ", "-", "{'a':", "x[", "1 if 1 else "])
def test_deep_nesting_is_an_error_and_no_crash(opening: str):
    refused("{{ " + opening * (MAX_SOURCE // len(opening) - 8) + "1 }}")
    closing = {"(": ")", "[": "]", "{'a':": "}", "x[": "]"}.get(opening, "")
    depth = 4000 // len(opening + closing)
    with suppress(TemplateInvalid):
        evaluate("{{ " + opening * depth + "1" + closing * depth + " }}", NAMES)


@pytest.mark.parametrize(
    ("source", "problem"), [("a {{ none }}", "gives nothing"), ("a {{ device.labels.zones }}", "a list or mapping")]
)
def test_text_takes_only_what_has_one_spelling(source: str, problem: str):
    assert problem in str(refused(source))


@pytest.mark.parametrize(
    ("meant", "begun", "rest"),
    [
        ("{{ .Hostname }}", "{{ '{{' }}", " .Hostname }}"),
        ("{% if %}", "{{ '{' }}%", " if %}"),
        ("{# x", "{{ '{' }}#", " x"),
    ],
)
def test_a_refusal_says_how_braces_are_written_as_text(meant: str, begun: str, rest: str):
    assert refused(meant).remedy.endswith(f"is plain text, write {begun}")
    assert evaluate(f"{begun}{rest}", NAMES) == meant
    assert refused("a {{ HOST }}").remedy.endswith("write {{ '{{' }}")


def test_sources_and_results_are_bounded():
    assert "4096 are possible" in refused("{{ 1 }}" + " " * MAX_SOURCE).why[0]
    long = {"text": "x" * (MAX_RESULT + 1)}
    with pytest.raises(TemplateInvalid, match="more than 65536"):
        evaluate("{{ text }}", long)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ device }}", "is dict"),
        ("{{ none }}", "is NoneType"),
        ("{{ [[1]] }}", "is list"),
        ("{{ 2 ** 64 }}", "more than 64 bits"),
        ("{{ 1e400 }}", ""),
    ],
)
def test_a_result_that_no_parameter_can_hold_is_refused(source: str, problem: str):
    assert problem in str(refused(source))


@given(st.text(alphabet="{}%#|()[]'\"., -+*~/=<>01axd_\n", max_size=40))
def test_whatever_is_written_gives_a_plain_value_or_one_kind_of_error(inside: str):
    for source in (inside, f"{{{{ {inside} }}}}"):
        try:
            result = evaluate(source, NAMES)
        except TemplateInvalid:
            continue
        items = result if isinstance(result, tuple) else (result,)
        assert all(type(item) in (str, int, float, bool) for item in items)
