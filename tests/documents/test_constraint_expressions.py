"""Device constraints as documents: what each operator needs and forbids (Margo application description)."""

import pytest

from margo_gitops.documents.constraints import MatchExpression
from margo_gitops.documents.nodes import Node, SourceText
from margo_gitops.documents.records import find

INNER = {"matchExpressions": [{"key": "/type", "operator": "In", "values": ["gpu"]}]}


def problems(**expression):
    value, found = find(MatchExpression, SourceText("x", Node.of({"key": "/memory", **expression})))
    assert (value is None) == bool(found)
    return [finding.message for finding in found]


@pytest.mark.parametrize(
    "expression",
    [
        {"operator": "In", "values": ["a"]},
        {"operator": "NotIn", "values": [1, 2.5]},
        {"operator": "In", "values": [True, False]},
        {"operator": "Exists"},
        {"operator": "DoesNotExist"},
        {"operator": "Gt", "values": [4]},
        {"operator": "Lt", "values": [0.5]},
        {"operator": "ContainsAll", "itemSelector": INNER},
        {"operator": "ContainsAny", "itemSelector": INNER},
    ],
)
def test_each_operator_has_its_form(expression):
    assert problems(**expression) == []


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ({"operator": "In"}, "In needs values"),
        ({"operator": "NotIn", "values": []}, "NotIn needs values"),
        ({"operator": "In", "values": ["a", 1]}, "the values must be of one type"),
        ({"operator": "In", "values": [1, True]}, "the values must be of one type"),
        ({"operator": "Gt"}, "Gt needs exactly one number"),
        ({"operator": "Gt", "values": [1, 2]}, "Gt needs exactly one number"),
        ({"operator": "Lt", "values": ["1"]}, "Lt needs exactly one number"),
        ({"operator": "Lt", "values": [True]}, "Lt needs exactly one number"),
        ({"operator": "Exists", "values": ["a"]}, "Exists takes no values"),
        ({"operator": "DoesNotExist", "values": []}, "DoesNotExist takes no values"),
        ({"operator": "ContainsAll"}, "ContainsAll needs an itemSelector"),
        ({"operator": "ContainsAny", "itemSelector": INNER, "values": ["a"]}, "ContainsAny takes no values"),
        ({"operator": "In", "values": ["a"], "itemSelector": INNER}, "In takes no itemSelector"),
        ({"operator": "ContainsAll", "itemSelector": {"matchExpressions": []}}, "must have at least 1 items, has 0"),
    ],
)
def test_each_operator_refuses_another_form(expression, message):
    assert problems(**expression) == [message]


def test_the_misprint_of_the_published_tables_is_refused_with_the_right_name():
    value, found = find(
        MatchExpression, SourceText("x", Node.of({"key": "/p", "operator": "ContainersAny", "itemSelector": INNER}))
    )
    assert value is None
    assert found[0].remedy == "did you mean ContainsAny?"
