"""An exclusive lock between processes, which the kernel drops when its holder ends, however it ends.

`take_name` adds a lock that other programs respect: a file that exists, as git's `packed-refs.lock`.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class LockTaken(Exception):
    """Another process has the lock.

    Attributes:
        holder: who, "process 4711"; empty where the file does not say.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by {holder or 'another process'}")
        self.holder = holder


class HeldLock:
    """A lock that this process has; leaving its context, or `release`, gives it back.

    Attributes:
        descriptor: of the lock file; a child process that inherits it holds the lock too.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        # A lock that is forgotten is released when its object is collected.
        self._close = weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def take_lock(path: Path, *, mode: int = 0o600, named: bool = True) -> HeldLock:
    """Take the lock of a file, without waiting; the file stays when the lock is released.

    Args:
        path: the file, made if it is missing; its folder exists.
        mode: of a file that is made.
        named: whether the file says who has the lock; otherwise taking the lock writes nothing.

    Raises:
        LockTaken: another process, or another part of this one, has it.
        OSError: the file cannot be made or opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        number = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise LockTaken(f"process {number}" if number.isdecimal() else "") from error
    except BaseException:
        os.close(descriptor)
        raise
    if named:
        with suppress(OSError):  # the number is for people; a full disk is no reason to stop
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return HeldLock(descriptor)


def lock_holder(path: Path) -> int | None:
    """Return the number of the process that has the lock of a file and is named in it; None: no one known has it.

    The kernel's list says so: a number in a file alone may be that of another process by now.
    """
    try:
        number = int(path.read_bytes()[:32])
        inode = path.stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    held = ((parts[4], parts[5].rpartition(":")[2]) for line in locks.splitlines() if len(parts := line.split()) > 5)
    return number if (str(number), str(inode)) in held else None


def take_name(name: Path, own: Path) -> None:
    """Make the file `name` exist, which tells other programs to wait; the caller deletes it.

    It becomes a hard link to `own`, whose lock the caller holds. So names that a killed holder of `own` left are known
    as such (`dead_names`); a name that another program made is not one of them.

    Raises:
        FileExistsError: another program made it.
        OSError: it cannot be made.
    """
    try:
        name.hardlink_to(own)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        name.touch(0o644, exist_ok=False)


def dead_names(own: Path, names: Iterable[Path]) -> Iterator[Path]:
    """Yield the names that a killed holder of `own` left, whose lock the caller holds now.

    Raises:
        OSError: a file cannot be looked at.
    """
    status = own.stat()
    if status.st_nlink > 1:
        for name in names:
            with suppress(FileNotFoundError):
                if name != own and os.path.samestat(name.lstat(), status):
                    yield name
