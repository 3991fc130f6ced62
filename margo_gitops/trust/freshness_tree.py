"""The hashes that a freshness statement signs: a Merkle tree of shards, each a Merkle tree of devices (RFC 9162, 2.1).

MERKLE-1  A device's key is the sha256 of its id; the first hex digits name its shard: none, one, two or three of them,
          the same number for the whole fleet. There are always 1, 16, 256 or 4096 shards, empty ones too: so a shard's
          place in the tree follows from its name, and that a device is missing is proven like that it is there.
MERKLE-2  A device's leaf is 72 bytes: its key, manifest version (64 bits, big-endian) and manifest digest. The
          manifest names everything else by digest, so the leaf binds the whole state, on every transport.
MERKLE-3  A shard's entry in the upper tree is its name, a zero byte, and the root over its leaves, sorted by key.
MERKLE-4  Leaves are hashed with 0x00 in front, nodes with 0x01; the root over nothing is the hash of nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.freshness import MAX_SHARD_DEPTH, FreshnessLeaf
from margo_gitops.values import dataclass

FRESHNESS_NAMESPACE: Final = "margo-gitops-freshness"
"""Of the SSH signature: a key that is allowed only this can renew freshness, and never sign state."""

_DEVICES_PER_SHARD: Final = 64
"""On average; a proof of 64 devices has about 10 KB, half of it compressed."""


def device_key(device: str) -> str:
    """Return the key of a device: 64 lower-case hex digits (MERKLE-1). A child of a gateway has its gateway's."""
    return hashlib.sha256(client_of(device).encode()).hexdigest()


def shard_name(key: str, depth: int) -> str:
    """Return the shard of a device among 16^depth shards. No name is the start of another: refs are asked by prefix."""
    return f"{depth}-{key[:depth]}" if depth else "all"


def possible_shards(device: str) -> tuple[str, ...]:
    """Return the names that the shard of a device may have; exactly one of them exists."""
    return tuple(shard_name(device_key(device), depth) for depth in range(MAX_SHARD_DEPTH + 1))


def shard_depth(shard: str) -> int:
    """Return of how many hex digits a shard's name is."""
    return 0 if shard == "all" else int(shard[0])


def shard_prefix(shard: str) -> str:
    """Return the hex digits that the keys of a shard's devices start with."""
    return "" if shard == "all" else shard[2:]


def depth_for(devices: int) -> int:
    """Return how many hex digits shards are named by in a fleet of so many devices."""
    depth = 0
    while depth < MAX_SHARD_DEPTH and devices > _DEVICES_PER_SHARD * 16**depth:
        depth += 1
    return depth


@dataclass(frozen=True, slots=True)
class ShardedTree:
    """The tree over all devices of a fleet.

    Attributes:
        depth: hex digits in the names of shards.
        shards: the leaves of every shard, sorted, by name, in the order of the tree.
        levels: hashes of the upper tree, the shards' first, the root last.
    """

    depth: int
    shards: Mapping[str, tuple[FreshnessLeaf, ...]]
    levels: tuple[tuple[bytes, ...], ...]

    @property
    def root(self) -> str:
        """The root: 64 lower-case hex digits."""
        return self.levels[-1][0].hex()

    @property
    def count(self) -> int:
        """How many shards there are."""
        return len(self.shards)

    def path(self, shard: str) -> tuple[str, ...]:
        """Return the hashes next to the way from a shard to the root, lowest first."""
        index = _index(shard)
        return tuple(level[(index >> height) ^ 1].hex() for height, level in enumerate(self.levels[:-1]))


def build_tree(leaves: Iterable[FreshnessLeaf]) -> ShardedTree:
    """Return the tree over these devices, each of which is there once."""
    ordered = sorted(leaves, key=lambda leaf: leaf.device)
    depth = depth_for(len(ordered))
    shards: dict[str, list[FreshnessLeaf]] = {
        shard_name(f"{number:0{depth}x}" if depth else "", depth): [] for number in range(16**depth)
    }
    for leaf in ordered:
        shards[shard_name(leaf.device, depth)].append(leaf)
    levels = [tuple(_shard_hash(name, inside) for name, inside in shards.items())]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append(tuple(_node(below[at], below[at + 1]) for at in range(0, len(below), 2)))
    return ShardedTree(depth, {name: tuple(inside) for name, inside in shards.items()}, tuple(levels))


def proven_root(shard: str, leaves: Sequence[FreshnessLeaf], path: Sequence[str]) -> str:
    """Return the root that a shard's leaves and path lead to (RFC 9162, 2.1.3.2, in a tree without gaps).

    Raises:
        ValueError: the path has another length than the shard's name says.
    """
    if len(path) != 4 * shard_depth(shard):
        raise ValueError(f"a path of {len(path)} hashes; that of the shard {shard} has {4 * shard_depth(shard)}")
    index = _index(shard)
    found = _shard_hash(shard, leaves)
    for height, text in enumerate(path):
        beside = bytes.fromhex(text)
        found = _node(beside, found) if index >> height & 1 else _node(found, beside)
    return found.hex()


def _index(shard: str) -> int:
    return int(shard_prefix(shard) or "0", 16)


def _shard_hash(shard: str, leaves: Sequence[FreshnessLeaf]) -> bytes:
    root = _root([_leaf(_content(leaf)) for leaf in leaves])
    return _leaf(shard.encode() + b"\0" + root)


def _content(leaf: FreshnessLeaf) -> bytes:
    digest = bytes.fromhex(leaf.manifest.removeprefix("sha256:"))
    return bytes.fromhex(leaf.device) + leaf.version.to_bytes(8, "big") + digest


def _root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over the hashes of leaves; a left half is the largest power of two that leaves a right one."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    half: int = 1 << (len(hashes) - 1).bit_length() - 1
    return _node(_root(hashes[:half]), _root(hashes[half:]))


def _leaf(content: bytes) -> bytes:
    return hashlib.sha256(b"\0" + content).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
