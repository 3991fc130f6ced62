"""Versions: one order for all of them, and ranges as a policy writes them (`>=1.2 <2`, `1.4.2`, `>=1.2 <2 || 3.0.1`).

VERSION-1  Versions are ordered by precedence (Semantic Versioning 2.0.0, section 11); build metadata has none. It may
           follow `_` as well as `+`, as Margo writes it.
VERSION-2  Beyond SemVer: missing parts count as 0 (`1.0` is `1.0.0`), more than three parts are possible, and a leading
           `v` and leading zeros do not count. Any other text is older than every version with numbers; such texts are
           ordered among themselves with their numbers by value.
VERSION-3  A range is alternatives, separated by `||`; an alternative is comparisons, separated by spaces, that all must
           hold. A comparison is `>=`, `>`, `<=`, `<` or `=` (or nothing, which means `=`) and a version. There are no
           wildcards.
VERSION-4  A pre-release is in an alternative only if one of its comparisons names a pre-release of the same version:
           `<2.0.0` does not let 2.0.0-rc.1 in.
VERSION-5  A version that is not SemVer (parts may be missing) is in a range only where `=` names that very text.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from margo_gitops.values import dataclass

_BEFORE: Final = r"(?:-(?P<before>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
_BUILD: Final = r"(?:[+_][0-9A-Za-z.-]+)?"
_NUMBERED: Final = re.compile(rf"v?(?P<release>[0-9]+(?:\.[0-9]+)*){_BEFORE}{_BUILD}")
_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_SEMVER: Final = re.compile(rf"{_NUMBER}(?:\.{_NUMBER}){{0,2}}{_BEFORE}{_BUILD}")
_COMPARISON: Final = re.compile(r"(?P<sign>>=|<=|>|<|=|)(?P<version>[A-Za-z0-9_][A-Za-z0-9._+-]{0,127})")
_WORD: Final = re.compile(r"[0-9]+|[A-Za-z]+")

_Word: TypeAlias = tuple[bool, int, str]
"""Whether it has letters; if not, how many digits; the text."""


class VersionKey(NamedTuple):
    """What orders versions."""

    numbered: bool
    release: tuple[_Word, ...]
    is_release: bool
    before: tuple[_Word, ...]


def version_key(version: str) -> VersionKey:
    """Return what orders versions (VERSION-1, VERSION-2); versions of equal precedence have equal keys."""
    match = _NUMBERED.fullmatch(version)
    if match is None:
        return VersionKey(False, (), True, tuple(map(_word, _WORD.findall(version))))
    release = [_word(part) for part in match["release"].split(".")]
    while release and release[-1] == _ZERO:
        release.pop()
    before = match["before"].split(".") if match["before"] else ()
    return VersionKey(True, tuple(release), not before, tuple(map(_word, before)))


def newest(versions: Iterable[str]) -> str:
    """Return the newest version; of equal precedence, the one whose text is greater (ValueError: no versions)."""
    return max(versions, key=lambda version: (version_key(version), version))


def _word(text: str) -> _Word:
    if text.isdecimal():
        digits = text.lstrip("0")
        return False, len(digits), digits
    return True, 0, text


_ZERO: Final = _word("0")


@dataclass(frozen=True, slots=True)
class _Comparison:
    sign: str
    version: str
    key: VersionKey | None


_SIGNS: Final[dict[str, Callable[[VersionKey, VersionKey], bool]]] = {
    "=": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@lru_cache(maxsize=1024)
def read_range(text: str) -> tuple[tuple[_Comparison, ...], ...]:
    """Return the alternatives of a range (ValueError: it is not a range (VERSION-3))."""
    return tuple(_alternative(part) for part in text.split("||"))


def in_range(version: str, versions: str) -> bool:
    """Return whether a version is in a range (ValueError: `versions` is not a range)."""
    key = _semver_key(version)
    return any(_holds(version, key, alternative) for alternative in read_range(versions))


def _alternative(text: str) -> tuple[_Comparison, ...]:
    words = re.sub(r"([<>=])\s+", r"\1", text).split()
    if not words:
        raise ValueError("an alternative is empty")
    return tuple(map(_comparison, words))


def _comparison(word: str) -> _Comparison:
    match = _COMPARISON.fullmatch(word)
    if match is None:
        raise ValueError(f"{word[:80]!r} is not a comparison such as >=1.2.0")
    version = match["version"]
    key = _semver_key(version)
    if key is None and match["sign"] != "=":
        raise ValueError(f"{version[:80]!r} is not a SemVer version; write = before it to name that very text")
    return _Comparison(match["sign"] or "=", version, key)


def _semver_key(version: str) -> VersionKey | None:
    return version_key(version) if _SEMVER.fullmatch(version) else None


def _holds(version: str, key: VersionKey | None, comparisons: tuple[_Comparison, ...]) -> bool:
    if key is None:
        return all(each.sign == "=" and each.version == version for each in comparisons)
    if key.before and not any(
        each.key is not None and each.key.before and each.key.release == key.release for each in comparisons
    ):
        return False
    return all(each.key is not None and _SIGNS[each.sign](key, each.key) for each in comparisons)
