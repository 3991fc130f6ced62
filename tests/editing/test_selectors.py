"""Selectors as people type them become the placement that they mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder

from margo_gitops.documents.constraints import DeviceSelector, MatchExpression
from margo_gitops.editing.selectors import parse_selector, typed_labels
from margo_gitops.errors import SelectorInvalid
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.placement import select, targets


@pytest.fixture(scope="module")
def intent(tmp_path_factory: pytest.TempPathFactory) -> Intent:
    fleet = FleetFolder.empty(tmp_path_factory.mktemp("selectors") / "fleet")
    fleet.site("north", {"country": "CH"})
    fleet.site("south", {"country": "DE"})
    fleet.device("press-01", site="north", labels={"line": 1, "hall": "1", "tags": ["old", "loud"]})
    fleet.device("press-02", site="north", labels={"line": 2, "spare": True})
    fleet.device("mixer-01", site="south", labels={"line": 3, "hall": 1})
    fleet.device("mixer-02", labels={"tags": ["new"]})
    return fleet.read()


SELECTED = {
    "all": "mixer-01 mixer-02 press-01 press-02",
    " all ": "mixer-01 mixer-02 press-01 press-02",
    "device=press-01": "press-01",
    "device in (press-01, mixer-02)": "mixer-02 press-01",
    "site=north": "press-01 press-02",
    "site in (north,south)": "mixer-01 press-01 press-02",
    "line=1": "press-01",
    "line==1,site=north": "press-01",
    "line=1,site=south": "",
    "line in (1, 3)": "mixer-01 press-01",
    "line>1": "mixer-01 press-02",
    "line < 3, site = north": "press-01 press-02",
    "line!=1,line": "mixer-01 press-02",
    "line notin (1,2),line": "mixer-01",
    "!line": "mixer-02",
    "! line , !site-label": "mixer-02",
    "spare=true": "press-02",
    "country=CH": "press-01 press-02",
    'country="CH"': "press-01 press-02",
    "tags=loud": "press-01",
    "tags in (new, loud)": "mixer-02 press-01",
    'hall="1"': "press-01",
}


@pytest.mark.parametrize("typed", SELECTED)
def test_a_selector_selects_what_it_says(typed: str, intent: Intent):
    selector = parse_selector(typed, intent)
    assert not list(selector.problems())
    assert " ".join(each.id for each in select(selector, targets(intent))) == SELECTED[typed]


def test_a_selector_is_written_with_the_fields_that_people_would_use(intent: Intent):
    assert parse_selector("site=north,line=1,spare,!tags", intent) == DeviceSelector(
        sites=("north",),
        match_labels={"line": 1},
        match_expressions=(MatchExpression("spare", "Exists"), MatchExpression("tags", "DoesNotExist")),
    )


REFUSED = {
    "": "it is empty",
    "line=": "a value is missing",
    "=1": "key is missing",
    "line=1 site=north": "a comma is missing",
    "line in 1": "parentheses",
    "line in (1": "closing parenthesis",
    "line in ()": "a value is missing",
    "line in (1, two)": "several types",
    "line>x": "a number",
    "line=1,line=2": "two values",
    "site=north,site=south": "twice",
    "site!=north": "= and in only",
    "device=press-01,line=1": "goes alone",
    "hall=1": "as text and as something else",
    "line ~ 1": "not a comparison",
    'line="1': "not understood",
    "line," * 5000: "more than",
}


@pytest.mark.parametrize("typed", REFUSED, ids=lambda typed: typed[:30] or "empty")
def test_what_is_no_selector_is_refused_with_the_reason(typed: str, intent: Intent):
    with pytest.raises(SelectorInvalid) as refused:
        parse_selector(typed, intent)
    assert REFUSED[typed] in str(refused.value)
    assert "site=north" in refused.value.remedy


@given(st.text(st.sampled_from("ab1=!<>(),\"' inotx"), max_size=30))
def test_any_text_is_a_valid_selector_or_refused(intent: Intent, text: str):
    try:
        selector = parse_selector(text, intent)
    except SelectorInvalid:
        return
    assert not list(selector.problems())
    for expression in selector.match_expressions:
        assert not list(expression.problems())


def test_labels_get_the_types_of_the_fleet(intent: Intent):
    typed = typed_labels(
        ["line=7", 'code="7"', "free=7", "word=seven", "tags=[new, 1]", "country=IT", "eq=a=b"], intent
    )
    assert typed == {
        "line": 7,
        "code": "7",
        "free": 7,
        "word": "seven",
        "tags": ("new", "1"),
        "country": "IT",
        "eq": "a=b",
    }
    with pytest.raises(SelectorInvalid):
        typed_labels(["line"], intent)
