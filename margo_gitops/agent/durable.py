"""Files that survive a power cut: written beside their place, synced, then renamed into it.

A reader sees the old content or the new, whole. Every error of the disk becomes one of ours.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from margo_gitops.disk.files import sync_folder, write_synced
from margo_gitops.errors import Location, MargoGitopsError, StateFolderUnusable, StorageFull

TEMPORARY_PREFIX: Final = ".new-"
"""Start of the names of unfinished files and folders; whoever owns the folder removes them at its next start."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def disk_error(error: OSError, path: Path) -> MargoGitopsError:
    """Return what an error of the operating system means for the agent, with the path it happened at."""
    where = Location(str(path))
    reason = (error.strerror or str(error)).lower()
    if error.errno in _FULL:
        return StorageFull(f"cannot write: {reason}", where=where, remedy="free space on this disk")
    return StateFolderUnusable(
        f"cannot use the file: {reason}", where=where, remedy="check owner, mode and mount of the folder"
    )


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn every `OSError` inside into `StorageFull` or `StateFolderUnusable` at `path`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def make_folder(path: Path) -> None:
    """Make a folder that only its owner may enter, and its parents.

    Raises:
        StateFolderUnusable: it cannot be made.
        StorageFull: the disk is full.
    """
    with disk_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it holds the old content or the new at any moment, and the new one when this returns.

    Raises:
        StateFolderUnusable: it cannot be written.
        StorageFull: the disk is full; the old content is intact.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    with disk_errors(path):
        try:
            write_synced(temporary, content, mode=0o600)
            temporary.replace(path)
            sync_folder(path.parent)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that appears whole or not at all; `path` must not exist.

    Args:
        path: the folder.
        files: contents by path relative to it, with slashes.

    Raises:
        StateFolderUnusable: it cannot be written.
        StorageFull: the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    with disk_errors(path):
        remove_tree(temporary)
        try:
            folders = {temporary}
            for name, content in files.items():
                target = temporary / name
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                folders.add(target.parent)
                write_synced(target, content, mode=0o600)
            for folder in folders:
                sync_folder(folder)
            temporary.rename(path)
            sync_folder(path.parent)
        except OSError:
            remove_tree(temporary)
            raise


def point_link(link: Path, target: str) -> None:
    """Let a symbolic link lead to `target` from one moment to the next.

    Raises:
        StateFolderUnusable: it cannot be written.
        StorageFull: the disk is full; the link leads where it led.
    """
    temporary = link.with_name(f"{TEMPORARY_PREFIX}{link.name}")
    with disk_errors(link):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
        sync_folder(link.parent)


def remove_tree(path: Path) -> None:
    """Remove a file, link or folder with all it holds; do nothing where there is none."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
