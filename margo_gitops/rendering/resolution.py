"""One deployment on one device, resolved: profile, id, and every parameter with its origin."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from margo_gitops.documents.application import DeploymentProfile
from margo_gitops.documents.components import Component
from margo_gitops.documents.deployment import (
    OWN_EXTENSION,
    ApplicationDeployment,
    Artifact,
    DeployedParameter,
    DeployedProfile,
    DeploymentExtension,
    DeploymentMetadata,
    DeploymentSpec,
    component_format,
)
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_kinds import Deployment, DeviceSpec
from margo_gitops.documents.large_artifacts import LargeArtifact
from margo_gitops.documents.maintenance import Calendar, Maintenance, PlaceMaintenance
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.documents.secrets import DeployedSecret
from margo_gitops.documents.switching import DeviceLock
from margo_gitops.errors import (
    AmbiguousProfile,
    ArtifactsUndeliverable,
    MargoGitopsError,
    NotPlaceable,
    ReferenceUnknown,
)
from margo_gitops.rendering.intent import Application, ById, ComponentContent, Intent, Located
from margo_gitops.rendering.parameters import Effective, effective_parameters, layers, secret_targets
from margo_gitops.rendering.placement import TargetDevice, choose_profile
from margo_gitops.values import dataclass
from margo_gitops.wording import did_you_mean

_DEPLOYMENT_IDS = uuid.UUID("8a2d2b0e-3f0a-5c39-9f2c-6f0d4be0a6a1").bytes
"""The name space of deployment ids. Never changes: every id in every fleet depends on it."""


@lru_cache(maxsize=4096)
def deployment_id(fleet: str, device: str, deployment: str) -> str:
    """Return the UUIDv5 of a deployment on a device: stable, and never stored."""
    # No name holds a newline, so no two different triples join to the same text.
    name = f"{fleet}\n{device}\n{deployment}"
    # What `uuid.uuid5` does, in a third of its time (RFC 9562 section 5.5).
    digest = bytearray(hashlib.sha1(_DEPLOYMENT_IDS + name.encode(), usedforsecurity=False).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x50, digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class Placement:
    """A deployment on a device, with the profile it gets there."""

    deployment: Located[Deployment]
    application: Application
    profile: DeploymentProfile
    target: TargetDevice


@dataclass(frozen=True, slots=True)
class Resolved:
    """One deployment on one device."""

    id: str
    target: TargetDevice
    deployment: Located[Deployment]
    application: Application
    profile: DeploymentProfile
    parameters: tuple[Effective, ...]


def choose(deployment: Located[Deployment], application: Application, target: TargetDevice) -> DeploymentProfile:
    """Return the profile that a device gets (NotPlaceable, AmbiguousProfile: with the deployment's file and line)."""
    name = deployment.value.metadata.name
    try:
        return choose_profile(application.description.value.deployment_profiles, deployment.value.spec.profiles, target)
    except NotPlaceable as error:
        raise NotPlaceable(
            f"deployment {name}: {error.what}",
            where=deployment.at("spec", "placement"),
            device=target.id,
            why=error.why,
            remedy="take the device out of spec.placement, or correct its capabilities",
        ) from error
    except AmbiguousProfile as error:
        raise AmbiguousProfile(
            f"deployment {name}: {error.what}",
            where=deployment.at("spec"),
            device=target.id,
            remedy="name the one to use in spec.profiles, best first",
        ) from error


def resolve(
    intent: Intent, placement: Placement, previous: Mapping[str, DeployedParameter] | None = None
) -> tuple[Resolved, list[MargoGitopsError]]:
    """Return a deployment on a device with all its parameters, and everything wrong with these.

    Args:
        previous: the parameters installed before, for immutable settings.
    """
    deployment, application, profile, target = (
        placement.deployment,
        placement.application,
        placement.profile,
        placement.target,
    )
    identity = deployment_id(intent.fleet.value.metadata.name, target.id, deployment.value.metadata.name)
    stack = tuple(layers(intent, deployment, application, target))
    names = expression_names(placement, identity)
    parameters, errors = effective_parameters(
        stack, application, profile, names, previous, deployment.value.spec.secret_refs
    )
    for error in errors:
        error.device = target.id
    return Resolved(identity, target, deployment, application, profile, tuple(parameters)), errors


def expression_names(placement: Placement, identity: str) -> dict[str, Json]:
    """Return what the expressions of a deployment on a device may use.

    Args:
        identity: the deployment's id on this device.
    """
    description, profile = placement.application.description.value, placement.profile
    return {
        **placement.target.names,
        "application": {"id": description.id, "version": description.metadata.version},
        "deployment": {"id": identity, "name": placement.deployment.value.metadata.name},
        "profile": {"id": profile.id, "type": profile.type},
    }


def application_deployment(
    resolved: Resolved, intent: Intent, after: Iterable[str], stop: Iterable[str]
) -> ApplicationDeployment:
    """Return Margo's document for a resolved deployment.

    Args:
        after: ids of deployments of the same device that must be installed first.
        stop: ids of deployments of the same device that do not run while it is updated.

    Raises:
        ReferenceUnknown: the application's content is vendored, and the fleet does not say where devices find it.
    """
    fleet = intent.fleet.value
    description = resolved.application.description.value
    called = intent.called(resolved.target.id)
    extension = DeploymentExtension(
        deployment=resolved.deployment.value.metadata.name,
        application_version=description.metadata.version,
        profile=resolved.profile.id,
        after=tuple(after),
        artifacts=_artifacts(resolved, intent),
        device=resolved.target.id if called != resolved.target.id else None,
        maintenance=calendars(resolved.deployment.value, resolved.target, intent),
        contact=contact(resolved.target, intent),
        secrets=tuple(deployed_secrets(resolved)),
        locks=locks(resolved.deployment.value, resolved.target),
        hooks=resolved.deployment.value.spec.hooks,
        on_failure=resolved.deployment.value.spec.on_failure,
        on_drift=resolved.deployment.value.spec.on_drift,
        health=resolved.deployment.value.spec.health,
        stop=tuple(stop),
        large_artifacts=_large_artifacts(resolved),
    )
    return ApplicationDeployment(
        id=resolved.id,
        metadata=DeploymentMetadata(
            name=resolved.deployment.value.metadata.name,
            namespace=fleet.spec.namespace,
            device_id=called,
        ),
        spec=DeploymentSpec(
            application_id=description.id,
            deployment_profile=_deployed_profile(ById(resolved.profile)),
            parameters={
                parameter.name: DeployedParameter(parameter.value, parameter.targets)
                for parameter in resolved.parameters
            },
            extensions={OWN_EXTENSION: write(extension)},
        ),
    )


def deployed_secrets(resolved: Resolved) -> Iterator[DeployedSecret]:
    """Yield the parameters that are secrets; what is encrypted for the device is copied as it is."""
    sealed = resolved.target.device.spec.secrets
    for parameter, ref in sorted(resolved.deployment.value.spec.secret_refs.items()):
        name = ref.name or parameter
        if targets := secret_targets(resolved.application, resolved.profile, parameter):
            yield DeployedSecret(parameter, name, targets, sealed[name].sealed if name in sealed else None)


def calendars(deployment: Deployment, target: TargetDevice, intent: Intent) -> tuple[Calendar, ...]:
    """Return when a deployment may change on a device: what the device says, or else its site, and what it says."""
    if deployment.spec.urgent:
        return ()
    found: list[tuple[Maintenance | None, str]] = []
    place, of = _maintenance_of(target.device.spec, target.id, intent)
    if place is not None and (place.windows or place.blackouts or not (place.polling or place.downtime)):
        found.append((place, of))
    found.append((deployment.spec.maintenance, f"deployment {deployment.metadata.name}"))
    return tuple(Calendar(each.time_zone, each.windows, each.blackouts, of) for each, of in found if each is not None)


def contact(target: TargetDevice, intent: Intent) -> Calendar | None:
    """Return when a device polls and reports; for a gateway's child, what counts for the gateway, which polls."""
    client = client_of(target.id)
    device = intent.devices.get(client)
    place, of = _maintenance_of(device.value.spec if device is not None else target.device.spec, client, intent)
    if place is None or not (place.polling or place.downtime):
        return None
    return Calendar(place.time_zone, place.polling, place.downtime, of)


def _maintenance_of(device: DeviceSpec, name: str, intent: Intent) -> tuple[PlaceMaintenance | None, str]:
    """Return what a device says, or else its site, and who says it."""
    site = intent.sites.get(device.site or "")
    if device.maintenance is None and site is not None:
        return site.value.spec.maintenance, f"site {device.site}"
    return device.maintenance, f"device {name}"


def locks(deployment: Deployment, target: TargetDevice) -> tuple[DeviceLock, ...]:
    """Return what may forbid a deployment to change on a device: the device's locks, then its own."""
    every = (
        *((lock, f"device {target.id}") for lock in target.device.spec.locks),
        *((lock, f"deployment {deployment.metadata.name}") for lock in deployment.spec.locks),
    )
    return tuple(lock.as_of(whose) for lock, whose in every if not (lock.yields and deployment.spec.urgent))


@lru_cache(maxsize=1024)
def _deployed_profile(profile: ById[DeploymentProfile]) -> DeployedProfile:
    """Return the profile as devices get it; one object for all devices, so that it is written once."""
    return DeployedProfile(
        type=profile.value.type,
        components=tuple(_without_own(component) for component in profile.value.components),
        device_constraints=profile.value.device_constraints,
        extensions=profile.value.extensions,
    )


def _without_own(component: Component) -> Component:
    """Return a component without our own extension: the deployment's has the resolved values. Its format stays."""
    kept = {key: value for key, value in component.extensions.items() if key != OWN_EXTENSION}
    if (content := component_format(component)) is not None:
        kept[OWN_EXTENSION] = {"format": content}
    return Component(component.name, component.properties, kept)


def _artifacts(resolved: Resolved, intent: Intent) -> tuple[Artifact, ...]:
    policy = intent.fleet.value.spec.artifacts
    artifacts = []
    for component in resolved.profile.components:
        content = resolved.application.contents.get((resolved.profile.type, component.name))
        if content is None:
            continue
        if "://" in content.location:
            url = content.location
        elif policy is None:
            remedy = "add it: the applications/ folder as devices see it, https or file"
            raise _unreachable(intent, resolved, content, "spec.artifacts.baseUrl is missing", remedy)
        elif content.is_folder and not policy.base_url.startswith("file:"):
            package = "/".join(content.location.split("/")[:2])
            remedy = f"make it a tar.gz: margo-gitops app add --pack --replace applications/{package}"
            raise _unreachable(intent, resolved, content, "a folder cannot be fetched by https", remedy)
        else:
            url = policy.base_url + content.location
        artifacts.append(Artifact(component.name, url, content.digest))
    return tuple(artifacts)


def _large_artifacts(resolved: Resolved) -> tuple[LargeArtifact, ...]:
    """Return the large artifacts of a deployment (ArtifactsUndeliverable: its components cannot get them)."""
    deployment = resolved.deployment
    artifacts = deployment.value.spec.artifacts
    names = {component.name for component in resolved.profile.components}
    for place, each in enumerate(artifacts):
        for at, name in enumerate(each.components):
            if name not in names:
                raise ArtifactsUndeliverable(
                    f"the artifact {each.name} is for {name}, which is not a component of {resolved.profile.id}",
                    where=deployment.at("spec", "artifacts", place, "components", at),
                    device=resolved.target.id,
                    remedy=did_you_mean(name, names),
                )
    if artifacts and (
        resolved.profile.type == "helm" or "kubernetes" in map(component_format, resolved.profile.components)
    ):
        raise ArtifactsUndeliverable(
            f"the profile {resolved.profile.id} runs in a cluster, and artifacts are files of one machine",
            where=deployment.at("spec", "artifacts"),
            device=resolved.target.id,
            why=["a pod may run on another node than the agent, and a volume of the host is what clusters forbid"],
            remedy="put the file into an image or a volume of the cluster, or place a compose profile",
        )
    return artifacts


def _unreachable(
    intent: Intent, resolved: Resolved, content: ComponentContent, reason: str, remedy: str
) -> ReferenceUnknown:
    return ReferenceUnknown(
        f"devices cannot find the content of {resolved.application.description.value.id}: {reason}",
        where=intent.fleet.at("spec", "artifacts"),
        device=resolved.target.id,
        why=[f"it is vendored at applications/{content.location}"],
        remedy=remedy,
    )
