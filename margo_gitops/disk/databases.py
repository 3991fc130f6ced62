"""SQLite files that survive a loss of power (write-ahead log, synced on every commit), for their owner's eyes only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from margo_gitops.disk.files import disk_errors
from margo_gitops.errors import Location, MargoGitopsError

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def open_database(file: Path, *, timeout: float = 5, threads: bool = False) -> sqlite3.Connection:
    """Open a database in autocommit mode; file (mode 0600) and folder (0700) are made where there are none.

    Args:
        timeout: how many seconds to wait for another connection that writes.
        threads: whether threads other than this one may use the connection, one at a time.

    Raises:
        OSError, sqlite3.Error: it cannot be opened.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=timeout, isolation_level=None, check_same_thread=not threads)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        file.chmod(0o600)
    except BaseException:
        connection.close()
        raise
    return connection


def open_read_only(file: Path, *, timeout: float = 5) -> sqlite3.Connection:
    """Open a database that another process may be writing.

    Raises:
        sqlite3.Error: it cannot be opened, or is not there.
    """
    # What a URI gives a meaning of its own; SQLite takes all else as it is.
    name = str(file.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(f"file:{name}?mode=ro", uri=True, timeout=timeout, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def check_sound(connection: sqlite3.Connection) -> None:
    """Let SQLite check the pages of a database.

    Raises:
        sqlite3.DatabaseError: they are damaged.
    """
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"the database is damaged: {verdict}")


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error says that the file is damaged, or not a database."""
    return _code(error) in _DAMAGE


@contextmanager
def database_errors(
    file: Path,
    *,
    what: str,
    error: type[MargoGitopsError],
    remedy: str = "",
    full: type[MargoGitopsError] | None = None,
) -> Iterator[None]:
    """Turn errors of SQLite and of the disk inside into ours, as `disk_errors` does."""
    with disk_errors(file, what=what, error=error, remedy=remedy, full=full):
        try:
            yield
        except sqlite3.Error as failure:
            where = Location(str(file))
            if full is not None and _code(failure) == sqlite3.SQLITE_FULL:
                raise full("cannot write: the disk is full", where=where, remedy="free space on this disk") from failure
            raise error(what, where=where, why=[str(failure)], remedy=remedy) from failure


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code; 0 for an error that is not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
