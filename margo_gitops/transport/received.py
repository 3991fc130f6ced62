"""What came from a source that is not git, checked before it is used: the manifest, and what a digest names."""

from __future__ import annotations

from typing import Final

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import StateManifest
from margo_gitops.documents.nodes import DEFAULT_BOUNDS, Bounds
from margo_gitops.documents.state_layout import MANIFEST_FILE, StateBounds
from margo_gitops.errors import (
    DigestMismatch,
    InvalidDocument,
    Location,
    SourceMisbehaved,
    StateDocumentInvalid,
    UnreadableDocument,
)

_NODES_PER_REFERENCE: Final = 16
_TAMPERED: Final = "fetch again; if it stays, find out who or what changed the state between renderer and device"


def read_manifest(content: bytes, limits: StateBounds) -> StateManifest:
    """Return a manifest that came.

    Raises:
        StateDocumentInvalid: it is malformed.
        SourceMisbehaved: it lists more deployments than this device takes.
    """
    nodes = max(DEFAULT_BOUNDS.nodes, _NODES_PER_REFERENCE * limits.deployments)
    bounds = Bounds(size=limits.manifest_bytes, nodes=nodes)
    try:
        manifest = read_as(StateManifest, read_source(content, MANIFEST_FILE, bounds, foreign=True))
    except (InvalidDocument, UnreadableDocument) as error:
        raise StateDocumentInvalid(
            error.what if error.where else f"{MANIFEST_FILE}: {error.what}",
            where=error.where,
            why=error.why,
            remedy="find out what serves this manifest: the renderer writes none of this kind",
        ) from error
    if len(manifest.deployments) > limits.deployments:
        raise SourceMisbehaved(
            f"the manifest lists {len(manifest.deployments)} deployments; this device takes {limits.deployments}",
        )
    return manifest


def check_digest(content: bytes, stated: Digest, what: str, where: str) -> None:
    """Refuse what has another digest than the manifest states (DigestMismatch)."""
    if (found := sha256(content)) != stated:
        why = [f"it has {found}, the manifest states {stated}"]
        raise DigestMismatch(what, where=Location(where), why=why, remedy=_TAMPERED)
