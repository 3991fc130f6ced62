"""How a program's configuration spells paths and durations, and what they mean once they are read. Pure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from margo_gitops.documents.declarations import Range, Spelled, Text
from margo_gitops.documents.nodes import Json

DURATION_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(s|m|h|d)$"

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: float | str) -> float:
    """Return a duration, `90s`, `5m`, `2h`, `1d` or a number, in seconds.

    Raises:
        ValueError: it is not a duration.
    """
    if not isinstance(duration, str):
        return float(duration)
    if not re.fullmatch(DURATION_PATTERN[1:-1], duration):
        raise ValueError(f"{duration!r} is not a duration")
    return float(duration[:-1]) * _UNITS[duration[-1]]


def spell_duration(duration: float) -> Json:
    """Return a duration as people write it: in the largest unit of which it holds two or more."""
    for unit, length in reversed(_UNITS.items()):
        if duration >= 2 * length and not duration % length:
            return f"{duration / length:.0f}{unit}"
    return f"{duration:g}s" if duration else 0


FilePath: TypeAlias = Annotated[
    Path, Spelled(Annotated[str, Text(min_length=1)], lambda name, folder: Path(folder, name), str)
]
"""A file or folder; in the file, relative to that file's folder."""

Duration: TypeAlias = Annotated[
    float,
    Spelled(
        Annotated[
            float | str,
            Range(minimum=0),
            Text(pattern=DURATION_PATTERN, what="a duration: a number of seconds, or 90s, 5m, 2h, 1d"),
        ],
        lambda duration, _folder: seconds(duration),
        spell_duration,
    ),
]
"""Seconds; in the file, a number of seconds or a text with a unit."""
