"""The git objects of a device state: a snapshot gives back its own commit, or is not held at all."""

from __future__ import annotations

import dataclasses
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.errors import SourceMisbehaved
from margo_gitops.transport.git.device_tree import held_state, read_snapshot
from margo_gitops.transport.git.pack import GitObject, Kind, ObjectID, object_id
from margo_gitops.transport.git.source import GitLimits
from margo_gitops.trust.git_objects import device_tree_id
from margo_gitops.trust.snapshot import Snapshot

FIRST = "11111111-1111-5111-8111-111111111111"
SECOND = "22222222-2222-5222-8222-222222222222"


def snapshot_of(manifest: bytes, deployments: dict[str, bytes], message: bytes = b"state\n") -> Snapshot:
    commit = b"tree %s\n\n%s" % (device_tree_id(manifest, deployments).encode(), message)
    return Snapshot(manifest, deployments, commit, object_id(Kind.COMMIT, commit).decode())


states = st.builds(
    snapshot_of,
    st.binary(max_size=50),
    st.dictionaries(st.uuids().map(str), st.binary(max_size=50), max_size=5),
    st.binary(max_size=50),
)


@given(states)
def test_what_is_held_is_read_back_from_its_objects(state: Snapshot) -> None:
    held = held_state(state)
    assert held is not None
    assert held.tip.decode() == state.revision
    assert read_snapshot(held.tip, held.objects.get, GitLimits()) == state


@given(states)
def test_without_any_one_of_its_objects_it_is_refused(state: Snapshot) -> None:
    held = held_state(state)
    assert held is not None
    for missing in held.objects:
        left = {name: each for name, each in held.objects.items() if name != missing}
        with pytest.raises(SourceMisbehaved, match="did not send object"):
            read_snapshot(held.tip, left.get, GitLimits())


@pytest.mark.parametrize(
    "damage",
    [
        {"manifest": b"other"},
        {"deployments": {}},
        {"deployments": {FIRST: b"other"}},
        {"deployments": {FIRST: b"x", SECOND: b"x"}},
        {"deployments": {"../x": b"x"}},
        {"deployments": {"": b"x"}},
        {"deployments": {"a/b": b"x"}},
        {"deployments": {"\ud800": b"x"}},
        {"commit": None},
        {"commit": b""},
        {"commit": b"tree nothing\n"},
        {"revision": "0" * 40},
        {"revision": ""},
        {"revision": "\ud800"},
    ],
)
def test_f14_what_is_damaged_counts_as_not_held(damage: dict[str, object]) -> None:
    state = snapshot_of(b"{}", {FIRST: b"x"})
    assert held_state(state) is not None
    assert held_state(dataclasses.replace(state, **damage)) is None


def test_nothing_is_held_at_first() -> None:
    assert held_state(None) is None


class Store:
    """Objects by id, for trees that git itself would not write."""

    def __init__(self) -> None:
        self.objects: dict[ObjectID, GitObject] = {}

    def add(self, kind: Kind, content: bytes) -> ObjectID:
        name = object_id(kind, content)
        self.objects[name] = GitObject(kind, content)
        return name

    def tree(self, *entries: tuple[bytes, bytes, ObjectID]) -> ObjectID:
        content = b"".join(b"%s %s\0%s" % (mode, name, bytes.fromhex(to.decode())) for mode, name, to in entries)
        return self.add(Kind.TREE, content)

    def commit(self, tree: ObjectID) -> ObjectID:
        return self.add(Kind.COMMIT, b"tree %s\n\nstate\n" % tree)

    def read(self, tip: ObjectID) -> Snapshot:
        return read_snapshot(tip, self.objects.get, GitLimits())


def test_only_a_commit_is_a_tip() -> None:
    store = Store()
    blob = store.add(Kind.BLOB, b"{}")
    tree = store.tree((b"100644", b"manifest.json", blob))
    for tip in (blob, tree):
        with pytest.raises(SourceMisbehaved, match="not a commit"):
            store.read(tip)
    assert store.read(store.commit(tree)).manifest == b"{}"


def test_only_trees_and_blobs_stand_where_they_belong() -> None:
    store = Store()
    blob = store.add(Kind.BLOB, b"{}")
    with pytest.raises(SourceMisbehaved, match="not a tree"):
        store.read(store.commit(blob))
    with pytest.raises(SourceMisbehaved, match="not a blob"):
        store.read(store.commit(store.tree((b"100644", b"manifest.json", store.tree()))))
    folder = (b"40000", b"deployments", blob)
    with pytest.raises(SourceMisbehaved, match="not a tree"):
        store.read(store.commit(store.tree(folder, (b"100644", b"manifest.json", blob))))


@pytest.mark.parametrize(
    "commit",
    [b"", b"parent x\n", b"tree 123\n", b"tree " + b"A" * 40 + b"\n", b"tree " + b"1" * 40, b"tree  " + b"1" * 40],
)
def test_a_commit_starts_with_the_id_of_its_tree(commit: bytes) -> None:
    store = Store()
    with pytest.raises(SourceMisbehaved, match="does not start"):
        store.read(store.add(Kind.COMMIT, commit))


def test_rule_2_an_empty_folder_is_refused() -> None:
    store = Store()
    blob = store.add(Kind.BLOB, b"{}")
    tree = store.tree((b"40000", b"deployments", store.tree()), (b"100644", b"manifest.json", blob))
    with pytest.raises(SourceMisbehaved, match="0 files"):
        store.read(store.commit(tree))


def test_rule_4_other_orders_names_twice_and_other_spellings_of_a_mode_are_refused() -> None:
    store = Store()
    blob = store.add(Kind.BLOB, b"{}")
    folder = store.tree((b"100644", f"{FIRST}.yaml".encode(), blob))
    manifest, deployments = (b"100644", b"manifest.json", blob), (b"40000", b"deployments", folder)
    assert store.read(store.commit(store.tree(deployments, manifest))).deployments == {FIRST: b"{}"}
    for entries in (
        (manifest, deployments),
        (deployments, manifest, manifest),
        ((b"040000", b"deployments", folder), manifest),
        ((b"0100644", b"manifest.json", blob),),
        ((b"100664", b"manifest.json", blob),),
        ((b"100600", b"manifest.json", blob),),
        ((b"999999", b"manifest.json", blob),),
    ):
        with pytest.raises(SourceMisbehaved):
            store.read(store.commit(store.tree(*entries)))


@given(st.binary(max_size=80))
def test_any_bytes_as_a_tree_are_refused(content: bytes) -> None:
    store = Store()
    with pytest.raises(SourceMisbehaved):
        store.read(store.commit(store.add(Kind.TREE, content)))


@pytest.mark.parametrize(
    "name", [str(uuid.UUID(int=0xABCDEF)).upper(), "x", FIRST + "\n", FIRST[:-1], "{" + FIRST + "}"]
)
def test_rule_2_other_names_than_lower_case_uuids_are_refused(name: str) -> None:
    store = Store()
    blob = store.add(Kind.BLOB, b"{}")
    folder = store.tree((b"100644", f"{name}.yaml".encode(), blob))
    tree = store.tree((b"40000", b"deployments", folder), (b"100644", b"manifest.json", blob))
    with pytest.raises(SourceMisbehaved, match="plain files named"):
        store.read(store.commit(tree))
