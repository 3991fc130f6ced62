"""Packs as the git program understands them, and nothing left behind where they cannot be written."""

import errno
import resource
import subprocess
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from zlib import crc32

import pytest
from dulwich.pack import write_pack_index_v2
from hypothesis import given
from hypothesis import strategies as st
from support.git_cli import Git
from support.properties import times
from support.real import unavailable
from support.state_publishing import Renderer

from margo_gitops.errors import StateRepoUnusable
from margo_gitops.state_repo.object_pack import ObjectPack, index_bytes
from margo_gitops.trust.git_objects import BLOB, TREE, object_id


@pytest.fixture
def repository(tmp_path: Path) -> Git:
    return Git(tmp_path / "repo.git").init(bare=True)


def written(pack: ObjectPack, git: Git) -> list[Path]:
    folder = git.path / "objects" / "pack"
    pack.write(folder)
    return sorted(folder.iterdir())


def test_git_reads_every_object_and_finds_nothing_wrong(repository: Git):
    pack = ObjectPack()
    contents = [b"", b"x", b"\0" * 15, b"y" * 16, b"z" * 2047, b"z" * 2048, bytes(range(256)) * 400]
    names = [pack.add(BLOB, content) for content in contents]
    pack.add(TREE, b"")
    index, body = written(pack, repository)
    assert (index.suffix, body.suffix) == (".idx", ".pack")
    for name, content in zip(names, contents, strict=True):
        assert repository.run_bytes("cat-file", "blob", name) == content
    repository.run("fsck", "--strict", "--full")
    repository.run("verify-pack", str(index))


def test_gits_own_index_of_the_pack_is_the_same(repository: Git, tmp_path: Path):
    pack = ObjectPack()
    for number in range(300):
        pack.add(BLOB, str(number).encode() * number)
    index, body = written(pack, repository)
    own = tmp_path / "own.idx"
    repository.run("index-pack", "--strict", "-o", own, body)
    assert own.read_bytes() == index.read_bytes()


@given(st.dictionaries(st.binary(min_size=20, max_size=20), st.binary()), st.data())
def test_the_index_of_a_large_pack_is_that_of_dulwich(entries: dict[bytes, bytes], data: st.DataObject):
    places = data.draw(st.lists(st.integers(12, 2**34), min_size=len(entries), max_size=len(entries), unique=True))
    rows = [(name, place, crc32(entry)) for (name, entry), place in zip(sorted(entries.items()), places, strict=True)]
    theirs = BytesIO()
    write_pack_index_v2(theirs, rows, b"c" * 20)
    held = {name.hex(): (entries[name], place) for name, place, _ in rows}
    assert index_bytes(held, b"c" * 20) == theirs.getvalue()


@times(0.5)
@given(st.lists(st.binary(max_size=5000), min_size=1, max_size=20))
def test_whatever_is_added_comes_out(repository: Git, contents: list[bytes]):
    pack = ObjectPack()
    names = [pack.add(BLOB, content) for content in contents]
    assert len(pack) == len(set(contents))
    pack.write(repository.path / "objects" / "pack")
    out = repository.run_bytes("cat-file", "--batch", content="".join(f"{name}\n" for name in names))
    assert out == b"".join(
        f"{name} blob {len(content)}\n".encode() + content + b"\n"
        for name, content in zip(names, contents, strict=True)
    )


def test_objects_that_are_there_are_not_written_again(repository: Git):
    known = object_id(BLOB, b"x")
    pack = ObjectPack()
    pack.know([known])
    assert pack.add(BLOB, b"x") == known
    assert len(pack) == 0
    assert written(pack, repository) == []


def test_equal_objects_give_the_same_file(repository: Git, tmp_path: Path):
    packs = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        pack = ObjectPack()
        pack.add(BLOB, b"x")
        pack.add(BLOB, b"y")
        pack.write(folder)
        packs.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert packs[0] == packs[1]


def test_the_same_pack_again_is_left_as_it_is(repository: Git):
    pack = ObjectPack()
    pack.add(BLOB, b"x")
    before = {path: path.stat().st_ino for path in written(pack, repository)}
    assert {path: path.stat().st_ino for path in written(pack, repository)} == before


LIMITED = """
import pathlib, resource, signal, sys
from margo_gitops.state_repo.object_pack import ObjectPack, index_bytes
pack = ObjectPack()
for number in range(int(sys.argv[2])):
    pack.add(b"blob", b"%d" % number)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    pack.write(pathlib.Path(sys.argv[1]))
except OSError as error:
    sys.exit(error.errno)
"""


@pytest.mark.parametrize(("objects", "limit"), [(1000, 500), (1, 500)], ids=["pack", "index"])
def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, objects: int, limit: int):
    folder = tmp_path / "pack"
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", LIMITED, folder, str(objects), str(limit)], check=False, timeout=60)
    assert done.returncode == errno.EFBIG
    assert list(folder.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.fixture
def small_disk(tmp_path: Path):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True).returncode:
        unavailable("no right to mount a small disk; run as root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.real
def test_a_full_disk_moves_no_ref_and_leaves_no_file(small_disk: Path):
    renderer = Renderer(small_disk / "state.git")
    renderer.publish({"a": {"web": b"1"}})
    before = renderer.refs()
    files = sorted(path for path in small_disk.rglob("*") if path.is_file())
    # Bytes that do not compress.
    large = b"".join(object_id(BLOB, b"%d" % number).encode() for number in range(20_000))
    with pytest.raises(StateRepoUnusable) as caught:
        renderer.publish({"a": {"web": large}})
    assert "disk is not full" in caught.value.remedy
    assert renderer.refs() == before
    assert sorted(path for path in small_disk.rglob("*") if path.is_file()) == files
    renderer.publish({"a": {"web": b"2"}})
    renderer.git.run("fsck", "--strict")


@pytest.mark.real
def test_a_disk_with_no_room_for_the_refs_keeps_the_old_ones(small_disk: Path):
    renderer = Renderer(small_disk / "state.git")
    renderer.publish({"a": {"web": b"1"}})
    before = renderer.refs()
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 1024)
    with pytest.raises(StateRepoUnusable):
        renderer.repo.refs.move({f"refs/heads/x{n}": next(iter(before.values())) for n in range(1000)}, before)
    assert renderer.refs() == before
    assert sorted(path.name for path in (small_disk / "state.git").iterdir() if path.name.startswith("packed")) == [
        "packed-refs"
    ]
    filler.unlink()
    renderer.publish({"a": {"web": b"2"}})
