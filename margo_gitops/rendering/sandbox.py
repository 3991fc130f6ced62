"""The sandbox in which Jinja2 expressions are parsed and evaluated (EXPR-1 to EXPR-3, EXPR-5).

Jinja2 takes a tenth of a second to load: only where a value has an expression.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from margo_gitops.documents.nodes import Json
from margo_gitops.errors import TemplateInvalid
from margo_gitops.rendering.templates import MAX_RESULT, MAX_SOURCE, short

MAX_MADE = 16 * MAX_RESULT
"""Characters that all filters of one expression may make together."""

# Functions of their input that cannot make much out of little; `join` and `replace` are bounded below.
_FILTERS = frozenset({
    "abs", "capitalize", "count", "d", "default", "first", "float", "int", "items", "last", "length", "list", "lower",
    "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr", "sort", "string", "sum",
    "title", "trim", "unique", "upper",
})  # fmt: skip
_FORMAT = re.compile(r"%[-+ 0]?[0-9]{0,2}(\.[0-9]{1,2})?[sdxXfeg%]")


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox without globals and calls, whose operators are bounded."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call(self, context: Any, called: Any, /, *args: Any, **keywords: Any) -> Any:  # noqa: ANN401, ARG002
        """Refuse every call: methods of text (`ljust`, `format`) could make huge results (EXPR-5)."""
        raise SecurityError("calls are not possible, use filters")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Refuse operations whose result could be huge (EXPR-5)."""
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "**" and not (numbers and abs(left) <= MAX_RESULT and abs(right) <= 64):
            raise SecurityError("the power is too large")
        if not numbers:
            raise SecurityError(f"the operator {operator} takes numbers; use the filters join and format for text")
        return super().call_binop(context, operator, left, right)


def _bounded_join(items: object, separator: str = "") -> str:
    texts = [str(item) for item in items] if isinstance(items, (list, tuple, Iterator)) else [str(items)]
    _bound(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def _bounded_replace(text: object, old: str, new: str) -> str:
    source = str(text)
    _bound(len(source) + source.count(old) * len(new))
    return source.replace(old, new)


def _bounded_format(template: str, *values: object) -> str:
    if _FORMAT.sub("", template).count("%"):
        raise SecurityError("format takes %s, %d, %x, %f, %e, %g with at most two digits of width and precision")
    if not all(isinstance(value, (str, int, float)) for value in values):
        raise SecurityError("format takes text and numbers")
    # The widest field of a number is that of a float's 309 digits before, and 99 after the point.
    _bound(len(template) + sum(len(value) if isinstance(value, str) else 512 for value in values))
    return template % values


class _Made(threading.local):
    """How much text the filters of the current expression made."""

    characters = 0


_MADE = _Made()


def _bound(size: int) -> None:
    _MADE.characters += size
    if size > MAX_RESULT:
        raise SecurityError(f"the text would have {size} characters, {MAX_RESULT} are possible")
    if _MADE.characters > MAX_MADE:
        raise SecurityError(f"the filters make more than {MAX_MADE} characters together")


def _in_text(value: object) -> object:
    """Return a value as it is written within text: true and false as YAML and JSON write them."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        raise SecurityError("an expression within text gives nothing; use the filter default")
    if isinstance(value, (list, tuple, dict)):
        raise SecurityError("an expression within text gives a list or mapping; use join, or choose one field")
    return value


def _environment() -> _Environment:
    environment = _Environment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, finalize=_in_text
    )
    environment.globals.clear()
    environment.filters = {name: rule for name, rule in environment.filters.items() if name in _FILTERS}
    environment.filters |= {"join": _bounded_join, "replace": _bounded_replace, "format": _bounded_format}
    return environment


_ENVIRONMENT = _environment()


_FAILURES = (
    TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError,
    NameError,  # 1e400: Jinja2 writes the constant as `inf` into its code
    RecursionError, MemoryError,
)  # fmt: skip


class Expression:
    """A parsed value: text with expressions in it, or exactly one expression."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            _refuse(source, f"it has {len(source)} characters, {MAX_SOURCE} are possible")
        if "{%" in source or "{#" in source:
            _refuse(source, "statements and comments are not possible, only {{ expressions }}")
        self._source = source
        _MADE.characters = 0  # constant expressions are evaluated while they are parsed
        try:
            tree = _ENVIRONMENT.parse(source)
            self.names = frozenset(name.name for name in tree.find_all(nodes.Name))
            if "self" in self.names:
                _refuse(source, "self is not defined")  # Jinja2 defines it in every template, by no global
            body = tree.body[0].nodes if tree.body and isinstance(tree.body[0], nodes.Output) else []
            self._single = len(body) == 1 and not isinstance(body[0], nodes.TemplateData)
            if self._single:
                self._expression = _ENVIRONMENT.compile_expression(
                    source.strip()[2:-2].strip("-+"), undefined_to_none=False
                )
            else:
                self._template = _ENVIRONMENT.from_string(source)
        except TemplateSyntaxError as error:
            _refuse(source, error.message or "syntax error")
        except TemplateError as error:
            _refuse(source, str(error))
        except (RecursionError, MemoryError, SyntaxError):
            _refuse(source, "it is nested too deeply")

    def evaluate(self, names: Mapping[str, Json]) -> object:
        """Return the value for one device (TemplateInvalid: an undefined name, or an operation that fails)."""
        _MADE.characters = 0
        try:
            value: object = self._expression(**names) if self._single else self._template.render(**names)
            if isinstance(value, StrictUndefined):
                str(value)  # raises UndefinedError with jinja2's own text
        except UndefinedError as error:
            known = ", ".join(sorted(names))
            raise TemplateInvalid(
                f"{short(self._source)} uses a name that is not defined",
                why=[str(error.message)],
                remedy=f"known names: {known}; give the label, or use the filter default; {_literally(self._source)}",
            ) from error
        except _FAILURES as error:
            reason = str(error) or type(error).__name__
            raise TemplateInvalid(f"{short(self._source)} cannot be evaluated", why=[reason]) from error
        return value


def _refuse(source: str, reason: str) -> NoReturn:
    remedy = f"see docs/fleet-repo.md, Expressions; {_literally(source)}"
    raise TemplateInvalid(f"{short(source)} is not a valid expression", why=[reason], remedy=remedy)


def _literally(source: str) -> str:
    """Return how to write what begins an expression where it is meant as text."""
    begun = min(("{{", "{%", "{#"), key=lambda each: source.find(each) % (len(source) + 1))
    written = "{{ '{{' }}" if begun == "{{" else "{{ '{' }}" + begun[1]
    return f"if {begun} is plain text, write {written}"
