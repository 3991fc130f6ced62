"""The operators of Margo's constraint language, against an oracle that spells out the standard's words."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.constraints import MatchExpression, Selector
from margo_gitops.documents.matching import selects

NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 1.0, 2.0]))
TEXTS = st.sampled_from(["a", "b", "A", "1", ""])
SCALARS = st.one_of(NUMBERS, TEXTS, st.booleans())
LABELS = st.one_of(SCALARS, st.lists(st.one_of(NUMBERS, TEXTS), max_size=3).map(tuple))
VALUES = st.one_of(*(st.lists(kind, min_size=1, max_size=3).map(tuple) for kind in (NUMBERS, TEXTS, st.booleans())))
ABSENT = object()


def same(left: Any, right: Any) -> bool:
    """Text is compared exactly, 1 equals 1.0, and true is no number."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def oracle(operator: str, values: tuple[Any, ...], label: Any) -> bool:
    if operator in ("Exists", "DoesNotExist"):
        return (label is ABSENT) == (operator == "DoesNotExist")
    if label is ABSENT:
        return False
    if operator in ("Gt", "Lt"):
        return number(label) and (label > values[0] if operator == "Gt" else label < values[0])
    items = label if isinstance(label, tuple) else (label,)
    shared = [item for item in items for value in values if same(item, value)]
    return bool(shared) == (operator == "In")


@st.composite
def expressions(draw: st.DrawFn) -> MatchExpression:
    operator = draw(st.sampled_from(["In", "NotIn", "Gt", "Lt", "Exists", "DoesNotExist"]))
    if operator in ("Gt", "Lt"):
        return MatchExpression("key", operator, (draw(NUMBERS),))
    return MatchExpression("key", operator, draw(VALUES) if operator in ("In", "NotIn") else None)


@given(st.lists(expressions(), min_size=1, max_size=3), st.one_of(st.just(ABSENT), LABELS))
def test_a_selector_holds_exactly_where_every_expression_does(conditions: list[MatchExpression], label: Any):
    labels = {} if label is ABSENT else {"key": label}
    expected = all(oracle(each.operator, each.values or (), label) for each in conditions)
    assert selects(Selector(tuple(conditions)), labels) is expected


@given(expressions(), LABELS)
def test_a_label_that_is_there_is_in_or_not_in_the_values_and_never_both(expression: MatchExpression, label: Any):
    if expression.operator in ("In", "NotIn"):
        both = [
            selects(Selector((MatchExpression("key", operator, expression.values),)), {"key": label})
            for operator in ("In", "NotIn")
        ]
        assert sum(both) == 1
