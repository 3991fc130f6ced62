"""What helm keeps in the cluster: a Secret for each revision of a release, and whose it is.

RELEASE-1  A release's name is its component and the whole deployment id, at most 53 characters: those of two
           deployments never meet. Two long components of one deployment may; the labels distinguish them.
RELEASE-2  Labels on the Secrets say device, deployment, component and digest. What does not have all of them is not
           ours, and is not touched.
RELEASE-3  A revision is read from the Secret itself, bounded, and once for each version of it. Its values, which may
           be secrets, are not kept.

Source: Helm's storage driver for Secrets (helm.sh/release.v1).
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from margo_gitops.appliers.applier import Workload, WorkloadKey
from margo_gitops.appliers.kubernetes.client import ClusterClient, Resource
from margo_gitops.appliers.kubernetes.manifests import COMPONENT, DEPLOYMENT, DEVICE, DIGEST, label_value
from margo_gitops.digests import Digest
from margo_gitops.documents.kubernetes_objects import (
    Fields,
    KubernetesObject,
    list_at,
    mapping_at,
    read_objects,
    text_at,
)
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import ClusterRefusesAgent, ManifestInvalid, WorkloadUnsupported
from margo_gitops.values import dataclass

SECRETS: Final = Resource("v1", "Secret", "secrets", namespaced=True, verbs=())
DEPLOYED: Final = "deployed"
_OURS: Final = (DEVICE, DEPLOYMENT, COMPONENT, DIGEST)
_LONGEST_LABEL: Final = 63
_LONGEST_COMPONENT: Final = 20
"""Of a release's name: with a dash and 32 digits of the deployment id, 53 characters."""
_MOST_BYTES: Final = 32 * 1024 * 1024
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")


def release_name(key: WorkloadKey) -> str:
    """Return the name of a workload's release, which most charts use for their objects too (RELEASE-1)."""
    component = key.component
    if len(component) > _LONGEST_COMPONENT:
        component = f"{component[:9].rstrip('-')}-{sha256(component.encode()).hexdigest()[:10]}"
    deployment = key.deployment_id.replace("-", "")
    if not re.fullmatch(r"[0-9a-f]{32}", deployment):
        deployment = sha256(key.deployment_id.encode()).hexdigest()[:32]
    return f"{component}-{deployment}"


def release_labels(workload: Workload, device: str) -> dict[str, str]:
    """Return the labels of a workload's release (WorkloadUnsupported: the component's name is too long for one)."""
    key = workload.key
    if len(key.component) > _LONGEST_LABEL:
        raise WorkloadUnsupported(
            f"the name of component {key.component} has more than {_LONGEST_LABEL} characters",
            remedy="give the component a shorter name in the application description",
        )
    packed = base64.b32encode(bytes.fromhex(workload.digest.removeprefix("sha256:")))
    digest = packed.decode().rstrip("=").lower()
    return {DEVICE: label_value(device), DEPLOYMENT: key.deployment_id, COMPONENT: key.component, DIGEST: digest}


@dataclass(frozen=True, slots=True)
class Release:
    """A revision of a release, as the labels of its Secret say.

    Attributes:
        number: of the revision.
        status: deployed, superseded, failed, uninstalling, pending-install, pending-upgrade, pending-rollback.
        labels: those of ours that it has.
        version: the server's, of the Secret.
    """

    namespace: str
    name: str
    number: int
    status: str
    labels: tuple[str, ...]
    secret: str
    version: str

    @property
    def key(self) -> WorkloadKey:
        """Which workload it is."""
        return WorkloadKey(self.labels[1], self.labels[2])

    @property
    def digest(self) -> Digest | None:
        """The digest of the workload that it was made of; None where the label was damaged."""
        try:
            content = base64.b32decode(self.labels[3].upper() + "=" * (-len(self.labels[3]) % 8))
        except ValueError:
            return None
        return Digest(f"sha256:{content.hex()}") if len(content) == 32 else None

    def is_of(self, device: str) -> bool:
        """Return whether a device installed it (RELEASE-2)."""
        return all(self.labels) and self.labels[0] == label_value(device)


@dataclass(frozen=True, slots=True)
class WantedRelease:
    """A release as a workload asks for it.

    Attributes:
        history: its revisions, the last one first.
        secrets: values that no message shows, by pointer.
    """

    workload: Workload
    history: Sequence[Release]
    chart: Path
    labels: Mapping[str, str]
    values: Mapping[str, Json]
    secrets: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its name."""
        return release_name(self.workload.key)

    @property
    def namespace(self) -> str:
        """Its namespace, the deployment's."""
        return self.workload.deployment.metadata.namespace


@dataclass(eq=False)
class ReleaseStore:
    """Reads what helm keeps; every error is an `ApplyError` with what the server says."""

    client: ClusterClient
    device: str

    def __post_init__(self) -> None:
        self._read: dict[tuple[str, str, str], tuple[KubernetesObject, ...]] = {}

    def history(self, namespace: str, name: str) -> list[Release]:
        """Return all revisions of a release, also of others, the last one first."""
        return self._list([namespace], f"owner=helm,name={name}")

    def latest(self, namespaces: Collection[str]) -> list[Release]:
        """Return the last revision of each release of this device, sorted by key.

        Args:
            namespaces: where to look if the server does not let this agent look into all.
        """
        selector = f"owner=helm,{DEVICE}={label_value(self.device)}"
        try:
            found = self._list([""], selector)
        except ClusterRefusesAgent:
            found = self._list(namespaces or [self.client.home], selector)
        last: dict[tuple[str, str], Release] = {}
        for each in found:
            if each.is_of(self.device):
                last.setdefault((each.namespace, each.name), each)
        here = {(each.namespace, each.secret, each.version) for each in last.values()}
        self._read = {place: objects for place, objects in self._read.items() if place in here}
        return sorted(last.values(), key=lambda each: (each.key, each.namespace))

    def objects(self, release: Release) -> tuple[KubernetesObject, ...]:
        """Return the objects of a revision, hooks apart (ManifestInvalid: it cannot be read)."""
        place = (release.namespace, release.secret, release.version)
        if place not in self._read:
            body = self.client.ask(SECRETS.path(release.namespace, release.secret))
            self._read[place] = manifest_objects(text_at(_opened(body, release.secret), "manifest"), release.name)
        return self._read[place]

    def _list(self, namespaces: Iterable[str], selector: str) -> list[Release]:
        found = [
            release
            for namespace in namespaces
            for body in self.client.list_objects(SECRETS, namespace, selector=selector, metadata_only=True)
            if (release := _release(body)) is not None
        ]
        return sorted(found, key=lambda each: each.number, reverse=True)


def manifest_objects(manifest: str, name: str) -> tuple[KubernetesObject, ...]:
    """Return the objects of what helm rendered (ManifestInvalid: it is not what a cluster takes).

    Args:
        name: for messages, with the line in what helm rendered.
    """
    return read_objects([(name, manifest.encode())])


def rendered(output: str, name: str) -> tuple[tuple[KubernetesObject, ...], tuple[KubernetesObject, ...]]:
    """Return the objects that `helm upgrade --dry-run` printed as JSON, and those of its hooks (ManifestInvalid)."""
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(
            f"what helm rendered for {name} cannot be read", why=[str(error)[:200]], remedy="make the chart smaller"
        ) from error
    hooks = [text_at(each, "manifest") for each in list_at(answer, "hooks")]
    return manifest_objects(text_at(answer, "manifest"), name), tuple(
        obj for number, text in enumerate(hooks, 1) for obj in manifest_objects(text, f"{name} (hook {number})")
    )


def _release(body: Fields) -> Release | None:
    labels = {key: value for key, value in mapping_at(body, "metadata", "labels").items() if isinstance(value, str)}
    number = labels.get("version", "")
    if not _NUMBER.fullmatch(number):
        return None
    return Release(
        text_at(body, "metadata", "namespace"),
        labels.get("name", ""),
        int(number),
        labels.get("status", ""),
        tuple(labels.get(each, "") for each in _OURS),
        text_at(body, "metadata", "name"),
        text_at(body, "metadata", "resourceVersion"),
    )


def _opened(body: Json, secret: str) -> Json:
    """Return a revision as helm wrote it."""
    try:
        packed = base64.b64decode(base64.b64decode(text_at(body, "data", "release")))
        if packed[:2] == b"\x1f\x8b":
            unpacking = zlib.decompressobj(wbits=31)
            packed = unpacking.decompress(packed, _MOST_BYTES)  # what is cut off there is not JSON
        content: Json = json.loads(packed)
    except (ValueError, zlib.error, RecursionError) as error:
        raise ManifestInvalid(
            f"the Secret {secret} is not a release of helm",
            why=[str(error)[:200]],
            remedy="delete it; the agent installs the release again",
        ) from error
    return content


def last_good(history: Sequence[Release], other_than: Digest | None = None) -> Release | None:
    """Return the revision that ran last, as far as helm knows; None where none did.

    Args:
        history: of one release, the last revision first.
        other_than: the digest of one that ran, and was not ready.
    """
    ran = [each for each in history if each.status in (DEPLOYED, "superseded") and each.digest != other_than]
    return next((each for each in ran if each.status == DEPLOYED), ran[0] if ran else None)
