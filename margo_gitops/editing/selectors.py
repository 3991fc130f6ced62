"""Selectors as people type them for kubectl, to the placement of a Deployment (docs/editing.md).

    line=3,site=north   line!=3   line in (1, 2)   line notin (1, 2)   line   !line   line>3   device=press-01   all

Labels of a fleet are typed, typed text is not: a value gets the type that the fleet's labels of that key have. In
quotes it is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

from margo_gitops.documents.capabilities import LabelValue
from margo_gitops.documents.constraints import DeviceSelector, MatchExpression, Operator, is_number
from margo_gitops.documents.yaml_scalars import AmbiguousScalarError, read_plain, write_number
from margo_gitops.errors import SelectorInvalid
from margo_gitops.rendering.intent import Intent
from margo_gitops.values import dataclass
from margo_gitops.wording import shortened

MAX_LENGTH = 10_000

_TOKEN = re.compile(
    r"""\s*(?:(?P<operator>!=|==|[=!<>(),])|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<word>[^\s=!<>(),"']+))"""
)
_FORMS = "all, device=ID, or conditions like line=3, site=north, !line, line in (1, 2), separated by commas"


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    kind: str  # "operator", "word", "text" for what stood in quotes; "end"


@dataclass(frozen=True, slots=True)
class _Requirement:
    """One condition: a key, kubectl's operator, and the values compared with."""

    key: str
    operator: str
    values: tuple[_Token, ...] = ()


def parse_selector(text: str, intent: Intent) -> DeviceSelector:
    """Return the selector that a person typed.

    Args:
        intent: the fleet, whose labels give values their types.

    Raises:
        SelectorInvalid: it is not a selector, says two things of one label, or a value could be of several types.
    """
    if text.strip() == "all":
        return DeviceSelector(all=True)
    requirements = list(_Parser(text).requirements())
    devices = [each for each in requirements if each.key == "device"]
    if devices:
        if len(requirements) > 1:
            _refuse(
                text, "device names devices in addition to others, and so goes alone: device in (press-01, press-02)"
            )
        return DeviceSelector(devices=_named(text, devices[0]))
    sites: tuple[str, ...] = ()
    labels: dict[str, LabelValue] = {}
    expressions: list[MatchExpression] = []
    for each in requirements:
        if each.key == "site":
            if sites:
                _refuse(text, "site appears twice; several sites are: site in (north, south)")
            sites = _named(text, each)
        elif each.operator in ("=", "==") and not any(isinstance(held, tuple) for held in _labels(intent, each.key)):
            value = _typed(text, intent, each.key, each.values[0])
            if each.key in labels and labels[each.key] != value:
                _refuse(text, f"{each.key} cannot have two values; one of several is: {each.key} in (…)")
            labels[each.key] = value
        else:
            expressions.append(_expression(text, intent, each))
    return DeviceSelector(sites=sites, match_labels=labels, match_expressions=tuple(expressions))


def _refuse(text: str, why: str) -> NoReturn:
    raise SelectorInvalid(f"{shortened(text, 200)!r} is not a selector", why=[why], remedy=f"write {_FORMS}")


def _named(text: str, each: _Requirement) -> tuple[str, ...]:
    if each.operator not in ("=", "==", "in"):
        _refuse(text, f"{each.key} goes with = and in only: {each.key}=NAME, {each.key} in (NAME, NAME)")
    return tuple(dict.fromkeys(value.text for value in each.values))


_OPERATORS: dict[str, Operator] = {
    "exists": "Exists",
    "!": "DoesNotExist",
    "in": "In",
    "notin": "NotIn",
    "=": "In",
    "==": "In",
    "!=": "NotIn",
    ">": "Gt",
    "<": "Lt",
}


def _expression(text: str, intent: Intent, each: _Requirement) -> MatchExpression:
    operator = _OPERATORS[each.operator]
    if not each.values:
        return MatchExpression(each.key, operator)
    values = tuple(_typed(text, intent, each.key, value) for value in each.values)
    if operator in ("Gt", "Lt") and not is_number(values[0]):
        _refuse(text, f"{each.operator} compares with a number, not with {values[0]!r}")
    if len({is_number(value) or type(value) for value in values}) > 1:
        _refuse(text, f"the values of {each.key} are of several types; text is in quotes")
    return MatchExpression(each.key, operator, values)


def _labels(intent: Intent, key: str) -> Iterator[LabelValue]:
    everything = [each.value.metadata.labels for each in intent.devices.values()]
    everything += [each.value.metadata.labels for each in intent.sites.values()]
    yield from (labels[key] for labels in everything if key in labels)


def _typed(text: str, intent: Intent, key: str, value: _Token) -> str | int | float | bool:
    """Return a value with the type that the fleet's labels of this key have."""
    if value.kind == "text":
        return value.text
    known = [item for label in _labels(intent, key) for item in (label if isinstance(label, tuple) else (label,))]
    same = {type(item): item for item in known if _spelled(item) == value.text}
    if len(same) > 1:
        _refuse(text, f"the fleet's labels {key} are {value.text} as text and as something else; make them one")
    if same:
        return next(iter(same.values()))
    types = {is_number(item) or type(item) for item in known}
    plain = typed_scalar(value.text)
    # A value that no device has yet, in a fleet whose labels are all text.
    return value.text if types == {str} else plain


def typed_labels(assignments: Sequence[str], intent: Intent) -> dict[str, LabelValue]:
    """Return the labels of `key=value` texts, with the types that the fleet's labels have; `[a, b]` is a list.

    Raises:
        SelectorInvalid: one is not an assignment, or could be of several types.
    """
    labels: dict[str, LabelValue] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise SelectorInvalid(f"{assignment!r} is not a label", remedy="write KEY=VALUE")
        quoted = len(text) >= 2 and text[0] == text[-1] == '"'
        if not quoted and (text[:1] == "[" and text[-1:] == "]"):
            parts = [part.strip() for part in text[1:-1].split(",") if part.strip()]
            labels[key] = tuple(_typed(assignment, intent, key, _Token(part, "word")) for part in parts)
        else:
            token = _Token(text[1:-1], "text") if quoted else _Token(text, "word")
            labels[key] = _typed(assignment, intent, key, token)
    return labels


def typed_scalar(text: str) -> str | int | float | bool:
    """Return what text would be, unquoted, in a document; text that could be two things is text."""
    try:
        value = read_plain(text)
    except AmbiguousScalarError:
        return text
    return text if value is None else value


def _spelled(value: str | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else write_number(value)


class _Parser:
    """Reads conditions from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > MAX_LENGTH:
            _refuse(text, f"it has more than {MAX_LENGTH} characters")
        self._tokens = list(self._split(text))
        self._at = 0

    def _split(self, text: str) -> Iterator[_Token]:
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if match is None:
                _refuse(text, f"{text[at:].strip()!r} is not understood")
            at = match.end()
            if match["operator"]:
                yield _Token(match["operator"], "operator")
            elif match["word"]:
                yield _Token(match["word"], "word")
            else:
                yield _Token(match["double"] if match["double"] is not None else match["single"], "text")
        yield _Token("", "end")

    def requirements(self) -> Iterator[_Requirement]:
        if self._tokens[0].kind == "end":
            _refuse(self._text, "it is empty; every device is: all")
        while True:
            yield self._requirement()
            token = self._next()
            if token.kind == "end":
                return
            if token.text != ",":
                _refuse(self._text, f"a comma is missing before {token.text!r}")

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _requirement(self) -> _Requirement:
        token = self._next()
        if token == _Token("!", "operator"):
            return _Requirement(self._key(self._next()), "!")
        key = self._key(token)
        following = self._tokens[self._at]
        if following.kind == "end" or following.text == ",":
            return _Requirement(key, "exists")
        operator = self._next()
        if operator.text in ("in", "notin") and operator.kind == "word":
            return _Requirement(key, operator.text, tuple(self._list()))
        if operator.kind != "operator" or operator.text in "!(),":
            _refuse(self._text, f"{operator.text!r} is not a comparison")
        return _Requirement(key, operator.text, (self._value(self._next()),))

    def _key(self, token: _Token) -> str:
        if token.kind not in ("word", "text") or not token.text:
            _refuse(self._text, "a label's key is missing")
        return token.text

    def _value(self, token: _Token) -> _Token:
        if token.kind not in ("word", "text"):
            _refuse(self._text, "a value is missing")
        return token

    def _list(self) -> Sequence[_Token]:
        if self._next().text != "(":
            _refuse(self._text, "values are in parentheses: line in (1, 2)")
        values = [self._value(self._next())]
        while (token := self._next()).text == "," and token.kind == "operator":
            values.append(self._value(self._next()))
        if token != _Token(")", "operator"):
            _refuse(self._text, "the closing parenthesis is missing")
        return values
