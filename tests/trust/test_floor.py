"""The trust floor as stored: every digit kept, everything else refused."""

import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION
from margo_gitops.errors import HistoryRewritten, InvalidDocument, MargoGitopsError, UnreadableDocument
from margo_gitops.trust.floor import Floor, raise_floor, read_floor, write_floor

FLOORS = st.builds(
    Floor,
    st.integers(1, MAX_MANIFEST_VERSION),
    st.binary(max_size=8).map(sha256),
    st.none() | st.binary(min_size=20, max_size=20).map(bytes.hex),
)
FLOOR = Floor(2**64 - 1, sha256(b""), "1" * 40)


@given(FLOORS)
def test_a_floor_is_read_as_it_was_written(floor):
    assert read_floor(write_floor(floor), "floor.json") == floor


def test_the_version_is_written_with_every_digit():
    assert b'"version":18446744073709551615' in write_floor(FLOOR)


def test_a_floor_says_which_kind_of_document_it_is():
    assert json.loads(write_floor(FLOOR))["kind"] == "TrustFloor"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 0),
        ("version", 2.0),
        ("version", "1"),
        ("version", None),
        ("manifestDigest", "sha1:00"),
        ("manifestDigest", sha256(b"").upper()),
        ("commit", "1" * 39),
        ("commit", "A" * 40),
        ("apiVersion", "margo-gitops/v2"),
        ("kind", "Floor"),
        ("more", 1),
    ],
)
def test_a_damaged_floor_is_refused_with_the_field(field, value):
    damaged = {**json.loads(write_floor(FLOOR)), field: value}
    with pytest.raises(InvalidDocument, match=field):
        read_floor(json.dumps(damaged).encode(), "floor.json")


@pytest.mark.parametrize("field", ["apiVersion", "kind", "version", "manifestDigest", "commit"])
def test_a_floor_without_one_of_its_fields_is_refused(field):
    damaged = json.loads(write_floor(FLOOR))
    del damaged[field]
    with pytest.raises(InvalidDocument, match=f"{field} is missing"):
        read_floor(json.dumps(damaged).encode(), "floor.json")


def test_a_floor_cut_short_by_a_crash_is_refused():
    for end in range(len(write_floor(FLOOR))):
        with pytest.raises(MargoGitopsError):
            read_floor(write_floor(FLOOR)[:end], "floor.json")


def test_a_version_of_more_than_64_bits_is_refused():
    with pytest.raises(UnreadableDocument, match="not valid JSON"):
        read_floor(write_floor(FLOOR).replace(b"18446744073709551615", b"18446744073709551616"), "floor.json")


def test_a_floor_is_small():
    with pytest.raises(UnreadableDocument):
        read_floor(b" " * 5000, "floor.json")


@given(FLOORS, FLOORS, st.integers(2, 2**32))
@example(FLOOR, FLOOR, 2)
def test_a_device_that_missed_renders_trusts_the_next_state_that_it_sees(floor, offered, missed):
    """Also where it missed exactly one: history between the two is not fetched, so no parent can be asked for."""
    floor = replace(floor, version=min(floor.version, MAX_MANIFEST_VERSION - missed))
    offered = replace(offered, version=floor.version + missed)
    assert raise_floor(floor, offered, (), 1) == offered


@given(FLOORS, FLOORS)
def test_the_very_next_version_follows_from_the_floors_commit(floor, offered):
    floor = replace(floor, version=min(floor.version, MAX_MANIFEST_VERSION - 1), commit="1" * 40)
    offered = replace(offered, version=floor.version + 1, commit="2" * 40)
    assert raise_floor(floor, offered, ("3" * 40, floor.commit), 1) == offered
    with pytest.raises(HistoryRewritten):
        raise_floor(floor, offered, ("3" * 40,), 1)
