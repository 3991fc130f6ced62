"""One ref found and changed in the bytes of packed-refs, compared with a dictionary and with git."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.git_cli import Git

from margo_gitops.state_repo.packed_refs import HEADER, RefValues, changed_refs, sorted_refs

NAMES = st.text("ab-./z\u00e9", min_size=1, max_size=6).map(lambda text: f"refs/heads/{text}")
IDS = st.sampled_from([digit * 40 for digit in "0123456789abcdef"])
PEELED = b"^" + b"7" * 40 + b"\n"


@given(st.dictionaries(NAMES, IDS), st.dictionaries(NAMES, st.none() | IDS), st.sets(NAMES), st.data())
def test_found_and_changed_as_in_a_dictionary(
    refs: dict[str, str], changes: dict[str, str | None], peeled: set[str], data: st.DataObject
):
    lines = [
        b"%b %b\n%b" % (value.encode(), name.encode(), PEELED if name in peeled else b"")
        for name, value in sorted(refs.items(), key=lambda each: each[0].encode())
    ]
    content = HEADER + b"".join(lines)
    assert sorted_refs(content) == content
    assert RefValues(content, {}) == refs
    after = changed_refs(content, changes)
    wanted = {**refs, **changes}
    assert sorted_refs(after) == after
    for name in {*wanted, *data.draw(st.sets(NAMES))}:
        assert RefValues(after, {}).get(name) == wanted.get(name)
    assert dict(RefValues(after, {})) == {name: value for name, value in wanted.items() if value is not None}
    kept = [line for line, name in zip(lines, sorted(refs, key=str.encode), strict=True) if name not in changes]
    assert all(line in after for line in kept)  # with what an annotated tag leads to


@given(st.dictionaries(NAMES, IDS))
def test_a_file_of_another_program_is_sorted_first(refs: dict[str, str]):
    lines = [f"{value} {name}\n".encode() for name, value in refs.items()]
    content = sorted_refs(b"# pack-refs with: peeled\n" + b"".join(lines))
    assert content.startswith(HEADER)
    assert all(RefValues(content, {})[name] == value for name, value in refs.items())


@pytest.mark.parametrize("line", [b"garbage", b"\xff" * 40, b"0" * 39 + b" refs/heads/b\n", b"^123\n", b"\n"])
def test_a_line_that_is_not_a_ref_is_named(line: bytes):
    good = b"1" * 40 + b" refs/heads/a\n"
    for content in (HEADER + good + line, good + line, line + good):
        with pytest.raises(ValueError, match=r"^b['\"]"):
            sorted_refs(content)


def test_loose_refs_come_first():
    values = RefValues(HEADER + b"1" * 40 + b" refs/heads/a\n", {"refs/heads/a": "2" * 40, "refs/heads/b": "3" * 40})
    assert (values["refs/heads/a"], values["refs/heads/b"], len(values)) == ("2" * 40, "3" * 40, 2)
    assert values == {"refs/heads/a": "2" * 40, "refs/heads/b": "3" * 40}
    assert values["refs/heads/a"] == "2" * 40  # after they were listed, too
    with pytest.raises(KeyError):
        values["refs/heads/c"]


def test_what_git_packs_is_read(tmp_path: Path):
    git = Git(tmp_path / "repo.git").init(bare=True)
    commit = git.run("commit-tree", git.run("mktree"), "-m", "x")
    for name in ("a", "a-b", "a.b", "b/c", "z"):
        git.run("update-ref", f"refs/heads/{name}", commit)
    git.run("tag", "-a", "-m", "annotated", "v1", commit)
    git.run("pack-refs", "--all")
    content = (tmp_path / "repo.git" / "packed-refs").read_bytes()
    assert sorted_refs(content) == content
    after = changed_refs(content, {"refs/heads/a.b": None, "refs/heads/b/d": commit, "refs/heads/zz": commit})
    (tmp_path / "repo.git" / "packed-refs").write_bytes(after)
    assert RefValues(after, {}) == dict(
        line.split(" ") for line in git.run("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    )
    assert git.run("rev-parse", "v1^{commit}") == commit


def test_refs_below_a_prefix_are_counted_once_where_they_are_loose_and_packed():
    packed = HEADER + b"".join(
        b"%040d refs/heads/%b\n" % (n, name) for n, name in enumerate((b"d/a", b"d/b", b"e/d/a"))
    )
    loose = {f"refs/heads/{name}": "1" * 40 for name in ("d/b", "d/c", "e/f")}
    values = RefValues(packed, loose)
    assert values.below("refs/heads/d/") == sum(name.startswith("refs/heads/d/") for name in values) == 3
