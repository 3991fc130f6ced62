"""Device ids in refs, tree paths and file names: one reversible encoding that every disk and every git takes."""

import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from margo_gitops.documents.device_id import (
    DEVICE_ID_MAX_LENGTH,
    ENCODED_MAX_LENGTH,
    client_of,
    decode_device_id,
    encode_device_id,
    is_device_id,
)
from margo_gitops.documents.state_layout import device_ref

ids = st.from_regex(r"[A-Za-z0-9._~-]{1,12}(/[A-Za-z0-9._~-]{1,12}){0,3}", fullmatch=True)

AWKWARD = [
    ".", "..", "...", "a..b", "a.", ".a", "a/..", "../a", "a.lock", "a.LOCK", "a.lock/b", "b/a.lock", "-", "-rf",
    "~", "a~b",
    "HEAD", "A", "a", "a_b", "_61", "con", "CON", "com1", "con.txt", "nul", "gw-1/press-07", "gw-1_2fpress-07", "0",
    "x.y.z", "@",
]  # fmt: skip


@given(ids)
@example("a.lock")
@example("con.a")
@example("_2f")
def test_an_encoded_id_reads_back(device):
    try:
        encoded = encode_device_id(device)
    except ValueError as error:
        assert "too long" in str(error)  # noqa: PT017
        return
    assert decode_device_id(encoded) == device


@given(ids, ids)
@example("A", "a")
@example("a/b", "a_2fb")
@example("con", "_63on")
def test_two_ids_have_two_names_even_on_a_disk_that_folds_case(one, other):
    if one != other:
        assert encode_device_id(one).casefold() != encode_device_id(other).casefold()


@given(ids)
def test_an_encoded_id_is_one_lower_case_path_segment_of_bounded_length(device):
    encoded = encode_device_id(device)
    assert set(encoded) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._")
    assert encoded not in (".", "..")
    assert 0 < len(encoded) <= ENCODED_MAX_LENGTH


@pytest.mark.parametrize("device", [device for device in AWKWARD if is_device_id(device)])
def test_git_takes_the_ref_of_every_device(device):
    ref = device_ref(device)
    done = subprocess.run(["git", "check-ref-format", ref], timeout=20, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, ref
    assert ref.startswith("refs/heads/devices/")


@given(ids)
def test_refs_follow_the_rules_of_git_check_ref_format(device):
    """The rules of `git help check-ref-format`, so that many ids are tried without a process each."""
    segment = device_ref(device).removeprefix("refs/heads/devices/")
    assert not segment.startswith(".")
    assert not segment.endswith((".lock", ".", "/"))
    assert not any(part in segment for part in ("..", "~", "^", ":", "?", "*", "[", "\\", "@{", " ", "/"))


@pytest.mark.parametrize(
    ("device", "encoded"),
    [
        ("press-07", "press-07"),
        ("northstarida.xtapro.k8s.edge", "northstarida.xtapro.k8s.edge"),
        ("gw-1/press-07", "gw-1_2fpress-07"),
        ("Press", "_50ress"),
        ("a_b", "a_5fb"),
        ("..", "_2e_2e"),
        ("a.lock", "a_2elock"),
        ("con", "_63on"),
        ("con.txt", "_63on.txt"),
    ],
)
def test_ordinary_ids_stay_readable_and_odd_ones_are_escaped(device, encoded):
    assert encode_device_id(device) == encoded


@pytest.mark.parametrize(
    "text", ["", "/", "a/", "/a", "a//b", "a b", "ä", "a:b", "a\\b", "a\n", "a\x00", "x" * 201, "a/*"]
)
def test_what_is_no_device_id_is_refused(text):
    assert not is_device_id(text)
    with pytest.raises(ValueError, match="not a device id"):
        encode_device_id(text)


def test_an_id_whose_name_no_file_system_takes_is_refused():
    assert is_device_id("A" * DEVICE_ID_MAX_LENGTH)
    with pytest.raises(ValueError, match="too long: 600 characters encoded, 240 are possible"):
        encode_device_id("A" * DEVICE_ID_MAX_LENGTH)


@pytest.mark.parametrize(
    "encoded", ["", "Press", "a_5Fb", "_61", "a/b", "a.lock", "con", "a_", "a_zz", "_0a", ".", "a.."]
)
def test_a_name_that_the_encoding_never_makes_is_refused(encoded):
    with pytest.raises(ValueError, match="not an encoded device id"):
        decode_device_id(encoded)


@given(st.text(max_size=20) | st.from_regex(r"[a-z0-9._-]{1,12}", fullmatch=True))
def test_any_name_decodes_to_its_one_id_or_is_refused(text):
    try:
        device = decode_device_id(text)
    except ValueError:
        return
    assert encode_device_id(device) == text


def test_the_client_of_a_child_is_its_gateway():
    assert client_of("gw-1/press-07") == "gw-1"
    assert client_of("press-07") == "press-07"
