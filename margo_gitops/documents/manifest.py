"""State manifest: the list of a device's deployments with their digests (Margo desired state, manifest fields).

The bundle is all deployments of a manifest as one archive. gzip output differs between zlib versions, so the archive is
written with stored (uncompressed) deflate blocks, no time and fixed tar headers: any machine can rebuild exactly these
bytes from the device's tree, and nothing needs to store them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from margo_gitops.digests import DIGEST_PATTERN, Digest, sha256
from margo_gitops.documents.declarations import About, Items, Problem, Range, Text
from margo_gitops.documents.deployment import UUID_PATTERN
from margo_gitops.documents.json_text import write_sorted_json
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.tar import TAR_END, padding, tar_header
from margo_gitops.values import dataclass

MANIFEST_MEDIA_TYPE = "application/vnd.margo.manifest.v1+json"
BUNDLE_MEDIA_TYPE: Final = "application/vnd.margo.bundle.v1+tar+gzip"
MAX_MANIFEST_VERSION = 2**64 - 1

ManifestDigest = Annotated[
    Digest,
    About("sha256 over the exact bytes.", ("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",)),
    Text(pattern=DIGEST_PATTERN, what="a digest, sha256: and 64 lower-case hex digits"),
]
ByteCount = Annotated[int | None, About("Advisory; never used for integrity."), Range(minimum=0)]
ResourcePath = Annotated[str, Text(pattern=r"^/[^\s]*$", what="a path that starts with a slash")]


@dataclass(frozen=True, slots=True)
class BundleReference:
    """All deployments of the manifest as one archive."""

    media_type: Annotated[Literal["application/vnd.margo.bundle.v1+tar+gzip"], About("Always this media type.")]
    digest: ManifestDigest
    url: Annotated[ResourcePath, About("`/api/v1/bundles/{digest}`")]
    size_bytes: ByteCount = None


@dataclass(frozen=True, slots=True)
class DeploymentReference:
    """One deployment of the manifest."""

    deployment_id: Annotated[str, Text(pattern=UUID_PATTERN, what="a UUID"), About("The `id` of the deployment.")]
    digest: ManifestDigest
    url: Annotated[ResourcePath, About("`/api/v1/deployments/{deploymentId}/{digest}`")]
    size_bytes: ByteCount = None


@dataclass(frozen=True, slots=True)
class StateManifest:
    """What a device must run, complete: what is not listed is removed."""

    manifest_version: Annotated[
        int,
        About("Strictly greater with every change; 64 bits, unsigned.", (1,)),
        Range(minimum=1, maximum=MAX_MANIFEST_VERSION),
    ]
    bundle: Annotated[BundleReference | None, About("null exactly when there are no deployments.")]
    deployments: Annotated[
        tuple[DeploymentReference, ...],
        Items(unique="deploymentId", noun="deployment", any_case=True),
        About("Everything the device should run."),
    ]

    def problems(self) -> Iterator[Problem]:
        """Yield a bundle that should or should not be there."""
        if self.bundle is None and self.deployments:
            yield Problem(("bundle",), "bundle is null although there are deployments")
        if self.bundle is not None and not self.deployments:
            yield Problem(("bundle",), "bundle must be null when there are no deployments")


_BLOCK = 65_535
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, no time, no level, unknown system


def write_bundle(deployments: Mapping[str, bytes]) -> bytes:
    """Return the bundle of these documents.

    Args:
        deployments: exact bytes of each deployment document, by deployment id; not empty.

    Raises:
        ValueError: no deployments (Margo: an empty archive must not be served), or a name too long for a tar header.
    """
    if not deployments:
        raise ValueError("a bundle holds at least one deployment")
    parts = []
    for deployment_id in sorted(deployments):
        content = deployments[deployment_id]
        parts += [tar_header(f"{deployment_id}.yaml", len(content)), content, padding(len(content))]
    parts.append(TAR_END)
    return gzip_stored(b"".join(parts))


def gzip_stored(content: bytes) -> bytes:
    """Return `content` as a gzip stream of stored blocks (RFC 1951 section 3.2.4, RFC 1952)."""
    blocks = [content[start : start + _BLOCK] for start in range(0, len(content), _BLOCK)] or [b""]
    parts = [_GZIP_HEADER]
    for index, block in enumerate(blocks):
        last = index == len(blocks) - 1
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF))
    return b"".join(parts)


def write_manifest(version: int, deployments: Mapping[str, bytes], below: str = "/api/v1") -> bytes:
    """Return the exact bytes of a state manifest (Margo desired state, manifest fields; RFC 8785).

    Args:
        version: `manifestVersion`.
        deployments: exact bytes of each deployment document, by deployment id.
        below: the path that its links begin with.
    """
    references: list[Json] = []
    for name in sorted(deployments):
        digest = sha256(deployments[name])
        url = f"{below}/deployments/{name}/{digest}"
        references.append({"deploymentId": name, "digest": digest, "sizeBytes": len(deployments[name]), "url": url})
    return write_sorted_json(
        {
            "bundle": _bundle(deployments, below),
            "deployments": references,
            "manifestVersion": version,
        }
    )


def _bundle(deployments: Mapping[str, bytes], below: str) -> Json:
    if not deployments:
        return None
    content = write_bundle(deployments)
    digest = sha256(content)
    url = f"{below}/bundles/{digest}"
    return {"digest": digest, "mediaType": BUNDLE_MEDIA_TYPE, "sizeBytes": len(content), "url": url}
