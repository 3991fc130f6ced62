"""Verify the statement of freshness: it says of the state repo what the state repo holds, and it is the only one.

STATED-1  Each ref holds a commit without parents, whose tree holds `freshness.json` alone: a proof that follows its
          rules (trust/freshness.py, FRESH-1, FRESH-4, FRESH-5).
STATED-2  All refs carry the same statement, and there is one for each of its shards.
STATED-3  It names a commit of the branch `fleet`, of the same fleet, and lists exactly the devices of that commit,
          with the digests of the manifests there. That it is not the newest commit is no fault: devices take a newer
          state.
STATED-4  Where signers are known, one of them signed it. A key that none of their lines names is worth a warning: the
          list may be that of the renderer's keys alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from margo_gitops.audit.verification import AuditFinding
from margo_gitops.documents.freshness import FreshnessLeaf, FreshnessProof, FreshnessStatement, parse_moment
from margo_gitops.documents.state_layout import FRESHNESS_FILE, FRESHNESS_REFS
from margo_gitops.errors import MargoGitopsError, SignerUnknown, StateTampered, TrustRefused
from margo_gitops.state_repo.freshness_refs import leaf_of
from margo_gitops.state_repo.git_store import bad_object
from margo_gitops.state_repo.objects import DeviceTree, StateObjects
from margo_gitops.state_repo.state_repo import device_of
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.freshness import check_tree, read_statement, verify_statement
from margo_gitops.trust.freshness_tree import shard_depth
from margo_gitops.trust.git_objects import BLOB, FILE_MODE
from margo_gitops.trust.state_commit import StateCommit


def check_freshness(
    objects: StateObjects, refs: Mapping[str, str], chain: Sequence[str], signers: AllowedSigners | None
) -> Iterator[AuditFinding]:
    """Yield what is wrong with a state repo's statement of freshness; nothing where it has none.

    Args:
        objects: the state repo.
        refs: all its refs.
        chain: the commits of the branch `fleet`.
        signers: who may have signed; None: nobody need have.
    """
    proofs: dict[str, FreshnessProof] = {}
    statement: FreshnessStatement | None = None
    for ref, name in sorted(refs.items()):
        if ref.startswith(FRESHNESS_REFS):
            try:
                proofs[ref], statement = _proof(objects, ref, name)
            except (StateTampered, TrustRefused) as error:
                yield _finding(ref, f"no proof of freshness: {error.what}")
                return
    if statement is None:
        return
    ref, first = next(iter(proofs.items()))
    for other, proof in proofs.items():
        if (proof.statement, proof.signature) != (first.statement, first.signature):
            yield _finding(other, f"another statement than in {ref}")
            return
    shards = 16 ** shard_depth(first.shard)
    if len(proofs) != shards:
        yield _finding(ref, "some of the statement's shards are missing, or too many", str(shards), str(len(proofs)))
        return
    yield from _check_statement(objects, ref, proofs, statement, chain)
    if signers is not None:
        yield from _check_signature(ref, first, statement, signers)


def _proof(objects: StateObjects, ref: str, name: str) -> tuple[FreshnessProof, FreshnessStatement]:
    commit = objects.commit(name)
    entries = objects.tree(commit.tree)
    if commit.parents or [(entry.name, entry.mode) for entry in entries] != [(FRESHNESS_FILE.encode(), FILE_MODE)]:
        raise bad_object(name, f"it has parents, or holds something else than {FRESHNESS_FILE}")
    proof, statement = read_statement(objects.read(entries[0].id, BLOB), f"{ref}: {FRESHNESS_FILE}")
    check_tree(proof, statement)
    if ref != f"{FRESHNESS_REFS}{proof.shard}":
        raise bad_object(name, f"it is the proof of the shard {proof.shard}")
    return proof, statement


def _check_statement(
    objects: StateObjects,
    ref: str,
    proofs: Mapping[str, FreshnessProof],
    statement: FreshnessStatement,
    chain: Sequence[str],
) -> Iterator[AuditFinding]:
    """STATED-3."""
    name = statement.state_commit
    if name not in chain:
        yield _finding(ref, "the statement names a commit that is not in the branch fleet", None, name)
        return
    try:
        commit = objects.commit(name)
        places = objects.places(commit.tree)
        held = {leaf.device: leaf for leaf in _leaves(objects, {each: place.tree for each, place in places.items()})}
    except MargoGitopsError as error:
        yield _finding(ref, f"what the statement speaks of cannot be read: {error.what}")
        return
    fleet = StateCommit.of(commit).fleet
    if fleet is not None and statement.fleet != fleet:
        yield _finding(ref, "the statement speaks of another fleet", fleet, statement.fleet)
    for other, proof in proofs.items():
        for leaf in proof.leaves:
            wanted = held.pop(leaf.device, None)
            if wanted != leaf:
                what = f"the statement does not list what {name[:12]} holds for the device {leaf.device[:12]}…"
                yield _finding(other, what, _said(wanted), _said(leaf))
                return
    for leaf in held.values():
        yield _finding(ref, f"the statement leaves out the device {leaf.device[:12]}…", _said(leaf), "nothing")
        return


def _leaves(objects: StateObjects, trees: Mapping[str, str]) -> Iterator[FreshnessLeaf]:
    for encoded, tree in trees.items():
        yield leaf_of(device_of(encoded), DeviceTree(objects, tree).manifest)


def _check_signature(
    ref: str, proof: FreshnessProof, statement: FreshnessStatement, signers: AllowedSigners
) -> Iterator[AuditFinding]:
    """STATED-4."""
    try:
        verify_statement(proof, parse_moment(statement.issued), signers)
    except SignerUnknown as error:
        yield _finding(ref, error.what, severity="warning")
    except TrustRefused as error:
        yield _finding(ref, error.what)


def _said(leaf: FreshnessLeaf | None) -> str:
    return f"version {leaf.version}, {leaf.manifest}" if leaf else "nothing"


def _finding(
    ref: str,
    what: str,
    expected: str | None = None,
    found: str | None = None,
    *,
    severity: Literal["error", "warning"] = "error",
) -> AuditFinding:
    return AuditFinding(severity, "", "", ref, None, what, expected, found)
