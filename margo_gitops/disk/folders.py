"""Folders and links that change in one step.

1. What is made is made under `.new-*` next to its place, synced, and renamed: a reader sees all of it or nothing.
2. When making fails, what was made is deleted; `sweep` deletes what a killed process left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from margo_gitops.disk.files import TEMPORARY_PREFIX, sync_folder, write_synced


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that appears whole or not at all, in place of the one that is there.

    Args:
        files: contents by path relative to it, with slashes.

    Raises:
        OSError: it cannot be written; nothing new is left behind.
    """
    with new_folder(path) as folder:
        for name, content in files.items():
            target = folder / name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_synced(target, content, mode=0o600)


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `place` when the block ends well, and is deleted otherwise.

    Raises:
        OSError: the disk refuses.
    """
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _unfinished(place) as folder:
        folder.mkdir(mode=0o700)
        yield folder
        sync_tree(folder)
        _put(folder, place)


@contextmanager
def new_file(place: Path) -> Iterator[Path]:
    """Yield the path of an empty file (mode 0600) that replaces `place` when the block ends well.

    Raises:
        OSError: the disk refuses.
    """
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _unfinished(place) as path:
        path.touch(mode=0o600)
        yield path
        _sync(path)
        _put(path, place)


def point_link(link: Path, target: str | Path) -> None:
    """Make a symbolic link lead to `target` from one moment to the next; its folder is made if it is missing.

    Raises:
        OSError: the disk refuses; the link leads where it led.
    """
    link.parent.mkdir(parents=True, exist_ok=True)
    with _unfinished(link) as path:
        path.symlink_to(target)
        path.replace(link)
    sync_folder(link.parent)


@contextmanager
def _unfinished(place: Path) -> Iterator[Path]:
    """Yield a name next to `place`; what has it is deleted when the block fails."""
    path = _beside(place)
    try:
        yield path
    except BaseException:
        with suppress(OSError):
            remove_tree(path)
        raise


def _put(made: Path, place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        # A folder cannot be replaced in one step; the old one steps aside first, and is swept if we die here.
        aside = _beside(place)
        place.rename(aside)
        made.rename(place)
        with suppress(OSError):
            remove_tree(aside)
    else:
        made.rename(place)
    sync_folder(place.parent)


def remove_tree(path: Path) -> None:
    """Delete a file, link or folder with all it holds, also where modes forbid it; do nothing if it does not exist.

    Raises:
        OSError: the disk refuses.
    """
    import shutil  # with every kind of archive: a device that waits has no use for them

    def open_up(_function: object, name: str, _error: object) -> None:
        # Archives may hold folders without write permission; a container may have left files of other users.
        target = Path(name)
        target.parent.chmod(0o700)
        if target.is_dir() and not target.is_symlink():
            target.chmod(0o700)
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, onerror=open_up)


def discard(path: Path, aside: Path | None = None) -> None:
    """Take a file, link or folder away from its place, and delete it as far as the disk allows.

    A container may have written files that only root can delete: they stay under a temporary name until `sweep` can.

    Args:
        path: what goes.
        aside: the folder that keeps the rest, on the same file system; None: the one it is in.

    Raises:
        OSError: it cannot be taken away.
    """
    rest = _beside(aside / path.name if aside else path)
    with suppress(FileNotFoundError):
        path.rename(rest)
        with suppress(OSError):
            remove_tree(rest)


def sweep(folder: Path) -> None:
    """Delete what killed processes and `discard` left in a folder, as far as the disk allows."""
    with suppress(FileNotFoundError):
        for path in list(folder.iterdir()):
            if path.name.startswith(TEMPORARY_PREFIX):
                with suppress(OSError):
                    remove_tree(path)


def sync_tree(folder: Path) -> None:
    """Make everything in a folder survive a loss of power (OSError: the disk refuses)."""
    for root, _folders, files in os.walk(folder):
        for name in files:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                _sync(path)
        sync_folder(Path(root))


def _beside(place: Path) -> Path:
    return place.parent / f"{TEMPORARY_PREFIX}{os.urandom(16).hex()}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
