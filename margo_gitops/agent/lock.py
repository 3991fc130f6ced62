"""One agent per state folder: an advisory lock that the kernel drops when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType

from margo_gitops.agent.durable import disk_errors, make_folder
from margo_gitops.errors import AgentBusy, Location


class AgentLock:
    """Holds the lock of a state folder while the context lasts.

    Raises:
        AgentBusy: another process holds it.
        StateFolderUnusable: the folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> None:
        make_folder(self._path.parent)
        with disk_errors(self._path):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise AgentBusy(
                f"another agent works with this state folder{f' (process {holder})' if holder else ''}",
                where=Location(str(self._path.parent)),
                remedy="wait for it, or send `agent run` SIGHUP to poll now",
            ) from error
        with contextlib.suppress(OSError):  # the number is for people; a full disk must not stop the agent
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
