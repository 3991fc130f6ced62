"""The journal: what is acknowledged is on disk, once, and bounded."""

import asyncio
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from margo_gitops.errors import ReportsUnusable, ServerBusy
from margo_gitops.server.reports.commits import ReportCommits
from margo_gitops.server.reports.journal import JournalBounds, Report, ReportJournal
from margo_gitops.server.reports.postgresql_store import PostgresqlStore
from margo_gitops.server.reports.sqlite_store import SqliteStore
from margo_gitops.state_repo.report_branch import Committed, ReportBranch, ReportKey

MADE = Committed("a" * 40, follows=True)
Opened: TypeAlias = Callable[[JournalBounds], ReportJournal]


def in_file(folder: Path, bounds: JournalBounds) -> ReportJournal:
    return ReportJournal(SqliteStore(folder / "reports.sqlite"), bounds)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens the journal of this test, as often as it was closed."""
    if request.param == "sqlite":
        return lambda bounds: in_file(tmp_path, bounds)
    server = request.getfixturevalue("postgresql_server")
    url = server.url(server.add_database())
    return lambda bounds: ReportJournal(PostgresqlStore(url), bounds)


def report(name: str, content: bytes = b"{}\n", client: str = "press-01", **more: int | str) -> Report:
    return Report(ReportKey(client, "status", name), content, "token", 1, **more)


def capabilities(device: str, gateway: str = "") -> Report:
    return Report(ReportKey("gw", "capabilities", device), b"{}\n", "token", 1, gateway=gateway)


def test_what_is_kept_is_there_after_a_restart(opened: Opened) -> None:
    journal = opened(JournalBounds(10))
    assert asyncio.run(journal.keep(report("a", adopted=7))) == "created"
    assert asyncio.run(journal.keep(report("a", adopted=7))) == "unchanged"
    assert asyncio.run(journal.keep(report("a", b"new\n", adopted=8))) == "updated"
    journal.close()
    journal = opened(JournalBounds(10))
    assert journal.adopted("press-01") == 8
    assert [each.content for each in asyncio.run(journal.uncommitted(10))] == [b"new\n"]
    journal.close()


def test_reports_of_many_devices_at_once_are_all_kept(opened: Opened) -> None:
    journal = opened(JournalBounds(10))

    async def all_at_once() -> list[str]:
        reports = [report(f"r-{n % 10}", b"%d\n" % n, f"press-{n // 10}") for n in range(2000)]
        return list(await asyncio.gather(*(journal.keep(each) for each in reports)))

    assert asyncio.run(all_at_once()) == ["created"] * 2000
    assert len(asyncio.run(journal.uncommitted(5000))) == 2000
    journal.close()


def test_a_change_during_a_commit_is_committed_later(opened: Opened) -> None:
    journal = opened(JournalBounds(10))
    asyncio.run(journal.keep(report("a", b"1\n")))
    taken = asyncio.run(journal.uncommitted(10))
    asyncio.run(journal.keep(report("a", b"2\n")))
    asyncio.run(journal.committed(taken, MADE))
    left = asyncio.run(journal.uncommitted(10))
    assert [each.content for each in left] == [b"2\n"]
    asyncio.run(journal.committed(left, MADE))
    assert asyncio.run(journal.uncommitted(10)) == []
    journal.close()


def test_a_gateway_takes_its_children_along(opened: Opened) -> None:
    journal = opened(JournalBounds(10))
    assert asyncio.run(journal.keep(capabilities("gw/a", "gw"))) == "no-gateway"
    for device, gateway in (("gw", ""), ("gw/a", "gw"), ("gw/a/b", "gw/a"), ("gw-2", "")):
        assert asyncio.run(journal.keep(capabilities(device, gateway))) == "created"
    assert asyncio.run(journal.remove("gw", "gw", 2, "token"))
    assert not asyncio.run(journal.remove("gw", "gw", 2, "token"))
    assert not asyncio.run(journal.has(ReportKey("gw", "capabilities", "gw/a/b")))
    assert asyncio.run(journal.has(ReportKey("gw", "capabilities", "gw-2")))
    changes = asyncio.run(journal.uncommitted(10))
    assert sorted(each.key.name for each in changes if each.content is None) == ["gw", "gw/a", "gw/a/b"]
    asyncio.run(journal.committed(changes, MADE))
    assert asyncio.run(journal.keep(capabilities("gw"))) == "created"
    journal.close()


def test_the_subjects_of_a_device_are_bounded_and_others_are_not_concerned(opened: Opened) -> None:
    journal = opened(JournalBounds(2))
    outcomes = [asyncio.run(journal.keep(report(name))) for name in ("a", "b", "c", "a")]
    assert outcomes == ["created", "created", "full", "unchanged"]
    assert asyncio.run(journal.keep(report("c", client="press-02"))) == "created"
    journal.close()


def test_a_version_that_was_said_by_mistake_can_be_taken_back(opened: Opened) -> None:
    journal = opened(JournalBounds(2))
    asyncio.run(journal.keep(report("a", b"1\n", adopted=2**64 - 1)))
    assert journal.adopted("press-01") == 2**63 - 1
    asyncio.run(journal.keep(report("a", b"2\n", adopted=3)))
    assert journal.adopted("press-01") == 3
    assert journal.adopted("nobody") == 0
    journal.close()


def test_the_file_is_for_its_owner(tmp_path: Path) -> None:
    in_file(tmp_path / "folder", JournalBounds()).close()
    assert (tmp_path / "folder" / "reports.sqlite").stat().st_mode & 0o077 == 0


def test_a_second_journal_on_the_same_file_is_refused(tmp_path: Path) -> None:
    journal = in_file(tmp_path, JournalBounds(2))
    with pytest.raises(ServerBusy):
        in_file(tmp_path, JournalBounds(2))
    journal.close()
    in_file(tmp_path, JournalBounds(2)).close()


def test_a_file_that_is_no_journal_is_said(tmp_path: Path) -> None:
    (tmp_path / "reports.sqlite").write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(ReportsUnusable):
        in_file(tmp_path, JournalBounds(2))


def test_a_report_that_cannot_be_written_is_not_acknowledged(tmp_path: Path) -> None:
    journal = in_file(tmp_path, JournalBounds(2))
    other = sqlite3.connect(tmp_path / "reports.sqlite")
    other.execute("DROP TABLE report")
    other.close()
    with pytest.raises(ReportsUnusable):
        asyncio.run(journal.keep(report("a")))
    journal.close()


def test_the_bytes_of_a_device_and_of_all_are_bounded(opened: Opened) -> None:
    journal = opened(JournalBounds(10, client_bytes=100, total_bytes=150))
    keep = lambda *of, **more: asyncio.run(journal.keep(report(*of, **more)))  # noqa: E731
    assert keep("a", b"x" * 60) == "created"
    assert keep("b", b"x" * 60) == "full"
    assert keep("a", b"y" * 100) == "updated"
    assert keep("c", b"x" * 60, client="press-02") == "all-full"
    assert keep("a", b"z" * 20) == "updated"
    assert keep("c", b"x" * 60, client="press-02") == "created"
    journal.close()
    journal = opened(JournalBounds(10, client_bytes=100, total_bytes=150))
    assert keep("d", b"x" * 71, client="press-03") == "all-full"
    asyncio.run(journal.forget([ReportKey("press-01", "status", "a")]))
    assert keep("d", b"x" * 71, client="press-03") == "created"
    journal.close()


def test_old_statuses_are_found_but_for_the_highest_version(opened: Opened) -> None:
    journal = opened(JournalBounds())
    for name, received, adopted in (("old", 10, 1), ("newest", 20, 3), ("recent", 90, 2)):
        key = ReportKey("press-01", "status", name)
        asyncio.run(journal.keep(Report(key, b"{}\n", "token", received, adopted)))
    asyncio.run(journal.keep(report("only", client="press-02", adopted=1)))
    old = asyncio.run(journal.old_statuses(50))
    assert [(each.client, each.name) for each in old] == [("press-01", "old")]
    assert asyncio.run(journal.old_statuses(50, "press-02")) == []
    asyncio.run(journal.forget(old))
    assert not asyncio.run(journal.has(old[0]))
    assert journal.adopted("press-01") == 3
    journal.close()


def test_what_a_branch_lost_is_committed_again(opened: Opened, tmp_path: Path) -> None:
    """JOURNAL-6: the state repo is new, then it is an older backup; between them, nothing is committed twice."""
    state = tmp_path / "state.git"
    git = lambda *words: subprocess.run(["git", "-C", state, *words], check=True, capture_output=True, text=True).stdout  # noqa: E731
    state.mkdir()
    git("init", "-q", "--bare")

    def run(*reports: Report, restart: bool = True) -> tuple[int, list[str]]:
        nonlocal commits
        for each in reports:
            asyncio.run(commits.journal.keep(each))
        if restart:
            commits.journal.close()
            commits = ReportCommits(opened(JournalBounds(10)), ReportBranch(state), every=0, batch=2, clock=lambda: 1)
        asyncio.run(commits.commit(0))
        return int(git("rev-list", "--count", "reports")), git("ls-tree", "-r", "--name-only", "reports").split()

    commits = ReportCommits(opened(JournalBounds(10)), ReportBranch(state), every=0, batch=2, clock=lambda: 1)
    count, files = run(*(report(name) for name in "abc"))
    assert (count, len(files)) == (2, 3)
    backup = git("rev-parse", "reports").strip()
    assert run() == (2, files), "nothing is lost"
    git("update-ref", "-d", "refs/heads/reports")
    assert run() == (2, files), "it is noticed though nothing new waits"
    git("update-ref", "-d", "refs/heads/reports")
    count, files = run(report("d"), restart=False)
    assert (count, len(files)) == (3, 4)
    git("update-ref", "refs/heads/reports", backup)
    assert run() == (3, files), "what the backup has is not committed again"
    commits.journal.close()
