"""Causes outside of an update that come to an end: what failed because of one is tried then, before its pause is over.

CAUSE-1  The network is back: the source answers again after it did not; or a person brought an image: the engine tells
         it. What could not be fetched is tried.
CAUSE-2  The disk has room: clearly more is free than when it was full. What could not be written is tried.
CAUSE-3  The engine is back: it answers again after it did not. What it cut off is tried.
CAUSE-4  Each end counts once. What fails again rests longer, as before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from margo_gitops.errors import (
    ApplyError,
    ArtifactUnavailable,
    ContentNoRoom,
    ContentUnavailable,
    EngineUnavailable,
    StorageFailed,
)
from margo_gitops.values import dataclass, field

_CLEARLY: Final = 16 * 1024 * 1024
"""Bytes: logs come and go; what an update needs is more."""


def free_bytes(folders: Iterable[Path]) -> int:
    """Return how many bytes are free on the disks of these folders together, each disk once."""
    found = {}
    for folder in folders:
        try:
            found[folder.stat().st_dev] = (room := os.statvfs(folder)).f_bavail * room.f_frsize
        except OSError:
            continue
    return sum(found.values())


@dataclass(eq=False)
class Causes:
    """Notices that causes are gone; for one life of an agent.

    Attributes:
        free: returns the bytes that are free where it writes; asked only after a disk was full.
    """

    free: Callable[[], int] = lambda: 0
    _free: int | None = field(default=None, init=False)
    _reached: bool = field(default=False, init=False)
    _silent: bool = field(default=False, init=False)

    def reached(self) -> None:
        """Note that the source answers again, or that an image came (CAUSE-1)."""
        self._reached = True

    def failed(self, error: ApplyError) -> None:
        """Note why a step failed."""
        if isinstance(error, StorageFailed):
            self._free = self.free()

    def gone(self, *, silent: bool) -> set[str]:
        """Return the codes of errors whose cause is gone since the last call.

        Args:
            silent: whether an engine does not answer now.
        """
        codes = set()
        if self._reached:
            codes |= {ArtifactUnavailable.code, ContentUnavailable.code}
        if self._silent and not silent:
            codes.add(EngineUnavailable.code)
        if self._free is not None and self.free() >= self._free + _CLEARLY:
            codes |= {StorageFailed.code, ContentNoRoom.code}
            self._free = None
        self._reached, self._silent = False, silent
        return codes
