"""Verify the branches other than the state's: the statement of freshness, the reports, and the checkpoints.

The statement says of the state repo what the state repo holds, and it is the only one:

STATED-1  Each ref holds a commit without parents, whose tree holds `freshness.json` alone: a proof that follows its
          rules (trust/freshness.py, FRESH-1, FRESH-4, FRESH-5).
STATED-2  All refs carry the same statement, and there is one for each of its shards.
STATED-3  It names a commit of the branch `fleet`, of the same fleet, and lists exactly the devices of that commit,
          with the digests of the manifests there. It may be older than the newest commit: devices take a newer
          state.
STATED-4  Where signers are known, one of them signed it. A key that none of their lines names is worth a warning: the
          list may be that of the renderer's keys alone.

The branch of reports:

VERIFY-8   Each commit has one parent, the commit before it, and what was verified before is still in the branch.
VERIFY-9   A commit writes reports where a server writes them, and each is about what its path says.
VERIFY-10  Each client whose report a commit writes or removes is named in one of its trailers `Reported-By`, with the
           evidence.

The branch of checkpoints (D-32):

VERIFY-11  Each checkpoint has a signature that is right and, with a list of allowed signers, one that the list allows
           at its date. Without a list, the newest one is signed with a render key of the fleet's newest trust
           document, where the fleet has one. It is of the same fleet.
VERIFY-12  A branch ends only at a commit that the newest checkpoint names for it, or at its first one. git's file
           `shallow` names no other commit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from margo_gitops.audit.repos import VerifiedUpTo
from margo_gitops.audit.verify.receipt_check import ReceiptCheck
from margo_gitops.audit.verify.verification import AuditFinding
from margo_gitops.catalog.fleet import read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.fleet_trust import read_chain
from margo_gitops.documents.freshness import FreshnessLeaf, FreshnessProof, FreshnessStatement, parse_moment
from margo_gitops.documents.state_layout import (
    CHECKPOINTS_REF,
    DEVICE_REFS,
    FLEET_REF,
    FRESHNESS_FILE,
    FRESHNESS_REFS,
    REPORTS_REF,
    TRUST_REF,
    device_reports_ref,
)
from margo_gitops.errors import FleetCommitUnknown, MargoGitopsError, SignerUnknown, StateTampered, TrustRefused
from margo_gitops.state_repo.compaction import checkpoints
from margo_gitops.state_repo.freshness_refs import leaf_of
from margo_gitops.state_repo.git_store import bad_object
from margo_gitops.state_repo.objects import DeviceTree, StateObjects
from margo_gitops.state_repo.pushed_reports import PushedReports
from margo_gitops.state_repo.reported import ReportChange, ReportCommit, Reports, read_copied, read_status, read_taken
from margo_gitops.state_repo.state_repo import device_of
from margo_gitops.state_repo.trust_branch import held_chain
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.freshness import check_tree, read_statement, verify_statement
from margo_gitops.trust.freshness_tree import shard_depth
from margo_gitops.trust.git_objects import BLOB, FILE_MODE
from margo_gitops.trust.signer import commit_signer
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import replace


def check_trust(
    objects: StateObjects, refs: Mapping[str, str], fleet: FleetRepo
) -> tuple[list[AuditFinding], AllowedSigners | None]:
    """Return what is wrong with the branch `trust`, and who may sign by its newest document; None without a document.

    Args:
        fleet: has the same documents, in the commit that was rendered last.
    """
    commit = StateCommit.of(objects.commit(refs[FLEET_REF])).fleet_commit or ""
    try:
        held = held_chain(objects, refs)
        tree = fleet.tree(commit)
        chain = read_chain(tree, read_fleet_document(tree).value.metadata.name)
    except (FleetCommitUnknown, StateTampered, TrustRefused) as error:
        return [AuditFinding.of(TRUST_REF, f"a trust document does not count: {error.what}")], None
    known = chain.versions if chain else ()
    # The branch may have newer ones: versions alone move it without a commit of the branch `fleet`.
    if [each.text for each in held[: len(known)]] != [each.text for each in known]:
        what = "the trust documents are not those of the fleet repo"
        return [AuditFinding.of(TRUST_REF, what, commit=refs[FLEET_REF])], None
    return [], held[-1].signers() if held else None


def check_freshness(
    objects: StateObjects, refs: Mapping[str, str], chain: Sequence[str], signers: AllowedSigners | None
) -> Iterator[AuditFinding]:
    """Yield what is wrong with a state repo's statement of freshness; nothing where it has none.

    Args:
        signers: who may have signed; None: a signature is not demanded.
    """
    proofs: dict[str, FreshnessProof] = {}
    statement: FreshnessStatement | None = None
    for ref, name in sorted(refs.items()):
        if ref.startswith(FRESHNESS_REFS):
            try:
                proofs[ref], statement = _proof(objects, ref, name)
            except (StateTampered, TrustRefused) as error:
                yield AuditFinding.of(ref, f"no proof of freshness: {error.what}")
                return
    if statement is None:
        return
    ref, first = next(iter(proofs.items()))
    for other, proof in proofs.items():
        if (proof.statement, proof.signature) != (first.statement, first.signature):
            yield AuditFinding.of(other, f"another statement than in {ref}")
            return
    shards = 16 ** shard_depth(first.shard)
    if len(proofs) != shards:
        yield AuditFinding.of(
            ref, "some of the statement's shards are missing, or too many", str(shards), str(len(proofs))
        )
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
        yield AuditFinding.of(ref, "the statement names a commit that is not in the branch fleet", None, name)
        return
    try:
        commit = objects.commit(name)
        places = objects.places(commit.tree)
        held = {leaf.device: leaf for leaf in _leaves(objects, {each: place.tree for each, place in places.items()})}
    except MargoGitopsError as error:
        yield AuditFinding.of(ref, f"what the statement speaks of cannot be read: {error.what}")
        return
    fleet = StateCommit.of(commit).fleet
    if fleet is not None and statement.fleet != fleet:
        yield AuditFinding.of(ref, "the statement speaks of another fleet", fleet, statement.fleet)
    for other, proof in proofs.items():
        for leaf in proof.leaves:
            wanted = held.pop(leaf.device, None)
            if wanted != leaf:
                what = f"the statement does not list what {name[:12]} holds for the device {leaf.device[:12]}…"
                yield AuditFinding.of(other, what, _said(wanted), _said(leaf))
                return
    for leaf in held.values():
        yield AuditFinding.of(ref, f"the statement leaves out the device {leaf.device[:12]}…", _said(leaf), "nothing")
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
        yield AuditFinding.of(ref, error.what, severity="warning")
    except TrustRefused as error:
        yield AuditFinding.of(ref, error.what)


def _said(leaf: FreshnessLeaf | None) -> str:
    return f"version {leaf.version}, {leaf.manifest}" if leaf else "nothing"


def check_checkpoints(
    objects: StateObjects,
    refs: Mapping[str, str],
    chain: Sequence[str],
    branches: Mapping[str, Sequence[str]],
    signers: AllowedSigners | None,
    *,
    every: bool,
) -> Iterator[AuditFinding]:
    """Yield what is wrong with the checkpoints of a state repo, and with where its history ends.

    Args:
        chain: the commits of the branch `fleet`, oldest first.
        branches: those of each device branch, by encoded device id.
        signers: who may have signed; None: anyone, but someone must have.
        every: they signed all checkpoints. Otherwise they signed the newest, which vouches for those before it.
    """
    named: set[str] = set()
    try:
        for each in checkpoints(objects, refs):
            signed = commit_signer(each.commit, signers if every or each.id == refs[CHECKPOINTS_REF] else None)
            if signed.signer is None:
                what = f"the signature of a checkpoint does not count: {signed.objection or 'it is missing'}"
                yield AuditFinding.of(CHECKPOINTS_REF, what, commit=each.id)
            fleet, ours = StateCommit.of(each.commit).fleet, StateCommit.of(objects.commit(chain[-1])).fleet
            if fleet != ours:
                what = "the checkpoint is of another fleet"
                yield AuditFinding.of(CHECKPOINTS_REF, what, ours, fleet, commit=each.id)
            named |= objects.boundary_of(each.id).keys()
        at_end = objects.boundary()
        firsts = {FLEET_REF: chain[:1], **{f"{DEVICE_REFS}{name}": branch[:1] for name, branch in branches.items()}}
        for ref, first in firsts.items():
            if first and at_end.get(first[0], ref) != ref:
                what = "the branch ends where a checkpoint says that another one does"
                yield AuditFinding.of(ref, what, None, at_end[first[0]], commit=first[0])
        shallow = objects.shallow.read_text().split() if objects.shallow.exists() else []
        for name in sorted(set(shallow) - named)[:1]:
            what = "git's file `shallow` names a commit that no checkpoint names: somebody hides history from git"
            yield AuditFinding.of(CHECKPOINTS_REF, what, commit=name)
    except (StateTampered, OSError, ValueError) as error:
        yield AuditFinding.of(CHECKPOINTS_REF, f"the checkpoints cannot be read: {error}")


def check_pushed(objects: StateObjects, refs: Mapping[str, str]) -> Iterator[AuditFinding]:
    """Yield a warning for each branch of a device's own reports that breaks its rules (pushed_reports.py, CLAIM-4).

    A device writes it alone: what is wrong there says nothing about the state.
    """
    pushed = PushedReports(objects, refs)
    known = {device_reports_ref(client): client for client in pushed.commits}
    for ref, commit in sorted(pushed.branches()):
        try:
            if ref not in known:
                raise bad_object(commit, "the branch is not named after a device")
            pushed.read(known[ref])
        except StateTampered as error:
            what = f"these reports of a device do not count: {error.what}"
            yield AuditFinding.of(ref, what, commit=commit, severity="warning")


_MAX_CAPABILITIES: Final = 1024 * 1024
_NAMED_BY_FLEET: Final = "the fleet repo says so: spec.lostReports, before: {} (docs/receipts.md, After a loss)"


class ReportCheck:
    """Checks the branch of reports of one state repo.

    Attributes:
        findings: those of the first bad commit.
        warnings: what the fleet repo says was lost.
    """

    def __init__(self, objects: StateObjects, verified: VerifiedUpTo, receipts: ReceiptCheck) -> None:
        """Check a branch.

        Args:
            verified: remembers how far the branch was verified.
            receipts: gets what commits bring of them.
        """
        self._receipts = receipts
        self._objects = objects
        self._reports = Reports(objects)
        self._verified = verified
        self.commits = 0
        self.findings: tuple[AuditFinding, ...] = ()
        self.warnings: tuple[AuditFinding, ...] = ()

    def run(self, refs: Mapping[str, str], *, resume: bool) -> None:
        """Check every commit, oldest first, up to the first bad one.

        Args:
            resume: begin after the last commit that was verified.
        """
        tip = self._reports.tip(refs)
        known = self._verified.read()
        try:
            chain = self._objects.branch(tip) if tip is not None else ()
        except StateTampered as error:
            self.findings = (AuditFinding.of(REPORTS_REF, error.what, commit=error.object_id),)
            return
        losses = {each.before: each.reason for each in self._receipts.lost if each.before in chain}
        moved_back = self._verified.moved_back(REPORTS_REF, chain, losses, _NAMED_BY_FLEET)
        if moved_back is not None and moved_back.severity == "error":
            self._walk(chain, 0)  # to see where receipts are missing
            begun = self._receipts.gap or (chain[0] if chain else "its first commit")
            self.commits, self.findings = 0, (replace(moved_back, what=moved_back.what.format(begun)),)
            return
        start = int(bool(chain) and chain[0] in self._objects.boundary())
        if resume and known in chain and self._receipts.load(known):
            start = max(start, chain.index(known) + 1)
        elif start:
            self._begin(chain[0])
        self._walk(chain, start)
        reached = start + self.commits
        if reached and not self._receipts.failed:
            self._verified.write(chain[reached - 1], losses)
            self._receipts.save(chain[reached - 1])
        self.warnings = (moved_back,) if moved_back is not None else ()

    def _walk(self, chain: Sequence[str], start: int) -> None:
        """Check the commits from an index on, up to the first bad one."""
        for index in range(start, len(chain)):
            name = chain[index]
            self._receipts.reach(name)
            try:
                self.findings = tuple(self._commit(name, chain[index - 1] if index else None))
            except StateTampered as error:
                self.findings = (AuditFinding.of(REPORTS_REF, error.what, commit=name),)
            if self.findings:
                break
            self.commits += 1

    def _begin(self, name: str) -> None:
        """Take what a device had signed where history ends."""
        for change in self._reports.changes(self._reports.commit(name)):
            if change.key is not None and change.key.kind == "receipts" and change.after is not None:
                self._receipts.begin(change.key.client, self._objects.read(change.after, BLOB))

    def _commit(self, name: str, parent: str | None) -> Iterator[AuditFinding]:
        commit = self._reports.commit(name)
        parents = (parent,) if parent else ()
        if commit.parents != parents:
            what = "the parents are wrong"
            yield AuditFinding.of(REPORTS_REF, what, parent or "none", " ".join(commit.parents), commit=name)
        changes = self._reports.changes(commit)
        if not changes:
            yield AuditFinding.of(
                REPORTS_REF, "this commit changes nothing, and no server makes such a commit", commit=name
            )
        for change in changes:
            yield from self._change(commit, change)

    def _change(self, commit: ReportCommit, change: ReportChange) -> Iterator[AuditFinding]:
        if change.key is None:
            yield AuditFinding.of(REPORTS_REF, "no server writes such a path", commit=commit.id, file=change.path)
            return
        if change.key.client not in commit.senders:
            what = "the report is of a client that the commit does not name"
            found = ", ".join(sorted(commit.senders)[:3]) or "nobody"
            expected = f"Reported-By: {change.key.client} (...)"
            yield AuditFinding.of(REPORTS_REF, what, expected, found, commit=commit.id, file=change.path)
        if change.after is None:
            return
        content = self._objects.read(change.after, BLOB)
        if change.key.kind == "receipts":
            before = self._objects.read(change.before, BLOB) if change.before else None
            self._receipts.take(change.key.client, before, content, commit.id, change.path)
            return
        if change.key.kind == "status":
            status = read_status(content)
            about = status.deployment_id if status else None
        elif change.key.kind == "identity":
            about = "copied" if read_copied(content) else None
        elif change.key.kind == "carried":
            about = change.key.name if read_taken(content) else None
        else:
            about = _device(content)
        if about != change.key.name:
            what = "this is not a report, or it is about something else than its path says"
            found = about or "no report"
            yield AuditFinding.of(REPORTS_REF, what, change.key.name, found, commit=commit.id, file=change.path)


def _device(content: bytes) -> str | None:
    if len(content) > _MAX_CAPABILITIES:
        return None
    try:
        document = json.loads(content)
        found = document["properties"]["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
