"""Manifests and indexes of a registry: read within bounds, and written as exact bytes (OCI image 1.1). Pure.

OCIDOC-1  What a registry sends is at most 4 MB, of bounded depth and number of values, and read by the reader of all
             foreign documents. Unknown keys are skipped: the standard leaves these documents open.
OCIDOC-2  Only sha256 counts. A manifest with a digest of another kind is refused as a whole.
OCIDOC-3  What is written has sorted keys and no white space (RFC 8785): the same content gives the same digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, TypeVar

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.declarations import DigestText, Range, Text
from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.records import find, write
from margo_gitops.errors import RegistryMisbehaved, UnreadableDocument
from margo_gitops.values import dataclass, field

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY_CONFIG: Final = "application/vnd.oci.empty.v1+json"

PACKAGE: Final = "application/vnd.margo.app.v1+json"
DESCRIPTION_LAYER: Final = "application/vnd.margo.app.description.v1+yaml"
COMPOSE_COMPONENT: Final = "application/vnd.org.margo.component.compose+json"
COMPOSE_LAYER: Final = "application/vnd.org.margo.component.compose.tar+gzip"
HELM_CONFIG: Final = "application/vnd.cncf.helm.config.v1+json"
HELM_LAYER: Final = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"

TITLE: Final = "org.opencontainers.image.title"
RESOURCE: Final = "org.margo.app.resource"
COMPONENT_TYPE: Final = "org.margo.component.type"
COMPONENT_VERSION: Final = "org.margo.component.version"

MOST_BYTES: Final = 4 * 1024 * 1024
"""Of a manifest: what the distribution standard wants registries to take."""
_BOUNDS: Final = Bounds(size=MOST_BYTES, depth=8, nodes=50_000)
_MOST_SIZE: Final = 2**62

_MediaType = Annotated[str, Text(min_length=1, max_length=255)]
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest names: a blob or another manifest, by digest and size in bytes."""

    media_type: _MediaType
    digest: DigestText
    size: Annotated[int, Range(minimum=0, maximum=_MOST_SIZE)]
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str | None:
        """The name of the file that a blob is."""
        return self.annotations.get(TITLE)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A version of something: a configuration and layers.

    Attributes:
        artifact_type: what it is; the media type of `config` says it where this is None.
        subject: the manifest that this one says something about, as a signature does.
    """

    schema_version: Annotated[int, Range(minimum=2, maximum=2)]
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: _MediaType | None = None
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it is."""
        return self.artifact_type or self.config.media_type


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests: of an image for several architectures, or of what refers to a manifest."""

    schema_version: Annotated[int, Range(minimum=2, maximum=2)]
    manifests: tuple[Descriptor, ...]
    media_type: _MediaType | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


EMPTY_BYTES: Final = b"{}"
EMPTY: Final = Descriptor(EMPTY_CONFIG, sha256(EMPTY_BYTES), len(EMPTY_BYTES))


def read_manifest(content: bytes, place: str) -> Manifest:
    """Return a manifest that a registry sent (RegistryMisbehaved: it is something else, or breaks a bound)."""
    return read_foreign(Manifest, content, place)


def read_index(content: bytes, place: str) -> Index:
    """Return an index that a registry sent (RegistryMisbehaved: it is something else, or breaks a bound)."""
    return read_foreign(Index, content, place)


def read_foreign(record: type[R], content: bytes, place: str) -> R:
    """Return a document that a registry sent (RegistryMisbehaved: it is something else, or breaks a bound).

    Args:
        record: what it must be.
        place: where it came from, for people.
    """
    try:
        value, findings = find(record, read_json(content, place, _BOUNDS, foreign=True))
    except UnreadableDocument as error:
        raise RegistryMisbehaved(
            f"the answer cannot be used: {error.what}", why=[str(error.where), *error.why]
        ) from error
    if value is None:
        errors = [str(finding) for finding in findings if finding.severity == "error"]
        raise RegistryMisbehaved(f"{place} cannot be read as {record.__name__.lower()}", why=errors[:5])
    return value


def write_manifest(
    artifact_type: str | None,
    layers: tuple[Descriptor, ...],
    *,
    config: Descriptor = EMPTY,
    annotations: Mapping[str, str] | None = None,
    subject: Descriptor | None = None,
) -> bytes:
    """Return the exact bytes of a manifest.

    Args:
        artifact_type: what it is; None where the configuration's media type says it, as Helm does.
    """
    manifest = Manifest(2, config, layers, MANIFEST, artifact_type, subject, annotations or {})
    return write_json(write(manifest))


def write_index(manifests: tuple[Descriptor, ...]) -> bytes:
    """Return the exact bytes of an index."""
    return write_json(write(Index(2, manifests, INDEX)))


def described(media_type: str, content: bytes, annotations: Mapping[str, str] | None = None) -> Descriptor:
    """Return the descriptor of these bytes."""
    return Descriptor(media_type, Digest(sha256(content)), len(content), annotations=annotations or {})
