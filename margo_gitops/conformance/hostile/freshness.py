"""Freshness statements to offer beside a state: a sound one, one that has expired, one that a stranger signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from margo_gitops.conformance.hostile.git_objects import GitState
from margo_gitops.conformance.hostile.packs import BLOB, COMMIT, TREE
from margo_gitops.conformance.hostile.states import DEVICE, State
from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import FreshnessLeaf, FreshnessProof, write_statement
from margo_gitops.documents.json_writer import write_json
from margo_gitops.documents.records import write
from margo_gitops.documents.state_layout import FRESHNESS_FILE, FRESHNESS_REFS
from margo_gitops.trust.freshness_tree import FRESHNESS_NAMESPACE, build_tree, device_key
from margo_gitops.trust.git_commit import Ident, build_commit
from margo_gitops.trust.git_objects import COMMIT as COMMIT_NAME
from margo_gitops.trust.git_objects import FILE_MODE, TreeEntry, blob_id, object_id, tree_bytes
from margo_gitops.trust.git_objects import TREE as TREE_NAME
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import sign

SHARD: Final = "all"
FRESHNESS_REF: Final = f"{FRESHNESS_REFS}{SHARD}"
_FLEET: Final = "conformance"
_VALID: Final = timedelta(days=7)
_AGE: Final = timedelta(hours=1)


def freshness_proof(state: State, key: SigningKey, *, expired: bool = False) -> bytes:
    """Return the proof that a state is the newest, made an hour ago, or a month ago and expired.

    Args:
        state: the newest one.
        key: signs the statement.
        expired: it was valid for a week, three weeks ago.
    """
    issued = datetime.now(UTC) - (timedelta(days=28) if expired else _AGE)
    tree = build_tree([FreshnessLeaf(device_key(DEVICE), state.version, sha256(state.manifest))])
    statement = write_statement(_FLEET, issued, issued + _VALID, "1" * 40, tree.count, tree.root)
    signature = sign(statement, key, FRESHNESS_NAMESPACE)
    leaves = tree.shards[SHARD]
    proof = FreshnessProof(
        "margo-gitops/v1", "FreshnessProof", statement.decode(), signature, SHARD, tree.path(SHARD), leaves
    )
    return write_json(write(proof))


def freshness_commit(proof: bytes) -> GitState:
    """Return a proof as it stands in git: one commit without parents, one file."""
    tree = tree_bytes([TreeEntry(FRESHNESS_FILE.encode(), FILE_MODE, blob_id(proof))])
    tree_name = object_id(TREE_NAME, tree)
    who = Ident("Conformance", "conformance@example.com", int(datetime.now(UTC).timestamp()), 0)
    commit = build_commit(tree_name, (), who, who, "Freshness\n")
    tip = object_id(COMMIT_NAME, commit)
    return GitState(tip, {tip: (COMMIT, commit), tree_name: (TREE, tree), blob_id(proof): (BLOB, proof)})
