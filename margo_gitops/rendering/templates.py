"""Jinja2 expressions in parameter values: sandboxed, and functions of the device and nothing else.

EXPR-1  Only expressions (`{{ … }}`); no statements, no comments, no includes.
EXPR-2  An undefined name is an error.
EXPR-3  No I/O, no clock, no randomness: no globals, and only filters and tests whose result depends on their input.
EXPR-4  A value that is exactly one expression keeps its type; anything else becomes text, with true and false in lower
        case.
EXPR-5  Results are bounded, and so are operators and filters that could make them huge, one by one and together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_scalars import MAX_INTEGER, MIN_INTEGER
from margo_gitops.errors import TemplateInvalid

if TYPE_CHECKING:
    from margo_gitops.rendering.sandbox import Expression

MAX_SOURCE = 4096
MAX_RESULT = 65_536
"""Characters."""


def short(source: str) -> str:
    """Return the beginning of an expression, as errors name it."""
    return repr(source if len(source) <= 80 else source[:77] + "...")


@lru_cache(maxsize=4096)
def _parse(source: str) -> Expression:
    from margo_gitops.rendering.sandbox import Expression  # loads Jinja2

    return Expression(source)


def is_template(value: object) -> bool:
    """Return whether a parameter value holds an expression."""
    return isinstance(value, str) and ("{{" in value or "{%" in value or "{#" in value)


def names_in(value: ParameterValue) -> frozenset[str]:
    """Return the names that a value's expressions use (TemplateInvalid: they cannot be parsed)."""
    items = value if isinstance(value, tuple) else (value,)
    return frozenset().union(*(_parse(item).names for item in items if isinstance(item, str) and is_template(item)))


def evaluate(value: ParameterValue, names: Mapping[str, Json]) -> ParameterValue:
    """Return a parameter value with its expressions evaluated; a value without any as it is.

    Args:
        value: as written in the fleet repo.
        names: what expressions may use, plain values only: `device`, `site`, `fleet`, `application`, `deployment`.

    Raises:
        TemplateInvalid: syntax, an undefined name, an operation that fails, or a result no parameter can hold.
    """
    if isinstance(value, tuple):
        return tuple(_scalar(evaluate(item, names), item) for item in value)
    if not isinstance(value, str) or not is_template(value):
        return value
    return _parameter(_parse(value).evaluate(names), value)


def _parameter(result: object, source: str) -> ParameterValue:
    if isinstance(result, (list, tuple)):
        return tuple(_scalar(item, source) for item in result)
    return _scalar(result, source)


def _scalar(result: object, source: object) -> str | int | float | bool:
    if isinstance(result, str) and len(result) > MAX_RESULT:
        raise TemplateInvalid(f"the result of {short(str(source))} has more than {MAX_RESULT} characters")
    if isinstance(result, int) and not MIN_INTEGER <= result <= MAX_INTEGER:
        raise TemplateInvalid(f"the result of {short(str(source))} needs more than 64 bits")
    if isinstance(result, float) and not math.isfinite(result):
        raise TemplateInvalid(f"the result of {short(str(source))} is {result}")
    # Exact types: a subclass could be written in another way by some future library.
    if type(result) in (str, int, float, bool):
        return result  # type: ignore[return-value]
    raise TemplateInvalid(
        f"the result of {short(str(source))} is {type(result).__name__}, no text, number, boolean or list of these",
        remedy="choose one field of it, or turn it into text with the filter string",
    )
