"""The journal of reports in a file of SQLite (WAL, synchronous=FULL): for one server."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from margo_gitops.disk.databases import database_errors, open_database
from margo_gitops.disk.locks import LockTaken, take_lock
from margo_gitops.errors import Location, ReportsUnusable, ServerBusy
from margo_gitops.server.reports.store import ReportStore, Transaction

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS report (
    client TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    content BLOB,              -- NULL: removed, and not yet committed
    evidence TEXT NOT NULL,
    adopted INTEGER NOT NULL,
    received INTEGER NOT NULL,
    change INTEGER NOT NULL,
    committed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (client, kind, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS uncommitted ON report (change) WHERE committed = 0;
CREATE TABLE IF NOT EXISTS branch (last TEXT NOT NULL);  -- the commit that was made last
"""


class SqliteStore(ReportStore):
    """Rows in a file that no other server has open."""

    def __init__(self, file: Path) -> None:
        """Open the file; it is made if it does not exist.

        Raises:
            ServerBusy: another server has it open.
            ReportsUnusable: it cannot be opened.
        """
        self._file = file
        with self._errors():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._lock = take_lock(file.with_suffix(".lock"))
            except LockTaken as error:
                raise ServerBusy(f"another server works with {file}", where=Location(str(file))) from error
            try:
                self._connection = open_database(file, threads=True)
                self._connection.executescript(_SCHEMA)
                counts = "SELECT coalesce(max(change), 0), coalesce(sum(length(content)), 0) FROM report"
                self._change, self._total = map(int, self._connection.execute(counts).fetchone())
            except BaseException:
                self._lock.release()
                raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
        self._lock.release()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Write to the file, for one thread at a time."""
        with self._errors():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield (open_one := Transaction(self._connection, self._change, self._total))
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            self._change, self._total = open_one.change, open_one.total

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return database_errors(
            self._file,
            what="the journal of reports cannot be used",
            error=ReportsUnusable,
            busy=ServerBusy,
            remedy="check that the disk is not full, and that the folder belongs to this user",
        )
