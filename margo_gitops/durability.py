"""Writing so that it survives a loss of power; for the edges only, the pure core writes nothing."""

from __future__ import annotations

import os
from pathlib import Path


def write_synced(path: Path, content: bytes, *, mode: int, time: int | None = None) -> None:
    """Write a file and wait until the disk has it.

    Args:
        path: made if it is not there, emptied if it is.
        content: all of it.
        mode: of a file that is made.
        time: its modification time, seconds since 1970-01-01 UTC; None: now.

    Raises:
        OSError: it cannot be written; part of it may be there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        if time is not None:
            os.utime(descriptor, (time, time))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make what was renamed, made or removed in a folder durable.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
