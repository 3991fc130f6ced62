"""The file that the journal lies in: its tables, whether it is sound, and what its errors mean."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from margo_gitops.agent.durable import disk_error
from margo_gitops.errors import Location, MargoGitopsError, StateFolderUnusable, StorageFull

SCHEMA_VERSION: Final = 3
DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_TABLES: Final = frozenset({"deployments", "workloads", "events", "outbox", "facts"})
_SCHEMA: Final = """
CREATE TABLE deployments (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, device TEXT NOT NULL, adopted TEXT NOT NULL, position INTEGER NOT NULL
) STRICT;
CREATE TABLE workloads (
    deployment TEXT NOT NULL, component TEXT NOT NULL, position INTEGER NOT NULL, applier TEXT NOT NULL,
    wanted TEXT, installed TEXT, state TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
    attempts INTEGER NOT NULL, changed_at REAL NOT NULL, failure TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (deployment, component)
) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, first_at REAL NOT NULL, last_at REAL NOT NULL, count INTEGER NOT NULL,
    reason TEXT NOT NULL, security INTEGER NOT NULL, code TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE TABLE outbox (
    deployment TEXT PRIMARY KEY, changed_at REAL NOT NULL, document BLOB NOT NULL, receipt TEXT
) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_UPGRADES: Final = (
    "",
    # From version 1, which did not know what had arrived.
    "ALTER TABLE outbox ADD COLUMN receipt TEXT;",
    # From version 2, which did not know which step had failed.
    "ALTER TABLE workloads ADD COLUMN failure TEXT NOT NULL DEFAULT '';",
)
"""By the version that is upgraded, each to the next one."""


def open_sound(path: Path) -> sqlite3.Connection:
    """Return a connection to a journal that passed SQLite's check and has this version's tables.

    Raises:
        sqlite3.DatabaseError: it did not.
    """
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        _check_sound(str(verdict), int(version), tables)
        if version < SCHEMA_VERSION:
            script = _SCHEMA if version == 0 else " ".join(_UPGRADES[version:])
            connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    path.chmod(0o600)
    return connection


def _check_sound(verdict: str, version: int, tables: set[str]) -> None:
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"the journal is damaged: {verdict}")
    if not 0 <= version <= SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"the journal has schema version {version}")
    if version and not tables >= _TABLES:
        raise sqlite3.DatabaseError("tables of the journal are missing")


def set_aside(path: Path, aside: Path) -> None:
    """Rename a journal that cannot be used, in place of the one that was set aside before.

    Raises:
        OSError: the folder cannot be written.
    """
    for older in path.parent.glob(f"{path.name}.damaged-*"):
        older.unlink(missing_ok=True)
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def uri_path(path: Path) -> str:
    """Return a path as it stands in a URI for SQLite."""
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


@contextlib.contextmanager
def journal_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the disk inside into `StorageFull` or `StateFolderUnusable`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error
    except sqlite3.Error as error:
        raise _journal_error(error, path) from error


def _journal_error(error: sqlite3.Error, path: Path) -> MargoGitopsError:
    where = Location(str(path))
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return StorageFull("cannot write the journal: the disk is full", where=where, remedy="free space on this disk")
    return StateFolderUnusable(
        f"cannot use the journal: {error}", where=where, remedy="restart the agent: it sets a damaged journal aside"
    )
