"""The devices that are enrolled, wait for approval, or have a secret that was not used yet (D-37).

REGISTRY-1  A secret is kept as sha256, ends by itself, and counts for one key: the first that comes with it. One
            transaction decides, so two devices with one secret never both win.
REGISTRY-2  A request that comes again with the same key and token gets the same answer, also after a crash.
REGISTRY-3  A device has one credential. The next enrolment of its id replaces it, and the old token ends.
REGISTRY-4  What waits for approval is bounded in number and in time.
REGISTRY-5  A device that was copied stays known as that, until it is enrolled again.
REGISTRY-6  Each change has a number that only grows. So a server takes over what other servers, and commands, change.

The rows are in a file of SQLite of their own, or in the PostgreSQL database of the reports.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Literal, TypeAlias

from margo_gitops.digests import Digest
from margo_gitops.disk.databases import database_errors, open_database
from margo_gitops.documents.enrolment import EnrolmentRequest, secret_digest
from margo_gitops.errors import EnrolmentsUnusable, ServerBusy
from margo_gitops.server.reports.store import Connection
from margo_gitops.trust.ssh_key import read_public_key
from margo_gitops.values import astuple, dataclass, replace

State: TypeAlias = Literal["offered", "pending", "enrolled", "copied", "replaced", "revoked"]
Approval: TypeAlias = Literal["secret", "person"]
Begin: TypeAlias = Callable[[], AbstractContextManager[Connection]]
"""Opens a transaction; no other one writes at the same time."""

ENROLMENT_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS enrolment (
    id TEXT PRIMARY KEY,
    device TEXT NOT NULL,
    state TEXT NOT NULL,
    secret TEXT NOT NULL,    -- sha256; empty: it has none
    key TEXT NOT NULL,       -- public key; empty: any
    token TEXT NOT NULL,     -- sha256; empty until it is enrolled or waits
    expires BIGINT NOT NULL, -- of a secret, and of what waits: seconds since the epoch
    moment BIGINT NOT NULL,  -- of the last change: seconds since the epoch
    change BIGINT NOT NULL
)""",
    "CREATE INDEX IF NOT EXISTS enrolment_by_change ON enrolment (change)",
    "CREATE INDEX IF NOT EXISTS enrolment_by_secret ON enrolment (secret)",
    "CREATE INDEX IF NOT EXISTS enrolment_by_key ON enrolment (key)",
    "CREATE INDEX IF NOT EXISTS enrolment_by_device ON enrolment (device)",
)
_COLUMNS: Final = "id, device, state, secret, key, token, expires, moment"
WAIT_SECONDS: Final = 7 * 86_400
"""For how long a key waits for approval."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A row.

    Attributes:
        secret, token: sha256; empty for none.
        key: as a `.pub` file has it; empty: any.
        expires, moment: seconds since the epoch.
    """

    id: str
    device: str
    state: State
    secret: str
    key: str
    token: str
    expires: int
    moment: int

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint; empty where it has no key."""
        return read_public_key(*self.key.split(" ")).fingerprint if self.key else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request: the device that is enrolled; or that it waits; or why it is refused."""

    device: str = ""
    waits: bool = False
    reason: str = ""


class EnrolmentRegistry:
    """Keeps enrolments; every method raises what the transaction raises (`EnrolmentsUnusable`). For any thread."""

    def __init__(self, begin: Begin, clock: Callable[[], float], *, refuse_copies: bool = False) -> None:
        """Read who is enrolled.

        Args:
            begin: opens transactions on a database that has the table (`ENROLMENT_SCHEMA`).
            refuse_copies: whether the token of a device that has a copy counts no longer.
        """
        self._refuse_copies = refuse_copies
        self._begin = begin
        self._clock = clock
        self._tokens: dict[str, tuple[str, State]] = {}
        self._seen = 0
        self._reading = threading.Lock()
        self.refresh()

    def holder(self, token: str) -> tuple[str, State] | None:
        """Return the device whose token has a digest, and whether it counts still; None: it was never enrolled."""
        device, state = self._tokens.get(token, ("", "revoked"))
        if not device:
            return None
        return device, "enrolled" if state == "copied" and not self._refuse_copies else state

    def refresh(self) -> None:
        """Take over what changed (REGISTRY-6)."""
        with self._reading, self._begin() as rows:
            query = (
                "SELECT token, device, state, change FROM enrolment WHERE change > ? AND token <> '' ORDER BY change"
            )
            for token, device, state, change in rows.execute(query, (self._seen,)):
                self._seen = change
                if state != "pending":
                    self._tokens[token] = device, state

    def expects(self, request: EnrolmentRequest) -> bool:
        """Return whether a request has a secret or a key that is known: what strangers send costs little."""
        with self._begin() as rows:
            if request.secret is not None:
                return _find(rows, "secret = ?", secret_digest(request.secret)) is not None
            return _find(rows, "key = ? AND state <> 'replaced'", request.public_key) is not None

    def offer(self, device: str, *, secret: Digest | None, key: str, seconds: int) -> None:
        """Let a device be enrolled by a secret, by its key, or only by both.

        Args:
            key: that it must have; empty: any.
            seconds: until the offer ends.
        """
        now = int(self._clock())
        with self._begin() as rows:
            self._forget(rows, now)
            made = Enrolment(secrets.token_hex(16), device, "offered", secret or "", key, "", now + seconds, now)
            _put(rows, made)

    def enrol(self, request: EnrolmentRequest, approval: Approval, most_pending: int) -> Outcome:
        """Judge a request whose signature was verified, and remember what becomes of it.

        Args:
            approval: what becomes of a key that is not known and has no secret.
            most_pending: how many keys wait at once.
        """
        with self._begin() as rows:
            outcome = self._judge(rows, request, approval, most_pending)
        self.refresh()
        return outcome

    def _judge(self, rows: Connection, request: EnrolmentRequest, approval: Approval, most_pending: int) -> Outcome:
        now, key = int(self._clock()), request.public_key
        if request.secret is not None:
            found = _find(rows, "secret = ?", secret_digest(request.secret))
        else:
            # What is offered to this key comes before the credential that it has.
            found = _find(rows, "key = ? AND (state IN ('enrolled', 'copied') OR secret = '')", key)
        other = _find(rows, "token = ?", request.token)
        if other is not None and other.key != key:
            return Outcome(reason=f"the token is one of {other.device or 'a key that waits'}")
        if found is None:
            if request.secret is not None:
                return Outcome(reason="the secret is not known")
            return self._wait(rows, request, now, most_pending) if approval == "person" else Outcome(reason="no secret")
        if request.device not in (None, found.device) and found.state != "pending":
            return Outcome(reason=f"the secret or key is for {found.device}, not for {request.device}")
        if found.state == "enrolled":
            same = (found.key, found.token) == (key, request.token)
            return Outcome(found.device) if same else Outcome(reason=f"of {found.device}: used by another key or token")
        if found.state not in ("offered", "pending"):
            return Outcome(reason=f"of {found.device}: {found.state}")
        if found.state == "pending":
            if found.token != request.token or now >= found.expires:
                _put(rows, replace(found, token=request.token, expires=now + WAIT_SECONDS, moment=now))
            return Outcome(waits=True)
        if now >= found.expires:
            return Outcome(reason=f"of {found.device}: ended")
        if found.key not in ("", key):
            return Outcome(reason=f"of {found.device}: it is for another key")
        _enrol(rows, found, key, request.token, now)
        return Outcome(found.device)

    def _wait(self, rows: Connection, request: EnrolmentRequest, now: int, most_pending: int) -> Outcome:
        self._forget(rows, now)
        waiting = rows.execute("SELECT count(*) FROM enrolment WHERE state = 'pending' AND expires > ?", (now,))
        if waiting.fetchone()[0] >= most_pending:
            return Outcome(reason="too many keys wait for approval")
        device = request.device or ""
        row = Enrolment(
            secrets.token_hex(16), device, "pending", "", request.public_key, request.token, now + WAIT_SECONDS, now
        )
        _put(rows, row)
        return Outcome(waits=True)

    def listed(self) -> list[Enrolment]:
        """Return what is offered, waits or is enrolled, by device."""
        now = int(self._clock())
        with self._begin() as rows:
            return [
                Enrolment(*row)
                for row in rows.execute(
                    f"SELECT {_COLUMNS} FROM enrolment WHERE state IN ('enrolled', 'copied')"
                    " OR (state IN ('offered', 'pending') AND expires > ?) ORDER BY device, change",
                    (now,),
                )
            ]

    def approve(self, device: str, fingerprint: str) -> str | None:
        """Enrol the key that waits and has a fingerprint, as the device that it asks for; None if it does not wait."""
        now = int(self._clock())
        with self._begin() as rows:
            query = f"SELECT {_COLUMNS} FROM enrolment WHERE state = 'pending' AND expires > ?"
            for row in [Enrolment(*each) for each in rows.execute(query, (now,))]:
                if row.fingerprint == fingerprint and row.device in ("", device):
                    _enrol(rows, replace(row, device=device), row.key, row.token, now)
                    return row.key
        return None

    def revoke(self, device: str) -> int:
        """End a device's credential and its offers; return how many there were."""
        now = int(self._clock())
        with self._begin() as rows:
            query = f"SELECT {_COLUMNS} FROM enrolment WHERE device = ? AND state NOT IN ('replaced', 'revoked')"
            found = [Enrolment(*row) for row in rows.execute(query, (device,))]
            for each in found:
                _put(rows, replace(each, state="revoked", moment=now))
        return len(found)

    def note_copy(self, device: str) -> bool:
        """Remember that there are two of a device (REGISTRY-5); return whether that is news."""
        with self._begin() as rows:
            found = _find(rows, "device = ? AND state = 'enrolled'", device)
            if found is not None:
                _put(rows, replace(found, state="copied", moment=int(self._clock())))
        self.refresh()
        return found is not None

    def _forget(self, rows: Connection, now: int) -> None:
        # The newest row stays, so that numbers only grow (REGISTRY-6).
        rows.execute(
            "DELETE FROM enrolment WHERE state IN ('offered', 'pending') AND expires <= ?"
            " AND change < (SELECT max(change) FROM enrolment)",
            (now,),
        )


class EnrolmentFile:
    """The rows in a file of SQLite, which a server and commands use at the same time."""

    def __init__(self, file: Path) -> None:
        """Open the file; it is made if it does not exist (EnrolmentsUnusable: it cannot be)."""
        self._file = file
        self._one = threading.Lock()
        with self._errors():
            self._connection = open_database(file, timeout=10, threads=True)
        with self.begin() as rows:
            for statement in ENROLMENT_SCHEMA:
                rows.execute(statement)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """Write, for one thread of one process at a time."""
        with self._one, self._errors():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _errors(self) -> AbstractContextManager[None]:
        return database_errors(
            self._file,
            what="the enrolled devices cannot be read or written",
            error=EnrolmentsUnusable,
            busy=ServerBusy,
            remedy="check that the disk is not full, and that the folder belongs to this user",
        )


def _find(rows: Connection, where: str, value: str) -> Enrolment | None:
    found = rows.execute(f"SELECT {_COLUMNS} FROM enrolment WHERE {where} ORDER BY change DESC LIMIT 1", (value,))
    row = found.fetchone()
    return Enrolment(*row) if row else None


def _enrol(rows: Connection, row: Enrolment, key: str, token: str, now: int) -> None:
    """Enrol a device, in place of the credential that it had (REGISTRY-3)."""
    query = f"SELECT {_COLUMNS} FROM enrolment WHERE device = ? AND state IN ('enrolled', 'copied') AND id <> ?"
    for old in [Enrolment(*each) for each in rows.execute(query, (row.device, row.id))]:
        _put(rows, replace(old, state="replaced", moment=now))
    _put(rows, replace(row, state="enrolled", key=key, token=token, moment=now))


def _put(rows: Connection, row: Enrolment) -> None:
    """Write a row, with the number of this change (REGISTRY-6)."""
    names = _COLUMNS.split(", ")[1:]
    kept = ", ".join(f"{name} = excluded.{name}" for name in (*names, "change"))
    rows.execute(
        f"INSERT INTO enrolment ({_COLUMNS}, change)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(change), 0) + 1 FROM enrolment))"
        f" ON CONFLICT (id) DO UPDATE SET {kept}",
        astuple(row),
    )
