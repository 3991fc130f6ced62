"""What is read from the bytes of trees is what libgit2 says of them, only sooner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pygit2
from hypothesis import given
from hypothesis import strategies as st
from pygit2.enums import FileMode

from margo_gitops.catalog.fleet_part import files_of
from margo_gitops.catalog.fleet_repo import GitTree, _differences, _paths

PATHS = st.sampled_from([
    *("a.yaml", "gw.yaml", "gw/child.yaml", "gw/x/y.yaml", "gw_2fchild.yaml", "site/gw.yaml", "site/gw/child.yaml"),
    *("site/_63on.yaml", "site/con.yaml", "gw", "site", "a-gw.yaml", "ä.yaml", "x\udcff.yaml", "40000 a.yaml"),
])  # fmt: skip
ENTRIES = st.dictionaries(PATHS, st.tuples(st.sampled_from("012"), st.sampled_from(["BLOB", "LINK", "COMMIT"])))


def tree_of(repository: pygit2.Repository, entries: Mapping[str, tuple[str, str]]) -> pygit2.Tree:
    """Return a tree with these files below `devices`; of a file and a folder of one name, the later."""
    index = pygit2.Index()
    for path, (content, kind) in entries.items():
        blob = repository.create_blob(content.encode())
        index.add(pygit2.IndexEntry(f"devices/{path}", blob, FileMode[kind]))
    return repository[index.write_tree(repository)].peel(pygit2.Tree)


@given(ENTRIES, ENTRIES)
def test_what_differs_between_two_trees_is_what_libgit2_says(one: dict, other: dict):
    with TemporaryDirectory() as folder:
        repository = pygit2.init_repository(folder, bare=True)
        before, after = tree_of(repository, one), tree_of(repository, {**one, **other})
        assert frozenset(_differences(before, after)) == _paths(before.diff_to_tree(after))
        assert frozenset(_differences(None, after)) == _paths(after.diff_to_tree())


@given(ENTRIES, st.sets(st.sampled_from(["a", "gw", "con", "nowhere"])))
def test_the_files_of_some_devices_are_found_without_a_list_of_all(entries: dict, clients: set[str]):
    with TemporaryDirectory() as folder:
        repository = pygit2.init_repository(folder, bare=True)
        tree = GitTree(repository, tree_of(repository, entries), lambda: None)
        assert files_of(tree.named("devices", clients), clients) == files_of(tree.paths("devices"), clients)


def test_a_folder_that_is_not_there_has_no_names(tmp_path: Path):
    repository = pygit2.init_repository(tmp_path, bare=True)
    assert list(GitTree(repository, None, lambda: None).named("devices", ["a"])) == []
