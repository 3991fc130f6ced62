"""The state folder: one agent at a time works with it, and an error of its disk says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from margo_gitops.disk.files import disk_errors, read_bounded, replace_file
from margo_gitops.disk.folders import remove_tree
from margo_gitops.disk.locks import HeldLock, LockTaken, take_lock
from margo_gitops.errors import AgentBusy, Location, MargoGitopsError, StateFolderUnusable, StorageFull


def folder_errors(path: Path) -> AbstractContextManager[None]:
    """Turn every `OSError` inside into `StorageFull` or `StateFolderUnusable` at `path`."""
    return disk_errors(
        path,
        what="the state folder cannot be used",
        error=StateFolderUnusable,
        full=StorageFull,
        remedy="check owner, mode and mount of the folder",
    )


def make_folder(path: Path) -> None:
    """Make a folder that only its owner may enter, and its parents.

    Raises:
        StateFolderUnusable: it cannot be made.
        StorageFull: the disk is full.
    """
    with folder_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def refuse_other_user(folder: Path, error: type[MargoGitopsError] = StateFolderUnusable) -> None:
    """Refuse to work as root in the folder of another user, who could not read what root writes there.

    Raises:
        error: this is root, and the folder belongs to another user.
        StateFolderUnusable: the folder cannot be looked at.
    """
    with folder_errors(folder):
        owner = folder.stat().st_uid if folder.exists() else os.geteuid()
    if os.geteuid() == 0 != owner:
        try:
            remedy = f"run the command as the owner: runuser -u {folder.owner()} -- margo-gitops …"
        except KeyError:
            remedy = f"run the command as the user with the id {owner}, or give the folder to root: chown -R"
        raise error(
            "this is root, and the folder belongs to another user, who could not read what root writes",
            where=Location(str(folder)),
            remedy=remedy,
        )


def keep_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Make a file hold this content, durably, in place of what it holds; its folder is made.

    Raises:
        StateFolderUnusable: it cannot be written.
        StorageFull: the disk is full; the old content is intact.
    """
    make_folder(path.parent)
    with folder_errors(path):
        replace_file(path, content, mode=mode)


class TwoPlaces:
    """Keeps a file in the state folder, and a copy where the configuration names a place.

    Attributes:
        paths: the file, and the copy if there is one.
    """

    def __init__(self, path: Path, copy: Path | None, most: int) -> None:
        """Take the places.

        Args:
            copy: None for no second place.
            most: bytes that the file may have.
        """
        self.paths = (path,) if copy is None else (path, copy)
        self._most = most

    def read(self) -> list[bytes]:
        """Return what is there, not verified."""
        return [content for content in self.contents().values() if content]

    def contents(self) -> dict[Path, bytes]:
        """Return what is in each place, not verified; no bytes for what is there and cannot be read."""
        found = {}
        for path in self.paths:
            try:
                found[path] = read_bounded(path, self._most)
            except FileNotFoundError:
                continue
            except OSError:
                found[path] = b""
        return found

    def put(self, path: Path, content: bytes) -> MargoGitopsError | None:
        """Keep this content in one of the places; return why that cannot be."""
        try:
            keep_file(path, content)
        except MargoGitopsError as error:
            return error
        return None

    def write(self, content: bytes) -> list[MargoGitopsError]:
        """Keep this content from now on; return the errors of the copy.

        Raises:
            StateFolderUnusable: it cannot be written in the first place.
            StorageFull: the disk is full.
        """
        first, *others = self.paths
        errors = [error for path in others if (error := self.put(path, content))]
        keep_file(first, content)
        return errors


def clear_way(folder: Path, files: Iterable[str], folders: Iterable[str]) -> list[Path]:
    """Set aside what is not a file, or not a folder, in the place of one; return where it is now.

    Args:
        folder: the state folder.
        files: paths in it that are files, if they exist.
        folders: paths in it that are folders, if they exist.

    Raises:
        StateFolderUnusable: it cannot be moved.
    """
    places = [(folder / name, Path.is_file) for name in files] + [(folder / name, Path.is_dir) for name in folders]
    aside = []
    with folder_errors(folder):
        for place, is_right in places:
            if place.exists() and not is_right(place):
                remove_tree(other := place.with_name(f"{place.name}.damaged"))
                aside.append(place.rename(other))
    return aside


def lock_folder(path: Path) -> HeldLock:
    """Take the lock of a state folder, so that no other agent works with it.

    Raises:
        AgentBusy: another process has it.
        StateFolderUnusable: the folder cannot be made or written, or this is root and it belongs to another user.
    """
    make_folder(path.parent)
    refuse_other_user(path.parent)
    try:
        with folder_errors(path):
            return take_lock(path)
    except LockTaken as taken:
        raise AgentBusy(
            f"another agent works with this state folder{f' ({taken.holder})' if taken.holder else ''}",
            where=Location(str(path.parent)),
            remedy="wait for it, or send `agent run` SIGHUP to poll now",
        ) from taken
