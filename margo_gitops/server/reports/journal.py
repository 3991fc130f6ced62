"""The journal of reports: what is acknowledged is on disk, and what was said before is not written again.

JOURNAL-1  A report is acknowledged after the transaction that holds it is on disk.
JOURNAL-2  Reports that come meanwhile share the next transaction: one flush, and few statements, for all that wait.
JOURNAL-3  A device keeps one report for each subject: the newest. How many subjects it may have is bounded.
           So are their bytes, of one device and of all.
JOURNAL-4  A report that says what the last one said changes nothing, and costs no flush.
JOURNAL-5  Receipts come after those that are not in the branch yet: none replaces another.
JOURNAL-6  The journal knows the commit that it made last. Where the branch does not build on it, the state repo was
           lost or is an older backup: all that the journal holds is committed again.

The rules are here, once. Where the rows are is a `ReportStore`: a file of SQLite, or a PostgreSQL database that
several servers share.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Final, Literal, TypeAlias, TypeVar, cast

from margo_gitops.errors import MargoGitopsError, ReportsDatabaseAway, ReportsUnusable
from margo_gitops.server.reports.store import (
    BYTES,
    Connection,
    Hear,
    Heard,
    ReportStore,
    Transaction,
    adopted_by,
    sizes_of,
)
from margo_gitops.state_repo.report_branch import Committed, ReportKey, ReportKind
from margo_gitops.trust.receipts import joined
from margo_gitops.values import dataclass, replace

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
        self._jobs: queue.SimpleQueue[tuple[Job | Report, Future[object]] | None] = queue.SimpleQueue()
        with contextlib.suppress(ReportsDatabaseAway), store.transaction() as opened:
            rows = opened.connection.execute("SELECT client, max(adopted) FROM report GROUP BY client")
            self._hear(Heard(client, 0, version) for client, version in rows)
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    @property
    def is_shared(self) -> bool:
        """Whether other servers commit what this one keeps."""
        return self._store.is_shared

    def close(self) -> None:
        """Write what waits and end."""
        self._jobs.put(None)
        self._thread.join()
        self._store.close()

    async def keep(self, report: Report) -> Kept:
        """Keep a report; when this returns, it is on disk (JOURNAL-1)."""
        return cast("Kept", await self._queued(report))

    async def remove(self, client: str, device: str, received: int, evidence: str) -> bool:
        """Forget the capabilities of a device and of its children; return whether there were any."""

        def remove(journal: Transaction) -> bool:
            if not _has(journal.connection, ReportKey(client, "capabilities", device)):
                return False
            journal.change += 1
            these = "client = ? AND kind = 'capabilities' AND (name = ? OR substr(name, 1, ?) = ?)"
            children = (client, device, len(device) + 1, f"{device}/")
            size = journal.connection.execute(f"SELECT {BYTES} FROM report WHERE {these}", children).fetchone()[0]
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
                size = journal.connection.execute(f"SELECT {BYTES} FROM report WHERE {_THIS}", _values(key))
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

    async def last_commit(self) -> str | None:
        """Return the commit of the branch that was made last; None where that is not known (JOURNAL-6)."""

        def last(journal: Transaction) -> str | None:
            found = journal.connection.execute("SELECT last FROM branch").fetchone()
            return str(found[0]) if found else None

        return await self._do(last)

    async def committed(self, changes: Sequence[Uncommitted], made: Committed) -> bool:
        """Remember that these are in the branch; what changed since is not among them.

        Returns:
            Whether the branch lost what was in it, so that something waits again (JOURNAL-6).
        """
        rows = [(*_values(each.key), each.change) for each in changes]
        same = f"WHERE {_THIS} AND change = ?"

        def mark(journal: Transaction) -> bool:
            lost = 0
            if not made.follows:
                lost = journal.connection.execute("SELECT count(*) FROM report WHERE committed = 1").fetchone()[0]
                journal.connection.execute("UPDATE report SET committed = 0")
            if made.tip is not None:
                journal.connection.execute("DELETE FROM branch")
                journal.connection.execute("INSERT INTO branch VALUES (?)", (made.tip,))
            journal.connection.executemany(f"UPDATE report SET committed = 1 {same}", rows)
            journal.connection.executemany(f"DELETE FROM report {same} AND content IS NULL", rows)
            return lost > 0

        return await self._do(mark)

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

    def _keep(self, journal: Transaction, reports: Sequence[Report]) -> list[Kept]:
        """Keep reports that come together, by as few statements as one needs: each is a way to the database."""
        gateways = {_gateway(report) for report in reports if report.gateway}
        held = _rows(journal.connection, {report.key for report in reports} | gateways)
        sizes = sizes_of(journal.connection, {report.key.client for report in reports})
        changed: dict[ReportKey, Report] = {}

        def keep(report: Report) -> Kept:
            if report.gateway and held.get(_gateway(report), _NOTHING)[0] is None:
                return "no-gateway"
            content, adopted, is_committed = held.get(report.key, _NOTHING)
            if report.key.kind == "receipts":
                report = replace(report, content=joined(content, report.content, is_committed=is_committed))
            if content is not None and (content, adopted) == (report.content, _version(report)):
                return "unchanged"
            more, of_client = len(report.content) - len(content or b""), sizes[report.key.client]
            if content is None and of_client.count >= self._bounds.subjects:
                return "full"
            if more > 0 and of_client.size + more > self._bounds.client_bytes:
                return "full"
            if more > 0 and journal.total + more > self._bounds.total_bytes:
                return "all-full"
            of_client.count += report.key not in held
            of_client.size += more
            journal.total += more
            held[report.key] = report.content, _version(report), False
            changed.pop(report.key, None)
            changed[report.key] = report  # in the order in which the last ones came
            return "created" if content is None else "updated"

        outcomes = [keep(report) for report in reports]
        rows = []
        for report in changed.values():
            journal.change += 1
            values = report.content, report.evidence, _version(report), report.received, journal.change
            rows.append((*_values(report.key), *values))
        if rows:
            journal.connection.executemany(_KEEP, rows)
            versions = adopted_by(journal.connection, {key.client for key in changed})
            journal.kept += [
                Heard(report.key.client, len(report.content), versions[report.key.client])
                for report, outcome in zip(reports, outcomes, strict=True)
                if outcome in ("created", "updated")
            ]
        return outcomes

    def _hear(self, kept: Iterable[Heard]) -> None:
        self._adopted.update((each.client, each.adopted) for each in kept if each.adopted)

    async def _do(self, job: Callable[[Transaction], T]) -> T:
        return cast("T", await self._queued(job))

    async def _queued(self, job: Job | Report) -> object:
        future: Future[object] = Future()
        self._jobs.put((job, future))
        return await asyncio.shield(asyncio.wrap_future(future))

    def _work(self) -> None:
        ended = False
        while not ended:
            batch = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _MAX_BATCH:
                    batch.append(self._jobs.get_nowait())
            ended = None in batch
            self._transact([each for each in batch if each is not None])

    def _transact(self, batch: Sequence[tuple[Job | Report, Future[object]]]) -> None:
        """Do all jobs in one transaction, then, and only then, say so (JOURNAL-1, JOURNAL-2)."""
        try:
            with self._store.transaction() as journal:
                results: list[object] = []
                for is_report, some in groupby((job for job, _ in batch), lambda job: isinstance(job, Report)):
                    if is_report:
                        results += self._keep(journal, cast("list[Report]", list(some)))
                    else:
                        results += [cast("Job", job)(journal) for job in some]
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
_NOTHING: Final[tuple[bytes | None, int, bool]] = (None, 0, True)
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


def _rows(connection: Connection, keys: Collection[ReportKey]) -> dict[ReportKey, tuple[bytes | None, int, bool]]:
    """Return content, adopted version and whether that is in the branch, by key; no content where it was removed."""
    rows = connection.execute(
        "SELECT client, kind, name, content, adopted, committed FROM report"
        f" WHERE (client, kind, name) IN (VALUES {', '.join(['(?, ?, ?)'] * len(keys))})",
        [value for key in keys for value in _values(key)],
    )
    return {ReportKey(*key): (content, adopted, bool(committed)) for *key, content, adopted, committed in rows}


def _gateway(report: Report) -> ReportKey:
    return ReportKey(report.key.client, "capabilities", report.gateway)


def _version(report: Report) -> int:
    return min(report.adopted, _MAX_VERSION)
