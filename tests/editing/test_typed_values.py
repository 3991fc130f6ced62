"""Values of `--set` have the type and obey the rules that the application declares."""

from __future__ import annotations

from typing import Any

import pytest
from support.fleet import FleetFolder, parameter, rules

from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.editing.values import typed_parameters, typed_value
from margo_gitops.errors import ParameterNotTyped


@pytest.fixture
def described(tmp_path: Any) -> Any:
    """Makes the description of an application with the parameter "setting"."""
    fleet = FleetFolder.empty(tmp_path / "fleet")

    def describe(schema: dict[str, Any] | None, default: Any = None) -> ApplicationDescription:
        more = {"configuration": rules(schema)} if schema else {}
        fleet.application(parameters={"setting": parameter(value=default)}, **more)
        return fleet.read().applications["app", "1.0.0"].description.value

    return describe


TYPED = [
    ({"dataType": "string"}, None, "42", "42"),
    ({"dataType": "string"}, None, "", ""),
    ({"dataType": "string"}, None, "a=b, {c}", "a=b, {c}"),
    ({"dataType": "integer"}, None, "42", 42),
    ({"dataType": "integer"}, None, "-7", -7),
    ({"dataType": "integer"}, None, "{{ device.labels.line }}", "{{ device.labels.line }}"),
    ({"dataType": "double"}, None, "2.5", 2.5),
    ({"dataType": "double"}, None, "1e3", 1000.0),
    ({"dataType": "double"}, None, "2", 2),
    ({"dataType": "boolean"}, None, "true", True),
    ({"dataType": "boolean"}, None, "false", False),
    ({"dataType": "array[string]"}, None, "a, b", ("a", "b")),
    ({"dataType": "array[string]"}, None, '["a, b", "c"]', ("a, b", "c")),
    ({"dataType": "array[string]"}, None, "", ()),
    (
        {"dataType": "array[string]"},
        None,
        '{{ device.labels.tags | default("a,b") }}',
        '{{ device.labels.tags | default("a,b") }}',
    ),
    ({"dataType": "array[integer]"}, None, "1,2", (1, 2)),
    ({"dataType": "array[double]"}, None, "[1.5, 2]", (1.5, 2)),
    ({"dataType": "array[boolean]"}, None, "true,false", (True, False)),
    ({"dataType": "string", "multiselect": True, "options": ["a", "b"]}, None, "b,a", ("b", "a")),
    (None, 10, "11", 11),
    (None, 10, "2.5", 2.5),
    (None, True, "false", False),
    (None, "text", "11", "11"),
    (None, ["a"], "1,2", ("1", "2")),
    (None, [1], "1,2", (1, 2)),
    (None, None, "11", 11),
    (None, None, "no", "no"),
    (None, None, "012", "012"),
]


@pytest.mark.parametrize(
    ("schema", "default", "text", "value"), TYPED, ids=[f"{n}-{each[2][:20]}" for n, each in enumerate(TYPED)]
)
def test_a_value_gets_the_type_that_the_application_declares(
    described: Any, schema: dict[str, Any] | None, default: Any, text: str, value: Any
):
    typed = typed_value(described(schema, default), "setting", text)
    assert (typed, type(typed)) == (value, type(value))


REFUSED = [
    ({"dataType": "integer"}, "ten", "must be an integer"),
    ({"dataType": "integer"}, "1.5", "must be an integer"),
    ({"dataType": "integer"}, "99999999999999999999", "must be an integer"),
    ({"dataType": "integer", "maxValue": 5}, "6", "at most 5"),
    ({"dataType": "double"}, "nan", "must be a number"),
    ({"dataType": "double"}, "inf", "must be a number"),
    ({"dataType": "boolean"}, "yes", "must be true or false"),
    ({"dataType": "string", "allowEmpty": False}, "", "must not be empty"),
    ({"dataType": "string", "regexMatch": "[a-z]+"}, "A", "does not match"),
    ({"dataType": "string", "options": ["a"]}, "b", "not one of a"),
    ({"dataType": "array[integer]"}, "1,x", "must be an integer"),
    ({"dataType": "array[integer]"}, "[1", "is not a list"),
    ({"dataType": "array[string]"}, '[["a"]]', "texts, numbers"),
]


@pytest.mark.parametrize(
    ("schema", "text", "said"), REFUSED, ids=[f"{each[0]['dataType']}-{each[1][:12]}" for each in REFUSED]
)
def test_a_value_that_breaks_a_rule_is_refused(described: Any, schema: dict[str, Any], text: str, said: str):
    with pytest.raises(ParameterNotTyped, match=said):
        typed_value(described(schema), "setting", text)


def test_every_wrong_assignment_is_told_at_once_with_near_matches(described: Any):
    with pytest.raises(ParameterNotTyped) as refused:
        typed_parameters(described({"dataType": "integer"}), ["setting=x", "seting=1", "other", "setting=3"])
    told = str(refused.value)
    assert "setting must be an integer" in told
    assert "seting is not a parameter of app; did you mean setting?" in told
    assert "'other' is not NAME=VALUE" in told
