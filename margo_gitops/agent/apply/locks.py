"""What forbids a deployment to change for now: locks that workloads and gateways of the device hold.

LOCK-1  A lock is asked for right before a deployment would be updated or removed, and at no other time: an idle cycle
        asks nothing. A first installation asks no lock.
LOCK-2  `file` is held while the file exists, as balena's lock files are; `flock` while a process has the file's lock,
        which ends with the process; `http` and `unix` by the status: 200 is free, 409 and 423 are held.
LOCK-3  What cannot be asked, and another answer, count as `silent` says; held, where it says nothing.
LOCK-4  A deployment waits for a lock at most for its `atMost`, counted from the first time that it was held; this time
        is remembered until the deployment changes, or has nothing to change any more. Without `atMost` it waits
        without end. A clock that is not set, went back or cannot be trusted (TIME-1 to TIME-3) never ends the wait.
LOCK-5  Files and sockets are below the folder that the device's configuration names, also after links are followed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final

from margo_gitops.agent.apply.timetable import WRITTEN
from margo_gitops.agent.memory.facts import Facts
from margo_gitops.appliers.probes import http_status
from margo_gitops.documents.declarations import span_seconds
from margo_gitops.documents.switching import DeviceLock, address_of
from margo_gitops.errors import LockHeld
from margo_gitops.values import dataclass, field

_FREE: Final = (200,)
_HELD: Final = (409, 423)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Since when locks hold deployments up: seconds since the epoch, by deployment and lock."""

    FACT: ClassVar[str] = "locks"
    since: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(eq=False)
class Locks:
    """Asks the locks of deployments.

    Attributes:
        folder: below which files and sockets of locks are; None where the device has none.
        clock: the time, seconds since the epoch.
        facts: keeps records.
        doubt: returns why the clock cannot be trusted; empty where it can.
        heartbeat: called before each lock, because its answer may take a while.
    """

    folder: Path | None
    clock: Callable[[], float]
    facts: Facts
    doubt: Callable[[], str] = lambda: ""
    heartbeat: Callable[[], None] = lambda: None

    def held(self, identity: str, name: str, locks: Sequence[DeviceLock]) -> LockHeld | None:
        """Return what holds a deployment up; None where it may change now.

        Args:
            identity: the deployment's id.
            name: the deployment's name, for people.

        Raises:
            StorageFull, StateFolderUnusable: since when it waits cannot be written.
        """
        known = self.facts.get(_Waiting).since
        now = self.clock()
        is_trusted = not (any(lock.at_most for lock in locks) and self.doubt())
        waited = {}
        for lock in locks:
            self.heartbeat()
            key = f"{lock.of}/{lock.name}"
            since = known.get(identity, {}).get(key, now if is_trusted else 0.0)
            if is_trusted and (since > now or since < WRITTEN <= now):
                since = now
            waited[key] = since
            is_over = lock.at_most is not None and now - since >= span_seconds(lock.at_most)
            if is_over and is_trusted and since >= WRITTEN:
                continue
            why = self._held(lock)
            if why is not None:
                self.facts.put(_Waiting({**known, identity: {**known.get(identity, {}), **waited}}))
                return _error(name, lock, since, why)
        self.facts.put(_Waiting({each: of for each, of in known.items() if each != identity}))
        return None

    def forget(self, waiting: Collection[str]) -> None:
        """Forget since when other deployments than these wait."""
        known = self.facts.get(_Waiting).since
        self.facts.put(_Waiting({each: of for each, of in known.items() if each in waiting}))

    def _held(self, lock: DeviceLock) -> str | None:
        """Return why a lock counts as held; None where it does not."""
        try:
            return self._ask(lock)
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            return None if lock.silent == "free" else f"it cannot be asked: {reason}"

    def _ask(self, lock: DeviceLock) -> str | None:
        """Return why a lock is held; None where it is free (OSError, ValueError, RuntimeError: it does not say)."""
        if lock.file is not None:
            return f"{lock.file} exists" if _exists(self._place(lock.file)) else None
        if lock.flock is not None:
            return f"a process locks {lock.flock}" if _is_locked(self._place(lock.flock)) else None
        seconds = span_seconds(lock.timeout)
        if lock.http is not None:
            host, port, path = address_of(lock.http)
            status = http_status((host, port), path, seconds=seconds)
        else:
            status = http_status(self._place(lock.unix or ""), "/", seconds=seconds)
        if status not in (*_FREE, *_HELD):
            raise ValueError(f"it answers {status}")
        return f"{lock.http or lock.unix} answers {status}" if status in _HELD else None

    def _place(self, name: str) -> Path:
        if self.folder is None:
            raise ValueError("the configuration of this device names no folder of locks (locks.folder)")
        folder = self.folder.resolve(strict=True)
        place = folder / name
        if not place.resolve().is_relative_to(folder):
            raise ValueError(f"{name} leads out of the folder of locks")
        return place


def _exists(path: Path) -> bool:
    """Return whether a file exists (OSError: that cannot be seen)."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a plain file")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _error(name: str, lock: DeviceLock, since: float, why: str) -> LockHeld:
    text = f"the deployment {name} is held by lock {lock.name} of {lock.of}"
    if since >= WRITTEN:
        text += f" since {_time(since)}"
        if lock.at_most is not None:
            text += f", at most until {_time(since + span_seconds(lock.at_most))}"
    return LockHeld(text, why=[why], remedy="wait, or run `margo-gitops agent once --now` on the device")


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M UTC}"
