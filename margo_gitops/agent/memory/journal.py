"""The agent's memory of what it did, in SQLite: it makes every step restartable, and answers `agent status`.

J-1  A step is recorded before it begins and after it ends; every record is durable when the call returns.
J-2  The engine is the truth, the journal a memory: a journal that is damaged or from a newer version is set aside and
     a new one begun, from what the appliers observe.
J-3  Nothing grows without bound: events and outgoing statuses are thinned out, security events last.
J-4  Time comes from the caller.
J-5  64-bit versions are kept as text: SQLite's integers are signed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, cast

from margo_gitops.agent.durable import make_folder
from margo_gitops.agent.memory.events import Event
from margo_gitops.agent.memory.journal_file import DAMAGE, journal_errors, open_sound, set_aside, uri_path
from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.digests import Digest
from margo_gitops.documents.status import State

MAX_EVENTS: Final = 2_000
MAX_SECURITY_EVENTS: Final = 500
MAX_STATUSES: Final = 2_000
LONGEST_MESSAGE: Final = 4_000

Failure: TypeAlias = Literal["", "preparing", "installing", "quarantined", "removing"]
"""How the last try ended: well or not at all; which step failed; or an update that failed and is not tried again."""


@dataclass(frozen=True, slots=True)
class RecordedDeployment:
    """What the journal says of a deployment.

    Attributes:
        id: its id, lower case.
        name: `metadata.name`, the source of its errors.
        device: `metadata.deviceId`.
        adopted: the version of the latest manifest with a revision of it that was begun to be applied.
        position: its place in the state it came with, from 0.
    """

    id: str
    name: str
    device: str
    adopted: int
    position: int = 0


@dataclass(frozen=True, slots=True)
class RecordedWorkload:
    """What the journal says of a component.

    Attributes:
        key: which component.
        applier: name of the applier that serves it.
        wanted: the digest that was last asked for; None once it shall be gone.
        installed: the digest that was last installed with success.
        state: in Margo's words.
        code, message: of the error, where the last step failed; empty else.
        attempts: how often a step towards the wanted digest failed, or installing it was begun, in a row.
        changed_at: when the state last changed or a step last failed, seconds since the epoch.
        position: its place among the components of its deployment, from 0.
        failure: how the last try ended.
    """

    key: WorkloadKey
    applier: str
    wanted: Digest | None
    installed: Digest | None
    state: State
    code: str = ""
    message: str = ""
    attempts: int = 0
    changed_at: float = 0.0
    position: int = 0
    failure: Failure = ""


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as kept; equal ones in a row are one, with a count.

    Attributes:
        reason: of which kind it is; perhaps one that only a newer agent knows.
        text, code, subject: as of `Event`.
        first_at, last_at: when it came first and last, seconds since the epoch.
        count: how often it came.
    """

    reason: str
    text: str
    code: str
    subject: str
    first_at: float
    last_at: float
    count: int


class Journal:
    """One open journal. A context manager; not to be shared between threads.

    Attributes:
        set_aside: where a journal that could not be used lies now; None where this one is sound.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, set_aside: Path | None = None) -> None:
        self._connection = connection
        self._path = path
        self.set_aside = set_aside

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    @classmethod
    def open(cls, path: Path, now: float) -> Journal:
        """Open the journal, making it where there is none, and replacing it where it cannot be used (J-2).

        Raises:
            StateFolderUnusable: neither works.
            StorageFull: the disk is full.
        """
        make_folder(path.parent)
        with journal_errors(path):
            try:
                return cls(open_sound(path), path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                aside = path.with_name(f"{path.name}.damaged-{int(now)}")
                set_aside(path, aside)
                return cls(open_sound(path), path, aside)

    @classmethod
    def peek(cls, path: Path) -> Journal | None:
        """Open the journal for reading only, beside an agent that writes it; None where there is none.

        Raises:
            StateFolderUnusable: it cannot be read.
        """
        if not path.exists():
            return None
        with journal_errors(path):
            connection = sqlite3.connect(f"file:{uri_path(path)}?mode=ro", uri=True, timeout=10, isolation_level=None)
            try:
                connection.execute("SELECT count(*) FROM facts").fetchone()
            except sqlite3.DatabaseError:
                connection.close()
                raise
            return cls(connection, path)

    # Deployments and their components

    def record(self, workloads: Sequence[RecordedWorkload], deployments: Sequence[RecordedDeployment] = ()) -> None:
        """Record components and deployments at once, in place of what was recorded of them.

        Args:
            workloads: components.
            deployments: deployments, with the version of which they are applied from now on.
        """
        rows = [
            (
                item.key.deployment_id,
                item.key.component,
                item.position,
                item.applier,
                item.wanted,
                item.installed,
                item.state,
                item.code,
                item.message[:LONGEST_MESSAGE],
                item.attempts,
                item.changed_at,
                item.failure,
            )
            for item in workloads
        ]
        with self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO workloads (deployment, component, position, applier, wanted, installed, state, "
                "code, message, attempts, changed_at, failure) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
        rows = self._rows("SELECT id, name, device, adopted, position FROM deployments ORDER BY position, id")
        return [
            RecordedDeployment(str(row[0]), str(row[1]), str(row[2]), int(str(row[3])), int(str(row[4])))
            for row in rows
        ]

    def workloads(self) -> list[RecordedWorkload]:
        """Return what is recorded of components, those of one deployment in their order."""
        rows = self._rows(
            "SELECT deployment, component, applier, wanted, installed, state, code, message, attempts, changed_at, "
            "position, failure FROM workloads ORDER BY deployment, position, component"
        )
        return [_workload(row) for row in rows]

    # Events

    def note(self, event: Event, now: float) -> None:
        """Keep an event; the same one again in a row only counts (J-3)."""
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
        """Return the latest events, newest first.

        Args:
            limit: how many at most.
            security: only security events.
        """
        rows = self._rows(
            "SELECT reason, text, code, subject, first_at, last_at, count FROM events WHERE security >= ? "
            "ORDER BY last_at DESC, id DESC LIMIT ?",
            int(security),
            limit,
        )
        return [
            RecordedEvent(
                str(row[0]),
                str(row[1]),
                str(row[2]),
                str(row[3]),
                float(str(row[4])),
                float(str(row[5])),
                int(str(row[6])),
            )
            for row in rows
        ]

    # Statuses on their way out

    def post(self, deployment_id: str, document: bytes, now: float) -> bool:
        """Put the latest status of a deployment into the outbox; return whether it says something new."""
        held = self._rows("SELECT document FROM outbox WHERE deployment = ?", deployment_id)
        if held and held[0][0] == document:
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
        return True

    def outbox(self) -> dict[str, bytes]:
        """Return the latest status documents by deployment id."""
        rows = self._rows("SELECT deployment, document FROM outbox ORDER BY deployment")
        return {str(row[0]): cast("bytes", row[1]) for row in rows}

    def receipts(self) -> dict[str, str]:
        """Return what was last noted as arrived, by deployment id."""
        rows = self._rows("SELECT deployment, receipt FROM outbox WHERE receipt IS NOT NULL")
        return {str(row[0]): str(row[1]) for row in rows}

    def acknowledge(self, deployment_id: str, receipt: str) -> None:
        """Note that a status of a deployment arrived; `receipt` says which one, and where."""
        with self._transaction():
            self._connection.execute("UPDATE outbox SET receipt = ? WHERE deployment = ?", (receipt, deployment_id))

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
        return {str(row[0]): str(row[1]) for row in self._rows("SELECT name, value FROM facts")}

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn errors of SQLite into ours; a journal that turns out to be damaged is replaced for the next caller."""
        with journal_errors(self._path):
            try:
                yield
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE:
                    self._connection.close()
                    self.set_aside = self._path.with_name(
                        f"{self._path.name}.damaged-{int(self._path.stat().st_mtime)}"
                    )
                    set_aside(self._path, self.set_aside)
                    self._connection = open_sound(self._path)
                raise

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._guarded():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):  # what went wrong first is what counts
                        self._connection.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with self._guarded():
            return self._connection.execute(query, values).fetchall()


def _workload(row: tuple[object, ...]) -> RecordedWorkload:
    deployment, component, applier, wanted, installed, state, code, message, attempts, changed_at, *rest = row
    position, failure = rest
    return RecordedWorkload(
        WorkloadKey(str(deployment), str(component)),
        str(applier),
        Digest(str(wanted)) if wanted is not None else None,
        Digest(str(installed)) if installed is not None else None,
        cast("State", state),
        str(code),
        str(message),
        int(str(attempts)),
        float(str(changed_at)),
        int(str(position)),
        cast("Failure", failure),
    )
