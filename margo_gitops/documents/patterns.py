r"""The language of `regexMatch`: regular expressions that a linear engine can match (RE2 syntax).

PATTERN-1  A pattern has nothing that makes matching take exponential time: no look-around, no back-references, no
           atomic groups, no possessive quantifiers, no conditions.
PATTERN-2  It has only what RE2 and other engines write in the same way: no `\Z`, `\u`, `\N`, no comments, no flags
           other than `i`, `m` and `s`, no more than 1000 repetitions.
PATTERN-3  `\d`, `\w`, `\s` and `\b` mean ASCII; `\p{L}` and its like mean Unicode.

This module knows the syntax, so that every program finds the same mistakes; the engine is in `rendering/value_rules`.
"""

from __future__ import annotations

import re
import warnings
from typing import Final

MAX_REPEAT: Final = 1000
_TOKEN: Final = re.compile(
    r"""
      \\[pP](?:\{\^?\w+\}|\w) | \\. | \[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]
    | \(\?(?:P?<[A-Za-z_]\w*>|P=|<=|<!|[a-zA-Z-]+[:)]|.)
    | [*+?]\+ | \{\d*(?:,\d*)?\}\+? | .
    """,
    re.DOTALL | re.VERBOSE,
)
_UNICODE: Final = re.compile(r"\\[pP](?:\{\^?\w+\}|\w)")
_POSIX: Final = re.compile(r"\[:\^?(\w+):\]")
_POSIX_NAMES: Final = (
    *("alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph"),
    *("lower", "print", "punct", "space", "upper", "word", "xdigit"),
)
_NOT_LINEAR: Final = {
    "(?=": "look-ahead",
    "(?!": "look-ahead",
    "(?<=": "look-behind",
    "(?<!": "look-behind",
    "(?>": "an atomic group",
    "(?(": "a condition",
    "(?P=": "a back-reference",
    "(?#": "a comment",
}


def pattern_mistake(pattern: str) -> str | None:
    """Return what is wrong with a pattern, and at which of its characters (counted from 1); None: it can be used."""
    understood = []
    for token in _TOKEN.finditer(pattern):
        what = _unusable(token[0])
        if what:
            return f"{what} at character {token.start() + 1}, which the pattern engine (RE2) does not have"
        understood.append(_as_python_writes_it(token[0]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a set such as [[a], which means the same here
            re.compile("".join(understood))
    except re.error as error:
        where = f" at character {error.pos + 1}" if error.pos is not None else ""
        return f"{error.msg}{where}"
    except (OverflowError, RecursionError):
        return "nested too deeply, or too large"
    return None


def _unusable(token: str) -> str | None:
    """Return what a part of a pattern is, if RE2 does not have it."""
    if token in _NOT_LINEAR:
        return _NOT_LINEAR[token]
    if token[0] == "\\" and len(token) == 2 and (token[1] in "123456789ZuUN"):
        return "a back-reference" if token[1].isdecimal() else f"the escape {token}"
    if token[-1] == "+" and len(token) > 1 and token[0] in "*+?{":
        return "a possessive quantifier"
    if token[0] == "{" and any(int(number) > MAX_REPEAT for number in re.findall(r"\d{1,9}", token)):
        return f"more than {MAX_REPEAT} repetitions"
    if token[0] == "[":
        if any(each[1] not in _POSIX_NAMES for each in _POSIX.finditer(token)):
            return f"the class {token}"
        escapes = re.findall(r"\\.", token, re.DOTALL)
        return r"the escape \b in a class" if r"\b" in escapes else next(filter(None, map(_unusable, escapes)), None)
    if token.startswith("(?") and token[-1] in ":)" and set(token[2:-1]) - set("ims-"):
        return f"the flags {token}"
    return None


def _as_python_writes_it(token: str) -> str:
    """Return a token of the same length with a plain class for what only RE2 has: Python's parser checks the rest."""
    known = _UNICODE.sub(lambda _each: r"\w", token)
    if token[0] == "[":
        known = _POSIX.sub(lambda _each: r"\w", known)
    return known.ljust(len(token), "a")
