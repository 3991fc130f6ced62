"""A file that people edit while the server runs: read again when it changes, on the next request.

A file that is gone means that nothing in it is allowed any more. A file with a mistake does not: an editor may be in
the middle of writing, and a typing error must not stop a fleet. Then the last good content stays, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Generic, TypeVar

from margo_gitops.disk.files import read_small_file
from margo_gitops.disk.stamps import FileWatch, stamp
from margo_gitops.errors import Location, MargoGitopsError, ServerMisconfigured

K = TypeVar("K")
T = TypeVar("T")

MAX_BYTES: Final = 64 * 1024 * 1024
_LOG = logging.getLogger("margo_gitops.server")


class WatchedFile(Generic[T]):
    """The parsed content of a file, as it is now."""

    def __init__(self, path: Path, parse: Callable[[str, Path], T], empty: T, what: str) -> None:
        """Read a file.

        Args:
            parse: makes a value of text and path; raises `MargoGitopsError` for a mistake.
            empty: the value while there is no file.
            what: it is, "list of tokens".

        Raises:
            ServerMisconfigured: it cannot be read.
            MargoGitopsError: it has a mistake.
        """
        self._path = path
        self._parse = parse
        self._empty = empty
        self._what = what
        self._watch = FileWatch(path)
        self._complaint = ""
        self._value = self._read()

    @property
    def changed_at(self) -> int:
        """When the file was changed, in seconds since the epoch; 0 while it does not exist."""
        now = stamp(self._path)
        return now[0] // 1_000_000_000 if now else 0

    def value(self) -> T:
        """Return the value of the file as it is at this moment; the same object until the file changes."""
        if not self._watch.changed():
            return self._value
        try:
            self._value = self._read()
            self._complaint = ""
        except MargoGitopsError as error:
            if stamp(self._path) is None:
                self._complain(f"{self._path} is gone: nothing in it is accepted any more")
                self._value = self._empty
            else:
                self._complain(f"{self._path} was not taken over, its last good content stays in force: {error}")
        return self._value

    def _read(self) -> T:
        self._watch.mark()
        what = f"the {self._what} cannot be read"
        content = read_small_file(
            self._path, MAX_BYTES, what=what, error=ServerMisconfigured, remedy="check the file and who may read it"
        )
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise ServerMisconfigured(
                what, where=Location(str(self._path)), why=[str(error)], remedy="write it in UTF-8"
            ) from error
        return self._parse(text, self._path)

    def _complain(self, message: str) -> None:
        if message != self._complaint:
            _LOG.error("%s", message)
        self._complaint = message


def said_lines(text: str, path: Path) -> Iterator[tuple[Location, str]]:
    """Yield each line that says something, without what follows a `#`, and where it is."""
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip()
        if said:
            yield Location(str(path), number), said


def read_entries(
    text: str, path: Path, read: Callable[[list[str]], tuple[K, T]], *, what: str, line: str
) -> dict[K, T]:
    """Return the entries of a file that has one in each line.

    Args:
        read: makes key and value of the words of a line; raises `ValueError` for a mistake.
        what: a key is, "token".
        line: how a line looks.

    Raises:
        ServerMisconfigured: a line is wrong, or a key is there twice; keys are not shown.
    """
    entries: dict[K, T] = {}
    for where, said in said_lines(text, path):
        try:
            key, value = read(said.split())
        except ValueError as error:
            raise ServerMisconfigured(
                f"this line cannot be read: {error}", where=where, remedy=f"write: {line}"
            ) from None
        if key in entries:
            raise ServerMisconfigured(
                f"the {what} is in the file twice", where=where, remedy=f"give every device a {what} of its own"
            )
        entries[key] = value
    return entries
