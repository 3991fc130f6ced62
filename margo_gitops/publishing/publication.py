"""Publishing: bring a target to what the state repo holds.

PUBLISH-1  One publisher at a time; the state repo is read under the target's lock, so a slow publisher never undoes a
           newer.
PUBLISH-2  Everything is judged before anything is written: a state repo that was tampered with, and a manifest that
           would not go up (a state repo restored from an old backup, failure mode F26), change nothing.
PUBLISH-3  Objects come first, the manifest last: after any crash, each manifest finds all it leads to.
PUBLISH-4  Only what is missing is written. What is there and has its digest as its name is not written again.
PUBLISH-5  A device that left the fleet keeps its last manifest: absence is the one thing that removes workloads, and
           leaving the fleet is not an order to stop.
PUBLISH-7  Proofs of freshness come after the manifests, so none speaks of a state that is not there yet; an older one
           never replaces a newer one.
PUBLISH-8  Trust documents come before the manifests whose commits name them, and in order: a device finds each.
PUBLISH-6  What no manifest leads to any more stays for a grace period, for devices that are in the middle of a
           download.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated

from margo_gitops.digests import sha256
from margo_gitops.documents.declarations import Wire
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.manifest import write_bundle
from margo_gitops.documents.state_layout import COMMIT_MEDIA_TYPE, MANIFEST_FILE
from margo_gitops.errors import (
    FreshnessInvalid,
    InvalidDocument,
    PublishGoesBack,
    StateTampered,
    UnreadableDocument,
    listed,
)
from margo_gitops.progress import steps
from margo_gitops.publishing.layout import (
    ManifestContent,
    PublishedObject,
    PublishTarget,
    commit_object,
    read_manifest,
    trust_object,
)
from margo_gitops.state_repo.objects import DeviceState
from margo_gitops.state_repo.served_state import ServedState, StateView
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.freshness import read_statement
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class PublishedDevice:
    """A device that got a new manifest."""

    device: str
    version: Annotated[int, Wire("manifestVersion")]


@dataclass(frozen=True, slots=True)
class Published:
    """What a publisher did.

    Attributes:
        unchanged: how many devices had theirs already.
        left: encoded ids of devices on the target that the state repo does not know.
        proofs: how many devices got a new proof of freshness.
    """

    changed: tuple[PublishedDevice, ...]
    unchanged: int
    left: tuple[str, ...]
    proofs: Annotated[int, Wire("proofsWritten")]
    written: Annotated[int, Wire("objectsWritten")]
    collected: Annotated[int, Wire("objectsCollected")]


def publish(repo: StateRepo, target: PublishTarget, keep: float) -> Published:
    """Bring a target to what the state repo holds.

    Args:
        keep: seconds for which objects stay that no manifest leads to any more.

    Raises:
        PublishBusy: another publisher is at work.
        PublishGoesBack: the target is ahead of the state repo.
        PublishTargetUnusable: the target refuses.
        StateTampered: the state repo does not hold what a renderer wrote.
    """
    with target.exclusive():
        view = _view(repo)
        changed = _changed(view, target)
        written = sum(_put_objects(target, device, view) for device in steps("writing content", view.devices()))
        documents = _trust_documents(view)
        written += sum(_put_trust(target, encode_device_id(device), documents) for device in view.devices())
        for each in steps("switching devices", changed):
            content = view.manifest(each.device)
            if content is not None:
                target.switch(encode_device_id(each.device), content)
        proofs = sum(_put_proof(target, device, view) for device in view.devices())
        there = sorted(target.devices())
        collected = sum(target.collect(device, keep) for device in there)
    known = {encode_device_id(device) for device in view.devices()}
    left = tuple(device for device in there if device not in known)
    return Published(changed, len(known) - len(changed), left, proofs, written, collected)


def differences(repo: StateRepo, target: PublishTarget) -> list[str]:
    """Return how a target differs from the state repo, every byte compared; empty: not at all.

    Raises:
        PublishTargetUnusable: the target refuses.
        StateTampered: the state repo does not hold what a renderer wrote.
    """
    view = _view(repo)
    documents = _trust_documents(view)
    found = []
    for device in steps("comparing devices", view.devices()):
        state, manifest = _state(view, device)
        encoded = encode_device_id(device)
        held = target.manifest(encoded)
        if held is None:
            found.append(f"{device}: not published")
            continue
        if held != state.manifest:
            found.append(f"{device}: another manifest than version {manifest.version} of the state repo")
            continue
        proof = view.proof(device)
        if proof is not None and target.proof(encoded) != proof:
            found.append(f"{device}: another proof of freshness than that of the state repo")
        for version, document in enumerate(documents, start=1):
            if target.read(encoded, trust_object(version, document).path) != document:
                found.append(f"{device}: another version {version} of the trust document than the state repo's")
        for each in _objects(state, manifest):
            content = target.read(encoded, each.path)
            if content is None:
                found.append(f"{device}: {each.path} is missing")
            elif content != state.signed_commit if _is_commit(each) else sha256(content) != each.digest:
                found.append(f"{device}: {each.path} holds other bytes")
    return found


def _view(repo: StateRepo) -> StateView:
    for error in repo.tampered(repo.refs.read()):
        raise error
    return ServedState(repo).view()


def _state(view: StateView, device: str) -> tuple[DeviceState, ManifestContent]:
    state = view.state(device)
    try:
        if state is None:
            raise StateTampered(f"the branch of {device} is gone", device=device)
        return state, read_manifest(state.manifest, f"{device}: {MANIFEST_FILE}")
    except (InvalidDocument, UnreadableDocument) as error:
        raise StateTampered(
            f"the state repo's manifest of {device} cannot be read", device=device, why=[str(error)]
        ) from error


def _changed(view: StateView, target: PublishTarget) -> tuple[PublishedDevice, ...]:
    """Return the devices that need a new manifest; refuse if one of them would go back (PUBLISH-2)."""
    changed, back = [], []
    for device in steps("comparing manifests", view.devices()):
        state, manifest = _state(view, device)
        held = target.manifest(encode_device_id(device))
        if held == state.manifest:
            continue
        published = _version(held, device)
        if published >= manifest.version:
            back.append(f"{device}: version {published} is published, the state repo holds version {manifest.version}")
        changed.append(PublishedDevice(device, manifest.version))
    if back:
        raise PublishGoesBack(
            "the target is ahead of the state repo: nothing was published",
            why=listed(back),
            remedy="restore the state repo to its newest state; devices would refuse these manifests",
        )
    return tuple(changed)


def _version(content: bytes | None, device: str) -> int:
    if content is None:
        return 0
    try:
        return read_manifest(content, f"{device}: published manifest").version
    except (InvalidDocument, UnreadableDocument):
        return 0  # what no device can read holds no device back


def _put_objects(target: PublishTarget, device: str, view: StateView) -> int:
    state, manifest = _state(view, device)
    encoded = encode_device_id(device)
    there = target.objects(encoded)
    missing = [each for each in _objects(state, manifest) if each.path not in there]
    for each in missing:
        target.put(encoded, each, _content(state, each, device))
    return len(missing)


def _trust_documents(view: StateView) -> list[bytes]:
    """Return the fleet's trust documents, from version 1."""
    found: list[bytes] = []
    while (content := view.trust_document(len(found) + 1)) is not None:
        found.append(content)
    return found


def _put_trust(target: PublishTarget, device: str, documents: Sequence[bytes]) -> int:
    """Give a device the trust documents that it has not; return how many (PUBLISH-8)."""
    wanted = [(trust_object(version, content), content) for version, content in enumerate(documents, start=1)]
    missing: list[tuple[PublishedObject, bytes]] = []
    for each, content in reversed(wanted):  # all those before one that is there are there
        if target.read(device, each.path) == content:
            break
        missing.append((each, content))
    for each, content in reversed(missing):
        target.put(device, each, content)
    return len(missing)


def _objects(state: DeviceState, manifest: ManifestContent) -> list[PublishedObject]:
    """Return what a device is to find: all that its manifest leads to, and the commit that signs it (LAYOUT-5)."""
    return [*manifest.objects, *([commit_object(state.manifest_digest)] if state.signed_commit else [])]


def _is_commit(wanted: PublishedObject) -> bool:
    return wanted.media_type == COMMIT_MEDIA_TYPE


def _put_proof(target: PublishTarget, device: str, view: StateView) -> bool:
    content, encoded = view.proof(device), encode_device_id(device)
    if content is None:
        return False
    held = target.proof(encoded)
    issued, shard = _issued(content)
    if held == content or (held is not None and _issued(held)[0] > issued):
        return False
    target.put_proof(encoded, shard, content)
    return True


@lru_cache(maxsize=1024)
def _issued(content: bytes) -> tuple[str, str]:
    """Return when a proof was issued and of which shard it is; the devices of a shard share one."""
    try:
        proof, statement = read_statement(content)
    except FreshnessInvalid:
        return "", "unreadable"  # what no device can read keeps nothing out
    return statement.issued, proof.shard


def _content(state: DeviceState, wanted: PublishedObject, device: str) -> bytes:
    if _is_commit(wanted):
        return state.raw_commit
    if wanted.deployment_id is None:
        content = write_bundle(state.deployments) if state.deployments else b""
    else:
        content = state.deployments.get(wanted.deployment_id, b"")
    if sha256(content) != wanted.digest:
        raise StateTampered(
            f"the state repo's manifest of {device} leads to content that is not there",
            device=device,
            why=[f"{wanted.path} has the digest {sha256(content)}"],
            remedy="put the branch back to the last commit of the renderer",
        )
    return content
