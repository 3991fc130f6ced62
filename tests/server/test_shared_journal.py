"""The journal that several servers share: bounds over all, one committer, what they hear of each other, no database."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from psycopg.conninfo import make_conninfo
from server.serving import ServedFleet, capabilities
from server.test_report_journal import report
from testbed.git_server import free_ports
from testbed.postgresql_server import PostgresqlServer

from margo_gitops.errors import (
    ReportsDatabaseAway,
    ReportsDatabaseNewer,
    ReportsDatabaseRefused,
    ReportsUnusable,
    ServerMisconfigured,
)
from margo_gitops.server.reports.journal import JournalBounds, ReportJournal
from margo_gitops.server.reports.postgresql_store import PostgresqlStore
from margo_gitops.server.reports.store import Heard
from margo_gitops.server.resources.enrolment_registry import ENROLMENT_SCHEMA

T = TypeVar("T")
BOUNDS = JournalBounds()


class Between:
    """A way to a port that can be closed and opened again."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.is_open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.is_open = False
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            here, _ = self._listener.accept()
            if not self.is_open:
                here.close()
                continue
            there = socket.create_connection(("127.0.0.1", self._to))
            self._open += [here, there]
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def database(postgresql_server: PostgresqlServer) -> str:
    return postgresql_server.add_database()


@pytest.fixture
def servers(postgresql_server: PostgresqlServer, database: str) -> Iterator[Callable[..., ReportJournal]]:
    """Opens the journal as one more server."""
    with contextlib.ExitStack() as stack:

        def opened(bounds: JournalBounds = BOUNDS, **url: int) -> ReportJournal:
            journal = ReportJournal(PostgresqlStore(postgresql_server.url(database, **url)), bounds)
            stack.callback(journal.close)
            return journal

        yield opened


async def soon(holds: Callable[[], T]) -> T:
    for _ in range(500):
        if found := holds():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("it did not become true in time")


async def while_hearing(journal: ReportJournal, heard: list[Heard], states: list[str], then: Awaitable[T]) -> T:
    listening = asyncio.create_task(journal.listen(heard.append, states.append))
    try:
        return await then
    finally:
        listening.cancel()


def test_bounds_hold_over_all_servers(servers: Callable[..., ReportJournal]) -> None:
    one, two = (servers(JournalBounds(10, total_bytes=150)) for _ in range(2))

    async def all_at_once() -> list[str]:
        of_one = [each.keep(report(f"{n}-{at}")) for n in range(10) for at, each in enumerate((one, two))]
        of_all = [each.keep(report("a", b"x" * 40, f"press-{n}")) for n, each in enumerate((one, two, one, two))]
        return list(await asyncio.gather(*of_one, *of_all))

    outcomes = asyncio.run(all_at_once())
    assert sorted(outcomes[:20]) == ["created"] * 10 + ["full"] * 10
    assert sorted(outcomes[20:]) == ["all-full"] + ["created"] * 3


def test_a_report_that_comes_again_to_another_server_is_kept_once(servers: Callable[..., ReportJournal]) -> None:
    one, two = servers(), servers()
    assert asyncio.run(one.keep(report("a"))) == "created"
    assert asyncio.run(two.keep(report("a"))) == "unchanged"
    assert len(asyncio.run(two.uncommitted(10))) == 1


def test_servers_hear_what_others_keep_and_what_state_they_have(servers: Callable[..., ReportJournal]) -> None:
    one, two = servers(), servers()
    heard: list[Heard] = []
    states: list[str] = []

    async def tell() -> None:
        await asyncio.sleep(0.3)
        for number in range(70):  # more than one message has room for
            await one.keep(report("a", b"12345", f"{'p' * 190}-{number}", adopted=7))
        await two.keep(report("b", b"mine", adopted=9))
        await one.say_state("c0ffee")
        await soon(lambda: states)

    asyncio.run(while_hearing(two, heard, states, tell()))
    assert len(heard) == 70, "and nothing of its own"
    assert (heard[0].size, heard[0].adopted) == (5, 7)
    assert two.adopted(f"{'p' * 190}-69") == 7
    assert states == ["c0ffee"]
    assert servers().adopted("press-01") == 9


def test_one_server_at_a_time_commits_and_a_dead_one_not_at_all(
    servers: Callable[..., ReportJournal], postgresql_server: PostgresqlServer, database: str
) -> None:
    one, two = servers(), servers()

    async def turns() -> list[bool]:
        async with one.turn(0) as first, two.turn(0) as second:
            found = [first, second]
            # What is left of a server that was killed: nothing.
            postgresql_server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'", database
            )
            async with two.turn(0) as third:
                found.append(third)
        async with two.turn(3600) as too_early, two.turn(0) as now:
            return [*found, too_early, now]

    assert asyncio.run(turns()) == [True, False, True, False, True]


def test_without_its_database_a_server_takes_nothing_and_goes_on_when_it_is_back(
    servers: Callable[..., ReportJournal], postgresql_server: PostgresqlServer
) -> None:
    way = Between(postgresql_server.port)
    way.is_open = False
    journal = servers(port=way.port)  # it starts without
    with pytest.raises(ReportsDatabaseAway, match="does not answer"):
        asyncio.run(journal.keep(report("a")))
    way.is_open = True
    assert asyncio.run(journal.keep(report("a", adopted=3))) == "created"
    way.close()
    with pytest.raises(ReportsDatabaseAway):
        asyncio.run(journal.keep(report("b")))
    assert journal.adopted("press-01") == 3
    way.is_open = True
    assert asyncio.run(journal.keep(report("b"))) == "created"


def test_without_its_database_a_server_starts_refuses_reports_for_now_and_serves(fleet: ServedFleet) -> None:
    (port,) = free_ports(1)
    (fleet.folder / "url").write_text(f"postgresql://margo:s3cret@127.0.0.1:{port}/reports")
    fleet.start(reports={"postgresql": {"urlFile": "url"}})
    with fleet.client("press-01") as client:
        refused = client.put("/api/v1/capabilities/press-01", json=capabilities("press-01"))
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 30
        assert client.get("/api/v1/deployments").status_code == 200
        assert client.get("/readyz").status_code == 200
    assert "MG1804" in fleet.log.read_text()
    assert "s3cret" not in fleet.log.read_text()
    assert fleet.stop() == 0


def test_a_connection_that_broke_between_two_reports_is_replaced(
    servers: Callable[..., ReportJournal], postgresql_server: PostgresqlServer, database: str
) -> None:
    journal = servers()
    asyncio.run(journal.keep(report("a")))
    postgresql_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
    assert asyncio.run(journal.keep(report("b"))) == "created"


def test_a_report_that_no_database_can_hold_fails_alone(servers: Callable[..., ReportJournal]) -> None:
    journal = servers()

    async def all_at_once() -> list[object]:
        reports = [report("a"), report("b\0"), report("c")]
        return list(await asyncio.gather(*map(journal.keep, reports), return_exceptions=True))

    first, second, third = asyncio.run(all_at_once())
    assert (first, third) == ("created", "created")
    assert isinstance(second, ReportsUnusable)


def test_an_error_of_credentials_says_so_without_them(postgresql_server: PostgresqlServer, database: str) -> None:
    url = postgresql_server.url(database)
    for wrong in (url.replace(postgresql_server.password, "wr0ng"), f"{url}-that-is-not"):
        with pytest.raises(ReportsDatabaseRefused) as caught:
            PostgresqlStore(wrong)
        said = f"{caught.value} {caught.value.why} {caught.value.remedy}"
        assert "wr0ng" not in said
        assert postgresql_server.password not in said
    with pytest.raises(ServerMisconfigured) as unread:
        PostgresqlStore("postgres:/margo:s3cret@db.example")
    assert "s3cret" not in f"{unread.value} {unread.value.why}"


def test_tables_of_a_newer_version_are_refused_also_while_running(
    servers: Callable[..., ReportJournal], postgresql_server: PostgresqlServer, database: str
) -> None:
    journal = servers()
    postgresql_server.execute("UPDATE journal SET version = 2", database)
    with pytest.raises(ReportsDatabaseNewer, match="version 2"):
        asyncio.run(journal.keep(report("a")))
    with pytest.raises(ReportsDatabaseNewer):
        servers()


def test_a_report_is_on_disk_whatever_the_database_does_by_default(
    servers: Callable[..., ReportJournal], postgresql_server: PostgresqlServer, database: str
) -> None:
    postgresql_server.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
    journal = servers()
    setting = asyncio.run(
        journal._do(lambda opened: opened.connection.execute("SHOW synchronous_commit").fetchone()[0])
    )
    assert setting == "on"


BEFORE = """
CREATE TABLE report (
    client text NOT NULL, kind text NOT NULL, name text NOT NULL, content bytea, evidence text NOT NULL,
    adopted bigint NOT NULL, received bigint NOT NULL, change bigint NOT NULL, committed smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (client, kind, name)
);
CREATE INDEX report_uncommitted ON report (change) WHERE committed = 0;
CREATE TABLE journal (
    version integer NOT NULL, change bigint NOT NULL, total bigint NOT NULL,
    turned timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO journal VALUES (1, 7, 2);
INSERT INTO report VALUES ('a', 'status', 'one', '{}', 'token', 3, 1800000000, 7, 1);
"""
"""The tables before JOURNAL-6, with a report that was committed."""


def test_tables_of_before_are_completed_once_and_keep_what_they_have(
    servers: Callable[..., ReportJournal], postgresql_server: PostgresqlServer, database: str
) -> None:
    postgresql_server.execute(BEFORE, database)
    with ThreadPoolExecutor(3) as pool:
        journals = list(pool.map(lambda _: servers(), range(3)))
    assert asyncio.run(journals[0].last_commit()) is None
    asyncio.run(journals[1].keep(report("b")))
    held = postgresql_server.execute("SELECT client, adopted, committed FROM report ORDER BY client", database)
    assert held.splitlines()[0] == "a|3|1"
    assert len(held.splitlines()) == 2
    assert postgresql_server.execute("SELECT change FROM journal", database).strip() == "8"


def test_a_user_that_may_not_make_a_missing_table_learns_what_it_needs_once(
    postgresql_server: PostgresqlServer, database: str
) -> None:
    user = f"server_{database}"
    for each in (
        BEFORE,
        f"CREATE ROLE {user} LOGIN PASSWORD 'pw'",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON report, journal TO {user}",
    ):
        postgresql_server.execute(each, database)
    url = make_conninfo(postgresql_server.url(database), user=user, password="pw")
    with pytest.raises(ReportsDatabaseRefused, match="may not make it") as caught:
        PostgresqlStore(url)
    assert "GRANT CREATE ON SCHEMA public" in caught.value.remedy
    postgresql_server.execute(f"GRANT CREATE ON SCHEMA public TO {user}", database)
    with contextlib.closing(PostgresqlStore(url)) as store:
        store.make_table("enrolment", ENROLMENT_SCHEMA)
    postgresql_server.execute(f"REVOKE CREATE ON SCHEMA public FROM {user}", database)
    with contextlib.closing(PostgresqlStore(url)) as store:
        store.make_table("enrolment", ENROLMENT_SCHEMA)
        with store.transaction() as opened:
            assert opened.change == 7
        with pytest.raises(ReportsDatabaseRefused):
            store.make_table("another", ["CREATE TABLE another (one text)"])
