"""What is carried to a site without a line: the names of a bundle's files, and the document that says what it holds.

    bundle.json                        who it is for; nothing of it is trusted
    devices/<encoded id>/manifest.json exact bytes of the device's state manifest
    devices/<encoded id>/commit        the signed commit of that manifest
    freshness/<shard>.json             proofs of freshness
    trust/<version>.json               the fleet's trust documents
    blobs/sha256/<hex digits>          everything that a digest names: deployment documents, archives, images

A file system of a stick takes these names: lower case, without links, without a colon. `reports/` and `enrolment/` next
to them go the other way (docs/sticks.md).
"""

from __future__ import annotations

from typing import Annotated, Final

from margo_gitops.digests import Digest
from margo_gitops.documents.constraints import DeviceName
from margo_gitops.documents.declarations import About, OwnKind, Text
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.state_layout import MANIFEST_FILE, trust_file
from margo_gitops.values import dataclass

BUNDLE_FILE: Final = "bundle.json"
MAX_BUNDLE_BYTES: Final = 4 * 1024 * 1024
BLOBS: Final = "blobs/sha256/"
FOLDERS: Final = ("blobs", "devices", "freshness", "trust")
"""The folders of a bundle."""

Commit = Annotated[str, Text(pattern=r"^[0-9a-f]{40}$", what="a commit id, 40 lower-case hex digits")]


@dataclass(frozen=True, slots=True)
class SiteBundle(OwnKind):
    """What a bundle holds, for people and for messages: a device believes the signatures in it, and nothing else."""

    state_commit: Annotated[Commit, About("The commit of the branch `fleet` that it was made from.")]
    devices: Annotated[tuple[DeviceName, ...], About("Whose state it has.")]
    site: Annotated[str | None, About("The site that it was made for.")] = None
    since: Annotated[Commit | None, About("What the site had at this commit of `fleet` is not in it.")] = None


def manifest_path(device: str) -> str:
    """Return where the manifest of a device is."""
    return f"devices/{encode_device_id(device)}/{MANIFEST_FILE}"


def commit_path(device: str) -> str:
    """Return where the signed commit of a device's manifest is."""
    return f"devices/{encode_device_id(device)}/commit"


def proof_path(shard: str) -> str:
    """Return where the proof of freshness of a shard is."""
    return f"freshness/{shard}.json"


def trust_path(version: int) -> str:
    """Return where a version of the trust document is."""
    return f"trust/{trust_file(version)}"


def blob_path(digest: Digest) -> str:
    """Return where the content with this digest is."""
    return BLOBS + digest.removeprefix("sha256:")
