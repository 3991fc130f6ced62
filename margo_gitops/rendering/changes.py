"""What a render would change, as a value: what `margo-gitops plan` prints, and what it says as JSON.

The unit is the device that pulls: one without children, or a gateway with its children. A device that leaves the fleet
keeps its branch and what runs on it, so it is counted as leaving, and nothing on it stops.
What a device must download is counted without I/O; the caller gives the sizes:

DOWNLOAD-1  Content is named by its digest, and counts only if no deployment that the device has names it already.
DOWNLOAD-2  Sizes are known of what the package brings along, or states; images, charts and what is in registries are
            counted as "unknown", one for each name.
DOWNLOAD-3  The state itself, a few kilobytes, is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Protocol

from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.declarations import About, OwnKind
from margo_gitops.documents.deployment import ApplicationDeployment, DeploymentExtension
from margo_gitops.documents.state_layout import MANIFEST_FILE, deployment_path
from margo_gitops.documents.workload_identity import own_extension
from margo_gitops.errors import DeploymentUnusable
from margo_gitops.values import dataclass, fields

ChangeKind = Literal["added", "removed", "changed"]
Effect = Literal["starts", "restarts", "stops"]
_ENDING: dict[Effect, str] = {"starts": "starting", "restarts": "restarting", "stops": "stopping"}
PolicyPart = Literal["signatures", "reviews", "freezes", "applications", "registries", "command", "files"]
Outcome = Literal["passed", "refused", "pending", "skipped"]


@dataclass(frozen=True, slots=True)
class ValueOrigin:
    """Where a value is written in the fleet repo."""

    layer: Annotated[str, About("The layer, weakest to strongest as docs/fleet-repo.md says.", ("site north",))]
    file: Annotated[str, About("Relative to the fleet repo.", ("sites/north.yaml",))]
    line: Annotated[int | None, About("From 1; null where only the file is known.")]
    column: Annotated[int | None, About("From 1; null where only the file is known.")]
    written: Annotated[ParameterValue, About("As it is written there, with expressions.")]


@dataclass(frozen=True, slots=True)
class ParameterChange:
    """A parameter whose value changes on a device."""

    name: Annotated[str, About("Of the parameter.")]
    before: Annotated[ParameterValue | None, About("The value now; null for no value.")]
    after: Annotated[ParameterValue | None, About("The new value; null for no value.")]
    origin: Annotated[ValueOrigin | None, About("Where the new value is written; null for no value.")]


@dataclass(frozen=True, slots=True)
class FieldChange:
    """Anything else of a deployment that changes."""

    field: Annotated[str, About("What.", ("application.version", "profile.components.hmi.properties.revision"))]
    before: Annotated[ParameterValue | None, About("Now; null for no value.")]
    after: Annotated[ParameterValue | None, About("Then; null for no value.")]


@dataclass(frozen=True, slots=True)
class WorkloadChange:
    """A component that starts, restarts or stops on a device."""

    component: Annotated[str, About("Of the profile.")]
    effect: Annotated[Effect, About("What happens to it.")]


@dataclass(frozen=True, slots=True)
class ObjectFieldChange:
    """A field of a Kubernetes object that changes."""

    path: Annotated[str, About("In the object.", ("spec.template.spec.containers[name=web].image",))]
    before: Annotated[str | None, About("As JSON, shortened; null for no value. Values of Secrets are hidden.")]
    after: Annotated[str | None, About("As `before`.")]
    origin: Annotated[ValueOrigin | None, About("Where the value is written that it comes from, if that is known.")]


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """A Kubernetes object that a chart or manifests add, change or remove."""

    component: Annotated[str, About("Of the profile.")]
    kind: Annotated[str, About("Of the object.", ("Deployment",))]
    namespace: Annotated[str, About("Empty where the manifest names none.")]
    name: Annotated[str, About("Of the object, in a release with the name of the component.")]
    change: Annotated[ChangeKind, About("What happens to it.")]
    fields: Annotated[tuple[ObjectFieldChange, ...], About("That change, sorted.")]

    @property
    def title(self) -> str:
        """What it is called, in words."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class DeploymentChange:
    """A deployment on a device that is added, removed or changed."""

    id: Annotated[str, About("Of Margo's deployment document.")]
    device: Annotated[str, About("The device; for a gateway's child, the child.")]
    deployment: Annotated[str, About("Name of the Deployment in the fleet repo.")]
    change: Annotated[ChangeKind, About("What happens to it.")]
    fields: Annotated[tuple[FieldChange, ...], About("What changes in addition to parameters, sorted.")]
    parameters: Annotated[tuple[ParameterChange, ...], About("Sorted by name.")]
    workloads: Annotated[tuple[WorkloadChange, ...], About("Components that start, restart or stop.")]
    objects: Annotated[
        tuple[ObjectChange, ...],
        About("Kubernetes objects that change, as far as that is known (docs/review-and-ci.md)."),
    ] = ()

    @property
    def file(self) -> str:
        """The document's path on the device's branch."""
        return deployment_path(self.id)


@dataclass(frozen=True, slots=True)
class Download:
    """What has to be downloaded in addition to the state itself; what a device holds already is not counted."""

    bytes: Annotated[int, About("Of content whose size is known.")]
    unknown: Annotated[int, About("How many images, charts and other contents there are of unknown size.")]


NOTHING_TO_DOWNLOAD = Download(0, 0)


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """A device that joins the fleet, leaves it, or gets another state."""

    device: Annotated[str, About("The device that pulls.")]
    site: Annotated[str | None, About("Its site; null for none.")]
    site_before: Annotated[str | None, About("Its site before; null for none.")]
    change: Annotated[ChangeKind, About("`removed`: it leaves the fleet; its branch stays, nothing on it stops.")]
    version_before: Annotated[int | None, About("`manifestVersion` now; null where it never had a state.")]
    version_after: Annotated[int | None, About("`manifestVersion` then; null for a device that leaves.")]
    deployments: Annotated[tuple[DeploymentChange, ...], About("Sorted by device and name.")]
    download: Annotated[Download, About("What it has to download for this.")]

    def files(self) -> Iterator[str]:
        """Yield the files of the device's branch that change."""
        if self.change != "removed" and self.version_before != self.version_after:
            yield MANIFEST_FILE
            yield from (each.file for each in self.deployments)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many devices, deployments on devices, and workloads change."""

    devices_added: int
    devices_changed: int
    devices_removed: int
    deployments_added: int
    deployments_changed: int
    deployments_removed: int
    workloads_starting: int
    workloads_restarting: int
    workloads_stopping: int
    download: Annotated[Download, About("What all devices together have to download.")]


@dataclass(frozen=True, slots=True)
class SiteCounts:
    """The counts of one site."""

    site: Annotated[str | None, About("Its name; null for devices without a site.")]
    counts: Annotated[Counts, About("What changes there.")]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason why nothing can be rendered."""

    rule: Annotated[str, About("The error's code, or the rule's id (docs/rules.md).", ("MG1201",))]
    message: Annotated[str, About("What is wrong.")]
    file: Annotated[str | None, About("Where; null where it is in no file.")]
    line: Annotated[int | None, About("From 1; null where only the file is known.")]
    column: Annotated[int | None, About("From 1; null where only the file is known.")]
    device: Annotated[str | None, About("The device that cannot take it; null if no device is concerned.")]
    why: Annotated[tuple[str, ...], About("The reasons.")]
    remedy: Annotated[str, About("What to do; may be empty.")]


@dataclass(frozen=True, slots=True)
class SiteRefusal:
    """The devices of a site that cannot take what is wanted."""

    site: Annotated[str | None, About("Its name; null for devices without a site.")]
    devices: Annotated[tuple[str, ...], About("Their ids, sorted.")]


@dataclass(frozen=True, slots=True)
class PolicyVerdict:
    """What one part of the fleet's policy says (docs/policy.md)."""

    part: Annotated[PolicyPart, About("Of `spec.policy`; `files`: whether what it names can be used.")]
    outcome: Annotated[
        Outcome,
        About("`pending`: reviews that the change still needs; `skipped`: not judged here, the message says why."),
    ]
    message: Annotated[str, About("In one sentence.")]
    reasons: Annotated[tuple[Refusal, ...], About("Why it refuses, or what is pending.")]


@dataclass(frozen=True, slots=True)
class Plan(OwnKind):
    """What a render would change."""

    subject: Annotated[str, About("What would be rendered: a commit id, or `working tree`.")]
    base: Annotated[str, About("What it is compared with.", ("the state repo, rendered from 1f0c2b9d4a77",))]
    notes: Annotated[tuple[str, ...], About("What a reader should know, for people.")]
    counts: Annotated[Counts, About("Of the whole fleet.")]
    sites: Annotated[tuple[SiteCounts, ...], About("Sites where something changes, sorted.")]
    devices: Annotated[tuple[DeviceChange, ...], About("Devices that change, sorted.")]
    unchanged: Annotated[int, About("Devices that keep their state.")]
    refusals: Annotated[tuple[Refusal, ...], About("Why nothing can be rendered; then no device changes.")]
    cannot_take: Annotated[tuple[SiteRefusal, ...], About("Devices that the refusals name, by site.")]
    policy: Annotated[tuple[PolicyVerdict, ...], About("What the fleet's policy says; empty where it has none.")]

    @property
    def breaches(self) -> tuple[Refusal, ...]:
        """Why the policy refuses; empty where it does not."""
        return tuple(reason for each in self.policy if each.outcome == "refused" for reason in each.reasons)

    @property
    def refused(self) -> bool:
        """Whether a render is refused: for what cannot be rendered, or by the policy."""
        return bool(self.refusals) or any(each.outcome == "refused" for each in self.policy)

    @property
    def empty(self) -> bool:
        """Whether a render would change nothing, and could be done."""
        return not (self.devices or self.refused)


def make_plan(
    subject: str,
    base: str,
    devices: Iterable[DeviceChange],
    *,
    unchanged: int = 0,
    notes: Iterable[str] = (),
    refusals: Iterable[Refusal] = (),
    cannot_take: Iterable[SiteRefusal] = (),
    policy: Iterable[PolicyVerdict] = (),
) -> Plan:
    """Return a plan with its counts."""
    found = tuple(devices)
    sites: dict[str | None, list[DeviceChange]] = {}
    for device in found:
        sites.setdefault(device.site, []).append(device)
    by_site = tuple(SiteCounts(site, _counts(sites[site])) for site in sorted(sites, key=lambda name: name or ""))
    return Plan(
        subject=subject,
        base=base,
        notes=tuple(notes),
        counts=_counts(found),
        sites=by_site,
        devices=found,
        unchanged=unchanged,
        refusals=tuple(refusals),
        cannot_take=tuple(cannot_take),
        policy=tuple(policy),
    )


def _counts(devices: Iterable[DeviceChange]) -> Counts:
    numbers = dict.fromkeys((each.name for each in fields(Counts) if each.name != "download"), 0)
    known = unknown = 0
    for device in devices:
        known += device.download.bytes
        unknown += device.download.unknown
        numbers[f"devices_{device.change}"] += 1
        for deployment in device.deployments:
            numbers[f"deployments_{deployment.change}"] += 1
            for workload in deployment.workloads:
                numbers[f"workloads_{_ENDING[workload.effect]}"] += 1
    return Counts(**numbers, download=Download(known, unknown))


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
    """Facts where nothing is known."""

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
        files: large artifacts, by digest, with their sizes in bytes.
    """

    contents: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    files: frozenset[tuple[str, int]] = frozenset()

    def without(self, other: Needed) -> Needed:
        """Return what is not in another."""
        return Needed(self.contents - other.contents, self.names - other.names, self.files - other.files)

    @property
    def empty(self) -> bool:
        """Whether it is nothing."""
        return not (self.contents or self.names or self.files)


def needed(documents: Iterable[ApplicationDeployment], facts: ContentFacts) -> Needed:
    """Return what deployments need to be there."""
    contents: set[str] = set()
    names: set[str] = set()
    files: set[tuple[str, int]] = set()
    for document in documents:
        extension = _extension(document)
        artifacts = {each.component: each.digest for each in extension.artifacts} if extension else {}
        files |= {(each.digest, each.size_bytes) for each in extension.large_artifacts} if extension else set()
        for component in document.spec.deployment_profile.components:
            if component.name in artifacts:
                contents.add(artifacts[component.name])
                names |= facts.images(artifacts[component.name])
            else:
                properties = component.properties
                names.add(properties.package_location or f"{properties.repository}:{properties.revision}")
    return Needed(frozenset(contents), frozenset(names), frozenset(files))


def download(fetched: Needed, facts: ContentFacts) -> Download:
    """Return what it costs to fetch what is needed."""
    sizes = [facts.size(digest) for digest in fetched.contents]
    return Download(
        bytes=sum(size for size in sizes if size is not None) + sum(size for _, size in fetched.files),
        unknown=sum(size is None for size in sizes) + len(fetched.names),
    )


def _extension(document: ApplicationDeployment) -> DeploymentExtension | None:
    try:
        return own_extension(document)
    except DeploymentUnusable:
        return None
