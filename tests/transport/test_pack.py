"""Packs: what git writes is read, and nothing else is; numbers refer to the rules of `transport.git.pack`."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import tracemalloc
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path

import pytest
from device_repository import git
from hypothesis import example, given
from hypothesis import strategies as st
from pack_writing import BLOB, COMMIT, OFS_DELTA, REF_DELTA, TAG, TREE, copy, delta, distance, entry, insert, pack
from support.properties import times

from margo_gitops.errors import SourceMisbehaved
from margo_gitops.transport.git.pack import GitObject, Kind, ObjectID, object_id, read_pack
from margo_gitops.transport.git.source import GitLimits

LIMITS = GitLimits()
HELLO = b"hello, device\n"


def nothing(name: ObjectID) -> None:
    """Hold nothing."""


def in_pieces(content: bytes, size: int = 4096) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def read(content: bytes, limits: GitLimits = LIMITS, size: int = 4096) -> dict[ObjectID, GitObject]:
    return read_pack(in_pieces(content, size), nothing, limits)


def contents(found: dict[ObjectID, GitObject]) -> list[bytes]:
    return sorted(each.content for each in found.values())


def raw(name: ObjectID) -> bytes:
    return bytes.fromhex(name.decode())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty repository for `git pack-objects`."""
    folder = tmp_path_factory.mktemp("objects")
    git(folder, "init", "--quiet", "--bare", ".")
    return folder


class TestWhatGitWrites:
    @given(
        blobs=st.lists(st.binary(max_size=400), min_size=1, max_size=8, unique=True),
        common=st.binary(min_size=200, max_size=2000),
        offsets=st.booleans(),
        piece=st.integers(1, 5000),
    )
    def test_is_read_to_the_same_objects(
        self, real: Path, blobs: list[bytes], common: bytes, offsets: bool, piece: int
    ) -> None:
        wanted = [common + blob for blob in blobs]
        names = [write_blob(real, content) for content in wanted]
        option = ["--delta-base-offset"] if offsets else []
        written = git(real, "pack-objects", "--stdout", "-q", *option, stdin="\n".join(names).encode() + b"\n")

        found = read(written, size=piece)
        assert {name.decode(): each.content for name, each in found.items()} == dict(zip(names, wanted, strict=True))

    def test_a_thin_pack_needs_what_is_held(self, tmp_path: Path) -> None:
        git(tmp_path, "init", "--quiet", "--bare", ".")
        old = b"".join(b"line %d\n" % number for number in range(2000))
        first = write_commit(tmp_path, old)
        second = write_commit(tmp_path, old + b"one more\n", "-p", first)
        written = git(
            tmp_path, "pack-objects", "--thin", "--revs", "--stdout", "-q", stdin=f"{second}\n^{first}\n".encode()
        )
        base = object_id(Kind.BLOB, old)
        held = {base: GitObject(Kind.BLOB, old)}
        found = read_pack(in_pieces(written), held.get, LIMITS)
        assert old + b"one more\n" in contents(found)
        with pytest.raises(SourceMisbehaved, match="neither in the pack nor held"):
            read(written)

    @times(4)
    @given(place=st.integers(0, 100_000), flip=st.integers(1, 255))
    def test_a_byte_that_was_changed_is_refused(self, place: int, flip: int) -> None:
        written = bytearray(SAMPLE)
        written[place % len(written)] ^= flip
        with pytest.raises(SourceMisbehaved):
            read(bytes(written))

    @times(4)
    @given(length=st.integers(0, 100_000))
    @example(length=0)
    def test_f2_a_truncated_pack_is_refused_wherever_it_is_cut(self, length: int) -> None:
        with pytest.raises(SourceMisbehaved):
            read(SAMPLE[: length % len(SAMPLE)])

    @times(4)
    @given(st.binary(max_size=300))
    def test_any_bytes_are_refused_or_read_but_never_break_anything(self, content: bytes) -> None:
        for attempt in (content, b"PACK\0\0\0\2\0\0\0\1" + content, signed(b"PACK\0\0\0\2\0\0\0\2" + content)):
            try:
                read(attempt)
            except SourceMisbehaved:
                continue


def signed(content: bytes) -> bytes:
    return content + sha1(content, usedforsecurity=False).digest()


def write_blob(folder: Path, content: bytes) -> str:
    return git(folder, "hash-object", "-w", "--stdin", stdin=content).decode().strip()


def write_commit(folder: Path, content: bytes, *parent: str) -> str:
    tree = git(folder, "mktree", stdin=f"100644 blob {write_blob(folder, content)}\tfile\n".encode()).decode().strip()
    identity = ["-c", "user.name=x", "-c", "user.email=x"]
    return git(folder, *identity, "commit-tree", "-m", "x", *parent, tree).decode().strip()


SAMPLE = pack(
    [
        entry(BLOB, HELLO),
        entry(OFS_DELTA, delta(14, 19, copy(0, 14) + insert(b"again")), base=distance(len(entry(BLOB, HELLO)))),
        entry(TREE, b"100644 x\0" + bytes(range(20))),
        entry(COMMIT, b"tree " + b"0" * 40 + b"\n"),
        entry(REF_DELTA, delta(14, 4, copy(0, 4)), base=raw(object_id(Kind.BLOB, HELLO))),
    ]
)


class TestWhatIsRead:
    def test_objects_and_both_kinds_of_delta(self) -> None:
        assert set(contents(read(SAMPLE))) >= {HELLO, HELLO + b"again", b"hell"}

    @pytest.mark.parametrize("piece", [1, 2, 19, 20, 21])
    def test_however_small_the_pieces(self, piece: int) -> None:
        assert len(read(SAMPLE, size=piece)) == 5

    def test_a_delta_before_its_base(self) -> None:
        later = entry(REF_DELTA, delta(14, 4, copy(0, 4)), base=raw(object_id(Kind.BLOB, HELLO)))
        assert contents(read(pack([later, entry(BLOB, HELLO)]))) == [b"hell", HELLO]

    def test_a_chain_of_deltas_longer_than_any_stack(self) -> None:
        chain, size = [entry(BLOB, b"x")], len(entry(BLOB, b"x"))
        for number in range(3000):
            link = entry(
                OFS_DELTA,
                delta(1 if number == 0 else 5, 5, insert(b"%05d" % number)),
                base=distance(size),
            )
            chain.append(link)
            size = len(link)
        assert len(read(pack(chain))) == 3001

    def test_a_chain_that_comes_in_the_wrong_order(self) -> None:
        links = [b"x"] + [b"%05d" % number for number in range(2000)]
        entries = [
            entry(REF_DELTA, delta(len(old), len(new), insert(new)), base=raw(object_id(Kind.BLOB, old)))
            for old, new in itertools.pairwise(links)
        ]
        assert len(read(pack([*reversed(entries), entry(BLOB, b"x")]))) == 2001

    def test_an_empty_pack(self) -> None:
        assert read(pack([])) == {}

    def test_an_empty_object(self) -> None:
        assert contents(read(pack([entry(BLOB, b"")]))) == [b""]


class TestRefused:
    @pytest.mark.parametrize(
        "content",
        [b"", b"PACK", b"JUNK\0\0\0\2\0\0\0\0", pack([], version=1), pack([], version=4), b"<html>" + bytes(100)],
    )
    def test_rule_1_another_start(self, content: bytes) -> None:
        with pytest.raises(SourceMisbehaved):
            read(content)

    def test_rule_1_more_objects_than_allowed_before_any_is_read(self) -> None:
        with pytest.raises(SourceMisbehaved, match="objects allowed"):
            read(pack([], count=0xFFFFFFFF))

    def test_rule_1_another_count_than_there_is(self) -> None:
        for count in (0, 2):
            with pytest.raises(SourceMisbehaved):
                read(pack([entry(BLOB, HELLO)], count=count))

    @pytest.mark.parametrize("kind", [0, TAG, 5])
    def test_rule_2_other_kinds_of_object(self, kind: int) -> None:
        with pytest.raises(SourceMisbehaved, match="the pack holds"):
            read(pack([entry(kind, HELLO)]))

    @pytest.mark.parametrize("size", [0, 1, len(HELLO) - 1, len(HELLO) + 1, 10_000])
    def test_rule_3_another_size_than_stated(self, size: int) -> None:
        with pytest.raises(SourceMisbehaved):
            read(pack([entry(BLOB, HELLO, size=size)]))

    def test_rule_3_a_size_beyond_the_bounds_is_refused_before_it_is_inflated(self) -> None:
        bomb = pack([entry(BLOB, bytes(50_000_000))])
        assert len(bomb) < 100_000
        tracemalloc.start()
        try:
            with pytest.raises(SourceMisbehaved, match="larger than"):
                read(bomb)
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()

    def test_rule_3_a_bomb_that_lies_about_its_size(self) -> None:
        bomb = pack([entry(BLOB, bytes(50_000_000), size=10)])
        tracemalloc.start()
        try:
            with pytest.raises(SourceMisbehaved):
                read(bomb)
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()

    def test_rule_3_many_objects_that_are_too_large_together(self) -> None:
        with pytest.raises(SourceMisbehaved, match="together"):
            read(pack([entry(BLOB, bytes(1000))] * 11), GitLimits(inflated_bytes=10_000))

    def test_rule_3_a_size_without_end(self) -> None:
        with pytest.raises(SourceMisbehaved):
            read(signed(b"PACK\0\0\0\2\0\0\0\1" + b"\xbf" + b"\xff" * 100))

    def test_rule_3_bytes_that_are_not_deflated(self) -> None:
        with pytest.raises(SourceMisbehaved, match="inflated"):
            read(signed(b"PACK\0\0\0\2\0\0\0\1" + b"\x3anot deflated"))

    def test_rule_4_a_delta_whose_result_is_a_bomb(self) -> None:
        seed = bytes(0xFFFF)
        many = delta(len(seed), 0xFFFF * 1000, copy(0, 0xFFFF) * 1000)
        with pytest.raises(SourceMisbehaved, match="larger than"):
            read(pack([entry(BLOB, seed), entry(REF_DELTA, many, base=raw(object_id(Kind.BLOB, seed)))]))

    def test_rule_4_deltas_that_are_each_other_s_base(self) -> None:
        one, other = bytes(range(20)), bytes(range(20, 40))
        loop = [
            entry(REF_DELTA, delta(1, 1, insert(b"x")), base=one),
            entry(REF_DELTA, delta(1, 1, insert(b"y")), base=other),
        ]
        with pytest.raises(SourceMisbehaved, match="neither in the pack nor held"):
            read(pack(loop))

    @pytest.mark.parametrize("far", [0, 5, 12, 13, 10**6, 2**80])
    def test_rule_4_a_base_that_is_itself_or_outside_the_pack(self, far: int) -> None:
        with pytest.raises(SourceMisbehaved):
            read(pack([entry(BLOB, b""), entry(OFS_DELTA, delta(1, 1, insert(b"x")), base=distance(far))]))

    @pytest.mark.parametrize(
        "broken",
        [
            b"",
            b"\x0e",
            delta(13, 4, copy(0, 4)),
            delta(14, 5, copy(0, 4)),
            delta(14, 3, copy(0, 4)),
            delta(14, 4, copy(12, 4)),
            delta(14, 4, b"\x00\x00\x00\x00"),
            delta(14, 4, b"\x7fxy"),
            delta(14, 4, b"\xff\x00"),
            b"\xff" * 30,
            delta(14, 2**70, copy(0, 4)),
        ],
    )
    def test_rule_4_a_delta_that_does_not_fit(self, broken: bytes) -> None:
        with pytest.raises(SourceMisbehaved):
            read(pack([entry(BLOB, HELLO), entry(REF_DELTA, broken, base=raw(object_id(Kind.BLOB, HELLO)))]))

    def test_rule_5_another_checksum(self) -> None:
        with pytest.raises(SourceMisbehaved, match="checksum"):
            read(SAMPLE[:-1] + bytes([SAMPLE[-1] ^ 1]))

    def test_rule_5_bytes_after_the_end(self) -> None:
        with pytest.raises(SourceMisbehaved):
            read(SAMPLE + b"\0")

    def test_more_bytes_than_allowed(self) -> None:
        with pytest.raises(SourceMisbehaved, match="bytes allowed"):
            read(SAMPLE, GitLimits(pack_bytes=len(SAMPLE) - 1))


def test_git_itself_agrees_that_the_sample_is_a_pack() -> None:
    with tempfile.TemporaryDirectory() as folder:
        git(Path(folder), "init", "--quiet", "--bare", ".")
        done = subprocess.run(
            ["git", "-C", folder, "index-pack", "--stdin"], input=SAMPLE, capture_output=True, check=False, timeout=30
        )
    assert done.returncode == 0, done.stderr
