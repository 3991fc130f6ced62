"""Tell cheaply whether a file changed: one `stat` call instead of reading it again.

File systems count time in steps, so two changes within one step look like one: a stamp this young is not believed, and
the file counts as changed until the stamp is old enough.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeAlias

Stamp: TypeAlias = tuple[int, int, int, int]
"""Times of change of content and of attributes (nanoseconds), size (bytes), inode."""

_SETTLED_NANOSECONDS: Final = 50_000_000
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the kernel's id of this boot of the machine; empty where it has none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def stamp(path: str | Path) -> Stamp | None:
    """Return what is different after a file or folder changed; None if it does not exist."""
    try:
        found = os.stat(path)  # noqa: PTH116  # on every request
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def settled(stamps: Iterable[Stamp | None], began: int) -> bool:
    """Return whether all of these are far enough from now to be believed.

    A stamp in the future was given before the clock was set back: a change made now cannot give it again.

    Args:
        began: `time.time_ns()` of a moment before they were taken.
    """
    first, last = began - _SETTLED_NANOSECONDS, time.time_ns() + _SETTLED_NANOSECONDS
    return not any(first <= moment <= last for each in stamps if each for moment in each[:2])


class FileWatch:
    """A few files that are read again when one of them changed: call `mark` before reading, `changed` before use."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._stamps: tuple[Stamp | None, ...] | None = None

    def changed(self) -> bool:
        """Return whether a file may have changed, come or gone since `mark`; true before the first one."""
        return self._stamps is None or self._stamps != tuple(map(stamp, self._paths))

    def mark(self) -> None:
        """Take what is read after this call as the files' content."""
        began = time.time_ns()
        stamps = tuple(map(stamp, self._paths))
        self._stamps = stamps if settled(stamps, began) else None
