"""What a device must download for a change. Pure: sizes are handed in.

B-1  Content is named by its digest, and counts only if no deployment that the device has names it already.
B-2  Sizes are known of what the package brings along, or states; images, charts and what lies in registries are counted
     as "unknown", one for each name.
B-3  The state itself, a few kilobytes, is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from margo_gitops.documents.deployment import ApplicationDeployment
from margo_gitops.documents.workload_identity import own_extension
from margo_gitops.errors import DeploymentUnusable
from margo_gitops.rendering.plan import Download


class ContentFacts(Protocol):
    """What is known of content, by its digest."""

    def size(self, digest: str) -> int | None:
        """Return its bytes; None where that is not known."""
        ...

    def images(self, digest: str) -> frozenset[str]:
        """Return the images that it names."""
        ...


@dataclass(frozen=True, slots=True)
class NothingKnown:
    """Facts where nobody has any."""

    def size(self, digest: str) -> None:
        """Return nothing."""

    def images(self, digest: str) -> frozenset[str]:  # noqa: ARG002  # of the protocol
        """Return none."""
        return frozenset()


NOTHING_KNOWN = NothingKnown()


@dataclass(frozen=True, slots=True)
class Needed:
    """What deployments need to be there.

    Attributes:
        contents: digests.
        names: images, and references in registries.
    """

    contents: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    def without(self, other: Needed) -> Needed:
        """Return what is not in another."""
        return Needed(self.contents - other.contents, self.names - other.names)

    @property
    def empty(self) -> bool:
        """Whether it is nothing."""
        return not (self.contents or self.names)


def needed(documents: Iterable[ApplicationDeployment], facts: ContentFacts) -> Needed:
    """Return what deployments need to be there."""
    contents: set[str] = set()
    names: set[str] = set()
    for document in documents:
        artifacts = _artifacts(document)
        for component in document.spec.deployment_profile.components:
            if component.name in artifacts:
                contents.add(artifacts[component.name])
                names |= facts.images(artifacts[component.name])
            else:
                properties = component.properties
                names.add(properties.package_location or f"{properties.repository}:{properties.revision}")
    return Needed(frozenset(contents), frozenset(names))


def download(fetched: Needed, facts: ContentFacts) -> Download:
    """Return what it costs to fetch what is needed."""
    sizes = [facts.size(digest) for digest in fetched.contents]
    return Download(
        bytes=sum(size for size in sizes if size is not None),
        unknown=sum(size is None for size in sizes) + len(fetched.names),
    )


def _artifacts(document: ApplicationDeployment) -> dict[str, str]:
    """Return the digest of each component's content, by component; only what has one."""
    try:
        extension = own_extension(document)
    except DeploymentUnusable:
        return {}
    return {artifact.component: artifact.digest for artifact in extension.artifacts} if extension else {}
