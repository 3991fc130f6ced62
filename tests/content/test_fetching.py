"""A content comes whole, once, from wherever it can be had; places that fail in every way are in this process."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from margo_gitops.content.chunks import Chunk, write_index
from margo_gitops.content.fetch import Fetcher, Pace, Wanted
from margo_gitops.content.sources import Incoming
from margo_gitops.content.store import ContentStore
from margo_gitops.digests import sha256
from margo_gitops.errors import (
    ContentComing,
    ContentNoRoom,
    ContentRefused,
    ContentUnavailable,
    SourceRefused,
    SourceUnreachable,
    StepInterrupted,
    StorageFailed,
)

OLD = random.Random(1).randbytes(600_000)
NEW = OLD[:200_000] + b"changed" * 300 + OLD[200_000:]
CUT = 4096


class Killed(BaseException):
    pass


def index_of(content, average=CUT):
    """An index whose chunks end where the content says so, as a chunker's do: after a byte pair that is rare."""
    chunks, start = [], 0
    for end in [*(each.end() for each in re.finditer(rb"\x07[\x00-\x0f]", content)), len(content)]:
        if end - start >= 256 or end == len(content):
            chunks.append(Chunk(start, end, hashlib.sha256(content[start:end]).digest()))
            start = end
    return write_index(chunks, average=average)


INDEX = {content: index_of(content) for content in (OLD, NEW)}


class Place:
    """A place that counts what it gives, and breaks off with `error` after so many bytes, once for each number."""

    def __init__(self, content, name="place", ranges=True, breaks=(), error=SourceUnreachable):
        self.content, self.name, self.ranges, self.breaks, self.error = content, name, ranges, list(breaks), error
        self.given, self.requests = 0, 0

    @contextmanager
    def open(self, start, end, _deadline):
        self.requests += 1
        at = start = start if self.ranges else 0
        end = end if self.ranges else len(self.content)

        def read(size):
            nonlocal at
            left = self.breaks[0] - self.given if self.breaks else size
            if left < size:
                self.breaks.pop(0)
                raise self.error("it broke off")
            data = self.content[at : min(at + size, end)]
            at += len(data)
            self.given += len(data)
            return data

        yield Incoming(start, read)

    def close(self):
        pass


class Places:
    def __init__(self, by_digest):
        self.by_digest = by_digest

    def sources(self, digest, _size, _urls):
        return list(self.by_digest.get(digest, []))


def wanted_of(content, indexed=False):
    index = (sha256(INDEX[content]), len(INDEX[content])) if indexed else None
    return Wanted("model", sha256(content), len(content), ["https://files.example/model"], index)


def fetcher_of(folder, *places, index=None, **more):
    by_digest = {sha256(each): list(places) for each in (OLD, NEW, b"")}
    if index is not None:
        by_digest[sha256(index)] = [Place(index)]
    return Fetcher(ContentStore(folder, keep_free=0), Places(by_digest), **more)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "content"


def get(fetcher, content, indexed=False, seconds=60):
    path = fetcher.fetch(wanted_of(content, indexed), seconds=seconds)
    assert path.read_bytes() == content
    return path


@pytest.mark.parametrize("error", [SourceUnreachable, Killed])
@pytest.mark.parametrize("indexed", [False, True])
def test_nine_interruptions_cost_less_than_a_hundredth(tmp_path, error, indexed):
    content = random.Random(2).randbytes(1_000_000)
    INDEX[content] = index = index_of(content)
    place = Place(content, breaks=range(100_000, 1_000_000, 100_000), error=error)
    for _ in range(10):
        fetcher = Fetcher(
            ContentStore(tmp_path, keep_free=0),
            Places({sha256(content): [place], sha256(index): [Place(index)]}),
        )
        try:
            get(fetcher, content, indexed)
        except Killed:
            continue
        break
    assert not place.breaks
    assert place.given - len(content) < len(content) / 100


def test_a_change_costs_what_has_changed(folder):
    get(fetcher_of(folder, Place(OLD), index=INDEX[OLD]), OLD, True)
    place = Place(NEW)
    fetcher = fetcher_of(folder, place, index=INDEX[NEW])
    get(fetcher, NEW, True)
    assert place.requests == 1
    assert place.given < 5 * CUT
    assert fetcher.fetched == place.given + len(INDEX[NEW])


def test_a_damaged_base_is_replaced_by_what_comes(folder):
    path = get(fetcher_of(folder, Place(OLD), index=INDEX[OLD]), OLD, True)
    path.chmod(0o600)
    path.write_bytes(OLD[:50_000] + b"damaged" + OLD[50_007:])
    get(fetcher_of(folder, Place(NEW), index=INDEX[NEW]), NEW, True)


def test_a_place_without_ranges_gives_all(folder):
    get(fetcher_of(folder, Place(OLD), index=INDEX[OLD]), OLD, True)
    place = Place(NEW, ranges=False, breaks=[250_000])
    get(fetcher_of(folder, place, index=INDEX[NEW]), NEW, True)
    assert place.requests <= 4


def test_without_an_index_that_can_be_had_the_whole_file_comes(folder):
    get(fetcher_of(folder, Place(NEW)), NEW, True)


def test_an_index_that_lies_is_found_out(folder):
    lying = index_of(OLD + bytes(len(NEW) - len(OLD)))
    wanted = Wanted("model", sha256(NEW), len(NEW), ["https://x.example/m"], (sha256(lying), len(lying)))
    with pytest.raises(ContentRefused):
        fetcher_of(folder, Place(NEW), index=lying).fetch(wanted, seconds=60)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_place_that_lies_is_not_believed_and_the_next_one_is_asked(folder, indexed):
    lying = Place(NEW[:300_000] + b"lie" + NEW[300_003:], "lying")
    get(fetcher_of(folder, lying, Place(NEW), index=INDEX[NEW]), NEW, indexed)
    only = fetcher_of(folder.with_name("other"), lying, index=INDEX[NEW])
    with pytest.raises(ContentRefused, match="not what the deployment promises"):
        only.fetch(wanted_of(NEW, indexed), seconds=60)
    assert not list((folder.with_name("other") / "files").glob("*"))


def test_each_place_is_named_with_its_reason(folder):
    places = [Place(NEW, name, breaks=[0] * 9, error=error) for name, error in (("a", SourceRefused), ("b", Reset))]
    with pytest.raises(ContentUnavailable) as caught:
        fetcher_of(folder, *places).fetch(wanted_of(NEW), seconds=60)
    assert list(caught.value.why) == ["a: it broke off", "b: it broke off"]
    assert (places[0].requests, places[1].requests) == (1, 3)


class Reset(SourceUnreachable):
    pass


def test_a_file_that_is_there_is_not_asked_for(folder):
    get(fetcher_of(folder, Place(NEW)), NEW)
    get(fetcher_of(folder), NEW)


def test_it_ends_after_its_time_and_goes_on_later(folder):
    now = iter(range(1000))
    pace = Pace(timer=lambda: float(next(now)))
    place = Place(NEW)
    with pytest.raises(ContentComing, match=r"model is being fetched: [1-9]0 % of 602\.1 kB are here"):
        fetcher_of(folder, place, pace=pace).fetch(wanted_of(NEW), seconds=8)
    assert ContentStore(folder).coming(sha256(NEW)) == place.given > 0
    get(fetcher_of(folder, place), NEW)
    assert place.given == len(NEW)


def test_the_agent_can_be_asked_to_stop(folder):
    with pytest.raises(StepInterrupted):
        fetcher_of(folder, Place(NEW), interrupted=lambda: True).fetch(wanted_of(NEW), seconds=60)


def test_a_limit_holds_for_all_that_comes(folder):
    slept = []
    pace = Pace(lambda: 100_000.0, timer=lambda: sum(slept), sleep=slept.append)
    get(fetcher_of(folder, Place(NEW), pace=pace), NEW)
    assert sum(slept) == pytest.approx(len(NEW) / 100_000, abs=0.7)


def test_in_hours_without_downloads_nothing_is_asked(folder):
    place = Place(NEW)
    with pytest.raises(ContentComing) as caught:
        fetcher_of(folder, place, pace=Pace(lambda: 0.0)).fetch(wanted_of(NEW), seconds=60)
    assert caught.value.later
    assert place.requests == 0


def test_no_room_is_said_before_anything_is_fetched(folder):
    place = Place(NEW)
    fetcher = Fetcher(ContentStore(folder, keep_free=1 << 60), Places({sha256(NEW): [place]}))
    with pytest.raises(ContentNoRoom, match=r"no room for 602\.1 kB more"):
        fetcher.fetch(wanted_of(NEW), seconds=60)
    assert place.requests == 0


@pytest.mark.real
def test_a_disk_that_fills_keeps_what_came(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "x", disk]).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        place = Place(NEW)
        fetcher = fetcher_of(disk / "content", place)
        fetcher.store.check_room = lambda _size: None  # another program filled it meanwhile
        with pytest.raises(StorageFailed, match="cannot be used"):
            fetcher.fetch(wanted_of(NEW), seconds=60)
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        get(fetcher_of(disk / "content", place), NEW)
        assert place.given - len(NEW) < 100_000
    finally:
        subprocess.run(["umount", disk], check=True)


def test_after_a_loss_of_power_the_beginning_ends_where_the_disk_has_it(folder, monkeypatch):
    place = Place(NEW, breaks=[400_000], error=Killed)
    with pytest.raises(Killed):
        get(fetcher_of(folder, place), NEW)
    coming = folder / "coming" / hashlib.sha256(NEW).hexdigest()
    coming.write_bytes(coming.read_bytes()[:-5000] + bytes(5000))
    monkeypatch.setattr("margo_gitops.content.store.boot_id", lambda: "another")
    get(fetcher_of(folder, place), NEW)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["pin", "fetch", "keep"]), st.sampled_from([OLD, NEW]), st.booleans())))
def test_what_an_owner_needs_is_never_collected(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("store")
    store, owners = ContentStore(folder, keep_free=0), {}
    for step, content, which in steps:
        owner = f"deployment-{which}"
        if step == "pin":
            store.pin(owner, [sha256(content)])
            owners[owner] = content
        elif step == "fetch" and content in owners.values():
            get(fetcher_of(folder, Place(content)), content)
        elif step == "keep":
            needed = {name: each for name, each in owners.items() if which or name == "deployment-True"}
            before = {each for each in (OLD, NEW) if store.has(sha256(each))}
            store.keep(needed)
            owners = needed
            assert {each for each in (OLD, NEW) if store.has(sha256(each))} == before & set(owners.values())


def test_a_damaged_file_is_found_when_it_is_read(folder):
    path = get(fetcher_of(folder, Place(NEW)), NEW)
    store = ContentStore(folder)
    assert store.has(sha256(NEW), verified=True)
    assert path.stat().st_mode & 0o777 == 0o444
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    assert not store.has(sha256(NEW), verified=True)
    assert not Path(path).exists()
