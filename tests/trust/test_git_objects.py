"""Object ids and trees, against git itself and against dulwich."""

import pytest
from device_states import GREETER, VISION
from dulwich.objects import Blob, Tree
from hypothesis import given
from hypothesis import strategies as st
from support.git_cli import Git
from support.real import require_program

from margo_gitops.trust.git_objects import (
    BLOB,
    COMMIT,
    FILE_MODE,
    FOLDER_MODE,
    TREE,
    TreeEntry,
    blob_id,
    deployments_tree,
    device_tree_id,
    object_id,
    tree_bytes,
    tree_id,
)

# Names that differ only where git's order of files and folders does: `a.b`, `a/`, `a0`.
NAMES = st.one_of(
    st.text("a.0-/~".replace("/", ""), min_size=1, max_size=4).map(str.encode),
    st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name and b"\0" not in name),
).filter(lambda name: name.lower() not in (b".", b"..", b".git"))
ENTRIES = st.lists(
    st.builds(
        TreeEntry, NAMES, st.sampled_from([FILE_MODE, FOLDER_MODE]), st.binary(min_size=20, max_size=20).map(bytes.hex)
    ),
    unique_by=lambda entry: entry.name,
    max_size=12,
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    require_program("git", "git")
    return Git(tmp_path_factory.mktemp("objects") / "repository").init(bare=True)


@given(st.binary(max_size=2000))
def test_blobs_have_the_ids_that_dulwich_gives_them(content):
    assert blob_id(content) == Blob.from_string(content).id.decode()


@given(ENTRIES)
def test_trees_have_the_bytes_that_dulwich_gives_them(entries):
    tree = Tree()
    for entry in entries:
        tree.add(entry.name, entry.mode, entry.id.encode())
    assert tree_bytes(entries) == tree.as_raw_string()
    assert tree_id(entries) == tree.id.decode()


@given(ENTRIES)
def test_the_order_of_entries_does_not_matter(entries):
    assert tree_bytes(entries) == tree_bytes(reversed(entries))


@given(st.binary(max_size=2000))
def test_blobs_have_the_ids_that_git_gives_them(repository, content):
    assert repository.run("hash-object", "--stdin", content=content) == blob_id(content)


@given(ENTRIES)
def test_trees_have_the_ids_that_git_gives_them(repository, entries):
    listing = b"".join(
        b"%06o %b %b\t%b\0" % (entry.mode, BLOB if entry.mode == FILE_MODE else TREE, entry.id.encode(), entry.name)
        for entry in entries
    )
    assert repository.run("mktree", "--missing", "-z", content=listing) == tree_id(entries)


def test_a_device_tree_is_the_one_git_makes_of_the_same_files(git):
    require_program("git", "git")
    work = git("device").init()
    deployments = {VISION: b"id: 1\n", GREETER: b"id: 2\n"}
    files = {f"deployments/{name}.yaml": content for name, content in deployments.items()}
    work.commit({"manifest.json": b"{}", **files})
    assert work.run("rev-parse", "HEAD^{tree}") == device_tree_id(b"{}", deployments)


def test_a_device_that_runs_nothing_has_no_folder_of_deployments(git):
    require_program("git", "git")
    work = git("device").init()
    work.commit({"manifest.json": b"{}"})
    assert work.run("rev-parse", "HEAD^{tree}") == device_tree_id(b"{}", {})


def test_the_kind_is_part_of_the_id():
    assert len({object_id(kind, b"") for kind in (BLOB, TREE, COMMIT)}) == 3
    assert object_id(TREE, b"") == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


@pytest.mark.parametrize("name", [b"", b".", b"..", b".git", b".GIT", b"a/b", b"a\0b"])
def test_names_that_no_file_can_have_are_refused(name):
    with pytest.raises(ValueError, match="not a name of a file"):
        tree_bytes([TreeEntry(name, FILE_MODE, "0" * 40)])


@pytest.mark.parametrize("mode", [0o100755, 0o120000, 0o160000, 0o100664])
def test_links_programs_and_submodules_are_refused(mode):
    with pytest.raises(ValueError, match="mode"):
        tree_bytes([TreeEntry(b"a", mode, "0" * 40)])


def test_a_name_stands_once_be_it_a_file_or_a_folder():
    with pytest.raises(ValueError, match="twice"):
        tree_bytes([TreeEntry(b"a", FILE_MODE, "0" * 40), TreeEntry(b"a", FOLDER_MODE, "0" * 40)])


@pytest.mark.parametrize("text", ["", "0" * 39, "0" * 64, "g" * 40, "A" * 40, "0" * 40 + "\n"])
def test_what_is_no_object_id_is_refused(text):
    with pytest.raises(ValueError, match="not an object id"):
        tree_bytes([TreeEntry(b"a", FILE_MODE, text)])


def test_a_deployment_id_cannot_leave_its_folder():
    with pytest.raises(ValueError, match="not a name of a file"):
        deployments_tree({"../x": "0" * 40})
