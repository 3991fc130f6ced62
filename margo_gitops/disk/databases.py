"""SQLite files that survive a loss of power (write-ahead log, synced on every commit), for their owner's eyes only."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import Any, Final, Generic, TypeVar

from margo_gitops.disk.files import disk_errors, read_bounded
from margo_gitops.errors import Location, MargoGitopsError
from margo_gitops.values import dataclass

T = TypeVar("T")

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SOUND: Final = _LOCKED | {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR,
}
"""What goes wrong around a file; every other error is one of its content."""

_UNREADABLE: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR_READ,
        sqlite3.SQLITE_IOERR_SHORT_READ,
        sqlite3.SQLITE_IOERR_DATA,
        sqlite3.SQLITE_IOERR_CORRUPTFS,
    }
)
_LEAST_FREE: Final = 128 * 1024
"""Bytes; below, an I/O error comes from the full disk: the file's shared memory cannot be made."""

_AROUND: Final = "check space, mount, owner and mode of the folder"

_NOT_READABLE: Final = frozenset({errno.EINVAL, errno.ENXIO, errno.EIO})
_JOURNAL_MODES: Final = frozenset({1, 2})


def open_database(file: Path, *, timeout: float = 5, threads: bool = False) -> sqlite3.Connection:
    """Open a database in autocommit mode; file (mode 0600) and folder (0700) are made if missing.

    Args:
        timeout: how many seconds to wait for another connection that writes.
        threads: whether threads other than this one may use the connection, one at a time.

    Raises:
        OSError, sqlite3.Error: it cannot be opened.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_files(file)
    connection = sqlite3.connect(file, timeout=timeout, isolation_level=None, check_same_thread=not threads)
    try:
        with readable():
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        file.chmod(0o600)
    except BaseException:
        connection.close()
        raise
    return connection


def open_read_only(file: Path, *, timeout: float = 5) -> sqlite3.Connection:
    """Open a database that another process may be writing (OSError, sqlite3.Error: it cannot be, or is not there)."""
    _check_files(file)
    # What a URI gives a meaning of its own; SQLite takes all else as it is.
    name = str(file.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    # On a read-only disk nothing changes, and SQLite cannot make the files that readers and writers share.
    mode = "mode=ro&immutable=1" if file.exists() and _is_read_only(file) else "mode=ro"
    connection = sqlite3.connect(f"file:{name}?{mode}", uri=True, timeout=timeout, isolation_level=None)
    try:
        with readable():
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def check_sound(connection: sqlite3.Connection) -> None:
    """Let SQLite check the pages of a database (sqlite3.DatabaseError: they are damaged)."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"the database is damaged: {verdict}")


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error says that the content of the file is damaged: pages, schema, or a value of a row."""
    if isinstance(error, sqlite3.ProgrammingError):
        return False
    return _code(error) not in _SOUND or getattr(error, "sqlite_errorcode", 0) in _UNREADABLE


@contextmanager
def readable() -> Iterator[None]:
    """Let a message of SQLite that quotes damaged text, and so cannot be decoded, count as the damage that it is."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError(f"the database is damaged: {error}") from error


@contextmanager
def database_errors(
    file: Path,
    *,
    what: str,
    error: type[MargoGitopsError],
    remedy: str = "",
    busy: type[MargoGitopsError],
    full: type[MargoGitopsError] | None = None,
) -> Iterator[None]:
    """Turn errors of SQLite and of the disk inside into ours, as `disk_errors` does; a lock becomes a `busy`."""
    with disk_errors(file, what=what, error=error, remedy=remedy, full=full):
        try:
            yield
        except sqlite3.Error as failure:
            where = Location(str(file))
            if _code(failure) in _LOCKED:
                raise busy(
                    f"another program has locked {file.name}",
                    where=where,
                    why=[str(failure)],
                    remedy=f"end that program, `fuser -v {file}` shows it; then try again",
                ) from failure
            if full is not None and _is_full(failure, file):
                raise full("cannot write: the disk is full", where=where, remedy="free space on this disk") from failure
            then = remedy if is_damage(failure) else _AROUND
            raise error(what, where=where, why=[str(failure)], remedy=then) from failure


def _is_full(error: sqlite3.Error, file: Path) -> bool:
    if _code(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        with suppress(OSError):
            disk = os.statvfs(file.parent)
            return disk.f_bavail * disk.f_frsize < _LEAST_FREE and not disk.f_flag & os.ST_RDONLY
    return _code(error) == sqlite3.SQLITE_FULL


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """What a table holds, and how a row of it becomes a value.

    Attributes:
        query: the SELECT.
        types: of the columns.
        make: the value; it raises ValueError for a row that cannot be ours.
    """

    query: str
    types: tuple[type | UnionType, ...]
    make: Callable[[tuple[Any, ...]], T]

    def read(self, connection: sqlite3.Connection, *values: int) -> list[T]:
        """Return all rows (sqlite3.Error: one cannot be read)."""
        try:
            return [self.make(tuple(map(_typed, row, self.types))) for row in connection.execute(self.query, values)]
        except ValueError as error:
            raise sqlite3.DatabaseError(f"a row is damaged: {error}") from error


def _typed(value: object, kind: type | UnionType) -> object:
    if not isinstance(value, kind):
        raise ValueError(f"{value!r:.40} is of another type")  # noqa: TRY004  # damage, not a wrong call
    return value


def _check_files(file: Path) -> None:
    """Refuse what SQLite would wait for (a pipe), or would open for reading only (a damaged header).

    Raises:
        sqlite3.DatabaseError: something else than a file is in the place of one, or the header is damaged.
        OSError: a file cannot be opened.
    """
    for suffix in ("", "-wal", "-shm"):
        try:
            header = read_bounded(file.with_name(file.name + suffix), 20, cut=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in _NOT_READABLE:
                raise sqlite3.DatabaseError(f"{file.name}{suffix}: {error.strerror}") from error
            raise
        if not suffix and len(header) == 20 and not _JOURNAL_MODES.issuperset(header[18:]):
            raise sqlite3.DatabaseError("the header of the database is damaged")


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code; 0 for an error that is not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
