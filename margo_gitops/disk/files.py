"""Files: read within a bound, and replaced in one step.

1. A reader never waits. A pipe, a device, a socket or a folder in a file's place is an error.
2. A reader takes at most the bytes that its caller allows; a larger file is an error.
3. A writer makes a file next to its place, syncs it and renames it: a reader sees all of the old content or of the new,
   also after a loss of power.
4. A writer opens no file that is there already: who else may write the folder cannot lead it elsewhere by a link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from margo_gitops.errors import Location, MargoGitopsError

TEMPORARY_PREFIX: Final = ".new-"
"""Start of the names of unfinished files and folders; `sweep` removes what a killed process left."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The disk is full, or what this user may have of it."""


def read_bounded(
    path: Path, most: int, *, follow_links: bool = True, private: bool = False, cut: bool = False
) -> bytes:
    """Return the content of a small file.

    Args:
        most: how many bytes it may have.
        follow_links: whether a symbolic link is followed; otherwise it is an error.
        private: whether a file that its group or others can read, write or execute is an error.
        cut: whether a larger file gives its first bytes, without an error.

    Raises:
        FileNotFoundError: it does not exist.
        OSError: it cannot be read, is larger, or is not a regular file; `reason` says why.
    """
    links = 0 if follow_links else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | links)
    try:
        status = os.fstat(descriptor)
        mode, limit = status.st_mode, most if cut else most + 1
        if not stat.S_ISREG(mode):
            kind = "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device"
            raise OSError(errno.EINVAL, f"it is a {kind}, not a file", str(path))
        if private and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise OSError(errno.EPERM, "others can read it: only its owner may (chmod 600)", str(path))
        with open(descriptor, "rb", closefd=False) as file:  # a descriptor, not a path
            # With a buffer of the whole limit, each content that is held keeps a mapping; Linux allows 65,530.
            content = file.read(min(status.st_size + 1, limit))
            if len(content) > status.st_size:  # it grew, or is a file of the kernel, which has no size
                content += file.read(limit - len(content))
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise OSError(errno.EOVERFLOW, f"it is larger than {most} bytes", str(path))
    return content


def read_small_file(
    path: Path, most: int, *, what: str, error: type[MargoGitopsError], remedy: str = "", private: bool = False
) -> bytes:
    """Return the content of a small file; an error says which file, why, and what to do.

    Args:
        most: how many bytes it may have.
        what: the sentence of the error, "the list of allowed signers cannot be read".

    Raises:
        MargoGitopsError: an `error`.
    """
    with disk_errors(path, what=what, error=error, remedy=remedy):
        return read_bounded(path, most, private=private)


@contextmanager
def disk_errors(
    path: Path,
    *,
    what: str,
    error: type[MargoGitopsError],
    remedy: str = "",
    full: type[MargoGitopsError] | None = None,
) -> Iterator[None]:
    """Turn every `OSError` inside into one of ours.

    Args:
        path: the place to name where the operating system names none.
        full: the class for a full disk; None: `error`.

    Raises:
        MargoGitopsError: an `error`, or `full`.
    """
    try:
        yield
    except OSError as failure:
        where = Location(str(failure.filename or path))
        if full is not None and failure.errno in _FULL:
            raise full(f"cannot write: {reason(failure)}", where=where, remedy="free space on this disk") from failure
        raise error(what, where=where, why=[reason(failure)], remedy=remedy) from failure


def reason(error: OSError) -> str:
    """Return why, in lower case: "no such file or directory"."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def replace_file(path: Path, content: bytes, *, mode: int = 0o600, time: int | None = None) -> None:
    """Write a file so that it holds the old content or the new at any moment, and the new one when this returns.

    Args:
        path: the file; its folder exists, and only one process at a time replaces it.
        time: its modification time, seconds since 1970-01-01 UTC; None: now.

    Raises:
        OSError: it cannot be written; the old content is intact.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    if temporary.is_dir() and not temporary.is_symlink():
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.urandom(16).hex()}")
    else:
        temporary.unlink(missing_ok=True)  # what a killed process left may be a pipe, or a link to elsewhere
    try:
        write_synced(temporary, content, mode=mode, time=time)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: bytes, *, mode: int, time: int | None = None) -> None:
    """Write a file and wait until the disk has it.

    Args:
        path: nothing is there, not even a link.
        time: its modification time, seconds since 1970-01-01 UTC; None: now.

    Raises:
        OSError: it cannot be written, or something is there; part of it may be there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        if time is not None:
            os.utime(descriptor, (time, time))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """Return what new files and folders of this process do not allow."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make what was renamed, made or removed in a folder durable (OSError: the disk refuses)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
