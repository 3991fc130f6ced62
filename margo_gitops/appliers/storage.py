"""Folders and files that change in one step, and the one error for a disk that does not take them.

1. What is made is made under `.new-*` beside its place, synced, and renamed: a reader sees all of it or none.
2. When making fails, what was made is deleted; what a killed process left is swept by the next one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from margo_gitops.errors import StorageFailed

_NEW = ".new-"


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn operating system errors below `folder` into one that people understand.

    Raises:
        StorageFailed: the disk is full, read-only or broken, or the folder is not ours.
    """
    try:
        yield
    except OSError as error:
        raise StorageFailed(
            f"{folder} cannot be used: {error.strerror or error}",
            why=[str(error.filename)] if error.filename else [],
            remedy="free space on its disk, or correct its permissions",
        ) from error


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `place` when the block ends well, and is deleted otherwise."""
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = _beside(place)
    folder.mkdir(mode=0o700)
    try:
        yield folder
        sync_tree(folder)
        _take_place(folder, place)
    except BaseException:
        remove_tree(folder)
        raise


@contextmanager
def new_file(place: Path) -> Iterator[Path]:
    """Yield the path of an empty file (mode 0600) that replaces `place` when the block ends well."""
    place.parent.mkdir(parents=True, exist_ok=True)
    path = _beside(place)
    path.touch(mode=0o600)
    try:
        yield path
        _sync(path)
        if place.is_dir() and not place.is_symlink():
            remove_tree(place)
        path.rename(place)
        _sync(place.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def point(link: Path, target: str) -> None:
    """Make the symbolic link `link` lead to `target`, in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    path = _beside(link)
    try:
        path.symlink_to(target)
        path.rename(link)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    _sync(link.parent)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read (mode 0600), in one step."""
    with new_file(path) as new:
        new.write_bytes(content)


def remove_tree(folder: Path) -> None:
    """Delete a folder with all that is in it, also where its files forbid it; do nothing where there is none."""

    def open_up(_function: object, path: str, _error: object) -> None:
        # Archives may hold folders without write permission; a container may have left files of other users.
        Path(path).parent.chmod(0o700)
        target = Path(path)
        if target.is_dir() and not target.is_symlink():
            target.chmod(0o700)
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder, onerror=open_up)


def sweep(folder: Path) -> None:
    """Delete what a killed process left half made in `folder`."""
    with suppress(FileNotFoundError):
        for path in list(folder.iterdir()):
            if path.name.startswith(_NEW):
                if path.is_dir() and not path.is_symlink():
                    remove_tree(path)
                else:
                    path.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Make everything in `folder` survive a loss of power."""
    for root, _folders, files in os.walk(folder):
        for name in files:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                _sync(path)
        _sync(Path(root))


def _take_place(folder: Path, place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        # A folder cannot be replaced in one step; the old one steps aside first and is swept if we die here.
        aside = _beside(place)
        place.rename(aside)
        folder.rename(place)
        remove_tree(aside)
    else:
        folder.rename(place)
    _sync(place.parent)


def _beside(place: Path) -> Path:
    return place.parent / f"{_NEW}{uuid4().hex}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
