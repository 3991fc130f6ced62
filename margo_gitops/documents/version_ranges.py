"""Ranges of versions, as a policy writes them: `>=1.2 <2`, `1.4.2`, `>=1.2 <2 || 3.0.1`.

V-1  A range is alternatives, separated by `||`; an alternative is comparisons, separated by spaces, that all must hold.
V-2  A comparison is `>=`, `>`, `<=`, `<` or `=` (or nothing, which means `=`) and a version. Missing parts count as 0.
     There are no wildcards.
V-3  Versions are compared by precedence (Semantic Versioning 2.0.0, section 11); build metadata has none. It may stand
     behind `_` too, as Margo writes it.
V-4  A pre-release is in an alternative only if one of its comparisons names a pre-release of the same version: `<2.0.0`
     does not let 2.0.0-rc.1 in.
V-5  A version that is no SemVer is in a range only where `=` names that very text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

_NUMBER = r"(?:0|[1-9][0-9]{0,17})"
_VERSION = re.compile(
    rf"(?P<major>{_NUMBER})(?:\.(?P<minor>{_NUMBER})(?:\.(?P<patch>{_NUMBER}))?)?"
    r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:[+_][0-9A-Za-z.-]+)?"
)
_COMPARISON = re.compile(r"(?P<sign>>=|<=|>|<|=|)(?P<version>[A-Za-z0-9_][A-Za-z0-9._+-]{0,127})")


@dataclass(frozen=True, slots=True)
class Version:
    """A version as it is compared; `pre` is empty for a release."""

    release: tuple[int, int, int]
    pre: tuple[str, ...] = ()

    def precedence(self) -> tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]:
        """Return what orders versions (Semantic Versioning 2.0.0, section 11)."""
        parts = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in self.pre)
        return self.release, not self.pre, tuple((text, number, part if text else "") for text, number, part in parts)


@dataclass(frozen=True, slots=True)
class _Comparison:
    sign: str
    text: str
    version: Version | None


_SIGNS: dict[str, Callable[[object, object], bool]] = {
    "=": lambda left, right: left == right,
    ">=": lambda left, right: left >= right,  # type: ignore[operator]
    "<=": lambda left, right: left <= right,  # type: ignore[operator]
    ">": lambda left, right: left > right,  # type: ignore[operator]
    "<": lambda left, right: left < right,  # type: ignore[operator]
}


def read_version(text: str) -> Version | None:
    """Return a SemVer version; missing parts are 0. None for any other text."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    pre = tuple(match["pre"].split(".")) if match["pre"] else ()
    if any(len(part) > 18 for part in pre if part.isdigit()):
        return None
    return Version((int(match["major"]), int(match["minor"] or 0), int(match["patch"] or 0)), pre)


@lru_cache(maxsize=1024)
def read_range(text: str) -> tuple[tuple[_Comparison, ...], ...]:
    """Return the alternatives of a range.

    Raises:
        ValueError: it is none (V-1, V-2).
    """
    return tuple(_alternative(part) for part in text.split("||"))


def _alternative(text: str) -> tuple[_Comparison, ...]:
    words = re.sub(r"([<>=])\s+", r"\1", text).split()
    if not words:
        raise ValueError("an alternative is empty")
    return tuple(map(_comparison, words))


def _comparison(word: str) -> _Comparison:
    match = _COMPARISON.fullmatch(word)
    if match is None:
        raise ValueError(f"{word[:80]!r} is no comparison such as >=1.2.0")
    version = read_version(match["version"])
    if version is None and match["sign"] != "=":
        raise ValueError(f"{match['version'][:80]!r} is no SemVer version; if it is one's very text, write =")
    return _Comparison(match["sign"] or "=", match["version"], version)


def in_range(version: str, versions: str) -> bool:
    """Return whether a version lies in a range.

    Raises:
        ValueError: `versions` is no range.
    """
    read = read_version(version)
    return any(_holds(version, read, alternative) for alternative in read_range(versions))


def _holds(text: str, version: Version | None, comparisons: tuple[_Comparison, ...]) -> bool:
    if version is None:
        return all(each.sign == "=" and each.text == text for each in comparisons)
    if version.pre and not any(
        each.version is not None and each.version.pre and each.version.release == version.release
        for each in comparisons
    ):
        return False
    return all(
        each.version is not None and _SIGNS[each.sign](version.precedence(), each.version.precedence())
        for each in comparisons
    )
