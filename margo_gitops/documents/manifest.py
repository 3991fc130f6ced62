"""State manifest: the list of a device's deployments with their digests (Margo desired state, manifest fields)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from margo_gitops.digests import DIGEST_PATTERN, Digest
from margo_gitops.documents.application import repeated
from margo_gitops.documents.declarations import About, Problem, Range, Text
from margo_gitops.documents.deployment import UUID_PATTERN

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
    """What a device shall run, complete: what is not listed is removed."""

    manifest_version: Annotated[
        int,
        About("Strictly greater with every change; 64 bits, unsigned.", (1,)),
        Range(minimum=1, maximum=MAX_MANIFEST_VERSION),
    ]
    bundle: Annotated[BundleReference | None, About("null exactly when there are no deployments.")]
    deployments: Annotated[tuple[DeploymentReference, ...], About("Everything the device shall run.")]

    def problems(self) -> Iterator[Problem]:
        """Yield ids that stand twice, and a bundle that should or should not be there."""
        ids = [reference.deployment_id.lower() for reference in self.deployments]
        for index in repeated(ids):
            yield Problem(("deployments", index, "deploymentId"), f"the deployment {ids[index]} stands twice")
        if self.bundle is None and self.deployments:
            yield Problem(("bundle",), "bundle is null although there are deployments")
        if self.bundle is not None and not self.deployments:
            yield Problem(("bundle",), "bundle must be null when there are no deployments")
