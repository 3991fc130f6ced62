"""Where each resource of a device is on a target, and with which headers it must be served.

LAYOUT-1  A device's files are below its encoded id, in the same URL layout that the Margo API has (Margo desired
          state, endpoints), so that a server maps a request to a file by putting the caller's folder before the path.
LAYOUT-2  Everything but the manifest is named by its digest, so it never changes.
LAYOUT-3  In a folder, `api/v1/deployments` is both a resource and a folder of others; there the manifest is the link
          `api/v1/deployments/manifest`, which leads to `manifests/<digest>`: one rename switches content and digest.
LAYOUT-4  The proof of freshness is `api/v1/freshness` for each device, too. In a folder that is a link to the proof of
          the device's shard, below `_freshness`, which is not a device's name: so a renewal writes one file per shard.
LAYOUT-5  The signed commit of a manifest is `api/v1/commits/<digest of the manifest>`; an unsigned one is nowhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Final

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.freshness import FRESHNESS_MEDIA_TYPE, FRESHNESS_PATH
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import BUNDLE_MEDIA_TYPE, StateManifest
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.state_layout import COMMIT_MEDIA_TYPE, COMMITS_PATH, TRUST_PATH, trust_file
from margo_gitops.errors import InvalidDocument, Location, PublishTargetUnusable, UnreadableDocument
from margo_gitops.values import dataclass

DEPLOYMENT_MEDIA_TYPE: Final = "application/yaml"
DEPLOYMENTS: Final = "api/v1/deployments"
BUNDLES: Final = "api/v1/bundles"
COMMITS: Final = COMMITS_PATH.removeprefix("/")
MANIFESTS: Final = "manifests"
MANIFEST_LINK: Final = f"{DEPLOYMENTS}/manifest"

TRUST: Final = TRUST_PATH.strip("/")
"""Below a device's folder: the fleet's trust documents, `<version>.json`. They never change, and stay."""
FRESHNESS: Final = FRESHNESS_PATH.removeprefix("/")
"""Below a device's folder; next to the manifest the one resource that changes (docs/freshness.md)."""

MANIFEST_CACHING: Final = "private, no-cache"
OBJECT_CACHING: Final = "private, max-age=31536000, immutable"
"""Content that is named by its digest may be kept permanently, by the device alone (Margo desired state, caching)."""

MAX_MANIFEST_BYTES: Final = 16 * 1024 * 1024
_BOUNDS: Final = Bounds(size=MAX_MANIFEST_BYTES, nodes=1_000_000)


@dataclass(frozen=True, slots=True)
class PublishedObject:
    """A resource that a digest names.

    Attributes:
        path: below the device's folder.
        digest: of its bytes; of a commit, that of its manifest's bytes.
        deployment_id: of a deployment; None for a bundle or a commit.
    """

    path: str
    digest: Digest
    media_type: str
    deployment_id: str | None


@dataclass(frozen=True, slots=True)
class ManifestContent:
    """A manifest's version, and what it leads to."""

    version: int
    objects: tuple[PublishedObject, ...]


def commit_object(digest: Digest) -> PublishedObject:
    """Return the commit of the manifest with this digest (LAYOUT-5)."""
    return PublishedObject(f"{COMMITS}/{digest}", digest, COMMIT_MEDIA_TYPE, None)


def trust_object(version: int, content: bytes) -> PublishedObject:
    """Return a version of the fleet's trust document."""
    return PublishedObject(f"{TRUST}/{trust_file(version)}", sha256(content), FRESHNESS_MEDIA_TYPE, None)


def read_manifest(content: bytes, file: str) -> ManifestContent:
    """Return what a manifest leads to (InvalidDocument, UnreadableDocument: it is not a manifest)."""
    manifest = read_as(StateManifest, read_source(content, file, _BOUNDS))
    objects = [
        PublishedObject(
            f"{DEPLOYMENTS}/{reference.deployment_id}/{reference.digest}",
            reference.digest,
            DEPLOYMENT_MEDIA_TYPE,
            reference.deployment_id,
        )
        for reference in manifest.deployments
    ]
    if manifest.bundle is not None:
        digest = manifest.bundle.digest
        objects.append(PublishedObject(f"{BUNDLES}/{digest}", digest, BUNDLE_MEDIA_TYPE, None))
    return ManifestContent(manifest.manifest_version, tuple(objects))


class PublishTarget(ABC):
    """Holds the published files of many devices.

    Every method takes the encoded id of a device, and raises PublishTargetUnusable where the target refuses.

    Attributes:
        where: the target, for messages.
        clock: returns seconds since 1970.
    """

    where: Location
    clock: Callable[[], float]

    @abstractmethod
    def exclusive(self) -> AbstractContextManager[None]:
        """Keep other publishers away while the context lasts; make the target where there is nothing.

        Raises:
            PublishBusy: another publisher is at work.
        """

    @abstractmethod
    def devices(self) -> Iterable[str]:
        """Return the encoded ids of all devices that were ever published here."""

    @abstractmethod
    def manifest(self, device: str) -> bytes | None:
        """Return the manifest that a device is given now; None for none."""

    @abstractmethod
    def manifests(self, device: str) -> Sequence[DatedManifest]:
        """Return all manifests of a device that are there, in any order."""

    @abstractmethod
    def objects(self, device: str) -> frozenset[str]:
        """Return the paths of all objects that are there for a device."""

    @abstractmethod
    def read(self, device: str, path: str) -> bytes | None:
        """Return a file's bytes; None where it is not there."""

    @abstractmethod
    def put(self, device: str, wanted: PublishedObject, content: bytes) -> None:
        """Write an object, whole or not at all."""

    @abstractmethod
    def delete(self, device: str, path: str) -> None:
        """Remove a file."""

    @abstractmethod
    def switch(self, device: str, manifest: bytes) -> None:
        """Give the device this manifest from one moment to the next; all its objects are there and durable."""

    @abstractmethod
    def proof(self, device: str) -> bytes | None:
        """Return the proof of freshness that a device is given now; None for none."""

    @abstractmethod
    def put_proof(self, device: str, shard: str, content: bytes) -> None:
        """Give the device this proof, which is that of all devices of a shard, from one moment to the next."""

    def collect(self, device: str, keep: float) -> int:
        """Remove what no manifest of the last `keep` seconds leads to; return how many objects went."""
        current = self.manifest(device)
        if current is None:
            return 0
        manifests = self.manifests(device)
        gone = expired(manifests, sha256(current), self.clock(), keep)
        used = self._used(current, device)
        for each in manifests:
            content = None if each.digest in gone else self.read(device, f"{MANIFESTS}/{each.digest}")
            used |= self._used(content, device) if content is not None else set()
        unused = sorted(self.objects(device) - used)
        for path in (*unused, *(f"{MANIFESTS}/{digest}" for digest in gone)):
            self.delete(device, path)
        return len(unused)

    def _used(self, manifest: bytes, device: str) -> set[str]:
        try:
            found = read_manifest(manifest, f"{device}: published manifest").objects
            return {each.path for each in (*found, commit_object(sha256(manifest)))}
        except (InvalidDocument, UnreadableDocument) as error:
            raise PublishTargetUnusable(
                f"a published manifest of {device} was changed by somebody else, so nothing is collected",
                where=self.where,
                why=[str(error)],
                remedy="remove it; publish again if it was the current one",
            ) from error


@dataclass(frozen=True, slots=True)
class DatedManifest:
    """A manifest on a target.

    Attributes:
        digest: of its bytes.
        published: seconds since 1970.
    """

    digest: str
    published: float


def expired(manifests: Sequence[DatedManifest], current: str, now: float, keep: float) -> frozenset[str]:
    """Return the digests of manifests that were replaced more than `keep` seconds ago.

    Args:
        manifests: all of a device, in any order.
        current: digest of the one that the device is given now; never expired.
        now: seconds since 1970.
        keep: seconds.
    """
    order = sorted(manifests, key=lambda manifest: (manifest.published, manifest.digest != current))
    replaced = {older.digest: newer.published for older, newer in pairwise(order)}
    return frozenset(digest for digest, time in replaced.items() if digest != current and now - time > keep)
