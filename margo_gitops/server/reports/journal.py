"""The journal of reports: what is acknowledged is on disk, and what was said before is not written again.

JOURNAL-1  A report is acknowledged after the transaction that holds it is on disk.
JOURNAL-2  Reports that come meanwhile share the next transaction: one flush for all that wait.
JOURNAL-3  A device keeps one report for each subject: the newest. How many subjects it may have is bounded.
           So are their bytes, of one device and of all.
JOURNAL-4  A report that says what the last one said changes nothing, and costs no flush.

The rules are here, once. Where the rows are is a `ReportStore`: a file of SQLite, or a PostgreSQL database that
several servers share.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar, cast

from margo_gitops.errors import MargoGitopsError, ReportsDatabaseAway, ReportsUnusable
from margo_gitops.server.reports.store import Connection, Hear, Heard, ReportStore, Transaction
from margo_gitops.state_repo.report_branch import ReportKey, ReportKind

T = TypeVar("T")
Kept: TypeAlias = Literal["created", "updated", "unchanged", "full", "all-full", "no-gateway"]

_MAX_BATCH: Final = 500
_MAX_VERSION: Final = 2**63 - 1


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


Job: TypeAlias = Callable[[Transaction], object]


class ReportJournal:
    """Keeps the reports; one thread writes, any coroutine waits.

    Where the store refuses, every method raises its error, and nothing was changed.
    """

    def __init__(self, store: ReportStore, bounds: JournalBounds) -> None:
        self._store = store
        self._bounds = bounds
        self._adopted: dict[str, int] = {}
        self._jobs: queue.SimpleQueue[tuple[Job, Future[object]] | None] = queue.SimpleQueue()
        with contextlib.suppress(ReportsDatabaseAway), store.transaction() as opened:
            rows = opened.connection.execute("SELECT client, max(adopted) FROM report GROUP BY client")
            self._hear(Heard(client, 0, version) for client, version in rows)
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits and end."""
        self._jobs.put(None)
        self._thread.join()
        self._store.close()

    async def keep(self, report: Report) -> Kept:
        """Keep a report; when this returns, it is on disk (JOURNAL-1)."""
        return await self._do(lambda journal: self._keep(journal, report))

    async def remove(self, client: str, device: str, received: int, evidence: str) -> bool:
        """Forget the capabilities of a device and of its children; return whether there were any."""

        def remove(journal: Transaction) -> bool:
            if not _has(journal.connection, ReportKey(client, "capabilities", device)):
                return False
            journal.change += 1
            these = "client = ? AND kind = 'capabilities' AND (name = ? OR substr(name, 1, ?) = ?)"
            children = (client, device, len(device) + 1, f"{device}/")
            size = journal.connection.execute(f"SELECT {_BYTES} FROM report WHERE {these}", children).fetchone()[0]
            journal.total -= int(size)
            journal.connection.execute(
                "UPDATE report SET content = NULL, committed = 0, received = ?, evidence = ?, change = ?"
                f" WHERE {these} AND content IS NOT NULL",
                (received, evidence, journal.change, *children),
            )
            return True

        return await self._do(remove)

    async def has(self, key: ReportKey) -> bool:
        """Return whether there is a report on this."""
        return await self._do(lambda journal: _has(journal.connection, key))

    async def old_statuses(self, before: int, client: str | None = None) -> list[ReportKey]:
        """Return the statuses that last changed before a time, except those that say the highest adopted version.

        Args:
            before: seconds since the epoch.
            client: whose; None: of all.
        """

        def old(journal: Transaction) -> list[ReportKey]:
            rows = journal.connection.execute(
                "SELECT client, name FROM report AS it WHERE kind = 'status' AND content IS NOT NULL AND received < ?"
                " AND client = coalesce(?, client)"
                " AND adopted < (SELECT max(adopted) FROM report WHERE client = it.client)",
                (before, client),
            )
            return [ReportKey(each, "status", name) for each, name in rows]

        return await self._do(old)

    async def forget(self, keys: Sequence[ReportKey]) -> None:
        """Remove reports, with the next commit from the branch too."""

        def forget(journal: Transaction) -> None:
            for key in keys:
                size = journal.connection.execute(f"SELECT {_BYTES} FROM report WHERE {_THIS}", _values(key))
                journal.total -= int(size.fetchone()[0])
                journal.change += 1
                journal.connection.execute(
                    f"UPDATE report SET content = NULL, committed = 0, change = ? WHERE {_THIS}",
                    (journal.change, *_values(key)),
                )

        await self._do(forget)

    def adopted(self, client: str) -> int:
        """Return the highest manifest version that a client's reports say it adopted; 0 for none."""
        return self._adopted.get(client, 0)

    async def uncommitted(self, limit: int) -> list[Uncommitted]:
        """Return the oldest changes that are not in the branch."""

        def oldest(journal: Transaction) -> list[Uncommitted]:
            rows = journal.connection.execute(
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

        def mark(journal: Transaction) -> None:
            rows = [(*_values(each.key), each.change) for each in changes]
            same = f"WHERE {_THIS} AND change = ?"
            journal.connection.executemany(f"UPDATE report SET committed = 1 {same}", rows)
            journal.connection.executemany(f"DELETE FROM report {same} AND content IS NULL", rows)

        await self._do(mark)

    @contextlib.asynccontextmanager
    async def turn(self, every: float) -> AsyncIterator[bool]:
        """Yield whether this server commits to the branch now; no other does before the context ends.

        Args:
            every: seconds since another server did.
        """
        mine = await self._do(lambda journal: self._store.take_turn(journal, every))
        done = False
        try:
            yield mine
            done = True
        finally:
            if mine:
                # A store that is away has ended the turn by itself.
                with contextlib.suppress(MargoGitopsError):
                    await self._do(lambda journal: self._store.end_turn(journal, done=done))

    async def say_state(self, commit: str) -> None:
        """Tell the other servers which commit of the fleet this one has."""
        await self._do(lambda journal: self._store.say_state(journal, commit))

    async def listen(self, kept: Callable[[Heard], None], state: Callable[[str], None]) -> None:
        """Hear what other servers do, until cancelled: reports that they keep, and states that they have."""

        def hear(reports: Sequence[Heard]) -> None:
            self._hear(reports)
            for each in reports:
                kept(each)

        await self._store.listen(Hear(hear, state))

    def _keep(self, journal: Transaction, report: Report) -> Kept:
        key, adopted, bounds = report.key, min(report.adopted, _MAX_VERSION), self._bounds
        if report.gateway and not _has(journal.connection, ReportKey(key.client, "capabilities", report.gateway)):
            return "no-gateway"
        # One statement: where the database is on another machine, each is a way there and back.
        held, held_adopted, count, size, other_adopted = journal.connection.execute(
            f"SELECT (SELECT content FROM report WHERE {_THIS}), (SELECT adopted FROM report WHERE {_THIS}),"
            f" count(*), {_BYTES}, max(adopted) FILTER (WHERE kind <> ? OR name <> ?) FROM report WHERE client = ?",
            (*_values(key), *_values(key), key.kind, key.name, key.client),
        ).fetchone()
        if held is not None and (held, held_adopted) == (report.content, adopted):
            return "unchanged"
        more = len(report.content) - len(held or b"")
        if (held is None and count >= bounds.subjects) or (more > 0 and size + more > bounds.client_bytes):
            return "full"
        if more > 0 and journal.total + more > bounds.total_bytes:
            return "all-full"
        journal.total += more
        journal.change += 1
        journal.connection.execute(
            _KEEP, (*_values(key), report.content, report.evidence, adopted, report.received, journal.change)
        )
        journal.kept.append(Heard(key.client, len(report.content), max(adopted, other_adopted or 0)))
        return "created" if held is None else "updated"

    def _hear(self, kept: Iterable[Heard]) -> None:
        self._adopted.update((each.client, each.adopted) for each in kept if each.adopted)

    async def _do(self, job: Callable[[Transaction], T]) -> T:
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
        try:
            with self._store.transaction() as journal:
                results = [job(journal) for job, _ in batch]
        except Exception as error:  # noqa: BLE001  # every request that waits must hear of it, whatever it is
            known = isinstance(error, MargoGitopsError)
            if not known and len(batch) > 1:
                for each in batch:  # a report that cannot be stored fails alone
                    self._transact([each])
                return
            failure = error if known else ReportsUnusable("a job of the journal failed", why=[repr(error)])
            for _, future in batch:
                future.set_exception(failure)
            return
        self._hear(journal.kept)
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


_THIS: Final = "client = ? AND kind = ? AND name = ?"
_BYTES: Final = "coalesce(sum(length(content)), 0)"
_KEEP: Final = (
    "INSERT INTO report (client, kind, name, content, evidence, adopted, received, change)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (client, kind, name) DO UPDATE SET content = excluded.content,"
    " evidence = excluded.evidence, adopted = excluded.adopted, received = excluded.received,"
    " change = excluded.change, committed = 0"
)


def _values(key: ReportKey) -> tuple[str, str, str]:
    return key.client, key.kind, key.name


def _has(connection: Connection, key: ReportKey) -> bool:
    found = connection.execute(f"SELECT 1 FROM report WHERE {_THIS} AND content IS NOT NULL", _values(key))
    return found.fetchone() is not None
