"""What a device keeps: rules HELD-1 to HELD-6, FLOOR-1 to FLOOR-6, MEMORY-1 to MEMORY-5; the lock and the disk."""

import contextlib
import errno
import multiprocessing
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from device_world import DEVICE, deployment_bytes, snapshot_of
from hypothesis import given
from hypothesis import strategies as st
from support.properties import times
from support.trust_documents import ROOTS, document, signed

from margo_gitops.agent.memory import journal as journal_module
from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.memory.journal import MAX_EVENTS, MAX_SECURITY_EVENTS, MAX_STATUSES, Journal
from margo_gitops.agent.memory.poll_record import PollRecord
from margo_gitops.agent.memory.recorded import Failure, RecordedDeployment, RecordedWorkload
from margo_gitops.agent.memory.state_folder import clear_way, keep_file, lock_folder
from margo_gitops.agent.pull.floor_files import FloorFiles, Remembered
from margo_gitops.agent.pull.trusted_store import TrustedStore
from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION
from margo_gitops.documents.trust_document import FloorChange
from margo_gitops.errors import AgentBusy, StateFolderUnusable, StorageFull, StoredStateDamaged
from margo_gitops.trust.floor import Floor
from margo_gitops.trust.trusted_state import TrustedState, TrustPolicy, judge


def trusted(version: int, greeting: str = "hello", *, commit: bool = True) -> TrustedState:
    snapshot = snapshot_of(version, {1: deployment_bytes(1, values={"GREETING": greeting})}, key=None)
    return judge(snapshot if commit else replace(snapshot, commit=None), TrustPolicy(DEVICE, None), None)


# The store


@pytest.mark.parametrize("commit", [True, False])
def test_what_is_saved_is_loaded_byte_for_byte(tmp_path: Path, commit: bool) -> None:
    store = TrustedStore(tmp_path / "trusted")
    assert store.load() is None
    for version in (1, 2):
        state = trusted(version, commit=commit)
        store.save(state)
        assert TrustedStore(tmp_path / "trusted").load() == state.snapshot
    assert len(list((tmp_path / "trusted").glob("sha256-*"))) == 1, "older generations stay behind"


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@times(2)
@given(st.data())
def test_f14_any_damage_is_found_and_cured_by_saving_again(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("store") / "trusted"
    store, state = TrustedStore(folder), trusted(1)
    store.save(state)
    victim = data.draw(st.sampled_from(files_of(folder)))
    content = bytearray(victim.read_bytes())
    how = data.draw(st.sampled_from(["flip", "cut", "lose", "grow"]))
    if how == "flip":
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    elif how == "grow":
        content += b"\n"
    victim.unlink()
    if how != "lose":
        victim.write_bytes(content)
    with pytest.raises(StoredStateDamaged):
        store.load()
    store.save(state)
    assert store.load() == state.snapshot


def test_h6_a_reader_beside_the_agent_sees_one_generation_or_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one, two = TrustedStore(tmp_path / "trusted"), trusted(1), trusted(2)
    store.save(one)
    real, replaced = TrustedStore._file, []

    def replace_before_reading(self: TrustedStore, path: Path, digest: Digest | None) -> bytes:
        if path.name == "manifest.json" and not replaced:
            replaced.append(path)
            store.save(two)
        return real(self, path, digest)

    monkeypatch.setattr(TrustedStore, "_file", replace_before_reading)
    assert TrustedStore(tmp_path / "trusted").load() == two.snapshot


def test_a_link_that_leads_out_of_the_store_is_not_followed(tmp_path: Path) -> None:
    store = TrustedStore(tmp_path / "trusted")
    store.save(trusted(1))
    outside = tmp_path / "outside"
    (tmp_path / "trusted" / "current").resolve().rename(outside)
    link = tmp_path / "trusted" / "current"
    link.unlink()
    link.symlink_to(outside)
    with pytest.raises(StoredStateDamaged):
        store.load()


def test_what_an_interrupted_save_left_behind_is_removed(tmp_path: Path) -> None:
    store, state = TrustedStore(tmp_path), trusted(1)
    store.save(state)
    (tmp_path / ".new-sha256-1").mkdir()
    (tmp_path / "sha256-2").mkdir()
    store.clean()
    assert store.load() == state.snapshot
    assert sorted(path.name[:7] for path in tmp_path.iterdir()) == ["current", "sha256-"]


class CutOff(BaseException):
    """The power is gone."""


def test_cut_off_at_any_system_call_the_old_state_or_the_new_is_held_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = trusted(1), trusted(2, "good morning")
    calls = 0
    while True:
        folder = tmp_path / str(calls)
        store = TrustedStore(folder)
        store.save(old)
        with monkeypatch.context() as patched:
            left = [calls]

            def limited(real: object, left: list[int] = left) -> object:
                def call(*arguments: object, **options: object) -> object:
                    left[0] -= 1
                    if left[0] < 0:
                        raise CutOff
                    return real(*arguments, **options)  # type: ignore[operator]

                return call

            for name in ("write", "fsync", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir"):
                patched.setattr(os, name, limited(getattr(os, name)))
            try:
                store.save(new)
            except CutOff:
                done = False
            else:
                done = True
        assert TrustedStore(folder).load() in (old.snapshot, new.snapshot)
        TrustedStore(folder).clean()
        TrustedStore(folder).save(new)
        assert TrustedStore(folder).load() == new.snapshot
        if done:
            assert calls > 10
            return
        calls += 1


def test_a_full_disk_is_a_clear_error_and_the_old_state_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, old = TrustedStore(tmp_path), trusted(1)
    store.save(old)

    def full(_descriptor: int, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageFull, match="no space left on device") as caught:
            store.save(trusted(2))
    assert str(tmp_path) in str(caught.value)
    assert caught.value.remedy
    assert store.load() == old.snapshot
    assert len(list(tmp_path.iterdir())) == 2


# The floor


def floor(version: int) -> Floor:
    return Floor(version, sha256(str(version).encode()), "1" * 40)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "state" / "floor.json", tmp_path / "copy" / "floor.json"


def test_g_v_2_the_floor_is_kept_in_both_places_with_every_digit(places: tuple[Path, Path]) -> None:
    files = FloorFiles(DEVICE, *places)
    assert files.read().floor is None
    assert files.raise_to(floor(MAX_MANIFEST_VERSION)) == []
    for place in places:
        assert FloorFiles(DEVICE, place, None).read().floor == floor(MAX_MANIFEST_VERSION)


def test_the_floor_never_goes_down(places: tuple[Path, Path]) -> None:
    files = FloorFiles(DEVICE, *places)
    files.raise_to(floor(5))
    files.raise_to(floor(4))
    assert files.read().floor == floor(5)


def test_a_floor_gains_the_commit_it_lacked(places: tuple[Path, Path]) -> None:
    files = FloorFiles(DEVICE, *places)
    files.raise_to(replace(floor(5), commit=None))
    files.raise_to(floor(5))
    assert files.read().floor == floor(5)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["lost", "damaged", "behind"])
def test_the_greater_copy_wins_and_mends_the_other(places: tuple[Path, Path], which: int, how: str) -> None:
    files = FloorFiles(DEVICE, *places)
    files.raise_to(floor(4))
    behind = places[which].read_bytes()
    files.raise_to(floor(5))
    whole = places[which].read_bytes()
    if how == "lost":
        places[which].unlink()
    else:
        places[which].write_bytes(behind if how == "behind" else whole.replace(b'"version\\":5', b'"version\\":3'))
    reading = files.repair()
    assert reading.floor == floor(5)
    assert reading.repaired == (places[which],)
    assert reading.damaged == ((places[which],) if how == "damaged" else ())
    assert places[0].read_bytes() == places[1].read_bytes() == whole


@given(st.data())
def test_a_changed_floor_file_is_never_believed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    place = tmp_path_factory.mktemp("floor") / "floor.json"
    files = FloorFiles(DEVICE, place, None)
    files.raise_to(floor(5))
    content = bytearray(place.read_bytes())
    content[data.draw(st.integers(0, len(content) - 2))] ^= 1 << data.draw(st.integers(0, 6))
    place.write_bytes(content)
    try:
        assert files.read().floor in (None, floor(5))
    except StateFolderUnusable:
        pytest.fail("a damaged file was taken for another device's")


def test_all_changes_that_a_trust_document_can_list_are_remembered(tmp_path: Path) -> None:
    ids = [f"f{number:062}" for number in range(2000)]
    changes = [FloorChange(each, "x", highest=1) for each in ids]
    most = next(n for n in range(700, 0, -50) if len(signed(document(floors=tuple(changes[:n])), *ROOTS)) < 64 * 1024)
    assert most > 400
    files, memory = FloorFiles(DEVICE, tmp_path / "floor.json", None), Remembered(floor(MAX_MANIFEST_VERSION))
    for each in changes[:most]:
        memory = memory.changed(each)
    assert files.remember(memory.pruned(ids[:most])) == []
    assert files.read().remembered == memory
    assert memory.left == floor(MAX_MANIFEST_VERSION)


def test_of_the_changes_that_no_document_lists_any_more_the_newest_are_remembered(tmp_path: Path) -> None:
    files, memory = FloorFiles(DEVICE, tmp_path / "floor.json", None), Remembered(floor(9))
    for number in range(3000):
        memory = memory.changed(FloorChange(f"f{number:062}", "x", highest=12)).pruned({"f" + "0" * 62})
        if number % 600 == 599:
            assert files.remember(memory) == []
            assert files.read().remembered == memory, "more changes are greater memory, whatever was forgotten"
    assert memory.applied == ("f" + "0" * 62, *(f"f{number:062}" for number in range(2500, 3000)))
    assert memory.floor == floor(9)


def test_the_floor_of_another_device_is_refused(places: tuple[Path, Path]) -> None:
    FloorFiles("press-08", *places).raise_to(floor(1))
    with pytest.raises(StateFolderUnusable, match="press-08"):
        FloorFiles(DEVICE, *places).read()


def test_a_copy_that_cannot_be_written_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    files = FloorFiles(DEVICE, tmp_path / "floor.json", tmp_path / "file" / "floor.json")
    assert [error.code for error in files.raise_to(floor(1))] == ["MG1703"]
    reading = files.repair()
    assert reading.floor == floor(1)
    assert reading.damaged == (tmp_path / "file" / "floor.json",)
    assert reading.repaired == ()


# The journal

KEY = WorkloadKey("1", "web")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.sqlite3", 0) as opened:
        yield opened


def test_records_come_back_as_they_were(journal: Journal) -> None:
    deployments = [RecordedDeployment("2", "b", DEVICE, MAX_MANIFEST_VERSION), RecordedDeployment("1", "a", "", 1, 1)]
    failure: Failure = "quarantined"
    workload = RecordedWorkload(KEY, "compose", Digest("x"), None, "failed", "MG1604", "why", 3, 1.5, 2, failure)
    journal.record([workload], deployments)
    assert journal.deployments() == deployments
    assert journal.workloads() == [workload]
    journal.forget(KEY)
    assert journal.workloads() == []
    assert journal.deployments() == deployments[:1]


def test_the_same_event_again_only_counts(journal: Journal) -> None:
    for now in range(5):
        journal.note(Event(Reason.POLL_FAILED, "no route"), now)
    (kept,) = journal.events()
    assert (kept.count, kept.first_at, kept.last_at) == (5, 0, 4)


def test_security_events_outlive_a_flood_of_others_and_nothing_grows_for_ever(journal: Journal) -> None:
    journal.note(Event(Reason.STATE_REFUSED, "somebody tried"), 0)
    with sqlite3.connect(journal._path, isolation_level=None) as flood:
        flood.execute("BEGIN")
        flood.executemany(
            "INSERT INTO events (first_at, last_at, count, reason, code, subject, text, security) "
            "VALUES (?1, ?1, 1, 'PollFailed', '', '', ?1, 0)",
            [(at,) for at in range(MAX_EVENTS * 2)],
        )
        flood.execute("COMMIT")
    flood.close()
    journal.note(Event(Reason.WORKLOAD_INSTALLED, "last"), 1)
    assert len(journal.events(100_000)) == MAX_EVENTS + 1
    assert [item.text for item in journal.events(security=True)] == ["somebody tried"]


@pytest.mark.parametrize(
    ("reason", "other", "most"),
    [
        (Reason.STATE_REFUSED, Reason.POLL_FAILED, MAX_SECURITY_EVENTS),
        (Reason.POLL_FAILED, Reason.STATE_REFUSED, MAX_EVENTS),
    ],
)
def test_events_are_thinned_from_the_oldest_exactly_down_to_the_bound(
    journal: Journal, reason: Reason, other: Reason, most: int
) -> None:
    journal.note(Event(other, "other"), 0)
    with sqlite3.connect(journal._path, isolation_level=None) as filling:
        filling.execute("BEGIN")
        filling.executemany(
            "INSERT INTO events (first_at, last_at, count, reason, code, subject, text, security) "
            "VALUES (?1, ?1, 1, ?2, '', '', ?1, ?3)",
            [(at, reason.value, int(reason.security)) for at in range(1, most)],
        )
        filling.execute("COMMIT")
    filling.close()

    def kept() -> list[str]:
        return [item.text for item in journal.events(100_000) if item.reason == reason.value]

    journal.note(Event(reason, "fills it"), most)
    assert len(kept()) == most, "as many as may stay do stay"
    journal.note(Event(reason, "one more"), most + 1)
    assert len(kept()) == most
    assert kept()[:2] == ["one more", "fills it"]
    assert "1" not in kept(), "the oldest goes"
    assert "2" in kept()
    assert [item.text for item in journal.events(100_000) if item.reason == other.value] == ["other"]


def test_outgoing_statuses_are_thinned_from_the_oldest_exactly_down_to_the_bound(journal: Journal) -> None:
    with sqlite3.connect(journal._path, isolation_level=None) as filling:
        filling.execute("BEGIN")
        filling.executemany(
            "INSERT INTO outbox (deployment, changed_at, document) VALUES (?1, ?2, X'7B7D')",
            [(f"d{at:05}", at) for at in range(1, MAX_STATUSES)],
        )
        filling.execute("COMMIT")
    filling.close()
    journal.post("new", b"{}", MAX_STATUSES)
    assert len(journal.outbox()) == MAX_STATUSES, "as many as may stay do stay"
    journal.post("d00001", b'{"a":1}', MAX_STATUSES + 1)
    journal.post("newer", b"{}", MAX_STATUSES + 2)
    kept = journal.outbox()
    assert len(kept) == MAX_STATUSES
    assert {"new", "newer", "d00001", "d00003"} <= kept.keys()
    assert "d00002" not in kept, "the one that did not change for the longest time goes"


def test_an_event_that_only_a_newer_agent_knows_is_shown_as_it_is(journal: Journal) -> None:
    with sqlite3.connect(journal._path, isolation_level=None) as newer:
        newer.execute(
            "INSERT INTO events (first_at, last_at, count, reason, code, subject, text, security) "
            "VALUES (1, 1, 1, 'StateStale', 'MG1799', '', 'old', 1)"
        )
    newer.close()
    (kept,) = journal.events(security=True)
    assert (kept.reason, kept.code, kept.text) == ("StateStale", "MG1799", "old")


def test_a_journal_of_version_1_keeps_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    Journal.open(path, 0).__exit__(None, None, None)
    with sqlite3.connect(path, isolation_level=None) as older:
        older.execute("ALTER TABLE workloads DROP COLUMN failure")
        older.execute("ALTER TABLE outbox DROP COLUMN receipt")
        older.execute("PRAGMA user_version = 1")
        older.execute("INSERT INTO workloads VALUES ('1', 'web', 0, 'compose', 'x', 'x', 'installed', '', '', 0, 1.5)")
    older.close()
    with Journal.open(path, 1) as journal:
        assert journal.set_aside is None
        assert journal.workloads() == [
            RecordedWorkload(KEY, "compose", Digest("x"), Digest("x"), "installed", changed_at=1.5)
        ]


def test_an_outgoing_status_is_kept_once_and_only_news_counts(journal: Journal) -> None:
    assert journal.post("1", b"{}", 0)
    assert not journal.post("1", b"{}", 1)
    assert journal.post("1", b'{"a":1}', 2)
    assert journal.outbox() == {"1": b'{"a":1}'}


@pytest.mark.parametrize("damage", [b"no database at all " * 300, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_journal_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal.sqlite3"
    path.write_bytes(damage)
    with Journal.open(path, 42) as journal:
        assert journal.set_aside == tmp_path / "journal.sqlite3.damaged-42"
        assert journal.set_aside.read_bytes() == damage
        journal.set_facts({"a": "b"})
    with Journal.open(path, 43) as journal:
        assert journal.set_aside is None
        assert journal.facts() == {"a": "b"}


def test_a_journal_of_a_newer_version_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    Journal.open(path, 0).__exit__(None, None, None)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with Journal.open(path, 1) as journal:
        assert journal.set_aside is not None


def test_a_journal_without_its_tables_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    Journal.open(path, 0).__exit__(None, None, None)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE outbox")
    connection.close()
    with Journal.open(path, 1) as journal:
        assert journal.set_aside is not None
        assert journal.outbox() == {}


def test_a_journal_that_is_damaged_under_a_running_agent_fails_once_and_works_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    with Journal.open(path, 0) as journal:
        journal.set_facts({"a": "b"})
        journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek(0)
            file.write(b"\xff" * path.stat().st_size)
        journal._connection.execute("PRAGMA shrink_memory")  # so that SQLite reads its pages again
        with pytest.raises(StateFolderUnusable):
            journal.facts()
        journal.set_facts({"a": "d"})
        assert journal.facts() == {"a": "d"}
        assert journal.set_aside is not None


def journal_with_rows(path: Path) -> None:
    with Journal.open(path, 0) as journal:
        journal.record(
            [RecordedWorkload(KEY, "compose", Digest("x"), Digest("x"), "installed", changed_at=1.5)],
            [RecordedDeployment("1", "app", DEVICE, 5)],
        )
        journal.note(Event(Reason.STATE_TRUSTED, "version 5"), 1)
        journal.post("1", b"{}", 1)
        journal.acknowledge("1", "receipt", b"{}")
        journal.set_facts({"poll.at": "1.5", "poll.requests": "2"})


def use_everything(journal: Journal) -> None:
    journal.deployments(), journal.workloads(), journal.events(), journal.outbox(), journal.receipts()
    PollRecord(journal, lambda: 2.0).ended("unchanged", None)
    journal.record([RecordedWorkload(KEY, "compose", None, None, "failed")], [RecordedDeployment("1", "a", DEVICE, 6)])
    journal.note(Event(Reason.POLL_FAILED, "no route"), 2)
    journal.post("1", b'{"a":1}', 2)
    journal.acknowledge("1", "other", b'{"a":1}')
    journal.forget(KEY)


@times(3)
@given(st.data())
def test_no_flipped_bit_of_the_journal_stops_the_agent(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flipped") / "journal.sqlite3"
    journal_with_rows(path)
    content = bytearray(path.read_bytes())
    used = [place for place, value in enumerate(content) if value]
    content[data.draw(st.sampled_from(used))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(StateFolderUnusable), Journal.open(path, 1) as first:
        use_everything(first)
    with Journal.open(path, 2) as second:
        use_everything(second)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE workloads SET message = CAST(X'6f6eff' AS TEXT)",
        "UPDATE workloads SET state = 'instAlled'",
        "UPDATE workloads SET failure = 'preparinG'",
        "UPDATE workloads SET attempts = 9223372036854775807",
        "UPDATE workloads SET changed_at = 1e308",
        "UPDATE deployments SET adopted = '5x'",
        "UPDATE deployments SET adopted = '0'",
        "UPDATE events SET last_at = -9e999",
        "UPDATE events SET text = CAST(X'ff' AS TEXT)",
        "UPDATE facts SET value = CAST(X'ff' AS TEXT)",
        "UPDATE outbox SET receipt = CAST(X'ff' AS TEXT)",
        "PRAGMA user_version = 1",
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'receipt', 'recEiptz')",
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'CREATE TABLE', 'CREATE TABLF')",
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'TEXT', 'BLOB') WHERE name = 'facts'",
    ],
)
def test_a_journal_with_anything_unreadable_is_set_aside_and_the_agent_goes_on(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal.sqlite3"
    journal_with_rows(path)
    with sqlite3.connect(path, isolation_level=None) as disk:
        disk.executescript(damage)
    disk.close()
    with Journal.open(path, 42) as journal:
        assert journal.set_aside == tmp_path / "journal.sqlite3.damaged-42"
        assert journal.workloads() == []
        use_everything(journal)


def test_a_value_that_spoils_under_a_running_agent_costs_one_call(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    journal_with_rows(path)
    with Journal.open(path, 0) as journal:
        journal._connection.execute("UPDATE workloads SET state = 'instAlled'")
        reader = Journal.peek(path)
        assert reader is not None
        with reader, pytest.raises(StateFolderUnusable, match="damaged"):
            reader.workloads()
        assert path.exists(), "a reader beside the agent sets nothing aside"
        with pytest.raises(StateFolderUnusable, match="damaged"):
            journal.workloads()
        assert journal.workloads() == []
        use_everything(journal)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_journals_place_is_set_aside(
    tmp_path: Path, suffix: str, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "journal.sqlite3"
    if suffix:
        journal_with_rows(path)
    make(path.with_name(path.name + suffix))
    with pytest.raises(StateFolderUnusable):
        Journal.peek(path)
    with Journal.open(path, 42) as journal:
        assert journal.set_aside is not None
        use_everything(journal)
    with Journal.open(path, 43) as journal:
        assert journal.set_aside is None


def test_a_journal_that_another_program_has_locked_is_busy_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_TIMEOUT", 0.05)
    path = tmp_path / "journal.sqlite3"
    journal_with_rows(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(AgentBusy, match=r"journal\.sqlite3") as caught:
            Journal.open(path, 1)
        assert caught.value.exit_code == 75
        assert str(path) in caught.value.remedy
    with Journal.open(path, 2) as journal:
        assert journal.set_aside is None
        assert journal.facts()["poll.at"] == "1.5"


def test_the_journal_is_readable_beside_its_writer_and_after_it(tmp_path: Path, journal: Journal) -> None:
    journal.set_facts({"a": "b"})
    reader = Journal.peek(tmp_path / "journal.sqlite3")
    assert reader is not None
    with reader:
        assert reader.facts() == {"a": "b"}
    journal.__exit__(None, None, None)
    reader = Journal.peek(tmp_path / "journal.sqlite3")
    assert reader is not None
    with reader:
        assert reader.facts() == {"a": "b"}
    assert Journal.peek(tmp_path / "none.sqlite3") is None


# The lock and the disk


def _hold(path: Path, ready: "multiprocessing.synchronize.Event", end: "multiprocessing.synchronize.Event") -> None:
    with lock_folder(path):
        ready.set()
        end.wait(60)


def test_one_state_folder_has_one_agent_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", ready, end))
    other.start()
    assert ready.wait(60)
    with pytest.raises(AgentBusy, match=str(other.pid)) as caught, lock_folder(tmp_path / "lock"):
        pass
    assert caught.value.exit_code == 75
    other.kill()
    other.join(60)
    other.close()
    with lock_folder(tmp_path / "lock"):
        pass


def test_a_state_folder_that_cannot_be_made_says_where_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateFolderUnusable, match=str(tmp_path / "file")), lock_folder(tmp_path / "file" / "lock"):
        pass


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["lock", "floor.json", ".new-floor.json", "journal.sqlite3"])
def test_what_lies_in_the_place_of_a_file_is_set_aside(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    path = tmp_path / name.removeprefix(".new-")
    aside = clear_way(tmp_path, files=["lock", "floor.json", "journal.sqlite3"], folders=[])
    keep_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert aside == ([] if name.startswith(".new-") else [tmp_path / f"{name}.damaged"])


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo])
def test_what_lies_in_the_place_of_a_folder_is_set_aside(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "trusted")
    (tmp_path / "trusted.damaged").mkdir()
    assert clear_way(tmp_path, files=[], folders=["trusted"]) == [tmp_path / "trusted.damaged"]
    TrustedStore(tmp_path / "trusted").save(trusted(1))
    assert TrustedStore(tmp_path / "trusted").load() == trusted(1).snapshot


def test_a_folder_in_the_place_of_the_link_is_nothing_held_and_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "trusted" / "current").mkdir(parents=True)
    store = TrustedStore(tmp_path / "trusted")
    store.clean()
    assert store.load() is None
    store.save(trusted(1))
    assert store.load() == trusted(1).snapshot


def test_a_replaced_file_is_old_or_new_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    keep_file(path, b"old")
    real = os.write

    def half(descriptor: int, content: bytes) -> int:
        if len(content) > 1:
            return real(descriptor, content[:1])
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(StateFolderUnusable):
        keep_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
