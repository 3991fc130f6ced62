"""Reading a bundle: a folder on a stick, or a tar file, made by no one who is trusted."""

from __future__ import annotations

import os
import socket
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import write_manifest
from margo_gitops.documents.site_bundle import blob_path, commit_path, manifest_path
from margo_gitops.documents.tar import TAR_END, padding, read_header, tar_header
from margo_gitops.errors import DigestMismatch, SourceMisbehaved, SourceRefused, SourceUnreachable
from margo_gitops.transport.stick.stick_transport import StickTransport

DEVICE = "press-07"
FIRST = "11111111-1111-5111-8111-111111111111"
DOCUMENT = b"id: 1\n"
FILES = {
    manifest_path(DEVICE): write_manifest(1, {FIRST: DOCUMENT}),
    commit_path(DEVICE): b"tree",
    blob_path(sha256(DOCUMENT)): DOCUMENT,
    "freshness/all.json": b"{}",
    "trust/1.json": b"{}",
}


def in_folder(place: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def in_tar(place: Path, files: dict[str, bytes]) -> Path:
    place.write_bytes(packed(*files.items()) + TAR_END)
    return place


def packed(*files: tuple[str, bytes]) -> bytes:
    return b"".join(tar_header(name, len(content)) + content + padding(len(content)) for name, content in files)


@pytest.mark.parametrize("write", [in_folder, in_tar])
def test_a_state_is_the_one_that_was_carried(tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path]) -> None:
    transport = StickTransport(write(tmp_path / "bundle", FILES), DEVICE)
    snapshot = transport.pull(None).snapshot
    assert snapshot is not None
    assert (snapshot.manifest, snapshot.commit) == (FILES[manifest_path(DEVICE)], b"tree")
    assert snapshot.deployments == {FIRST: DOCUMENT}
    assert transport.pull(snapshot).snapshot is None
    assert (transport.freshness(DEVICE, None), transport.freshness(DEVICE, b"{}")) == (b"{}", None)
    assert (transport.trust_document(1), transport.trust_document(2)) == (b"{}", None)
    with pytest.raises(SourceRefused, match="no state for press-08"):
        StickTransport(transport.place, "press-08").pull(None)


def test_no_stick_has_nothing_new_and_is_an_error_only_for_who_holds_nothing(tmp_path: Path) -> None:
    held = StickTransport(in_folder(tmp_path / "bundle", FILES), DEVICE).pull(None).snapshot
    away = StickTransport(tmp_path / "away", DEVICE)
    assert away.pull(held).snapshot is None
    assert (away.freshness(DEVICE, None), away.trust_document(1)) == (None, None)
    with pytest.raises(SourceUnreachable, match="there is no bundle"):
        away.pull(None)


def test_what_is_held_is_not_needed_again(tmp_path: Path) -> None:
    held = StickTransport(in_folder(tmp_path / "bundle", FILES), DEVICE).pull(None).snapshot
    more = {**FILES, manifest_path(DEVICE): write_manifest(2, {FIRST: DOCUMENT})}
    del more[blob_path(sha256(DOCUMENT))]
    newer = StickTransport(in_folder(tmp_path / "newer", more), DEVICE)
    snapshot = newer.pull(held).snapshot
    assert snapshot is not None
    assert snapshot.deployments == {FIRST: DOCUMENT}
    with pytest.raises(SourceRefused, match="does not have it"):
        newer.pull(None)


def link_file(place: Path, elsewhere: Path) -> None:
    (place / manifest_path(DEVICE)).unlink()
    (place / manifest_path(DEVICE)).symlink_to(elsewhere / manifest_path(DEVICE))


def link_folder(place: Path, elsewhere: Path) -> None:
    (place / "devices").rename(place / "aside")
    (place / "devices").symlink_to(elsewhere / "devices")


def pipe(place: Path, _: Path) -> None:
    (place / manifest_path(DEVICE)).unlink()
    os.mkfifo(place / manifest_path(DEVICE))


def folder(place: Path, _: Path) -> None:
    (place / manifest_path(DEVICE)).unlink()
    (place / manifest_path(DEVICE)).mkdir()


def huge(place: Path, _: Path) -> None:
    with (place / manifest_path(DEVICE)).open("wb") as file:
        file.truncate(2**40)


def huge_document(place: Path, _: Path) -> None:
    with (place / blob_path(sha256(DOCUMENT))).open("wb") as file:
        file.truncate(2**40)


@pytest.mark.parametrize("lie", [link_file, link_folder, pipe, folder, huge, huge_document])
def test_what_is_no_plain_small_file_of_the_stick_is_refused(tmp_path: Path, lie: Callable[[Path, Path], None]) -> None:
    elsewhere = in_folder(tmp_path / "elsewhere", FILES)
    place = in_folder(tmp_path / "bundle", FILES)
    lie(place, elsewhere)
    with pytest.raises(SourceMisbehaved):
        StickTransport(place, DEVICE).pull(None)


def test_the_place_itself_is_a_folder_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(in_folder(tmp_path / "bundle", FILES))
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(SourceMisbehaved):
            StickTransport(tmp_path / name, DEVICE).pull(None)
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(SourceUnreachable):
            StickTransport(tmp_path / "socket", DEVICE).pull(None)


def test_bytes_that_changed_are_refused(tmp_path: Path) -> None:
    place = in_folder(tmp_path / "bundle", {**FILES, blob_path(sha256(DOCUMENT)): b"id: 2\n"})
    with pytest.raises(DigestMismatch):
        StickTransport(place, DEVICE).pull(None)


def link_header() -> bytes:
    link = tarfile.TarInfo("a")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return link.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (packed(("a", b"1")), "cut off"),
        (packed(("a", b"1"), ("a", b"2")) + TAR_END, "a file twice"),
        (tar_header("a", 2**32) + TAR_END, "cut off"),
        (b"x" * 2048, "damaged"),
        (link_header() + TAR_END, "other things than files"),
    ],
    ids=["no end", "twice", "size", "noise", "link"],
)
def test_a_tar_file_that_lies_is_refused(tmp_path: Path, archive: bytes, why: str) -> None:
    (tmp_path / "bundle.tar").write_bytes(archive)
    with pytest.raises(SourceMisbehaved, match=why):
        StickTransport(tmp_path / "bundle.tar", DEVICE).pull(None)


def test_a_long_name_fits_into_a_tar_header() -> None:
    name = f"devices/{'p' * 120}/{'m' * 90}"
    entry = read_header(tar_header(name, 7))
    assert entry is not None
    assert (entry.name.decode(), entry.size, entry.is_file) == (name, 7, True)
    with pytest.raises(ValueError, match="too long"):
        tar_header(f"devices/{'p' * 160}/m", 7)
