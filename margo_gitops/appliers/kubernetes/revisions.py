"""What it takes to apply a workload again, as it is kept on disk, and what makes objects of it.

REVISION-1  A revision names the content by digest, parameters and secrets. The values of secrets are not in it, so the
            objects are made each time they are needed; the cache keeps the content as long as the revision is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from margo_gitops.appliers.applier import Workload, WorkloadKey
from margo_gitops.disk.files import read_bounded, write_synced
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.deployment import Artifact, component_format
from margo_gitops.documents.kubernetes_objects import (
    BOUNDS,
    MANIFEST_SUFFIXES,
    MOST_BYTES,
    KubernetesObject,
    read_objects,
)
from margo_gitops.documents.kubernetes_pointers import with_secrets, with_values
from margo_gitops.documents.records import write
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.errors import ManifestInvalid, WorkloadUnsupported
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class Revision:
    """A workload, without the values of its secrets.

    Attributes:
        seconds: that it has to become ready.
    """

    digest: str
    namespace: str
    seconds: int
    artifact: Artifact
    values: Mapping[str, ParameterValue]
    secrets: Mapping[str, WantedSecret]

    @staticmethod
    def of(workload: Workload, artifact: Artifact) -> Revision:
        """Return the revision of a workload."""
        space = workload.deployment.metadata.namespace
        seconds = workload.timeout_seconds
        return Revision(workload.digest, space, seconds, artifact, workload.values, workload.secrets)

    def write(self, path: Path) -> None:
        """Keep it."""
        secrets = {pointer: write(each) for pointer, each in self.secrets.items()}
        content = [self.digest, self.namespace, self.seconds, write(self.artifact), dict(self.values), secrets]
        write_synced(path, json.dumps(content).encode(), mode=0o600)

    @staticmethod
    def read(path: Path) -> Revision | None:
        """Return a revision; None where it is missing or damaged."""
        try:
            digest, space, seconds, artifact, values, secrets = json.loads(read_bounded(path, 2 * MOST_BYTES))
            return Revision(
                digest,
                space,
                seconds,
                Artifact(**artifact),
                {pointer: tuple(each) if isinstance(each, list) else each for pointer, each in values.items()},
                {pointer: WantedSecret(**each) for pointer, each in secrets.items()},
            )
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return None


class ObjectSource(Protocol):
    """Makes the objects of components.

    Attributes:
        profile_type: what it serves, as an applier's `profile_types` say it.
        name: distinguishes its sets in a cluster from those of other sources.
        what: the content, for people.
    """

    profile_type: str
    name: str
    what: str

    def artifact(self, workload: Workload) -> Artifact:
        """Return the content of a workload (WorkloadUnsupported: it is not for this source)."""

    def objects(
        self, key: WorkloadKey, revision: Revision, content: Path, secrets: Mapping[str, bytes]
    ) -> Sequence[KubernetesObject]:
        """Return the objects of a revision (ApplyError: the content has no objects, or one has a mistake).

        Args:
            content: folder with the content.
            secrets: values by pointer.
        """


class ManifestSource:
    """Reads manifests, and puts parameters and secrets into them."""

    profile_type = "custom/kubernetes"
    name = ""
    what = "the manifests"

    def artifact(self, workload: Workload) -> Artifact:
        """Return the folder of manifests (WorkloadUnsupported: the component has none)."""
        if workload.artifact is None or component_format(workload.component) != "kubernetes":
            raise WorkloadUnsupported(
                f"component {workload.component.name} has no Kubernetes manifests",
                why=[] if workload.artifact else ["the deployment names no content for it"],
                remedy="give it content, and `format: kubernetes` in its x-margo-gitops-extensions",
            )
        return workload.artifact

    def objects(
        self, key: WorkloadKey, revision: Revision, content: Path, secrets: Mapping[str, bytes]
    ) -> Sequence[KubernetesObject]:
        """Return the objects (ManifestInvalid: there is no manifest, or one or a pointer has a mistake)."""
        objects = read_objects(_files(content))
        if not objects:
            raise ManifestInvalid(f"component {key.component} has no manifest in its content")
        return with_secrets(with_values(objects, revision.values), secrets)


def _files(content: Path) -> Iterable[tuple[str, bytes]]:
    for path in sorted(content.rglob("*")):
        if path.suffix in MANIFEST_SUFFIXES and path.is_file() and not path.is_symlink():
            yield path.relative_to(content).as_posix(), read_bounded(path, BOUNDS.size)
