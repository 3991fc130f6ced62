"""The Merkle tree under a statement of freshness: rules MERKLE-1 to MERKLE-4 of margo_gitops.trust.freshness_tree."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.freshness import FreshnessLeaf
from margo_gitops.trust.freshness_tree import (
    build_tree,
    depth_for,
    device_key,
    possible_shards,
    proven_root,
    shard_depth,
    shard_name,
    shard_prefix,
)


def leaf(device: str, version: int = 1, content: bytes = b"") -> FreshnessLeaf:
    return FreshnessLeaf(device_key(device), version, sha256(content))


def leaves(count: int) -> list[FreshnessLeaf]:
    return [leaf(f"press-{number}", number + 1, b"%d" % number) for number in range(count)]


@given(st.integers(0, 400))
def test_every_shard_leads_to_the_root(count: int) -> None:
    tree = build_tree(leaves(count))
    assert tree.count == len(tree.shards) == 16**tree.depth
    assert sum(map(len, tree.shards.values())) == count
    for shard, inside in tree.shards.items():
        assert proven_root(shard, inside, tree.path(shard)) == tree.root


@given(st.integers(1, 90), st.data())
def test_whatever_is_changed_leads_elsewhere(count: int, data: st.DataObject) -> None:
    tree = build_tree(leaves(count))
    shard = data.draw(st.sampled_from([name for name, inside in tree.shards.items() if inside]))
    inside = list(tree.shards[shard])
    at = data.draw(st.integers(0, len(inside) - 1))
    changes = [
        [*inside[:at], *inside[at + 1 :]],
        [*inside, leaf("another")],
        [*inside[:at], replace(inside[at], version=inside[at].version + 1), *inside[at + 1 :]],
        [*inside[:at], replace(inside[at], manifest=sha256(b"another")), *inside[at + 1 :]],
        [*inside[:at], replace(inside[at], device=device_key("another")), *inside[at + 1 :]],
    ]
    for changed in changes:
        assert proven_root(shard, changed, tree.path(shard)) != tree.root


def test_the_root_of_one_device_is_what_anybody_can_compute_by_hand() -> None:
    content = bytes.fromhex(device_key("press-07")) + (7).to_bytes(8, "big") + hashlib.sha256(b"manifest").digest()
    inner = hashlib.sha256(b"\0" + content).digest()
    by_hand = hashlib.sha256(b"\0" + b"all" + b"\0" + inner).hexdigest()
    assert build_tree([leaf("press-07", 7, b"manifest")]).root == by_hand


def test_three_leaves_make_the_tree_of_rfc_9162() -> None:
    hashed = []
    ordered = sorted(leaves(3), key=lambda each: each.device)
    for each in ordered:
        digest = bytes.fromhex(Digest(each.manifest).removeprefix("sha256:"))
        content = bytes.fromhex(each.device) + each.version.to_bytes(8, "big") + digest
        hashed.append(hashlib.sha256(b"\0" + content).digest())
    left = hashlib.sha256(b"\1" + hashed[0] + hashed[1]).digest()
    inner = hashlib.sha256(b"\1" + left + hashed[2]).digest()
    assert build_tree(ordered).root == hashlib.sha256(b"\0all\0" + inner).hexdigest()


def test_no_shard_name_is_the_start_of_another() -> None:
    names = {shard_name(device_key(str(number)), depth) for number in range(50) for depth in range(4)}
    assert not [(one, other) for one in names for other in names if one != other and other.startswith(one)]


@pytest.mark.parametrize(
    ("devices", "depth"), [(0, 0), (64, 0), (65, 1), (1024, 1), (1025, 2), (10_000, 2), (1_000_000, 3)], ids=str
)
def test_a_larger_fleet_has_more_shards(devices: int, depth: int) -> None:
    assert depth_for(devices) == depth


def test_a_device_is_in_one_of_its_possible_shards_and_a_child_in_its_gateways() -> None:
    for count in (3, 200):
        tree = build_tree(leaves(count))
        for number in range(3):
            device = f"press-{number}"
            found = [name for name in possible_shards(device) if name in tree.shards]
            assert len(found) == 1
            assert device_key(device) in {each.device for each in tree.shards[found[0]]}
    assert possible_shards("gw-1/press") == possible_shards("gw-1")


@pytest.mark.parametrize(("shard", "depth", "prefix"), [("all", 0, ""), ("1-a", 1, "a"), ("3-0ff", 3, "0ff")])
def test_a_shards_name_says_which_it_is(shard: str, depth: int, prefix: str) -> None:
    assert (shard_depth(shard), shard_prefix(shard)) == (depth, prefix)


def test_a_path_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a path of 1 hashes"):
        proven_root("all", [], ["0" * 64])
