"""Which version of an application is the newer one, as people count."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PART = re.compile(r"\d+|[A-Za-z]+")

VersionKey = tuple[tuple[tuple[int, int, str], ...], bool, tuple[tuple[int, int, str], ...]]


def version_key(version: str) -> VersionKey:
    """Return what sorts versions: numbers by value, a pre-release before its release (SemVer 2.0.0 section 11)."""
    release, dash, before = re.split(r"[+_]", version, maxsplit=1)[0].partition("-")
    return _parts(release.removeprefix("v")), not dash, _parts(before)


def _parts(text: str) -> tuple[tuple[int, int, str], ...]:
    return tuple((0, int(part[:18]), "") if part.isdigit() else (1, 0, part) for part in _PART.findall(text))


def newest(versions: Iterable[str]) -> str:
    """Return the newest of some versions.

    Raises:
        ValueError: there are none.
    """
    return max(versions, key=lambda version: (version_key(version), version))
