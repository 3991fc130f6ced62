"""The reader of bundles against what anybody may send: a file with the right digest, or nothing, and no other error."""

from __future__ import annotations

import contextlib
import gzip
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import write_bundle
from margo_gitops.transport.http.api import gunzip
from margo_gitops.transport.http.bundle import read_bundle

FILES = {f"{number:08d}-1111-5111-8111-111111111111": b"content %d\n" % number * 50 for number in range(4)}
WANTED = {sha256(content): content for content in FILES.values()}
ARCHIVE = gzip.decompress(write_bundle(FILES))
LIMIT = 1_000_000


@given(st.binary(max_size=3000))
def test_any_bytes_are_an_archive_or_a_value_error(content: bytes) -> None:
    for packed in (content, gzip.compress(content)):
        with contextlib.suppress(ValueError):
            assert read_bundle(packed, WANTED, LIMIT) == {}


@given(st.integers(0, len(ARCHIVE) - 1), st.binary(min_size=1, max_size=600))
def test_whatever_is_overwritten_only_true_files_come_out(at: int, patch: bytes) -> None:
    damaged = (ARCHIVE[:at] + patch + ARCHIVE[at + len(patch) :])[: len(ARCHIVE)]
    try:
        found = read_bundle(gzip.compress(damaged), WANTED, LIMIT)
    except ValueError:
        return
    assert found.items() <= WANTED.items()


@given(st.integers(0, len(ARCHIVE)))
def test_a_cut_archive_never_yields_half_a_file(end: int) -> None:
    try:
        found = read_bundle(gzip.compress(ARCHIVE[:end]), WANTED, LIMIT)
    except ValueError:
        return
    assert found.items() <= WANTED.items()


def test_only_what_is_wanted_is_taken() -> None:
    digest = next(iter(WANTED))
    assert read_bundle(write_bundle(FILES), {digest}, LIMIT) == {digest: WANTED[digest]}


def test_a_file_of_several_members_is_one() -> None:
    assert gunzip(gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"b"), 2) == b"ab"


@pytest.mark.parametrize("members", [1, 3])
def test_the_limit_holds_over_all_members(members: int) -> None:
    packed = gzip.compress(b"x" * (12 // members)) * members
    assert len(gunzip(packed, 12)) == 12
    with pytest.raises(ValueError, match="more than 11 bytes"):
        gunzip(packed, 11)


def test_members_without_end_are_refused_before_they_take_minutes() -> None:
    """Each costs a copy of what follows it: 9 MB of empty ones would take ten minutes."""
    empty = gzip.compress(b"", mtime=0)
    assert gunzip(empty * 256, 1) == b""
    begin = time.process_time()
    with pytest.raises(ValueError, match="more than 256 members"):
        gunzip(empty * 450_000, 8 * 1024 * 1024)
    assert time.process_time() - begin < 5
