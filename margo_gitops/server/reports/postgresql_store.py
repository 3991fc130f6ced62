"""The journal of reports in a PostgreSQL database: for several servers over one state.

SHARED-1  One transaction writes at a time, over all servers: it locks the row of `journal`, which counts changes and
          bytes. So bounds are exact, and a change never becomes visible after one with a higher number.
SHARED-2  What one server keeps, the others hear by NOTIFY after it is on disk: the version that a device adopted, and
          the bytes that it added to the history. A server that did not listen reads the versions again.
SHARED-3  One server at a time commits to the branch of reports (advisory lock). A server that dies loses the lock with
          its connection. Two committers would not do harm: git refuses the second one's push.
SHARED-4  A server that loses its connection opens another one with the next transaction. A transaction that was perhaps
          committed is sent again by the device, and then changes nothing.
SHARED-5  The URL of the database is in no message: it may hold a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn, Ping

from margo_gitops.errors import (
    Location,
    ReportsDatabaseAway,
    ReportsDatabaseNewer,
    ReportsDatabaseRefused,
    ReportsUnusable,
    ServerMisconfigured,
)
from margo_gitops.server.reports.store import Hear, Heard, ReportStore, Rows, Transaction

_LOG = logging.getLogger("margo_gitops.server")
_VERSION: Final = 1
_MAKING: Final = 0x6D6172676F
"""The advisory lock of a server that makes the tables."""
_SCHEMA: Final = """
CREATE TABLE report (
    client text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    content bytea,             -- NULL: removed, and not yet committed
    evidence text NOT NULL,
    adopted bigint NOT NULL,
    received bigint NOT NULL,
    change bigint NOT NULL,
    committed smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (client, kind, name)
);
CREATE INDEX report_uncommitted ON report (change) WHERE committed = 0;
CREATE TABLE journal (
    version integer NOT NULL,  -- of these tables
    change bigint NOT NULL,
    total bigint NOT NULL,     -- bytes of all reports
    turned timestamptz NOT NULL DEFAULT '-infinity'  -- when reports were committed to the branch
);
INSERT INTO journal VALUES (1, 0, 0);
"""
_BRANCH: Final = "CREATE TABLE branch (last text NOT NULL)"  # the commit that was made last
# A look at pg_class hears of tables that other connections made; to_regclass alone remembers that one is missing.
_FIND_BRANCH: Final = "SELECT oid::bigint FROM pg_class WHERE oid = to_regclass('branch')"
_FIND: Final = "SELECT oid::bigint FROM pg_class WHERE oid = to_regclass('journal')"
_AGAIN_SECONDS: Final = 2.0
_SAID_AT_ONCE: Final = 30
"""Reports in one message; a message of PostgreSQL has at most 8000 bytes."""
_PARAMETERS: Final[dict[str, Any]] = {
    "autocommit": True,
    "application_name": "margo-gitops",
    "connect_timeout": 5,
    # A database that went away without a word is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_SETTINGS: Final = (
    # A server that hangs within a transaction must not keep the others from writing.
    "SET idle_in_transaction_session_timeout = '10s'",
    "SET statement_timeout = '10s'",
    # JOURNAL-1, whatever this database does by default.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
)


class _Statements:
    """A connection that takes `?` for a value, as SQLite does."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[object] = (), /) -> Rows:
        """Execute a statement."""
        return self._connection.execute(_with_places(statement), values)

    def executemany(self, statement: str, rows: Iterable[Sequence[object]], /) -> None:
        """Execute a statement for each row, without waiting for the answers between."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_with_places(statement), rows)


class PostgresqlStore(ReportStore):
    """Rows in a database that other servers use too."""

    is_shared = True

    def __init__(self, url: str) -> None:
        """Use a database; where it is away now, the first transaction after that opens it.

        Args:
            url: or other words of libpq, `host=… dbname=…`.

        Raises:
            ServerMisconfigured: it is not a URL.
            ReportsDatabaseRefused: the database does not let this server in.
            ReportsDatabaseNewer: a newer version made the tables.
        """
        try:
            parts = conninfo_to_dict(url)
        except psycopg.Error:
            raise ServerMisconfigured(
                "the URL of the database of reports cannot be read",
                remedy="write it like postgresql://margo@db.example/reports",
            ) from None
        self._url = url
        self._where = Location(f"{parts.get('host', 'PostgreSQL')}/{parts.get('dbname', '')}")
        self._me = secrets.token_hex(8)
        self._connection: psycopg.Connection[Any] | None = None
        self._journal = 0
        try:
            with self._errors():
                self._opened()
        except ReportsDatabaseAway as error:
            # Who asks only whether the database answers needs no credentials.
            if PGconn.ping(make_conninfo(url, connect_timeout=2).encode()) == Ping.OK:
                raise ReportsDatabaseRefused(
                    "the database of reports does not let this server in",
                    where=self._where,
                    why=error.why,
                    remedy="see that user, password and name of the database are right, and its pg_hba.conf",
                ) from error
            _LOG.error("%s", error)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Write to the database, as the only one of all servers (SHARED-1)."""
        with self._errors():
            connection = self._begun()
            try:
                found = connection.execute("SELECT version, change, total FROM journal FOR UPDATE").fetchone()
                version, change, total = cast("tuple[int, int, int]", found)
                self._check(version)
                journal = Transaction(_Statements(connection), change, total)
                yield journal
                if (journal.change, journal.total) != (change, total):
                    connection.execute("UPDATE journal SET change = %s, total = %s", (journal.change, journal.total))
                for at in range(0, len(journal.kept), _SAID_AT_ONCE):
                    some = journal.kept[at : at + _SAID_AT_ONCE]
                    self._say(journal, {"kept": [[each.client, each.size, each.adopted] for each in some]})
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(psycopg.Error):
                    connection.execute("ROLLBACK")
                raise

    def make_table(self, name: str, statements: Iterable[str]) -> None:
        """Make a table that another part of the server keeps here, where it is missing.

        Raises:
            ReportsDatabaseRefused: the user may not make it.
            ReportsDatabaseAway, ReportsUnusable: as `transaction`.
        """
        with self.transaction() as opened, self._making():
            there = "SELECT oid FROM pg_class WHERE oid = to_regclass(?::text)"
            if opened.connection.execute(there, (name,)).fetchone() is None:
                for each in statements:
                    opened.connection.execute(each)

    def take_turn(self, journal: Transaction, every: float) -> bool:
        """Return whether this server is the one that commits to the branch now (SHARED-3)."""
        due = "SELECT turned <= clock_timestamp() - make_interval(secs => ?) FROM journal"
        return bool(
            journal.connection.execute(due, (every,)).fetchone()[0]
            and journal.connection.execute("SELECT pg_try_advisory_lock(?)", (self._journal,)).fetchone()[0]
        )

    def end_turn(self, journal: Transaction, *, done: bool) -> None:
        """Let another server commit."""
        if done:
            journal.connection.execute("UPDATE journal SET turned = clock_timestamp()")
        journal.connection.execute("SELECT pg_advisory_unlock(?)", (self._journal,))

    def say_state(self, journal: Transaction, commit: str) -> None:
        """Tell the other servers that this one's mirror has a state."""
        self._say(journal, {"state": commit})

    async def listen(self, hear: Hear) -> None:
        """Hear what other servers say, until cancelled (SHARED-2)."""
        complaint = ""
        while True:
            try:
                await self._listen_once(hear)
            except (psycopg.Error, OSError) as error:
                if str(error) != complaint:
                    _LOG.error("what other servers keep is not heard now: %s", error)
                complaint = str(error)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _listen_once(self, hear: Hear) -> None:
        async with await psycopg.AsyncConnection.connect(self._url, **_PARAMETERS) as connection:
            found = await (await connection.execute(_FIND)).fetchone()
            if found is None:
                return  # the first transaction makes it
            await connection.execute(f"LISTEN {_channel(found[0])}")
            rows = await (
                await connection.execute("SELECT client, max(adopted) FROM report GROUP BY client")
            ).fetchall()
            hear.kept([Heard(client, 0, adopted) for client, adopted in rows])
            async for notice in connection.notifies():
                said = json.loads(notice.payload)
                if said.get("by") == self._me:
                    continue
                hear.kept([Heard(*each) for each in said.get("kept", ())])
                if "state" in said:
                    hear.state(said["state"])

    def _say(self, journal: Transaction, what: dict[str, object]) -> None:
        payload = json.dumps({"by": self._me, **what}, separators=(",", ":"))
        journal.connection.execute("SELECT pg_notify(?, ?)", (_channel(self._journal), payload))

    def _begun(self) -> psycopg.Connection[Any]:
        """Return a connection within a transaction; a new one where the old one is broken (SHARED-4)."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.OperationalError, psycopg.InterfaceError):
                self._connection.execute("BEGIN")
                return self._connection
        connection = self._opened()
        connection.execute("BEGIN")
        return connection

    def _opened(self) -> psycopg.Connection[Any]:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        connection = psycopg.connect(self._url, **_PARAMETERS)
        try:
            for setting in _SETTINGS:
                connection.execute(setting)
            self._journal = self._made(connection)
            row = connection.execute("SELECT version FROM journal").fetchone()
            self._check(row[0] if row else 0)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _made(self, connection: psycopg.Connection[Any]) -> int:
        """Return what the database calls the table `journal`; make the tables where they are missing."""
        found = None
        for find, schema in ((_FIND_BRANCH, _BRANCH), (_FIND, _SCHEMA)):
            found = connection.execute(find).fetchone()
            if found is None:
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
                    found = connection.execute(find).fetchone()
                    if found is None:
                        with self._making():
                            connection.execute(schema)
                        found = connection.execute(find).fetchone()
        return int(cast("tuple[int]", found)[0])

    @contextlib.contextmanager
    def _making(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            raise ReportsDatabaseRefused(
                "the database of reports lacks a table of this version, and its user may not make it",
                where=self._where,
                why=_lines(error),
                remedy="let its user make it once: GRANT CREATE ON SCHEMA public TO it; then start the server",
            ) from error

    def _check(self, version: int) -> None:
        if version > _VERSION:
            raise ReportsDatabaseNewer(
                f"the tables of reports are of version {version}, this server knows {_VERSION}",
                where=self._where,
                remedy="install the version of margo-gitops that the other servers have",
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.DataError:
            raise
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise ReportsDatabaseAway(
                "the database of reports does not answer",
                where=self._where,
                why=_lines(error),
                remedy="start the database, or the network to it; devices send their reports again",
            ) from error
        except psycopg.Error as error:
            raise ReportsUnusable(
                "the database of reports cannot be used",
                where=self._where,
                why=_lines(error),
                remedy="see the log of the database; its tables belong to this program alone",
            ) from error


def _lines(error: psycopg.Error) -> list[str]:
    return [line for line in str(error).splitlines() if line.strip()]


def _with_places(statement: str) -> Any:  # noqa: ANN401  # psycopg takes only texts that are written in the code
    return statement.replace("?", "%s")


def _channel(journal: int) -> str:
    return f"margo_gitops_{journal}"
