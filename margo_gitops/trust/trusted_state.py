"""From the bytes of a pull to a state the device believes: pure, and all or nothing.

The rules, in the order they are applied; the first that is broken refuses the whole snapshot, and what runs keeps
running. What may be large or hostile is bounded before it is read; signed state is verified before it is parsed.

TRUST-1   Bounds: bytes of the manifest, of each deployment, of all together, and number of deployments. [Oversized]
TRUST-2   The commit, if there is one, is well formed (git_commit, COMMIT-1 to COMMIT-6). [CommitInvalid]
TRUST-3   The tree id computed from the snapshot's bytes is the commit's tree. [DigestMismatch]
TRUST-4   Where the policy has signers: there is a commit, signed by a key that is allowed at the commit's time, over
          these bytes. [SignatureMissing, SignerUnknown or SignatureInvalid]
TRUST-5   The commit's trailer `Manifest-Digest` is the sha256 of the manifest's bytes: TRUST-3 alone rests on SHA-1.
          [CommitInvalid, DigestMismatch]
TRUST-6   Its trailer `Device` is the client this device belongs to, and `Fleet` the device's fleet, where the device
          knows it. [CommitInvalid, ForeignDevice]
TRUST-7   The manifest is JSON that follows its contract; its version is a 64-bit integer, exact (Margo desired state,
          manifest fields). [StateDocumentInvalid]
TRUST-8   The commit's trailer `Manifest-Version` is the manifest's version. [CommitInvalid]
TRUST-9   The deployments are exactly the ones the manifest lists. [ContentMismatch]
TRUST-10  Each has the digest the manifest states for it; `sizeBytes` is advisory (Margo desired state, digests).
          [DigestMismatch]
TRUST-11  With a commit, the bundle's digest is that of the bundle written from these deployments. Without, the bundle
          may be another server's archive of the same files: the device checks it after a download. [DigestMismatch]
TRUST-12  Each deployment follows its contract, and its id is the listed one (case is ignored). [StateDocumentInvalid]
TRUST-13  Each is for this device: its `deviceId` is the device, or a child of it (`device/...`, also `device/*`).
          Where that is an alias, our extension has the device's id in the fleet.
          Older shapes of the standard have no `deviceId` and mean the client itself. [ForeignDevice]
TRUST-14  The version is not below the floor's, nor below the policy's minimum. [VersionRollback]
TRUST-15  The floor's version again means the floor's manifest again, byte for byte. [VersionReused]
TRUST-16  The version right after the floor's has the floor's commit among its parents, where both have commits. A
          greater jump is allowed: the device was offline, and history is fetched at depth 1. [HistoryRewritten]
TRUST-17  What a device holds was judged when it was stored. If its key no longer counts, it stays trusted to run: every
          other rule holds, the signature is right, and its manifest is the floor's. Nothing new of that key is taken.

The new floor is the snapshot's version, manifest digest and commit. Seen again (TRUST-15), the old floor stays as it
is, and gains the commit if it had none: the commit that was trusted first is the one that the next version must
descend from, so that history rewritten under an unchanged manifest shows at the next version.

`TrustedState` shows a session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.deployment import ApplicationDeployment, fleet_device
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.kinds import AnyDocument, read_as, read_source
from margo_gitops.documents.manifest import DeploymentReference, StateManifest, write_bundle
from margo_gitops.documents.nodes import DEFAULT_BOUNDS, Bounds
from margo_gitops.documents.state_layout import MANIFEST_FILE, StateBounds, deployment_path
from margo_gitops.errors import (
    MAX_SHOWN,
    CommitInvalid,
    ContentMismatch,
    DigestMismatch,
    ForeignDevice,
    InvalidDocument,
    Location,
    Oversized,
    SignatureMissing,
    SignerUnknown,
    StateDocumentInvalid,
    TrustRefused,
    UnreadableDocument,
)
from margo_gitops.trust.allowed_signers import AllowedSigners, AnySigner
from margo_gitops.trust.floor import Floor, raise_floor
from margo_gitops.trust.git_commit import GitCommit, parse_commit
from margo_gitops.trust.git_objects import COMMIT, device_tree_id, object_id
from margo_gitops.trust.signer import Use, commit_signer
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_signature import GIT_NAMESPACE
from margo_gitops.trust.state_commit import TRAILERS, StateCommit
from margo_gitops.values import dataclass, field, replace

_STATE: Final = Use(
    GIT_NAMESPACE,
    "this device's state",
    "if the renderer has a new key, add it to {file} on the device; otherwise find out whose it is",
)
_NODES_PER_REFERENCE: Final = 16
_TAMPERED: Final = "fetch again; if it stays, find out who or what changed the state between renderer and device"
_RENDERED: Final = "find out what wrote this commit: only the renderer writes the state repo"


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """What this device demands of its state.

    Attributes:
        device: the id of this device.
        signers: who may sign its state; None accepts unsigned state.
        bounds: how much of it there may be.
        minimum_version: the lowest manifest version ever to be accepted, for a device that lost its floor.
        fleet: the name of its fleet; None accepts any fleet, as at first contact.
    """

    device: str
    signers: AllowedSigners | None
    bounds: StateBounds = field(default_factory=StateBounds)
    minimum_version: int = 1
    fleet: str | None = None


@dataclass(frozen=True, slots=True)
class TrustedState:
    """A snapshot that passed every rule.

    A session of a device, from its first contact on:

        from margo_gitops.trust import TrustPolicy, TrustRefused, judge, parse_allowed_signers, read_floor, write_floor

        policy = TrustPolicy("press-07", parse_allowed_signers(signers_file, "allowed_signers"))
        floor = None                                    # first contact: any version is accepted
        for snapshot in fetched:                        # what a transport got
            try:
                trusted = judge(snapshot, policy, floor)
            except TrustRefused as refusal:
                report(refusal)                         # what runs keeps running
                continue
            apply(trusted.deployments)
            stored = write_floor(trusted.floor)         # only after success
            floor = read_floor(stored, "floor.json")

    Attributes:
        manifest: the manifest.
        deployments: every deployment, in the manifest's order.
        snapshot: the bytes all this was read from.
        floor: what to store as the new floor once the state is in place.
        signer: principals and fingerprint of the key that signed it; None where the policy does not ask.
        fleet: the fleet that the signed commit names; None where it names none, or the policy asks for no signature.
        objection: why its key no longer counts (TRUST-17); empty where it does.
    """

    manifest: StateManifest
    deployments: tuple[ApplicationDeployment, ...]
    snapshot: Snapshot
    floor: Floor
    signer: str | None
    fleet: str | None = None
    objection: str = ""

    @property
    def title(self) -> str:
        """Version and revision, for people; an ETag without its quotes."""
        revision = self.snapshot.revision.strip('"')
        return f"version {self.manifest.manifest_version} at {revision}"


def judge(snapshot: Snapshot, policy: TrustPolicy, floor: Floor | None) -> TrustedState:
    """Return the snapshot as a state that this device may apply.

    Args:
        snapshot: what a transport fetched.
        policy: what this device demands.
        floor: the newest state it has trusted; None at first contact, which accepts any version the policy accepts.

    Raises:
        TrustRefused: of the class that the broken rule names (TRUST-1 to TRUST-16), with the device in it.
    """
    try:
        return _judge(snapshot, policy, floor)
    except TrustRefused as refusal:
        refusal.device = policy.device
        raise


def judge_held(snapshot: Snapshot, policy: TrustPolicy, floor: Floor | None) -> TrustedState:
    """Return what a device holds as a state that it may apply, as `judge`, with TRUST-17 in place of its key's rule."""
    try:
        return judge(snapshot, policy, floor)
    except SignerUnknown as unknown:
        try:
            state = judge_stored(snapshot, policy, floor)
        except TrustRefused:
            raise unknown from None
        return replace(state, objection="; ".join([unknown.what, *unknown.why]))


def judge_stored(snapshot: Snapshot, policy: TrustPolicy, floor: Floor | None) -> TrustedState:
    """Return the state that a device stored when it raised its floor, by any key (TRUST-17)."""
    signers = AnySigner() if policy.signers is None else AnySigner(verify=policy.signers.verify)
    state = judge(snapshot, replace(policy, signers=signers), floor)
    if floor is None or state.floor.manifest_digest != floor.manifest_digest:
        raise SignerUnknown("the state is not the one of the trust floor", device=policy.device)
    return state


def _judge(snapshot: Snapshot, policy: TrustPolicy, floor: Floor | None) -> TrustedState:
    _check_bounds(snapshot, policy.bounds)
    commit = _read_commit(snapshot)
    _check_tree(snapshot, commit)
    signer = _check_signature(commit, policy.signers)
    digest = sha256(snapshot.manifest)
    _check_trailers(commit, digest, policy)

    manifest = _read_manifest(snapshot.manifest, policy.bounds)
    _check_version_trailer(commit, manifest)
    _check_content(manifest, snapshot.deployments)
    _check_digests(manifest, snapshot.deployments)
    _check_bundle(manifest, snapshot)
    deployments = tuple(
        _read_deployment(reference, snapshot.deployments[reference.deployment_id], policy.bounds)
        for reference in manifest.deployments
    )
    for deployment in deployments:
        _check_device(deployment, policy.device)

    commit_id = None if snapshot.commit is None else object_id(COMMIT, snapshot.commit)
    offered = Floor(manifest.manifest_version, digest, commit_id)
    parents = commit.parents if commit else ()
    raised = raise_floor(floor, offered, parents, policy.minimum_version)
    fleet = StateCommit.of(commit).fleet if commit and signer else None
    return TrustedState(manifest, deployments, snapshot, raised, signer, fleet)


def _check_bounds(snapshot: Snapshot, bounds: StateBounds) -> None:
    """TRUST-1."""
    sizes = {deployment_path(deployment): len(content) for deployment, content in snapshot.deployments.items()}
    largest = max(sizes, key=sizes.__getitem__, default="")
    measured = (
        (len(snapshot.manifest), bounds.manifest_bytes, f"bytes in {MANIFEST_FILE}"),
        (len(sizes), bounds.deployments, "deployments"),
        (sizes.get(largest, 0), bounds.deployment_bytes, f"bytes in {largest}"),
        (len(snapshot.manifest) + sum(sizes.values()), bounds.total_bytes, "bytes in all files together"),
    )
    for size, limit, what in measured:
        if size > limit:
            raise Oversized(
                f"the state has {size} {what}; this device takes {limit}",
                remedy="render less for this device, or put large content into artifacts",
            )


def _read_commit(snapshot: Snapshot) -> GitCommit | None:
    """TRUST-2."""
    if snapshot.commit is None:
        return None
    try:
        return parse_commit(snapshot.commit)
    except ValueError as error:
        raise CommitInvalid("the state's commit is malformed", why=[str(error)], remedy=_RENDERED) from None


def _check_tree(snapshot: Snapshot, commit: GitCommit | None) -> None:
    """TRUST-3."""
    if commit is None:
        return
    try:
        tree = device_tree_id(snapshot.manifest, snapshot.deployments)
    except ValueError as error:
        raise ContentMismatch("a file has a name that no deployment has", why=[str(error)], remedy=_TAMPERED) from None
    if tree != commit.tree:
        why = f"the files make the tree {tree}, the commit names {commit.tree}"
        raise DigestMismatch("the files are not the ones of the commit", why=[why], remedy=_TAMPERED)


def _check_signature(commit: GitCommit | None, signers: AllowedSigners | None) -> str | None:
    """TRUST-4. Returns who signed; None where no signer is demanded."""
    if signers is None:
        return None
    if commit is None or commit.signature is None:
        why = "it came without a commit" if commit is None else "its commit has no signature"
        raise SignatureMissing(
            "the state is not signed",
            why=[why],
            remedy="give the renderer a signing key; over HTTP, let the server offer commits (docs/http.md)",
        )
    return commit_signer(commit, signers, _STATE).required()


def _check_trailers(commit: GitCommit | None, digest: Digest, policy: TrustPolicy) -> None:
    """TRUST-5 and TRUST-6."""
    if commit is None:
        return
    said = StateCommit.of(commit)
    stated = _need(said.manifest_digest, "manifest_digest")
    if stated != digest:
        why = f"it has {digest}, the commit states {stated[:80]!r}"
        raise DigestMismatch(
            f"{MANIFEST_FILE} is not the one the commit states",
            where=Location(MANIFEST_FILE),
            why=[why],
            remedy=_TAMPERED,
        )
    client = client_of(policy.device)
    meant = _need(said.device, "device")
    if meant != client:
        raise ForeignDevice(
            f"the state is meant for {meant[:200]!r}, this device's client is {client!r}",
            remedy="correct the device id or the ref in this device's configuration",
        )
    if policy.fleet is not None and (fleet := _need(said.fleet, "fleet")) != policy.fleet:
        raise ForeignDevice(
            f"the state is the fleet {fleet[:200]!r}'s, this device belongs to {policy.fleet!r}",
            remedy="correct the source on this device; if the device moved, name its new fleet in trust.fleet",
        )


def _need(value: str | None, field: str) -> str:
    if value is None:
        raise CommitInvalid(f"the commit's message has no trailer {TRAILERS[field]}", remedy=_RENDERED)
    return value


def _read_manifest(content: bytes, bounds: StateBounds) -> StateManifest:
    """TRUST-7."""
    nodes = max(DEFAULT_BOUNDS.nodes, _NODES_PER_REFERENCE * bounds.deployments)
    return _read_document(StateManifest, content, MANIFEST_FILE, Bounds(size=bounds.manifest_bytes, nodes=nodes))


def _read_document(record: type[AnyDocument], content: bytes, file: str, bounds: Bounds) -> AnyDocument:
    try:
        return read_as(record, read_source(content, file, bounds, foreign=True))
    except (InvalidDocument, UnreadableDocument) as error:
        raise StateDocumentInvalid(
            error.what if error.where else f"{file}: {error.what}",
            where=error.where,
            why=error.why,
            remedy=f"render again with a sound renderer; {error.remedy}" if error.remedy else "render again",
        ) from error


def _check_version_trailer(commit: GitCommit | None, manifest: StateManifest) -> None:
    """TRUST-8."""
    if commit is None:
        return
    stated = _need(StateCommit.of(commit).manifest_version, "manifest_version")
    # As text, so that no other spelling of the number passes.
    if stated != str(manifest.manifest_version):
        raise CommitInvalid(
            f"the commit states manifest version {stated[:40]!r}, the manifest {manifest.manifest_version}",
            remedy=_RENDERED,
        )


def _check_content(manifest: StateManifest, deployments: Mapping[str, bytes]) -> None:
    """TRUST-9."""
    listed = {reference.deployment_id for reference in manifest.deployments}
    missing, unlisted = sorted(listed - deployments.keys()), sorted(deployments.keys() - listed)
    if missing or unlisted:
        why = [f"{deployment_path(deployment)} is listed, but not there" for deployment in missing]
        why += [f"{deployment_path(deployment)} is there, but not listed" for deployment in unlisted]
        raise ContentMismatch(
            "the deployments are not the ones that the manifest lists", why=why[:MAX_SHOWN], remedy=_TAMPERED
        )


def _check_digests(manifest: StateManifest, deployments: Mapping[str, bytes]) -> None:
    """TRUST-10."""
    for reference in manifest.deployments:
        digest = sha256(deployments[reference.deployment_id])
        if digest != reference.digest:
            raise DigestMismatch(
                "a deployment is not the one that the manifest lists",
                where=Location(deployment_path(reference.deployment_id)),
                why=[f"it has {digest}, the manifest states {reference.digest}"],
                remedy=_TAMPERED,
            )


def _check_bundle(manifest: StateManifest, snapshot: Snapshot) -> None:
    """TRUST-11."""
    if snapshot.commit is None or manifest.bundle is None:
        return
    digest = sha256(write_bundle(snapshot.deployments))
    if digest != manifest.bundle.digest:
        raise DigestMismatch(
            "the bundle that the manifest names is not the one of these deployments",
            where=Location(MANIFEST_FILE),
            why=[f"these deployments make {digest}, the manifest states {manifest.bundle.digest}"],
            remedy=_RENDERED,
        )


def _read_deployment(reference: DeploymentReference, content: bytes, bounds: StateBounds) -> ApplicationDeployment:
    """TRUST-12."""
    file = deployment_path(reference.deployment_id)
    document = _read_document(ApplicationDeployment, content, file, Bounds(size=bounds.deployment_bytes))
    if document.id.lower() != reference.deployment_id.lower():
        raise StateDocumentInvalid(
            f"the deployment's id is {document.id}, the manifest lists it as {reference.deployment_id}",
            where=Location(file),
            remedy=_RENDERED,
        )
    return document


def _check_device(deployment: ApplicationDeployment, device: str) -> None:
    """TRUST-13."""
    meant = fleet_device(deployment)
    if meant and meant != device and not meant.startswith(f"{device}/"):
        raise ForeignDevice(
            f"the deployment is for {meant!r}, this device is {device!r}",
            where=Location(deployment_path(deployment.id)),
            remedy="correct the device id or the ref in this device's configuration",
        )
