"""Plain YAML scalars that mean the same to every reader, and the ones that do not.

YAML 1.1 (PyYAML, older tools) and YAML 1.2 (the core schema; newer tools) disagree on `no`, `on`, `1e3`, `012`, `1:30`,
dates and more. A scalar is *clear* where both give the same value; every other one is refused on input and quoted on
output. The rules are those of the YAML 1.1 type repository and of YAML 1.2.2 section 10.3.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_HEXADECIMAL = r"0x[0-9a-fA-F]+"
# Both versions read a float only with a point, and an exponent only with a sign.
_FLOAT = r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?"
# How libraries of Go, Java, JavaScript, Ruby and C# write a float. Text such as 12e7 has neither a point nor a sign.
_FOREIGN_FLOAT = r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*[eE][-+]?|[eE][-+])[0-9]+"

_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})

_WORDS = frozenset({"y", "yes", "n", "no", "on", "off", "true", "false", "null", "nan", "inf"})
"""Words, in lower case, that some reader takes for something else than text in some capitalisation."""

_NUMBER_LIKE = r"""(?x)[-+]?(?:
        [0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?   # 1:30, base 60
      | 0[bB][01_]+ | 0[oO]?[0-7_]+ | 0[xX][0-9a-fA-F_]+
      | [0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?
      | \.[0-9_]+(?:[eE][-+]?[0-9]+)?
    ) | [-+][0-9_]+                                   # -_1: some readers take it for -1
    """
_NOT_FINITE = r"[-+]?\.(?:inf|Inf|INF|nan|NaN|NAN)"
_DATE = r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?"

# What the writer leaves unquoted: it starts with a letter and holds nothing that YAML gives a meaning to.
_PLAIN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")

MAX_INTEGER = 2**64 - 1
_MAX_EXACT = 2**53
"""Up to here, a float holds every integer."""
MIN_INTEGER = -(2**63)
_LONGEST_NUMBER = 32
"""Characters; an integer within 64 bits has fewer."""
_SHOWN_LENGTH = 40

_SHORT_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_MUST_ESCAPE = re.compile('[\x00-\x1f"\\\\\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]')
_SURROGATE = re.compile("[\ud800-\udfff]")


class AmbiguousScalarError(ValueError):
    """A plain scalar that not every reader takes for the same value.

    Attributes:
        why: the predicate of a sentence that starts with the scalar.
    """

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


def _differs(text: str) -> AmbiguousScalarError:
    quoted = write_text(text) if len(text) <= _SHOWN_LENGTH else "in double quotes"
    return AmbiguousScalarError(
        "means different things to readers of YAML 1.1 and 1.2",
        f"quote it if it is text ({quoted}), or write the number or boolean in its plain form",
    )


def read_plain(text: str, *, foreign: bool = False) -> str | int | float | bool | None:
    """Return the value of a plain (unquoted) scalar.

    Args:
        foreign: whether `1e+06` and its like, which other libraries write for whole numbers too, are numbers.

    Raises:
        AmbiguousScalarError: YAML 1.1 and 1.2 disagree about it, or it is a number beyond 64 bits or not finite.
    """
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    first = text[0]
    if first.isascii() and first.isalpha():
        if text.lower() in _WORDS:
            raise _differs(text)
        return text
    if foreign and re.fullmatch(_FOREIGN_FLOAT, text) and math.isfinite(value := float(text)):
        return whole_number(value)
    return _read_number(text)


def whole_number(value: float) -> int | float:
    """Return a float as an integer, where it is equal to exactly one."""
    return int(value) if value.is_integer() and abs(value) <= _MAX_EXACT else value


def _read_number(text: str) -> str | int | float:
    if _INTEGER.fullmatch(text) or re.fullmatch(_HEXADECIMAL, text):
        number = int(text, 0) if len(text) <= _LONGEST_NUMBER else MAX_INTEGER + 1
        if not MIN_INTEGER <= number <= MAX_INTEGER:
            raise AmbiguousScalarError("needs more than 64 bits", "quote it if it is text")
        return number
    if re.fullmatch(_FLOAT, text):
        value = float(text)
        if not math.isfinite(value):
            raise AmbiguousScalarError("is out of the range of numbers", "quote it if it is text")
        return value
    if re.fullmatch(_NOT_FINITE, text):
        raise AmbiguousScalarError("is not a number that JSON can hold", "quote it if it is text")
    if text == "<<":
        raise AmbiguousScalarError("merges mappings for readers of YAML 1.1 only", "write the merged keys out")
    if re.fullmatch(_NUMBER_LIKE, text) or re.fullmatch(_DATE, text) or text == "=":
        raise _differs(text)
    return text


_SHORT = 128
"""Characters; longer text is rarely written twice."""


def write_text(text: str) -> str:
    """Return `text` as a scalar that every reader takes for exactly this text.

    Raises:
        ValueError: the text holds a lone surrogate, which no encoding can carry.
    """
    return _short_text(text) if len(text) <= _SHORT else _text(text)


@lru_cache(maxsize=16_384)
def _short_text(text: str) -> str:
    """Remember the spelling of short text: keys and names come again in every document of a fleet."""
    return _text(text)


def _text(text: str) -> str:
    if _PLAIN_TEXT.fullmatch(text) and text.lower() not in _WORDS:
        return text
    if _SURROGATE.search(text):
        raise ValueError("text holds a lone surrogate")
    return f'"{_MUST_ESCAPE.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return _SHORT_ESCAPES.get(character) or f"\\u{ord(character):04x}"


def write_number(number: float) -> str:
    """Return a number that every reader takes for the same number, with an integer staying an integer.

    Raises:
        ValueError: not finite, or an integer beyond 64 bits.
    """
    if isinstance(number, int):
        if not MIN_INTEGER <= number <= MAX_INTEGER:
            raise ValueError(f"{number} needs more than 64 bits")
        return str(number)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    mantissa, _, exponent = repr(number).partition("e")
    if not exponent:
        return mantissa
    point = "" if "." in mantissa else ".0"
    sign = "" if exponent[0] in "+-" else "+"
    return f"{mantissa}{point}e{sign}{exponent}"
