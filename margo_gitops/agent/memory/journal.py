"""The agent's memory of what it did, in SQLite: it makes every step restartable, and answers `agent status`.

MEMORY-1  A step is recorded before it begins and after it ends; every record is durable when the call returns.
MEMORY-2  The engine is the truth, the journal a memory: a journal with anything that cannot be read (a page, the
          schema, a value), or from a newer version, is set aside and a new one begun, from what the appliers observe.
MEMORY-3  Nothing grows without bound: events and outgoing statuses are thinned out, security events last.
MEMORY-4  Time comes from the caller.
MEMORY-5  64-bit versions are kept as text: SQLite's integers are signed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from margo_gitops.agent.memory import outbox
from margo_gitops.agent.memory.events import Event
from margo_gitops.agent.memory.recorded import (
    RecordedDeployment,
    RecordedEvent,
    RecordedWorkload,
    read_deployment,
    read_event,
    read_workload,
)
from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.disk.databases import (
    Rows,
    check_sound,
    database_errors,
    is_damage,
    open_database,
    open_read_only,
    readable,
)
from margo_gitops.disk.folders import remove_tree
from margo_gitops.errors import AgentBusy, StateFolderUnusable, StorageFull
from margo_gitops.values import astuple, replace
from margo_gitops.wording import abridged

T = TypeVar("T")

JOURNAL_FILE: Final = "journal.sqlite3"

MAX_EVENTS: Final = 2_000
MAX_SECURITY_EVENTS: Final = 500
MAX_STATUSES: Final = 2_000
LONGEST_MESSAGE: Final = 4_000

_TIMEOUT: Final = 10.0
SCHEMA_VERSION: Final = 3
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


class Journal:
    """One open journal. A context manager; not to be shared between threads.

    Attributes:
        set_aside: where a journal that could not be used is now; None: this one is sound.
        keeps_unsent: whether statuses wait until they arrive; without, only the latest one of a deployment is known.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, set_aside: Path | None = None, *, writes: bool = True
    ) -> None:
        self._connection = connection
        self._path = path
        self._writes = writes
        self._lost = False
        self.set_aside = set_aside
        self.keeps_unsent = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    @classmethod
    def open(cls, path: Path, now: float) -> Journal:
        """Open the journal; make it if it does not exist, and replace it if it cannot be used (MEMORY-2).

        Raises:
            AgentBusy: another program has locked it.
            StateFolderUnusable: neither works.
            StorageFull: the disk is full.
        """
        with _journal_errors(path):
            try:
                return cls(_open_sound(path), path)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                aside = _set_aside(path, int(now))
                return cls(_open_sound(path), path, aside)

    @classmethod
    def peek(cls, path: Path) -> Journal | None:
        """Open the journal for reading only, while an agent may write it; None if it does not exist.

        Raises:
            StateFolderUnusable: it cannot be read.
            AgentBusy: another program has locked it.
        """
        if not path.exists():
            return None
        with _journal_errors(path):
            return cls(open_read_only(path, timeout=_TIMEOUT), path, writes=False)

    # Deployments and their components

    def record(self, workloads: Sequence[RecordedWorkload], deployments: Sequence[RecordedDeployment] = ()) -> None:
        """Record components and deployments at once, in place of what was recorded of them.

        Args:
            deployments: deployments, with the version of which they are applied from now on.
        """
        rows = [
            (*key, *rest)
            for item in workloads
            for key, *rest in [astuple(replace(item, message=abridged(item.message, LONGEST_MESSAGE)))]
        ]
        with self._transaction():
            self._connection.executemany(
                f"INSERT OR REPLACE INTO workloads ({_WORKLOAD_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                rows,
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO deployments (id, name, device, adopted, position) VALUES (?, ?, ?, ?, ?)",
                [(item.id, item.name, item.device, str(item.adopted), item.position) for item in deployments],
            )

    def forget(self, key: WorkloadKey) -> None:
        """Forget a component that is gone, and its deployment with the last one."""
        with self._transaction():
            self._connection.execute(
                "DELETE FROM workloads WHERE deployment = ? AND component = ?", (key.deployment_id, key.component)
            )
            self._connection.execute(
                "DELETE FROM deployments WHERE id = ? AND id NOT IN (SELECT deployment FROM workloads)",
                (key.deployment_id,),
            )

    def deployments(self) -> list[RecordedDeployment]:
        """Return what is recorded of deployments, in the order of the state they came with."""
        return self._rows(_DEPLOYMENTS)

    def workloads(self) -> list[RecordedWorkload]:
        """Return what is recorded of components, those of one deployment in their order."""
        return self._rows(_WORKLOADS)

    # Events

    def note(self, event: Event, now: float) -> None:
        """Keep an event; the same one again in a row only counts (MEMORY-3)."""
        key = (event.reason.value, event.code, event.subject, event.text)
        with self._transaction():
            last = self._connection.execute(
                "SELECT id FROM events WHERE (reason, code, subject, text) = (?, ?, ?, ?) "
                "AND id > (SELECT coalesce(max(id), 0) FROM events) - 50 ORDER BY id DESC LIMIT 1",
                key,
            ).fetchone()
            if last is not None:
                self._connection.execute(
                    "UPDATE events SET last_at = ?, count = count + 1 WHERE id = ?", (now, last[0])
                )
                return
            self._connection.execute(
                "INSERT INTO events (first_at, last_at, count, reason, code, subject, text, security) "
                "VALUES (?, ?, 1, ?, ?, ?, ?, ?)",
                (now, now, *key, int(event.reason.security)),
            )
            for security, bound in ((0, MAX_EVENTS), (1, MAX_SECURITY_EVENTS)):
                self._connection.execute(
                    "DELETE FROM events WHERE security = ?1 AND id NOT IN "
                    "(SELECT id FROM events WHERE security = ?1 ORDER BY id DESC LIMIT ?2)",
                    (security, bound),
                )

    def events(self, limit: int = 50, *, security: bool = False) -> list[RecordedEvent]:
        """Return the latest events, newest first."""
        return self._rows(_EVENTS, int(security), limit)

    # Statuses on their way out

    def post(self, deployment_id: str, document: bytes, now: float, weight: int = outbox.DONE) -> bool:
        """Put the latest status of a deployment into the outbox; return whether it says something new."""
        with self._guarded() as connection:
            held = connection.execute("SELECT document FROM outbox WHERE deployment = ?", (deployment_id,)).fetchone()
        if held == (document,):
            return False
        with self._transaction():
            self._connection.execute(
                "INSERT INTO outbox (deployment, changed_at, document) VALUES (?, ?, ?) "
                "ON CONFLICT (deployment) DO UPDATE SET changed_at = excluded.changed_at, document = excluded.document",
                (deployment_id, now, document),
            )
            self._connection.execute(
                "DELETE FROM outbox WHERE deployment NOT IN "
                "(SELECT deployment FROM outbox ORDER BY changed_at DESC LIMIT ?)",
                (MAX_STATUSES,),
            )
            if self.keeps_unsent:
                outbox.put(self._connection, deployment_id, document, weight)
        return True

    def outbox(self) -> dict[str, bytes]:
        """Return the latest status documents by deployment id."""
        return {deployment: document for deployment, document, _receipt in self._rows(_OUTBOX)}

    def unsent(self) -> list[tuple[str, int, bytes]]:
        """Return (deployment id, weight, document) of what has not arrived, oldest first."""
        return self._rows(outbox.UNSENT)

    def count_unsent(self) -> int:
        """Return how many statuses have not arrived; 0 for a journal of an older agent, which kept only the newest."""
        with self._guarded() as connection:
            known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (outbox.UNSENT_NAME,)).fetchone()
        return len(self.unsent()) if known else 0

    def receipts(self) -> dict[str, str]:
        """Return what was last noted as arrived, by deployment id."""
        return {deployment: receipt for deployment, _document, receipt in self._rows(_OUTBOX) if receipt is not None}

    def acknowledge(self, deployment_id: str, receipt: str, document: bytes) -> None:
        """Note that a status of a deployment arrived; `receipt` says which one, and where."""
        with self._transaction():
            self._connection.execute("UPDATE outbox SET receipt = ? WHERE deployment = ?", (receipt, deployment_id))
            outbox.arrived(self._connection, deployment_id, document)

    # Single facts

    def set_facts(self, facts: dict[str, str]) -> None:
        """Keep facts by name, such as how the last poll ended."""
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                list(facts.items()),
            )

    def facts(self) -> dict[str, str]:
        """Return all facts by name."""
        return dict(self._rows(_FACTS))

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection]:
        """Turn errors of SQLite into ours; a journal that turns out to be damaged is replaced for the next caller."""
        with _journal_errors(self._path):
            if self._lost:
                self._connection = _open_sound(self._path)
                self._lost = False
            try:
                with readable():
                    yield self._connection
            except sqlite3.Error as error:
                if self._writes and is_damage(error):
                    self._connection.close()
                    self._lost = True
                    self.set_aside = _set_aside(self._path, int(self._path.stat().st_mtime))
                raise

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._guarded() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):  # what went wrong first is what counts
                        connection.execute("ROLLBACK")
                raise

    def _rows(self, kind: Rows[T], *values: int) -> list[T]:
        with self._guarded() as connection:
            return kind.read(connection, *values)


_WORKLOAD_COLUMNS: Final = (
    "deployment, component, applier, wanted, installed, state, code, message, attempts, changed_at, position, failure"
)
"""In the order of the attributes of `RecordedWorkload`."""

_DEPLOYMENTS: Final = Rows(
    "SELECT id, name, device, adopted, position FROM deployments ORDER BY position, id",
    (str, str, str, str, int),
    read_deployment,
)
_WORKLOADS: Final = Rows(
    f"SELECT {_WORKLOAD_COLUMNS} FROM workloads ORDER BY deployment, position, component",  # noqa: S608
    (str, str, str, str | None, str | None, str, str, str, int, float, int, str),
    read_workload,
)
_EVENTS: Final = Rows(
    "SELECT reason, text, code, subject, first_at, last_at, count FROM events WHERE security >= ? "
    "ORDER BY last_at DESC, id DESC LIMIT ?",
    (str, str, str, str, float, float, int),
    read_event,
)
_OUTBOX: Final = Rows(
    "SELECT deployment, document, receipt FROM outbox ORDER BY deployment", (str, bytes, str | None), tuple
)
_FACTS: Final = Rows("SELECT name, value FROM facts", (str, str), tuple)


def _open_sound(path: Path) -> sqlite3.Connection:
    """Return a connection to a journal that passed SQLite's check, and of which every row can be read."""
    connection = open_database(path, timeout=_TIMEOUT)
    try:
        with readable():
            _make_sound(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_sound(connection: sqlite3.Connection) -> None:
    check_sound(connection)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    _check_tables(version, tables)
    if version < SCHEMA_VERSION:
        script = _SCHEMA if version == 0 else " ".join(_UPGRADES[version:])
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    if outbox.UNSENT_NAME not in tables:
        connection.execute(outbox.UNSENT_TABLE)
    for kind in (_DEPLOYMENTS, _WORKLOADS, _OUTBOX, _FACTS, outbox.UNSENT):
        kind.read(connection)
    _EVENTS.read(connection, 0, -1)


def _check_tables(version: int, tables: set[str]) -> None:
    if not 0 <= version <= SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"the journal has schema version {version}")
    if version and not tables >= _TABLES:
        raise sqlite3.DatabaseError("tables of the journal are missing")


def _set_aside(path: Path, moment: int) -> Path:
    """Rename a journal that cannot be used, in place of the one that was set aside before; return where it is now."""
    for older in path.parent.glob(f"{path.name}.damaged-*"):
        remove_tree(older)
    aside = path.rename(path.with_name(f"{path.name}.damaged-{moment}"))
    for suffix in ("-wal", "-shm"):
        remove_tree(path.with_name(path.name + suffix))
    return aside


def _journal_errors(path: Path) -> AbstractContextManager[None]:
    """Turn errors of SQLite and of the disk inside into `StorageFull`, `AgentBusy` or `StateFolderUnusable`."""
    return database_errors(
        path,
        what="the journal cannot be used",
        error=StateFolderUnusable,
        busy=AgentBusy,
        full=StorageFull,
        remedy="restart the agent: it sets a damaged journal aside",
    )
