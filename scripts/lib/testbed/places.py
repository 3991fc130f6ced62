"""Where the testbed keeps its state, and locks on its folders between processes."""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import UnavailableError

_SOCKET_LIMIT = 107
_LONGEST_SOCKET = "docker/exec/containerd/containerd-debug.sock"
CHECKOUT = Path(__file__).resolve().parents[3]


def state_folder() -> Path:
    """Return MARGO_GITOPS_TESTBED, or `.testbed` in the checkout; for a path too long for sockets, one in /tmp.

    Raises:
        UnavailableError: the folder in /tmp is somebody else's.
    """
    wanted = Path(os.environ.get("MARGO_GITOPS_TESTBED") or CHECKOUT / ".testbed").absolute()
    if len(os.fsencode(wanted / _LONGEST_SOCKET)) <= _SOCKET_LIMIT:
        return wanted
    short = Path("/tmp", f"margo-gitops-testbed-{os.geteuid()}-{zlib.crc32(bytes(wanted)):08x}")
    short.mkdir(mode=0o700, exist_ok=True)
    if short.is_symlink() or short.stat().st_uid != os.geteuid():
        raise UnavailableError(f"{short} belongs to somebody else", "name a short MARGO_GITOPS_TESTBED")
    return short


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on `folder`, which is made if need be; the kernel gives it up when the process ends."""
    descriptor = _open_locked(folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Say whether any other process holds a lock on `folder`."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open_locked(folder: Path, operation: int) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue

        try:
            fcntl.flock(descriptor, operation)
            # Whoever held the lock before may have removed the folder: then this lock is on nothing.
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
