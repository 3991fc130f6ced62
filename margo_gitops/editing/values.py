"""Parameter values as people type them, with the type and within the rules that the application declares.

A form takes more than `deploy --set`: numbers of a list, yes and no.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

from margo_gitops.documents.application import ApplicationDescription, ValueSchema
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_scalars import MAX_INTEGER, MIN_INTEGER
from margo_gitops.editing.selectors import typed_scalar
from margo_gitops.errors import AnswerRefused, ParameterNotTyped
from margo_gitops.rendering.value_rules import RuleUnusableError, violations
from margo_gitops.wording import did_you_mean

Item = str | int | float | bool

_INTEGER = re.compile(r"[-+]?[0-9]{1,20}")
_TYPE_NAMES = {"integer": "an integer", "double": "a number", "boolean": "true or false"}


def typed_parameters(description: ApplicationDescription, assignments: Sequence[str]) -> dict[str, ParameterValue]:
    """Return the values of `name=value` texts, in their order.

    Args:
        description: of the application, whose schema gives values their types.
        assignments: as typed; a name that comes twice has the last value.

    Raises:
        ParameterNotTyped: with everything that is not an assignment or parameter of the application, or breaks a rule.
    """
    values: dict[str, ParameterValue] = {}
    problems: list[str] = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            problems.append(f"{assignment!r} is not NAME=VALUE")
            continue
        if any("\ud800" <= each <= "\udfff" for each in assignment):  # what bytes that are no text come in as
            shown = name.encode("utf-8", "replace").decode()
            problems.append(f"parameter {shown} is given bytes that are not UTF-8")
            continue
        try:
            values[name] = typed_value(description, name, text)
        except ParameterNotTyped as error:
            problems += [error.what, *error.why]
    if problems:
        raise ParameterNotTyped(f"{description.id} {description.metadata.version} does not take this", why=problems)
    return values


def typed_value(description: ApplicationDescription, name: str, text: str) -> ParameterValue:
    """Return one value with its type.

    Text with an expression stays text, because only a device gives it a value. Without a schema, the application's
    default gives the type; without both, text is read as it would be in a document.

    Raises:
        ParameterNotTyped: there is no such parameter, or the value breaks its rules.
    """
    check_parameter_name(description, name)
    schemas = parameter_schemas(description, name)
    value = _typed(name, text, description.parameters[name].value, schemas[0] if schemas else None)
    check_value(description, name, value)
    return value


def check_parameter_name(description: ApplicationDescription, name: str) -> None:
    """Check that the application has a parameter (ParameterNotTyped: it has not; near ones, or all, are named)."""
    if name not in description.parameters:
        hint = did_you_mean(name, description.parameters)
        raise ParameterNotTyped(f"{name} is not a parameter of {description.id}; {hint}")


def check_value(description: ApplicationDescription, name: str, value: ParameterValue) -> None:
    """Check a value by the rules that `render` applies; text with an expression is left to it.

    Raises:
        ParameterNotTyped: with every rule that is broken.
    """
    if has_expression(value):
        return
    try:
        broken = [each for schema in parameter_schemas(description, name) for each in violations(schema, value)]
    except RuleUnusableError as error:
        raise ParameterNotTyped(f"parameter {name}: {error}") from error
    if broken:
        raise ParameterNotTyped(
            f"parameter {name} {broken[0]}", why=[f"parameter {name} {each}" for each in broken[1:]]
        )


def has_expression(value: ParameterValue) -> bool:
    """Return whether a value holds an expression, which only a device gives a value."""
    return any(isinstance(item, str) and "{{" in item for item in (value if isinstance(value, tuple) else (value,)))


def plain_values(values: Mapping[str, ParameterValue]) -> dict[str, Json]:
    """Return parameter values as they are in a document."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def parameter_schemas(description: ApplicationDescription, name: str) -> list[ValueSchema]:
    """Return the rules for a parameter, in the order of the application's sections."""
    configuration = description.configuration
    if configuration is None:
        return []
    schemas = {schema.name: schema for schema in configuration.schema}
    settings = [each for section in configuration.sections for each in section.settings if each.parameter == name]
    return [schemas[each.schema] for each in settings if each.schema in schemas]


def _typed(name: str, text: str, default: ParameterValue | None, schema: ValueSchema | None) -> ParameterValue:
    if schema is not None:
        kind = schema.data_type.removeprefix("array[").removesuffix("]")
        is_list = schema.multiselect or schema.data_type.startswith("array[")
    else:
        is_list = isinstance(default, tuple)
        example = (default[0] if default else "") if isinstance(default, tuple) else default
        kind = _kind_of(example)
    if not is_list:
        return _item(name, kind, text)
    if text.startswith("{{") and text.endswith("}}"):
        return text  # one expression, whose result is the list
    if text.strip().startswith("["):
        return tuple(_json_item(name, kind, each) for each in _json_list(name, text))
    return tuple(_item(name, kind, part.strip()) for part in text.split(",")) if text.strip() else ()


def _kind_of(example: Item | None) -> str:
    if isinstance(example, bool):
        return "boolean"
    # A default of 10 does not forbid 2.5: only a schema knows integers.
    kinds = {str: "string", int: "number", float: "double", type(None): "any"}
    return kinds[type(example)]


def _json_list(name: str, text: str) -> list[object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParameterNotTyped(f"parameter {name}: {text[:60]!r} is not a list; write a,b,c or a JSON list") from error
    return list(found)


def _json_item(name: str, kind: str, item: object) -> Item:
    if isinstance(item, str):
        return item if kind in ("string", "any") else _item(name, kind, item)
    if isinstance(item, (bool, int, float)) and not (isinstance(item, float) and not math.isfinite(item)):
        return item
    raise ParameterNotTyped(f"parameter {name}: a list holds texts, numbers, true and false only")


def _item(name: str, kind: str, text: str) -> Item:
    if kind == "string" or "{{" in text:
        return text
    if kind in ("any", "number"):
        value = typed_scalar(text)
        if kind == "number" and (isinstance(value, (str, bool))):
            raise ParameterNotTyped(f"parameter {name} must be a number, is {text[:60]!r}")
        return value
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    if kind == "integer" and _INTEGER.fullmatch(text) and MIN_INTEGER <= int(text) <= MAX_INTEGER:
        return int(text)
    if kind == "double":
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and "_" not in text:
            return int(text) if _INTEGER.fullmatch(text) else number
    raise ParameterNotTyped(f"parameter {name} must be {_TYPE_NAMES[kind]}, is {text[:60]!r}")


_PICKS = re.compile(r"[0-9]{1,6}(-[0-9]{1,6})?([\s,]+[0-9]{1,6}(-[0-9]{1,6})?)*")
_TRUTH = {"y": "true", "yes": "true", "n": "false", "no": "false"}


def typed_answer(
    description: ApplicationDescription, name: str, schema: ValueSchema | None, text: str
) -> ParameterValue:
    """Return a parameter's value, checked by the application's rules.

    Args:
        schema: of the setting that is asked for; None if it has no schema.
        text: what was typed. An option of a list can be named by its number, if no option is spelled so.

    Raises:
        ParameterNotTyped: it has another type, or breaks a rule.
    """
    if schema is not None and schema.options is not None:
        text = _options(schema, text)
    elif schema is not None and schema.data_type == "boolean":
        text = _TRUTH.get(text.lower(), text)
    return typed_value(description, name, text)


def _options(schema: ValueSchema, text: str) -> str:
    """Return text with the numbers of options replaced by these."""
    spelled = [str(option).lower() if isinstance(option, bool) else str(option) for option in schema.options or ()]
    if not schema.multiselect:
        return _option(spelled, text)
    if text.strip().startswith("[") or "{{" in text:
        return text
    # As JSON, because an option may hold a comma.
    parts = [text] if text in spelled else [part.strip() for part in text.split(",") if part.strip()]
    return json.dumps([_option(spelled, part) for part in parts], ensure_ascii=False)


def _option(spelled: list[str], text: str) -> str:
    if text in spelled or not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= len(spelled):
        return text
    return spelled[int(text) - 1]


def picked(text: str, most: int) -> tuple[int, ...] | None:
    """Return the numbers of `1, 3-5`, in the order typed, each once; None where the text is something else.

    Raises:
        AnswerRefused: a number is not in the list.
    """
    if not _PICKS.fullmatch(text.strip()):
        return None
    numbers: list[int] = []
    for part in re.split(r"[\s,]+", text.strip()):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= most:
            raise AnswerRefused(f"{part} is not a number of the list", remedy=f"name some of 1 to {most}")
        numbers += range(low, high + 1)
    return tuple(dict.fromkeys(numbers))
