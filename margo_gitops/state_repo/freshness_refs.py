"""Statements of freshness in the state repo: one ref per shard, `refs/heads/freshness/<shard>`.

    refs/heads/freshness/all          a small fleet
    refs/heads/freshness/2-3f         devices whose key starts with 3f, one of 256 shards

Each ref holds a commit without parents, whose tree holds `freshness.json` alone.

STATEMENT-1  A statement speaks of the branch `fleet` and of all device branches as they are in the same moment: one
             rename moves the state and what is said of it, or nothing.
STATEMENT-2  A renewal replaces every shard and adds no history; what it replaces is garbage to git. Device branches
             stay where they are, so no device wakes.
STATEMENT-3  Devices that left the fleet are listed with their last state: their branches stay, and they keep running.
STATEMENT-4  When the fleet outgrows its shards, the refs of the old ones are removed in the same rename.
STATEMENT-5  Where signers are known, a state that none of them signed is not spoken for: the commit of the branch
             `fleet` covers every device. So a device whose state comes unsigned, over HTTP, trusts the renderer
             through the statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import (
    FreshnessLeaf,
    FreshnessProof,
    FreshnessStatement,
    parse_moment,
    write_statement,
)
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.documents.state_layout import FLEET_REF, FRESHNESS_FILE, FRESHNESS_REFS
from margo_gitops.errors import FreshnessInvalid, FreshnessMissing, StateRepoUnusable
from margo_gitops.rendering.desired_state import rendered_version
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.state_repo import StateRepo, device_of
from margo_gitops.state_repo.trust_branch import held_version
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.freshness import read_statement
from margo_gitops.trust.freshness_tree import FRESHNESS_NAMESPACE, ShardedTree, build_tree, device_key
from margo_gitops.trust.git_commit import Ident, build_commit
from margo_gitops.trust.git_objects import BLOB, COMMIT, FILE_MODE, TREE, TreeEntry, tree_bytes
from margo_gitops.trust.signer import Use, commit_signer
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import GIT_NAMESPACE, sign
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass

DEFAULT_VALID_FOR: Final = timedelta(days=7)
_FLEET_TIP: Final = Use(
    GIT_NAMESPACE,
    f"the newest commit of {FLEET_REF}",
    "find out who wrote it; if it was the renderer, list its key in {file}",
    missing="find out who wrote it; if it was the renderer, give it its key",
)
_COMMITTER: Final = ("margo-gitops", "freshness@margo-gitops.invalid")


@dataclass(frozen=True, slots=True)
class Renewal:
    """How to make a statement.

    Attributes:
        issued: the time, with a time zone.
        valid_for: how long it may be believed.
        signers: who must have signed the state that it speaks of (STATEMENT-5); None: a signature is not demanded.
    """

    key: SigningKey
    issued: datetime
    valid_for: timedelta = DEFAULT_VALID_FOR
    signers: AllowedSigners | None = None


@dataclass(frozen=True, slots=True)
class Renewed:
    """A statement that was made.

    Attributes:
        moves: the refs' new values; None for one that is removed.
    """

    statement: FreshnessStatement
    devices: int
    moves: Mapping[str, str | None]


def leaf_of(device: str, manifest: bytes) -> FreshnessLeaf:
    """Return what a statement says of a device with this manifest (StateTampered: no render wrote such a manifest)."""
    return FreshnessLeaf(device_key(device), rendered_version(device, manifest), sha256(manifest))


def held_leaves(repo: StateRepo, encoded: Iterable[str], values: Mapping[str, str]) -> list[FreshnessLeaf]:
    """Return what to say of these devices, named as in refs, as their branches are (STATEMENT-3).

    Raises:
        StateTampered: a branch does not hold a device's state.
    """
    leaves = []
    for name in encoded:
        device = device_of(name)
        held = repo.held(device, values)
        if held is not None:
            leaves.append(leaf_of(device, held.manifest))
    return leaves


def add_statement(
    pack: ObjectPack,
    leaves: Iterable[FreshnessLeaf],
    fleet: str,
    state_commit: str,
    renewal: Renewal,
    values: Mapping[str, str],
    trust_version: int | None = None,
) -> Renewed:
    """Add a new statement to a pack, for every shard.

    Args:
        state_commit: id of the commit of the branch `fleet` that the leaves are from.
        values: all refs, as they are.
        trust_version: of the newest trust document; None where the fleet has none.
    """
    tree = build_tree(leaves)
    expires = renewal.issued + renewal.valid_for
    content = write_statement(fleet, renewal.issued, expires, state_commit, tree.count, tree.root, trust_version)
    signature = sign(content, renewal.key, FRESHNESS_NAMESPACE)
    moves: dict[str, str | None] = {name: None for name in values if name.startswith(FRESHNESS_REFS)}
    who = Ident(*_COMMITTER, int(renewal.issued.timestamp()), 0)
    for shard in tree.shards:
        proof = _proof(tree, shard, content, signature)
        entry = TreeEntry(FRESHNESS_FILE.encode(), FILE_MODE, pack.add(BLOB, proof))
        trailers = StateCommit(state_commit=state_commit, fleet=fleet).text()
        raw = build_commit(pack.add(TREE, tree_bytes([entry])), [], who, who, f"Freshness {shard}\n\n{trailers}")
        moves[f"{FRESHNESS_REFS}{shard}"] = pack.add(COMMIT, raw)
    _, statement = read_statement(_proof(tree, next(iter(tree.shards)), content, signature))
    return Renewed(statement, sum(map(len, tree.shards.values())), moves)


def _proof(tree: ShardedTree, shard: str, statement: bytes, signature: str) -> bytes:
    proof = FreshnessProof(statement.decode(), signature, shard, tree.path(shard), tree.shards[shard])
    return write_json(write(proof))


def renew(repo: StateRepo, values: Mapping[str, str], renewal: Renewal) -> Renewed:
    """Replace a state repo's statement by one of this moment (STATEMENT-1, STATEMENT-2).

    Raises:
        StateTampered: it holds what no render wrote: that is never said to be fresh.
        SignatureMissing, SignerUnknown, SignatureInvalid: none of the signers signed it.
        StateMoved: somebody moved a ref meanwhile; nothing was changed.
        StateRepoUnusable: nothing was rendered into it yet, or the file system refuses.
    """
    tip = values.get(FLEET_REF)
    fleet = StateCommit.of(repo.objects.commit(tip)).fleet if tip else None
    if tip is None or fleet is None:
        raise StateRepoUnusable("there is nothing to make a statement of", remedy="render the fleet first")
    for error in repo.tampered(values):
        raise error
    if renewal.signers is not None:
        commit_signer(repo.objects.commit(tip), renewal.signers, _FLEET_TIP).required()
    pack = ObjectPack()
    leaves, version = held_leaves(repo, repo.places(values), values), held_version(repo.objects, values)
    renewed = add_statement(pack, leaves, fleet, tip, renewal, values, version)
    # The branch itself is compared too: a statement about a state that was replaced meanwhile proves nothing.
    repo.publish(pack, {FLEET_REF: tip, **renewed.moves}, values)
    return renewed


def device_proof(repo: StateRepo, values: Mapping[str, str], device: str) -> bytes:
    """Return the proof for a device, as a source hands it over.

    Args:
        device: its id; a child of a gateway is spoken for by its gateway.

    Raises:
        FreshnessMissing: it does not exist.
    """
    content = repo.objects.proof(device, values)
    if content is not None:
        return content
    raise FreshnessMissing(
        "the state repo holds no statement of freshness",
        device=device,
        remedy="make one: margo-gitops freshness renew --signing-key FILE",
    )


def current_statement(repo: StateRepo, values: Mapping[str, str]) -> FreshnessStatement | None:
    """Return the statement that a state repo holds, not verified; None where it holds none that can be read."""
    ref = min((name for name in values if name.startswith(FRESHNESS_REFS)), default=None)
    content = repo.objects.file(values[ref], FRESHNESS_FILE) if ref else None
    try:
        return read_statement(content)[1] if content is not None else None
    except FreshnessInvalid:
        return None


def is_due(repo: StateRepo, values: Mapping[str, str], now: datetime) -> bool:
    """Return whether a statement is missing, speaks of another state or trust document, or is past half of its life."""
    statement = current_statement(repo, values)
    if statement is None or statement.state_commit != values.get(FLEET_REF):
        return True
    if statement.trust_version != held_version(repo.objects, values):
        return True
    issued, expires = parse_moment(statement.issued), parse_moment(statement.expires)
    return not issued <= now < issued + (expires - issued) / 2
