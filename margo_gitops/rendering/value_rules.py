"""Whether a parameter's value obeys its application's own schema (Margo application description, configuration schema).

The data type must always match; of the other rules, all that are given must hold. Three readings are ours, because the
published text contradicts its own examples or leaves it open: `allowEmpty: false` means that the value must not be
empty, `regexMatch` must match the whole value, and `minPrecision` cannot be broken, since 1.50 is the number 1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from margo_gitops.documents.application import ValueSchema
from margo_gitops.documents.components import ParameterValue
from margo_gitops.wording import shortened

if TYPE_CHECKING:
    import re2


class RuleUnusableError(ValueError):
    """A rule of the schema itself cannot be evaluated."""


def is_empty(value: ParameterValue | None) -> bool:
    """Return whether a value counts as empty: absent, "" or a list without items."""
    return value is None or value in ("", ())


def violations(schema: ValueSchema, value: ParameterValue) -> Iterator[str]:
    """Yield every rule of `schema` that `value` breaks, in words (RuleUnusableError: `regexMatch` cannot work)."""
    if is_empty(value):
        # Other rules speak of values that are there: an optional text may be empty and still have a minLength.
        if not schema.allow_empty:
            yield "must not be empty (allowEmpty is false)"
        elif not isinstance(value, _expected(schema)):
            yield f"must be {_ARTICLES[schema.data_type]}"
        return
    if not _has_type(schema, value):
        yield f"must be {_ARTICLES[schema.data_type]}, is {_described(value)}"
        return
    for item in value if isinstance(value, tuple) else (value,):
        yield from _item_violations(schema, item)


def rule_text(schema: ValueSchema) -> str:
    """Return what a schema wants, in words: `integer, at least 1, at most 3600`."""
    parts: list[str] = [schema.data_type]
    for name, value in (
        ("at least", schema.min_value),
        ("at most", schema.max_value),
        ("min length", schema.min_length),
        ("max length", schema.max_length),
        ("decimals at most", schema.max_precision),
        ("matching", schema.regex_match),
    ):
        if value is not None:
            parts.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    if schema.options is not None:
        parts.append(f"{'any' if schema.multiselect else 'one'} of {', '.join(map(str, schema.options))}")
    if not schema.allow_empty:
        parts.append("not empty")
    return ", ".join(parts)


def _expected(schema: ValueSchema) -> type:
    return tuple if schema.multiselect or schema.data_type.startswith("array[") else str


def _has_type(schema: ValueSchema, value: ParameterValue) -> bool:
    kind = schema.data_type.removeprefix("array[").removesuffix("]")
    if _expected(schema) is tuple:
        return isinstance(value, tuple) and all(_TYPES[kind](item) for item in value)
    return not isinstance(value, tuple) and _TYPES[kind](value)


_TYPES: dict[str, Callable[[object], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "double": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}

_ARTICLES = {
    "string": "a string",
    "integer": "an integer",
    "double": "a number",
    "boolean": "true or false",
    "array[string]": "a list of strings",
    "array[integer]": "a list of integers",
    "array[double]": "a list of numbers",
    "array[boolean]": "a list of booleans",
}


def _described(value: ParameterValue) -> str:
    if isinstance(value, tuple):
        return f"a list ({', '.join(map(repr, value))[:60]})"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{'a string' if isinstance(value, str) else 'a number'} ({repr(value)[:60]})"


def _item_violations(schema: ValueSchema, item: str | float | bool) -> Iterator[str]:
    if schema.options is not None and not any(
        item == option and isinstance(item, bool) == isinstance(option, bool) for option in schema.options
    ):
        yield f"{item!r} is not one of {', '.join(map(str, schema.options))}"
    if isinstance(item, str):
        yield from _text_violations(schema, item)
    elif not isinstance(item, bool):
        yield from _number_violations(schema, item)


def _text_violations(schema: ValueSchema, text: str) -> Iterator[str]:
    if schema.min_length is not None and len(text) < schema.min_length:
        yield f"must have at least {schema.min_length} characters, has {len(text)}"
    if schema.max_length is not None and len(text) > schema.max_length:
        yield f"must have at most {schema.max_length} characters, has {len(text)}"
    if schema.regex_match is not None and not compiled(schema.regex_match).fullmatch(text):
        yield f"{text[:60]!r} does not match {schema.regex_match}"


def _number_violations(schema: ValueSchema, number: float) -> Iterator[str]:
    if schema.min_value is not None and number < schema.min_value:
        yield f"must be at least {schema.min_value:g}, is {number}"
    if schema.max_value is not None and number > schema.max_value:
        yield f"must be at most {schema.max_value:g}, is {number}"
    if schema.max_precision is not None and _decimals(number) > schema.max_precision:
        yield f"must have at most {schema.max_precision} decimals, is {number}"


def _decimals(number: float) -> int:
    exponent = Decimal(repr(number)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


_ENGINE_BYTES: Final = 64 * 1024 * 1024
"""What the engine may use for one pattern, such as `[\\p{L}]{2,1000}`."""


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re2._Regexp:
    """Return a pattern of a supplier; it matches any text in time proportional to its length.

    Raises:
        RuleUnusableError: the engine does not take it; `documents.patterns` finds all that is not a matter of size.
    """
    import re2  # only where a schema has regexMatch

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _ENGINE_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else error
        raise RuleUnusableError(f"the rule regexMatch {shortened(pattern, 80)!r} cannot be evaluated: {why}") from error
