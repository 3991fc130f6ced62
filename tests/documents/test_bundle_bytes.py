"""The bundle: rebuilt byte for byte from the device's documents, and readable by every tar."""

import gzip
import io
import subprocess
import tarfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import gzip_stored, write_bundle

IDS = ["a3e2f5dc-912e-494f-8395-52cf3769bc06", "ad9b614e-8912-45f4-a523-372358765def"]
DOCUMENTS = {IDS[0]: b"id: a\n", IDS[1]: b"id: b\n" * 20_000}
PINNED = "sha256:f425a8fba565cac524932a5503f483ef8ca23ff77ef6bfaacb370acc7baa3735"


def files_of(bundle):
    with tarfile.open(fileobj=io.BytesIO(bundle), mode="r:gz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


@given(st.dictionaries(st.uuids().map(str), st.binary(max_size=2000), min_size=1, max_size=5))
def test_pythons_tarfile_reads_back_every_document_under_its_id(documents):
    assert files_of(write_bundle(documents)) == {f"{name}.yaml": content for name, content in documents.items()}


def test_tar_lists_and_unpacks_the_documents(tmp_path):
    (tmp_path / "bundle.tar.gz").write_bytes(write_bundle(DOCUMENTS))
    listed = subprocess.run(["tar", "tzf", "bundle.tar.gz"], cwd=tmp_path, timeout=20, capture_output=True, check=True)
    assert listed.stdout.decode().splitlines() == [f"{name}.yaml" for name in IDS]
    assert listed.stderr == b""
    subprocess.run(["tar", "xzf", "bundle.tar.gz"], cwd=tmp_path, timeout=20, check=True)
    assert {name: (tmp_path / f"{name}.yaml").read_bytes() for name in IDS} == DOCUMENTS


def test_the_order_in_which_documents_are_given_takes_no_part():
    assert write_bundle(DOCUMENTS) == write_bundle(dict(reversed(DOCUMENTS.items())))


def test_the_bytes_are_pinned():
    """These bytes have digests in manifests: they must never change, on no machine and in no version."""
    assert sha256(write_bundle({IDS[0]: b"id: a\n"})) == PINNED


def test_members_are_plain_files_without_owner_and_time():
    with tarfile.open(fileobj=io.BytesIO(write_bundle(DOCUMENTS)), mode="r:gz") as archive:
        for member in archive:
            assert member.isreg()
            assert (member.mode, member.uid, member.gid, member.mtime, member.uname) == (0o644, 0, 0, 0, "")


@given(st.binary(max_size=300))
@pytest.mark.parametrize("repeat", [1, 700])
def test_stored_gzip_is_gzip(repeat, content):
    packed = gzip_stored(content * repeat)
    assert gzip.decompress(packed) == content * repeat
    assert zlib.decompress(packed, wbits=31) == content * repeat


def test_an_empty_bundle_must_not_be_served():
    with pytest.raises(ValueError, match="at least one deployment"):
        write_bundle({})


@pytest.mark.parametrize("name", ["x" * 200, "ä"])
def test_a_name_that_no_tar_header_takes_is_refused(name):
    with pytest.raises(ValueError, match=r"tar header|ascii"):
        write_bundle({name: b""})
