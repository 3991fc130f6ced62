"""The paths in git's index are those that git and libgit2 say; where there is a doubt, these are asked."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import pygit2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.git_cli import Git
from support.properties import times

from margo_gitops.catalog import working_tree
from margo_gitops.catalog.working_tree import WorkingTree, index_paths

BLOB = b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
NAMES = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=9).map(lambda raw: f"devices/{raw.hex()}.yaml"),
        st.sampled_from(
            ["é", "a b", 'quoted "\t"', "x" * 250, "sites/y", os.fsdecode(b"latin-\xe9"), ".gitattributes"]
        ),
        st.sampled_from(["/".join(["z" * 200] * parts) + "/q" * more for parts in (5, 19) for more in range(9)]),
    ),
    min_size=1,
    max_size=12,
)


def staged(git: Git, names: list[str], version: int) -> bytes:
    """Return an index with these paths; of version 3, one of them is only meant to be added."""
    lines = b"".join(b"100644 %b 0\t%b\0" % (BLOB, os.fsencode(name)) for name in names)
    git.run("update-index", "-z", "--add", "--index-info", content=lines)
    if version == 3:
        (git.path / "meant").touch()
        git.run("add", "--intent-to-add", "meant")
    git.run("update-index", "--index-version", str(version))
    return (git.path / ".git/index").read_bytes()


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha1(content).digest()


def of_libgit2(content: bytes, folder: Path) -> frozenset[str] | None:
    (folder / "index").write_bytes(content)
    try:
        return frozenset(entry.path for entry in pygit2.Index(str(folder / "index")))
    except pygit2.GitError:
        return None


@times(0.2)
@given(NAMES, st.sampled_from([2, 3]), st.data())
def test_paths_are_those_of_git_and_libgit2(names: list[str], version: int, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        git = Git(Path(folder)).init()
        content = staged(git, names, version)
        listed = git.run_bytes("ls-files", "-z").split(b"\0")[:-1]
        assert content[7] == version
        assert index_paths(content) == {*map(os.fsdecode, listed)} == of_libgit2(content, Path(folder))
        for _ in range(40):
            at = data.draw(st.integers(0, len(content) - 21))
            kept = content[: data.draw(st.sampled_from([at, len(content) - 20]))]
            broken = bytearray(kept)
            if at < len(kept):
                broken[at] ^= 1 << data.draw(st.integers(0, 7))
            assert index_paths(bytes(broken)) is None  # without its checksum
            found = index_paths(sealed(bytes(broken)))
            assert found is None or found == of_libgit2(sealed(bytes(broken)), Path(folder))


def test_what_it_does_not_know_is_left_to_libgit2(tmp_path: Path) -> None:
    git = Git(tmp_path).init()
    content = staged(git, ["a", "b"], 2)[:-20]
    assert index_paths(sealed(content + b"ABCD" + struct.pack(">L", 3) + b"abc")) == {"a", "b"}
    for extension in (
        b"link" + struct.pack(">L", 20) + bytes(20),
        b"sdir" + bytes(4),
        b"ABCD",
        b"ABCD\xff\xff\xff\xff",
    ):
        assert index_paths(sealed(content + extension)) is None
    for count in (0, 1, 3, 0xFFFFFFFF):
        assert index_paths(sealed(content[:8] + struct.pack(">L", count) + content[12:])) is None
    assert index_paths(sealed(b"DIRC" + struct.pack(">LL", 2, 0))) == frozenset()
    assert index_paths(sealed(b"DIRC" + struct.pack(">LL", 5, 0))) is None
    assert index_paths(content + bytes(20)) is None  # index.skipHash
    assert index_paths(staged(git, [], 4)) is None
    assert index_paths(b"") is None


def test_a_work_tree_asks_libgit2_where_there_is_a_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = Git(tmp_path).init()
    staged(git, ["fleet/devices/a.yaml", "b"], 4)
    (tmp_path / "fleet").mkdir()

    def tracked() -> frozenset[str]:
        return WorkingTree(pygit2.Repository(str(tmp_path)), tmp_path / "fleet", "fleet/")._tracked

    assert tracked() == {"devices/a.yaml"}
    git.run("update-index", "--index-version", "2")
    monkeypatch.setattr(working_tree, "_MAX_INDEX_BYTES", 100)
    assert tracked() == {"devices/a.yaml"}
    monkeypatch.undo()
    monkeypatch.setattr(pygit2.Repository, "index", None)
    assert tracked() == {"devices/a.yaml"}
