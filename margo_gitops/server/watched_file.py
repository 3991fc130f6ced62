"""A file that people edit while the server runs: read again when it changes, on the next request.

A file that is gone means nothing is allowed. A file with a mistake in it does not: an editor may be in the middle of
writing, and a typing error must not stop a fleet; what held before holds on, and the log says so, once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Generic, TypeVar

from margo_gitops.errors import Location, MargoGitopsError, ServerMisconfigured

T = TypeVar("T")

MAX_BYTES: Final = 64 * 1024 * 1024
_SETTLED_NANOSECONDS: Final = 50_000_000
_LOG = logging.getLogger("margo_gitops.server")


def said_lines(text: str, path: Path) -> Iterator[tuple[Location, str]]:
    """Yield each line of such a file that says something, without what follows a `#`, and where it stands."""
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip()
        if said:
            yield Location(str(path), number), said


class WatchedFile(Generic[T]):
    """The parsed content of a file, as it is now."""

    def __init__(self, path: Path, parse: Callable[[str, Path], T], empty: T) -> None:
        """Read a file.

        Args:
            path: the file.
            parse: makes a value of text and path; raises `ServerMisconfigured` for a mistake.
            empty: the value while there is no file.

        Raises:
            ServerMisconfigured: it cannot be read, or has a mistake.
        """
        self._path = path
        self._parse = parse
        self._empty = empty
        self._stamp: tuple[int, int, int, int] | None = None
        self._value = self._read()
        self._complaint = ""

    @property
    def changed_at(self) -> int:
        """When the file was changed, in seconds since the epoch; 0 while there is none."""
        stamp = self._look()
        return stamp[0] // 1_000_000_000 if stamp else 0

    def value(self) -> T:
        """Return the value of the file as it is at this moment."""
        stamp = self._look()
        if stamp is None:
            self._complain(f"{self._path} is gone: nobody in it is accepted any more")
            self._stamp = None
            self._value = self._empty
        elif stamp != self._stamp:
            try:
                self._value = self._read()
                self._complaint = ""
            except MargoGitopsError as error:
                self._complain(f"{self._path} was not taken over, what held before holds on: {error}")
        return self._value

    def _read(self) -> T:
        began = time.time_ns()
        stamp = self._look()
        # Written a moment ago, it may be written again within the same step of the file system's clock.
        settled = stamp is not None and max(stamp[0], stamp[1]) + _SETTLED_NANOSECONDS < began
        self._stamp = stamp if settled else None
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ServerMisconfigured("the file is too large", where=Location(str(self._path)))
            return self._parse(content.decode(), self._path)
        except (OSError, UnicodeDecodeError) as error:
            raise ServerMisconfigured(
                "the file cannot be read", where=Location(str(self._path)), why=[str(error)], remedy="mend the file"
            ) from error

    def _look(self) -> tuple[int, int, int, int] | None:
        try:
            found = os.stat(self._path)  # noqa: PTH116  # on every request
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _complain(self, message: str) -> None:
        if message != self._complaint:
            _LOG.error("%s", message)
        self._complaint = message
