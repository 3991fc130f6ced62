"""The journal of reports: what is acknowledged is on disk, and what was said before is not written again.

JOURNAL-1  A report is acknowledged after the transaction that holds it is on disk (SQLite, WAL, synchronous=FULL).
JOURNAL-2  Reports that come meanwhile share the next transaction: one flush for all that wait.
JOURNAL-3  A device keeps one report for each subject: the newest. How many subjects it may have is bounded.
           So are their bytes, of one device and of all.
JOURNAL-4  A report that says what the last one said changes nothing, and costs no flush.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar, cast

from margo_gitops.disk.databases import database_errors, open_database
from margo_gitops.disk.locks import LockTaken, take_lock
from margo_gitops.errors import Location, MargoGitopsError, ReportsUnusable, ServerBusy
from margo_gitops.state_repo.report_branch import ReportKey, ReportKind

T = TypeVar("T")
Job: TypeAlias = Callable[[sqlite3.Connection], object]
Kept: TypeAlias = Literal["created", "updated", "unchanged", "full", "all-full", "no-gateway"]

_MAX_BATCH: Final = 500
_MAX_VERSION: Final = 2**63 - 1
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
"""


@dataclass(frozen=True, slots=True)
class Report:
    """One valid report.

    Attributes:
        content: exact bytes that go into the branch.
        evidence: how the client was identified.
        adopted: `adoptedManifestVersion`; 0 for none.
        received: seconds since the epoch.
        gateway: the device whose capabilities must be known first; empty for none.
    """

    key: ReportKey
    content: bytes
    evidence: str
    received: int
    adopted: int = 0
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class Uncommitted:
    """A change that is not in the branch yet."""

    key: ReportKey
    content: bytes | None
    evidence: str
    change: int


@dataclass(frozen=True, slots=True)
class JournalBounds:
    """How much the journal holds (JOURNAL-3).

    Attributes:
        subjects: of one client.
        client_bytes: of the reports of one client.
        total_bytes: of all reports.
    """

    subjects: int = 1000
    client_bytes: int = 8 * 1024 * 1024
    total_bytes: int = 4 * 1024 * 1024 * 1024


class ReportJournal:
    """Keeps the reports; one thread writes, any coroutine waits.

    Where the disk refuses, every method raises `ReportsUnusable`, and nothing was changed.
    """

    def __init__(self, file: Path, bounds: JournalBounds) -> None:
        """Open the journal.

        Args:
            file: the SQLite file; made if it does not exist.

        Raises:
            ServerBusy: another server has it open.
            ReportsUnusable: it cannot be opened.
        """
        self._bounds = bounds
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
            except BaseException:
                self._lock.release()
                raise
        row = self._connection.execute("SELECT coalesce(max(change), 0) FROM report").fetchone()
        self._change = int(row[0])
        self._total = self._count_bytes()
        rows = self._connection.execute("SELECT client, max(adopted) FROM report GROUP BY client")
        self._adopted: dict[str, int] = {client: int(version) for client, version in rows if version}
        self._jobs: queue.SimpleQueue[tuple[Job, Future[object]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits and end."""
        self._jobs.put(None)
        self._thread.join()
        self._connection.close()
        self._lock.release()

    def _count_bytes(self) -> int:
        return int(self._connection.execute("SELECT coalesce(sum(length(content)), 0) FROM report").fetchone()[0])

    def _errors(self) -> AbstractContextManager[None]:
        return database_errors(
            self._file,
            what="the journal of reports cannot be used",
            error=ReportsUnusable,
            busy=ServerBusy,
            remedy="check that the disk is not full, and that the folder belongs to this user",
        )

    async def keep(self, report: Report) -> Kept:
        """Keep a report; when this returns, it is on disk (JOURNAL-1)."""
        client = report.key.client

        def kept(connection: sqlite3.Connection) -> tuple[Kept, int]:
            outcome = self._keep(connection, report)
            row = connection.execute("SELECT max(adopted) FROM report WHERE client = ?", (client,)).fetchone()
            return outcome, int(row[0] or 0)

        outcome, adopted = await self._do(kept)
        if adopted:
            self._adopted[client] = adopted
        return outcome

    async def remove(self, client: str, device: str, received: int, evidence: str) -> bool:
        """Forget the capabilities of a device and of its children; return whether there were any."""
        return await self._do(lambda connection: self._remove(connection, client, device, received, evidence))

    async def has(self, key: ReportKey) -> bool:
        """Return whether there is a report on this."""
        return await self._do(lambda connection: _held(connection, key) is not None)

    async def old_statuses(self, before: int, client: str | None = None) -> list[ReportKey]:
        """Return the statuses that last changed before a time, except those that say the highest adopted version.

        Args:
            before: seconds since the epoch.
            client: whose; None: of all.
        """

        def old(connection: sqlite3.Connection) -> list[ReportKey]:
            rows = connection.execute(
                "SELECT client, name FROM report AS it WHERE kind = 'status' AND content IS NOT NULL AND received < ?"
                " AND (? IS NULL OR client = ?)"
                " AND adopted < (SELECT max(adopted) FROM report WHERE client = it.client)",
                (before, client, client),
            )
            return [ReportKey(each, "status", name) for each, name in rows]

        return await self._do(old)

    async def forget(self, keys: Sequence[ReportKey]) -> None:
        """Remove reports, with the next commit from the branch too."""

        def forget(connection: sqlite3.Connection) -> None:
            for key in keys:
                self._change += 1
                connection.execute(
                    "UPDATE report SET content = NULL, committed = 0, change = ? WHERE client = ? AND kind = ?"
                    " AND name = ?",
                    (self._change, key.client, key.kind, key.name),
                )
            self._total = self._count_bytes()

        await self._do(forget)

    def adopted(self, client: str) -> int:
        """Return the highest manifest version that a client's reports say it adopted; 0 for none."""
        return self._adopted.get(client, 0)

    async def uncommitted(self, limit: int) -> list[Uncommitted]:
        """Return the oldest changes that are not in the branch."""

        def oldest(connection: sqlite3.Connection) -> list[Uncommitted]:
            rows = connection.execute(
                "SELECT client, kind, name, content, evidence, change FROM report WHERE committed = 0"
                " ORDER BY change LIMIT ?",
                (limit,),
            )
            return [
                Uncommitted(ReportKey(client, cast("ReportKind", kind), name), content, evidence, change)
                for client, kind, name, content, evidence, change in rows
            ]

        return await self._do(oldest)

    async def committed(self, changes: Sequence[Uncommitted]) -> None:
        """Remember that these are in the branch; what changed since is not among them."""

        def mark(connection: sqlite3.Connection) -> None:
            rows = [(each.key.client, each.key.kind, each.key.name, each.change) for each in changes]
            same = "WHERE client = ? AND kind = ? AND name = ? AND change = ?"
            connection.executemany(f"UPDATE report SET committed = 1 {same}", rows)  # noqa: S608
            connection.executemany(f"DELETE FROM report {same} AND content IS NULL", rows)  # noqa: S608

        await self._do(mark)

    def _keep(self, connection: sqlite3.Connection, report: Report) -> Kept:
        key = report.key
        if report.gateway and _held(connection, ReportKey(key.client, "capabilities", report.gateway)) is None:
            return "no-gateway"
        held = _held(connection, key)
        if held == (report.content, min(report.adopted, _MAX_VERSION)):
            return "unchanged"
        more = len(report.content) - (len(held[0]) if held else 0)
        count, size = connection.execute(
            "SELECT count(*), coalesce(sum(length(content)), 0) FROM report WHERE client = ?", (key.client,)
        ).fetchone()
        if (held is None and count >= self._bounds.subjects) or (more > 0 and size + more > self._bounds.client_bytes):
            return "full"
        if more > 0 and self._total + more > self._bounds.total_bytes:
            return "all-full"
        self._total += more
        self._change += 1
        connection.execute(
            "INSERT OR REPLACE INTO report (client, kind, name, content, evidence, adopted, received, change)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(key.client, key.kind, key.name, report.content, report.evidence),
                *(min(report.adopted, _MAX_VERSION), report.received, self._change),
            ),
        )
        return "created" if held is None else "updated"

    def _remove(self, connection: sqlite3.Connection, client: str, device: str, received: int, evidence: str) -> bool:
        if _held(connection, ReportKey(client, "capabilities", device)) is None:
            return False
        self._change += 1
        connection.execute(
            "UPDATE report SET content = NULL, committed = 0, received = ?, evidence = ?, change = ?"
            " WHERE client = ? AND kind = 'capabilities' AND content IS NOT NULL"
            " AND (name = ? OR substr(name, 1, ?) = ?)",
            (received, evidence, self._change, client, device, len(device) + 1, f"{device}/"),
        )
        self._total = self._count_bytes()
        return True

    async def _do(self, job: Callable[[sqlite3.Connection], T]) -> T:
        future: Future[object] = Future()
        self._jobs.put((job, future))
        return cast("T", await asyncio.shield(asyncio.wrap_future(future)))

    def _work(self) -> None:
        ended = False
        while not ended:
            batch = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _MAX_BATCH:
                    batch.append(self._jobs.get_nowait())
            ended = None in batch
            self._transact([each for each in batch if each is not None])

    def _transact(self, batch: Sequence[tuple[Job, Future[object]]]) -> None:
        """Do all jobs in one transaction, then, and only then, say so (JOURNAL-1, JOURNAL-2)."""
        results: list[object] = []
        try:
            with self._errors():
                self._connection.execute("BEGIN IMMEDIATE")
                results.extend(job(self._connection) for job, _ in batch)
                self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # every request that waits must hear of it, whatever it is
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                self._total = self._count_bytes()
            known = isinstance(error, MargoGitopsError)
            failure = error if known else ReportsUnusable("a job of the journal failed", why=[repr(error)])
            for _, future in batch:
                future.set_exception(failure)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


def _held(connection: sqlite3.Connection, key: ReportKey) -> tuple[bytes, int] | None:
    row: tuple[bytes | None, int] | None = connection.execute(
        "SELECT content, adopted FROM report WHERE client = ? AND kind = ? AND name = ?",
        (key.client, key.kind, key.name),
    ).fetchone()
    return None if row is None or row[0] is None else (row[0], row[1])
