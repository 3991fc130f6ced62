"""The rules that an application gives for its parameters (Margo application description, configuration schema)."""

from typing import Any

import pytest

from margo_gitops.documents.application import ValueSchema
from margo_gitops.rendering.value_rules import RuleUnusableError, violations


def broken(value: Any, data_type: str = "string", **rules: Any) -> list[str]:
    return list(violations(ValueSchema("rule", data_type, **rules), value))


TYPES = {
    "string": ("text",),
    "integer": (3, 0, -1),
    "double": (1.5, 3, 0),
    "boolean": (True, False),
    "array[string]": (("a", "b"),),
    "array[integer]": ((1, 2),),
    "array[double]": ((1.5, 2),),
    "array[boolean]": ((True, False),),
}
ALL = [value for values in TYPES.values() for value in values]


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize("value", ALL, ids=repr)
def test_a_value_must_have_the_type_of_its_schema(data_type: str, value: Any):
    fits = any(value == each and type(value) is type(each) for each in TYPES[data_type])
    # An integer is a number too, in lists as well; nothing else is two things.
    if data_type in ("double", "array[double]"):
        fits = fits or any(
            value == each and type(value) is type(each) for each in TYPES[data_type.replace("double", "integer")]
        )
    assert (broken(value, data_type) == []) is fits


RULES = [
    ("abc", {"min_length": 3}, True),
    ("ab", {"min_length": 3}, False),
    ("abc", {"max_length": 3}, True),
    ("äöü", {"max_length": 3}, True),
    ("abcd", {"max_length": 3}, False),
    ("abc", {"regex_match": "[a-z]+"}, True),
    ("abc1", {"regex_match": "[a-z]+"}, False),
    ("abc\n", {"regex_match": "^[a-z]+$"}, False),
    (5, {"min_value": 5}, True),
    (4, {"min_value": 5}, False),
    (5, {"max_value": 5}, True),
    (5.01, {"max_value": 5}, False),
    (1.25, {"max_precision": 2}, True),
    (1.256, {"max_precision": 2}, False),
    (100, {"max_precision": 0}, True),
    (1e-7, {"max_precision": 6}, False),
    (1.5, {"min_precision": 2}, True),
    ("a", {"options": ("a", "b")}, True),
    ("c", {"options": ("a", "b")}, False),
    (1, {"options": (1, 2)}, True),
    (True, {"options": (1, 2)}, False),
    (("a", "b"), {"options": ("a", "b"), "multiselect": True}, True),
    (("a", "c"), {"options": ("a", "b"), "multiselect": True}, False),
    ("a", {"options": ("a", "b"), "multiselect": True}, False),
    ("", {"allow_empty": True, "min_length": 3, "regex_match": "a+"}, True),
    ("", {"allow_empty": False}, False),
]


@pytest.mark.parametrize(("value", "rule", "obeyed"), RULES, ids=str)
def test_every_rule_given_must_hold(value: Any, rule: dict[str, Any], obeyed: bool):
    kinds = {bool: "boolean", int: "integer", float: "double"}
    data_type = kinds.get(type(value), "string")
    assert (broken(value, data_type, **rule) == []) is obeyed


def test_every_item_of_a_list_is_held_to_the_rules():
    assert broken(("ab", "abc", "abcd"), "array[string]", max_length=3) == ["must have at most 3 characters, has 4"]


@pytest.mark.parametrize(("data_type", "empty"), [("array[string]", ()), ("string", "")])
def test_an_empty_value_must_still_be_of_its_kind(data_type: str, empty: Any):
    other = "" if empty == () else ()
    assert broken(empty, data_type) == []
    assert broken(other, data_type) != []


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*)*b", "(?:a?){30}a{30}", "(x+x+)+y"])
def test_a_pattern_that_would_backtrack_without_end_gives_its_answer(pattern: str):
    assert broken("a" * 50_000 + "!", regex_match=pattern) != []
    assert broken("a" * 50_000 + "b", regex_match="(.*)*b") == []


@pytest.mark.parametrize("pattern", ["(?=a)b", "((a{100}){100}){100}", "(?P<n>a)(?P<n>b", "["])
def test_a_pattern_that_cannot_be_compiled_is_an_error_of_the_rule(pattern: str):
    with pytest.raises(RuleUnusableError, match="cannot be evaluated"):
        broken("b", regex_match=pattern)
