import gzip
import io
import os
import stat
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.properties import times
from workload_making import entry, tar_gz, tree

from margo_gitops.appliers.archives import ArchiveBounds, copy_folder, unpack
from margo_gitops.errors import ArtifactRefused


def unpacked(archive: bytes, folder: Path, **bounds: int) -> Path:
    target = folder / "in" / "content"
    target.mkdir(parents=True)
    unpack(io.BytesIO(archive), target, ArchiveBounds(**bounds))
    return target


def test_files_folders_and_inner_links_are_unpacked_as_they_are(tmp_path):
    archive = tar_gz(
        entry("app/", kind=tarfile.DIRTYPE, mode=0o755),
        entry("app/compose.yaml", b"services: {}\n"),
        entry("app/bin/start", b"#!/bin/sh\n", mode=0o755),
        entry("app/link", kind=tarfile.SYMTYPE, link="bin/start"),
        entry("app/bin/up", kind=tarfile.SYMTYPE, link="../compose.yaml"),
        entry("app/hard", kind=tarfile.LNKTYPE, link="app/compose.yaml"),
    )
    content = unpacked(archive, tmp_path)
    assert (content / "app/compose.yaml").read_bytes() == b"services: {}\n"
    assert (content / "app/bin/up").read_bytes() == b"services: {}\n"
    assert (content / "app/hard").read_bytes() == b"services: {}\n"
    assert (content / "app/bin/start").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("/etc/passwd", b"x")], "outside"),
        ([entry("../x", b"x")], "outside"),
        ([entry("app/../../x", b"x")], "outside"),
        ([entry("app\\x", b"x")], "backslash"),
        ([entry("app/a\nb", b"x")], "control"),
        ([entry("a", kind=tarfile.SYMTYPE, link="/etc")], "link out"),
        ([entry("a", kind=tarfile.SYMTYPE, link="..")], "link out"),
        ([entry("a/b", kind=tarfile.SYMTYPE, link="../../x")], "link out"),
        (
            [
                entry("a/b/c/s", kind=tarfile.SYMTYPE, link="../../.."),
                entry("t", kind=tarfile.SYMTYPE, link="a/b/c/s/.."),
            ],
            "link out",
        ),
        ([entry("a", kind=tarfile.SYMTYPE, link="b"), entry("a/x", b"x")], "below a link"),
        ([entry("a", b"x"), entry("a/x", b"x")], "below a file"),
        ([entry("a", kind=tarfile.SYMTYPE, link="b"), entry("a", b"x")], "twice"),
        ([entry("a", b"x"), entry("./a", b"y")], "twice"),
        ([entry("a", kind=tarfile.LNKTYPE, link="/etc/passwd")], "outside"),
        ([entry("a", kind=tarfile.LNKTYPE, link="b")], "hard link"),
        ([entry("s", kind=tarfile.SYMTYPE, link="x"), entry("a", kind=tarfile.LNKTYPE, link="s")], "hard link"),
        ([entry("a", kind=tarfile.FIFOTYPE)], "special"),
        ([entry("a", kind=tarfile.CHRTYPE)], "special"),
        ([entry("a", kind=tarfile.BLKTYPE)], "special"),
    ],
)
def test_an_archive_that_could_write_elsewhere_is_refused(tmp_path, entries, reason):
    with pytest.raises(ArtifactRefused, match=reason):
        unpacked(tar_gz(*entries), tmp_path)
    assert tree(tmp_path) - tree(tmp_path / "in" / "content") >= {"in"}
    assert {path for path in tree(tmp_path) if not path.startswith("in")} == set()


def test_set_uid_and_group_write_bits_are_not_kept(tmp_path):
    content = unpacked(tar_gz(entry("a", b"x", mode=0o6777)), tmp_path)
    assert stat.S_IMODE((content / "a").stat().st_mode) == 0o755


NO_ARCHIVES = {
    "empty": b"",
    "no gzip": b"no gzip",
    "no tar": gzip.compress(b"no tar" * 200),
    "a gzip header": gzip.compress(b"")[:10],
}


@pytest.mark.parametrize("archive", NO_ARCHIVES.values(), ids=NO_ARCHIVES)
def test_what_is_no_tar_gz_is_refused(tmp_path, archive):
    with pytest.raises(ArtifactRefused):
        unpacked(archive, tmp_path)


def test_a_truncated_archive_is_refused(tmp_path):
    archive = tar_gz(entry("a", bytes(range(256)) * 4000))
    with pytest.raises(ArtifactRefused):
        unpacked(archive[: len(archive) // 2], tmp_path)


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_written(tmp_path):
    archive = tar_gz(entry("a", bytes(3_000_000)))
    assert len(archive) < 10_000
    with pytest.raises(ArtifactRefused, match="more than 1000000 bytes"):
        unpacked(archive, tmp_path, unpacked=1_000_000)
    assert sum(path.stat().st_size for path in tmp_path.rglob("a")) == 0


def test_an_archive_of_too_many_members_is_refused(tmp_path):
    with pytest.raises(ArtifactRefused, match="more than 10 files"):
        unpacked(tar_gz(*(entry(str(number)) for number in range(11))), tmp_path, members=10)


def test_an_extended_header_cannot_fill_the_memory(tmp_path):
    member, _ = entry("a", b"")
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    header.size = 200_000_000
    archive = gzip.compress(header.tobuf() + bytes(200_000_000) + member.tobuf(), compresslevel=1)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactRefused, match="oversized header"):
            unpacked(archive, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


_NAMES = st.sampled_from(["a", "b", "a/b", "a/b/c", "..", "../a", "a/..", "/a", ".", "a/./b", "l", "l/a", "b/l"])
_KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@given(members=st.lists(st.tuples(_NAMES, _KINDS, _NAMES), max_size=6))
@times(3)
def test_whatever_an_archive_holds_nothing_leads_out_of_its_folder(tmp_path_factory, members):
    folder = tmp_path_factory.mktemp("any")
    entries = [entry(name, b"x" if kind == tarfile.REGTYPE else b"", kind, link, 0o755) for name, kind, link in members]
    try:
        content = unpacked(tar_gz(*entries), folder)
    except ArtifactRefused:
        content = folder / "in" / "content"
    assert {path.name for path in folder.iterdir()} == {"in"}
    assert {path.name for path in (folder / "in").iterdir()} == {"content"}
    for path in content.rglob("*"):
        target = path.parent / path.readlink() if path.is_symlink() else path
        assert Path(os.path.realpath(target)).is_relative_to(content)


def test_a_folder_with_links_or_special_files_is_refused(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArtifactRefused, match="link or special file"):
        copy_folder(source, target)
    assert tree(target) == set()
