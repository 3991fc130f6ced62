"""A program's configuration: how it spells paths and durations, and what they mean once its file is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeAlias, TypeVar

from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.declarations import UNIT_SECONDS, Range, Spelled, Text
from margo_gitops.documents.nodes import Bounds, Json, SourceText
from margo_gitops.documents.records import find
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import Location, MargoGitopsError, UnreadableDocument

T = TypeVar("T")

DURATION_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(s|m|h|d)$"

MOST_BYTES: Final = 64 * 1024
"""Of a configuration."""
_BOUNDS: Final = Bounds(size=MOST_BYTES, depth=12, nodes=2_000)


def seconds(duration: float | str) -> float:
    """Return a duration, `90s`, `5m`, `2h`, `1d` or a number, in seconds (ValueError: it is not a duration)."""
    if not isinstance(duration, str):
        return float(duration)
    if not re.fullmatch(DURATION_PATTERN[1:-1], duration):
        raise ValueError(f"{duration!r} is not a duration")
    return float(duration[:-1]) * UNIT_SECONDS[duration[-1]]


def spell_duration(duration: float) -> Json:
    """Return a duration as people write it: in the largest unit of which it holds two or more."""
    for unit, length in reversed(UNIT_SECONDS.items()):
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


def load_settings(
    record: type[T],
    file: Path,
    *,
    whose: str,
    error: type[MargoGitopsError],
    remedy: str,
    overridden: Callable[[SourceText], SourceText] = lambda source: source,
    content: bytes | None = None,
) -> T:
    """Return the configuration in a file.

    Args:
        whose: it is, "the server's".
        remedy: where there is no such file.
        content: of the file; None: it is read.
        overridden: returns the document with what other places say in place of the file.

    Raises:
        MargoGitopsError: an `error`: the file cannot be read, or has mistakes; each is listed with line and column.
    """
    what = f"{whose} configuration cannot be read"
    if content is None:
        content = read_small_file(file, MOST_BYTES, what=what, error=error, remedy=remedy)
    try:
        source = read_yaml(content, str(file), _BOUNDS)
    except UnreadableDocument as bad:
        raise error(f"{what}: {bad.what}", where=bad.where, why=bad.why, remedy=bad.remedy) from bad
    configuration, findings = find(record, overridden(source), folder=str(file.absolute().parent))
    if configuration is None:
        errors = [str(finding) for finding in findings if finding.severity == "error"]
        what = f"{whose} configuration has mistakes"
        raise error(what, where=Location(str(file)), why=errors, remedy="correct the file")
    return configuration
