"""Write an edit into the working tree: every file, or none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from margo_gitops.editing.edit import Base, Edit, FileChange
from margo_gitops.errors import FilesNotWritten, Location


def write_edit(base: Base, edit: Edit) -> None:
    """Write the files of an edit.

    Raises:
        FilesNotWritten: one cannot be written, or is not what the edit was made for; all are as before.
    """
    root = base.repo.root
    for change in edit.changes:
        _check(root, change)
    done: list[FileChange] = []
    try:
        for change in edit.changes:
            done.append(change)
            _put(root / change.path, change.after)
    except OSError as error:
        for change in reversed(done):
            _put_back(root / change.path, change.before)
        raise FilesNotWritten(
            "the change cannot be written", where=Location(done[-1].path), why=[error.strerror or str(error)]
        ) from error
    for change in edit.changes:
        if change.after is None:
            _remove_empty(root, (root / change.path).parent)


def _check(root: Path, change: FileChange) -> None:
    place = root / change.path
    inside = place.parent.resolve().is_relative_to(root.resolve())
    if not inside or place.is_symlink():
        raise FilesNotWritten("a link is in the way", where=Location(change.path), remedy="put a plain file there")
    try:
        now = place.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        now = None
    except OSError as error:
        raise FilesNotWritten(
            "the file cannot be read", where=Location(change.path), why=[error.strerror or str(error)]
        ) from error
    if now != change.before:
        remedy = "run the command again" if now is not None and change.before is not None else "git may ignore the file"
        raise FilesNotWritten(
            "the file is not what the change was made for", where=Location(change.path), remedy=remedy
        )


def _put(place: Path, content: bytes | None) -> None:
    if content is None:
        place.unlink(missing_ok=True)
        return
    mode = place.stat().st_mode & 0o777 if place.exists() else None
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).chmod(mode if mode is not None else 0o666 & ~_umask())
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _put_back(place: Path, content: bytes | None) -> None:
    try:
        _put(place, content)
    except OSError:
        return  # the first error is the one to tell


def _remove_empty(root: Path, folder: Path) -> None:
    """Remove folders that an edit has emptied, as git does."""
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
