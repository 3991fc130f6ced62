"""Pull from a bundle that a person carried (docs/sticks.md): the bytes that git and HTTP bring, judged in the same way.

1. What is held already is not read again; a manifest with equal bytes is unchanged.
2. Everything that the manifest lists is read, by its digest, before any of it is handed over: a stick that is changed
   or pulled out in the middle changes nothing.
3. No stick is not an error for a device that holds a state: its source has nothing new.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import MAX_PROOF_BYTES
from margo_gitops.documents.site_bundle import (
    BUNDLE_FILE,
    MAX_BUNDLE_BYTES,
    SiteBundle,
    blob_path,
    commit_path,
    manifest_path,
    proof_path,
    trust_path,
)
from margo_gitops.documents.state_layout import StateBounds, deployment_path
from margo_gitops.errors import (
    InvalidDocument,
    Location,
    SourceMisbehaved,
    SourceRefused,
    SourceUnreachable,
    UnreadableDocument,
)
from margo_gitops.transport.received import check_digest, read_manifest
from margo_gitops.transport.stick.files import Bundle, opened_bundle, read_file
from margo_gitops.transport.transport import Answer
from margo_gitops.trust.git_commit import MAX_COMMIT_BYTES
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.web.metering import Cost, Deadline
from margo_gitops.wording import few, printable

_SECONDS: Final = 60.0
_NAMED: Final = 3


class StickTransport:
    """Takes one device's state from a bundle: a folder or a tar file, which may be there or not."""

    def __init__(self, place: Path, device: str, limits: StateBounds | None = None) -> None:
        """Take the settings; nothing is opened yet."""
        self.place = place
        self._device = device
        self._limits = limits or StateBounds()

    @property
    def cost(self) -> Cost:
        """What a network cost: nothing."""
        return Cost()

    def pull(self, held: Snapshot | None, patience: int = 0) -> Answer:
        """Return the state that the bundle has, or that it is the one that `held` is; it waits for nothing."""
        del patience
        with self._bundle() as bundle:
            if bundle is None and held is None:
                remedy = "plug in the stick that was made for this device: margo-gitops bundle create"
                raise SourceUnreachable("there is no bundle", where=Location(str(self.place)), remedy=remedy)
            return Answer(self._snapshot(bundle, held) if bundle is not None else None)

    def freshness(self, device: str, held: bytes | None) -> bytes | None:
        """Return the proof of freshness that the bundle has for a device; None where it has none but `held`."""
        from margo_gitops.trust.freshness_tree import possible_shards  # few devices ask for proofs

        with self._bundle() as bundle:
            for shard in possible_shards(device) if bundle is not None else ():
                found = read_file(bundle, proof_path(shard), MAX_PROOF_BYTES) if bundle is not None else None
                if found is not None:
                    return None if found == held else found
        return None

    def trust_document(self, version: int) -> bytes | None:
        """Return a version of the trust document; None where the bundle has none."""
        from margo_gitops.documents.trust_document import MAX_ENVELOPE_BYTES  # needed after a rotation, in years

        with self._bundle() as bundle:
            return read_file(bundle, trust_path(version), MAX_ENVELOPE_BYTES) if bundle is not None else None

    def close(self) -> None:
        """Do nothing: no bundle stays open."""

    @contextmanager
    def _bundle(self) -> Iterator[Bundle | None]:
        with opened_bundle(self.place, Deadline(_SECONDS, _SECONDS)) as bundle:
            yield bundle

    def _snapshot(self, bundle: Bundle, held: Snapshot | None) -> Snapshot | None:
        content = read_file(bundle, manifest_path(self._device), self._limits.manifest_bytes)
        if content is None:
            raise self._not_for_us(bundle)
        if held is not None and held.manifest == content:
            return None
        manifest = read_manifest(content, self._limits)
        known = {sha256(each): each for each in held.deployments.values()} if held is not None else {}
        deployments: dict[str, bytes] = {}
        total = len(content)
        for each in manifest.deployments:
            found = known.get(each.digest)
            if found is None:
                found = read_file(bundle, blob_path(each.digest), self._limits.deployment_bytes)
            if found is None:
                raise self._incomplete(bundle, each.deployment_id)
            what = "a deployment in the bundle is not the one that its manifest lists"
            check_digest(found, each.digest, what, deployment_path(each.deployment_id))
            deployments[each.deployment_id] = found
            total += len(found)
            if total > self._limits.total_bytes:
                raise SourceMisbehaved(f"the deployments are larger than {self._limits.total_bytes} bytes together")
        commit = read_file(bundle, commit_path(self._device), MAX_COMMIT_BYTES)
        return Snapshot(content, deployments, commit, f'"{sha256(content)}"')

    def _not_for_us(self, bundle: Bundle) -> SourceRefused:
        said = _said(bundle)
        why = [f"it is for {printable(few(said.devices, _NAMED)) or 'no device'}"] if said else []
        return SourceRefused(
            f"the bundle has no state for {self._device}",
            where=Location(str(self.place)),
            why=why,
            remedy="make one for its site: margo-gitops bundle create. What runs keeps running",
        )

    def _incomplete(self, bundle: Bundle, deployment_id: str) -> SourceRefused:
        said = _said(bundle)
        since = f"it has only what changed since {said.since[:12]}" if said and said.since else "files are missing"
        return SourceRefused(
            f"the bundle lists deployment {deployment_id}, but does not have it",
            where=Location(str(self.place)),
            why=[since],
            remedy="make it again, without --since. What runs keeps running",
        )


def _said(bundle: Bundle) -> SiteBundle | None:
    """Return what the bundle says of itself, for messages; None where it says nothing."""
    from margo_gitops.documents.records import read_ours

    try:
        content = read_file(bundle, BUNDLE_FILE, MAX_BUNDLE_BYTES)
        return read_ours(SiteBundle, content, BUNDLE_FILE) if content is not None else None
    except (UnreadableDocument, InvalidDocument, SourceMisbehaved):
        return None
