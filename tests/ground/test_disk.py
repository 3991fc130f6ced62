"""The disk: files within a bound, changes in one step, stamps, locks, databases."""

from __future__ import annotations

import errno
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from margo_gitops.disk.databases import check_sound, database_errors, is_damage, open_database, open_read_only
from margo_gitops.disk.files import disk_errors, read_bounded, read_small_file, replace_file, write_synced
from margo_gitops.disk.folders import discard, new_file, new_folder, point_link, remove_tree, sweep, write_folder
from margo_gitops.disk.locks import LockTaken, take_lock
from margo_gitops.disk.stamps import FileWatch, settled, stamp
from margo_gitops.errors import AgentBusy, AuditUnusable, StateFolderUnusable, StorageFull

_SETTLE_SECONDS = 0.06


class TestReading:
    def test_content_up_to_the_bound_is_returned(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"12345")
        assert read_bounded(tmp_path / "file", 5) == b"12345"
        with pytest.raises(OSError, match="it is larger than 4 bytes"):
            read_bounded(tmp_path / "file", 4)
        assert read_bounded(tmp_path / "file", 4, cut=True) == b"1234"

    def test_what_is_not_a_file_is_refused_without_waiting(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with closing(socket.socket(socket.AF_UNIX)) as server:
            server.bind(str(tmp_path / "socket"))
        for path, why in (
            (tmp_path / "pipe", "it is a pipe, not a file"),
            (tmp_path, "it is a folder, not a file"),
            (Path("/dev/zero"), "it is a device, not a file"),
            (tmp_path / "socket", "no such device or address"),
        ):
            with pytest.raises(AuditUnusable) as caught:
                read_small_file(path, 10, what="it cannot be read", error=AuditUnusable)
            assert caught.value.why == (why,)

    @pytest.mark.parametrize(
        ("code", "damage"),
        [
            (sqlite3.SQLITE_IOERR_SHMSIZE, False),
            (sqlite3.SQLITE_IOERR_WRITE, False),
            (sqlite3.SQLITE_FULL, False),
            (sqlite3.SQLITE_CANTOPEN, False),
            (sqlite3.SQLITE_READONLY_DBMOVED, False),
            (sqlite3.SQLITE_IOERR_READ, True),
            (sqlite3.SQLITE_CORRUPT_VTAB, True),
            (sqlite3.SQLITE_ERROR, True),
        ],
    )
    def test_a_disk_that_is_full_or_read_only_is_no_damage(self, code: int, damage: bool) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        assert is_damage(error) == damage

    def test_the_caller_chooses_the_error(self, tmp_path: Path) -> None:
        with pytest.raises(AuditUnusable) as caught:
            read_small_file(
                tmp_path / "gone", 10, what="the list cannot be read", error=AuditUnusable, remedy="name its file"
            )
        assert str(caught.value) == (
            f"{tmp_path}/gone: the list cannot be read [{AuditUnusable.code}]\n"
            "  no such file or directory\n"
            "  remedy: name its file"
        )

    def test_a_private_file_is_its_owners_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_bytes(b"key")
        for mode in (0o640, 0o604, 0o610):
            path.chmod(mode)
            with pytest.raises(PermissionError, match="others can read it"):
                read_bounded(path, 10, private=True)
        path.chmod(0o600)
        assert read_bounded(path, 10, private=True) == b"key"

    def test_links_are_followed_unless_the_caller_forbids_it(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"content")
        (tmp_path / "link").symlink_to("file")
        assert read_bounded(tmp_path / "link", 10) == b"content"
        with pytest.raises(OSError, match="symbolic links"):
            read_bounded(tmp_path / "link", 10, follow_links=False)

    def test_a_full_disk_has_an_error_of_its_own_where_the_caller_wants_one(self, tmp_path: Path) -> None:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with (
            pytest.raises(StorageFull, match="no space left"),
            disk_errors(tmp_path, what="unusable", error=StateFolderUnusable, full=StorageFull),
        ):
            raise full
        with (
            pytest.raises(StateFolderUnusable),
            disk_errors(tmp_path, what="unusable", error=StateFolderUnusable),
        ):
            raise full


class TestReplacing:
    def test_a_replaced_file_has_the_new_content_and_nothing_is_left_beside_it(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        replace_file(path, b"old")
        replace_file(path, b"new", mode=0o644, time=1_000)
        assert path.read_bytes() == b"new"
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.stat().st_mtime == 1_000
        assert list(tmp_path.iterdir()) == [path]

    def test_a_file_that_cannot_be_replaced_keeps_its_content(self, tmp_path: Path) -> None:
        (tmp_path / "folder" / "inside").mkdir(parents=True)
        with pytest.raises(OSError, match="directory"):
            replace_file(tmp_path / "folder", b"new")
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_no_file_is_written_through_a_link_that_another_user_puts_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_bytes(b"precious")
        (tmp_path / ".new-file").symlink_to("precious")
        with pytest.raises(FileExistsError):
            write_synced(tmp_path / ".new-file", b"new", mode=0o600)
        replace_file(tmp_path / "file", b"new")
        assert (tmp_path / "precious").read_bytes() == b"precious"
        assert not (tmp_path / "file").is_symlink()

    def test_a_folder_appears_whole_or_not_at_all(self, tmp_path: Path) -> None:
        place = tmp_path / "place"
        write_folder(place, {"a": b"1", "deep/b": b"2"})
        write_folder(place, {"c": b"3"})
        assert [str(path.relative_to(place)) for path in place.rglob("*")] == ["c"]

        def fail() -> None:
            with new_folder(place) as folder:
                (folder / "half").touch()
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert (place / "c").read_bytes() == b"3"
        assert list(tmp_path.iterdir()) == [place]

    def test_a_new_file_takes_the_place_of_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "place" / "inside").mkdir(parents=True)
        with new_file(tmp_path / "place") as path:
            path.write_bytes(b"content")
        assert (tmp_path / "place").read_bytes() == b"content"
        assert (tmp_path / "place").stat().st_mode & 0o777 == 0o600

    def test_a_link_moves_from_one_target_to_the_next(self, tmp_path: Path) -> None:
        for target in ("one", "two"):
            point_link(tmp_path / "link", target)
            assert str((tmp_path / "link").readlink()) == target
        assert len(list(tmp_path.iterdir())) == 1

    def test_what_a_killed_process_left_is_swept_and_nothing_else(self, tmp_path: Path) -> None:
        sweep(tmp_path / "gone")
        (tmp_path / ".new-folder" / "inside").mkdir(parents=True)
        (tmp_path / ".new-file").touch()
        (tmp_path / "kept").touch()
        sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]

    def test_a_tree_is_removed_also_where_modes_forbid_it_and_never_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "tree" / "closed").mkdir(parents=True)
        (tmp_path / "tree" / "closed" / "file").touch()
        (tmp_path / "tree" / "closed").chmod(0o500)
        (tmp_path / "outside").mkdir()
        (tmp_path / "link").symlink_to("outside")
        for name in ("tree", "link", "gone"):
            remove_tree(tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == ["outside"]


class TestStamps:
    def test_a_watched_file_counts_as_changed_until_its_stamp_can_be_believed(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"1")
        watch = FileWatch(path)
        assert watch.changed()
        watch.mark()
        assert watch.changed()
        os.utime(path, ns=(0, 0))
        time.sleep(_SETTLE_SECONDS)  # the time of the change itself cannot be set
        watch.mark()
        assert not watch.changed()
        path.write_bytes(b"2")
        assert watch.changed()

    def test_a_file_that_comes_or_goes_is_a_change(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        watch = FileWatch(path)
        watch.mark()
        assert not watch.changed()
        path.touch()
        assert watch.changed()
        path.unlink()
        assert not watch.changed()
        assert stamp(path) is None

    def test_the_newest_stamp_decides(self) -> None:
        assert settled([None, (0, 0, 1, 1)], 50_000_001)
        assert not settled([(0, 0, 1, 1), (1, 0, 1, 1)], 50_000_001)
        assert not settled([(0, 1, 1, 1)], 50_000_001)

    @pytest.mark.parametrize("seconds", [-3600, -1, 1, 3600, 10 * 365 * 86_400])
    def test_a_stamp_is_believed_when_it_is_far_from_now_on_either_side(self, seconds: int) -> None:
        now = time.time_ns()
        moment = now + seconds * 1_000_000_000
        assert settled([(moment, moment, 1, 1)], now), "also where the clock was set back"
        assert not settled([(moment, now, 1, 1)], now)
        assert not settled([(now + 40_000_000, moment, 1, 1)], now)


class TestLocks:
    def test_a_taken_lock_says_who_holds_it(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        with take_lock(path), pytest.raises(LockTaken) as caught:
            take_lock(path)
        assert caught.value.holder == f"process {os.getpid()}"
        with take_lock(path):
            pass

    def test_what_a_stranger_wrote_into_the_file_is_not_shown(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        with take_lock(path):
            path.write_text("\x1b[31m 12")
            with pytest.raises(LockTaken) as caught:
                take_lock(path)
        assert not caught.value.holder

    def test_a_lock_ends_with_its_holder(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        code = (
            "import pathlib, sys, os; from margo_gitops.disk.locks import take_lock;"
            "held = take_lock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        with holder:
            holder.stdout.readline()
            with pytest.raises(LockTaken) as caught:
                take_lock(path)
            assert caught.value.holder == f"process {holder.pid}"
            holder.kill()
            holder.wait()
        take_lock(path).release()

    def test_a_lock_that_is_forgotten_is_released(self, tmp_path: Path) -> None:
        held = [take_lock(tmp_path / "lock")]
        held.clear()
        again = take_lock(tmp_path / "lock")
        again.release()
        again.release()


class TestDatabases:
    def test_a_database_is_private_durable_and_readable_by_others_of_its_owner(self, tmp_path: Path) -> None:
        file = tmp_path / "folder?#%" / "facts.sqlite"
        with closing(open_database(file)) as writer:
            writer.execute("CREATE TABLE fact (name TEXT)")
            writer.execute("INSERT INTO fact VALUES ('one')")
            assert file.stat().st_mode & 0o777 == 0o600
            assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
            check_sound(writer)
            with closing(open_read_only(file)) as reader:
                assert reader.execute("SELECT name FROM fact").fetchall() == [("one",)]
                with pytest.raises(sqlite3.OperationalError, match="readonly"):
                    reader.execute("DELETE FROM fact")

    def test_a_reader_makes_no_database(self, tmp_path: Path) -> None:
        with pytest.raises(sqlite3.OperationalError):
            open_read_only(tmp_path / "gone")
        assert not list(tmp_path.iterdir())

    def test_damage_is_told_from_other_errors(self, tmp_path: Path) -> None:
        file = tmp_path / "facts"
        file.write_bytes(b"this is not a database, whatever its name is" * 100)
        with pytest.raises(sqlite3.DatabaseError) as caught:
            open_database(file)
        assert is_damage(caught.value)

    def test_a_lock_is_no_damage_and_names_its_file(self, tmp_path: Path) -> None:
        file = tmp_path / "facts.sqlite"
        with (
            closing(open_database(file)) as holder,
            closing(open_database(file, timeout=0)) as other,
        ):
            holder.execute("BEGIN EXCLUSIVE")
            with (
                pytest.raises(AgentBusy, match=r"locked facts\.sqlite") as caught,
                database_errors(file, what="unusable", error=StateFolderUnusable, busy=AgentBusy),
            ):
                other.execute("BEGIN IMMEDIATE")
        assert caught.value.remedy
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        assert not is_damage(caught.value.__cause__)

    def test_the_caller_chooses_the_error(self, tmp_path: Path) -> None:
        with (
            pytest.raises(StateFolderUnusable) as caught,
            database_errors(
                tmp_path / "facts", what="the journal cannot be used", error=StateFolderUnusable, busy=AgentBusy
            ),
            closing(open_database(tmp_path / "facts")) as connection,
        ):
            connection.execute("SELECT * FROM fact")
        assert caught.value.why == ("no such table: fact",)

    def test_a_full_disk_has_an_error_of_its_own_where_the_caller_wants_one(self, tmp_path: Path) -> None:
        with closing(open_database(tmp_path / "facts")) as connection:
            connection.execute("CREATE TABLE a (b)")
            connection.execute("PRAGMA max_page_count = 2")
            with (
                pytest.raises(StorageFull),
                database_errors(tmp_path, what="unusable", error=StateFolderUnusable, busy=AgentBusy, full=StorageFull),
            ):
                connection.execute("CREATE TABLE c (d)")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can leave what another user cannot delete")
def test_what_only_root_can_delete_is_set_aside_and_swept_later() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "old/data").mkdir(parents=True)
        (place / "old/data/of-root").write_text("x")
        for path in (place, place / "old"):
            os.chown(path, 65534, 65534)

        def as_nobody() -> None:
            os.setresuid(65534, 65534, 65534)
            discard(place / "old")
            sweep(place)

        child = multiprocessing.get_context("fork").Process(target=as_nobody)
        child.start()
        child.join()
        assert child.exitcode == 0
        (left,) = place.iterdir()
        assert (left.name[:5], (left / "data/of-root").exists()) == (".new-", True)
        sweep(place)
        assert list(place.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_a_small_file_takes_no_mapping_of_its_own(tmp_path: Path):
    """Linux allows a process 65,530: with one for each file, a fleet of 70,000 devices could not be read."""
    file = tmp_path / "small"
    file.write_bytes(b"small")
    before = read_bounded(Path("/proc/self/maps"), 1 << 24).count(b"\n")
    held = [read_bounded(file, 4 << 20) for _ in range(300)]
    assert set(held) == {b"small"}
    assert read_bounded(Path("/proc/self/maps"), 1 << 24).count(b"\n") < before + 100
