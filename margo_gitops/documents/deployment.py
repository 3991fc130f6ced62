"""ApplicationDeployment: one application on one device (Margo desired state, current shape)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from margo_gitops.digests import DIGEST_PATTERN, Digest
from margo_gitops.documents.components import APPLICATION_ID_PATTERN, Component, ParameterValue, ProfileType, Target
from margo_gitops.documents.constraints import DeviceConstraints
from margo_gitops.documents.declarations import About, Extensions, Items, OtherKeys, Text
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, DEVICE_TARGET_PATTERN
from margo_gitops.documents.large_artifacts import LargeArtifact
from margo_gitops.documents.maintenance import Calendar
from margo_gitops.documents.secrets import DeployedSecret
from margo_gitops.documents.switching import DeviceLock, Health, Hooks
from margo_gitops.values import dataclass, field

OWN_EXTENSION = "x-margo-gitops-extensions"
"""The slot that carries what Margo leaves to vendors; a foreign device ignores it."""

OnFailure: TypeAlias = Literal["hold", "rollback", "continue"]
OnDrift: TypeAlias = Literal["repair", "report", "respect"]

UUID_PATTERN = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"


@dataclass(frozen=True, slots=True)
class DeploymentMetadata:
    """Names of the deployment, and the device it is for."""

    CURRENT_REQUIRES: ClassVar[tuple[str, ...]] = ("deviceId",)

    name: Annotated[
        str, About("Kubernetes object name, chosen by the fleet manager.", ("line-vision",)), Text(min_length=1)
    ]
    namespace: Annotated[
        str, About("Kubernetes namespace, chosen by the fleet manager.", ("margo",)), Text(min_length=1)
    ]
    device_id: Annotated[
        str | None,
        About("The device; a child of a gateway as a path; a last `*` lets the gateway choose.", ("press-07",)),
        Text(pattern=DEVICE_TARGET_PATTERN, what="a device id", max_length=DEVICE_ID_MAX_LENGTH),
    ] = None
    labels: Annotated[Mapping[str, str], About("For people and other tools.")] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeployedProfile:
    """The chosen profile: its type, and its components in order."""

    type: Annotated[ProfileType, About("Which engine runs it.")]
    components: Annotated[
        tuple[Component, ...], Items(minimum=1, unique="name", noun="component"), About("Installed in this order.")
    ]
    device_constraints: DeviceConstraints | None = None
    extensions: Extensions = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeployedParameter:
    """A parameter's value and where it goes."""

    value: Annotated[ParameterValue, About("The value.")]
    targets: Annotated[tuple[Target, ...], About("Where it goes.")]


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """What runs, and with which parameters."""

    application_id: Annotated[
        str,
        Text(pattern=APPLICATION_ID_PATTERN, what="an application id (1 to 200 lower-case letters, digits, dashes)"),
        About("The `id` of the application's description."),
    ]
    deployment_profile: DeployedProfile
    parameters: Annotated[Mapping[str, DeployedParameter], About("Values by parameter name.")] = field(
        default_factory=dict
    )
    extensions: Extensions = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApplicationDeployment:
    """One application on one device."""

    id: Annotated[
        str,
        About("UUID given by the fleet manager; it stays when parameters or revisions change."),
        Text(pattern=UUID_PATTERN, what="a UUID"),
    ]
    metadata: DeploymentMetadata
    spec: DeploymentSpec
    others: OtherKeys = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """The content of a component, by digest."""

    component: str
    url: Annotated[
        str,
        About(
            "Its URL: a tar.gz by https, file or oci (the repository that has it), or a folder by file.",
            ("https://files.example.com/hmi.tar.gz",),
        ),
        Text(pattern=r"^(file|https|oci)://.+", what="a file://, https:// or oci:// URL"),
    ]
    digest: Annotated[
        Digest,
        About("Of the tar.gz; for a folder, of its file list as sha256sum prints it, sorted by path."),
        Text(pattern=DIGEST_PATTERN, what="a digest, sha256: and 64 lower-case hex digits"),
    ]


@dataclass(frozen=True, slots=True)
class DeploymentExtension:
    """What this project's renderer tells this project's agent, in `spec.x-margo-gitops-extensions`."""

    deployment: Annotated[str, About("Name of the Deployment in the fleet repo.")]
    application_version: str
    profile: Annotated[str, About("Id of the chosen profile.")]
    after: Annotated[tuple[str, ...], About("Ids of the deployments of this device that must be installed first.")] = ()
    artifacts: tuple[Artifact, ...] = ()
    device: Annotated[
        str | None, About("The device's id in the fleet repo, if `metadata.deviceId` is what the device calls itself.")
    ] = None
    maintenance: Annotated[
        tuple[Calendar, ...],
        Items(maximum=4),
        About("When it may be installed, updated and removed: all calendars must be open."),
    ] = ()
    contact: Annotated[
        Calendar | None, About("When the device polls and reports: polling hours as windows, downtime as blackouts.")
    ] = None
    secrets: Annotated[
        tuple[DeployedSecret, ...],
        About("Parameters that get their values on the device; they are not in `parameters`."),
    ] = ()
    locks: Annotated[
        tuple[DeviceLock, ...], Items(maximum=32), About("What may forbid to update and remove it, for now.")
    ] = ()
    hooks: Annotated[Hooks | None, About("Programs of the device that run around a change of it.")] = None
    on_failure: Annotated[OnFailure, About("What the device does when a component of it does not come up.")] = "hold"
    on_drift: Annotated[OnDrift, About("What the device does when what runs is changed on the device.")] = "repair"
    health: Annotated[Health | None, About("When it counts as installed, after a change.")] = None
    stop: Annotated[
        tuple[str, ...], About("Ids of the deployments of this device that do not run while it is updated.")
    ] = ()
    large_artifacts: Annotated[
        tuple[LargeArtifact, ...],
        Items(unique="name", noun="artifact", any_case=True, maximum=32),
        About("Large files that its components get, read-only."),
    ] = ()


FIRST_AGENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "deployment": "0.1.0",
        "applicationVersion": "0.1.0",
        "profile": "0.1.0",
        "after": "0.1.0",
        "artifacts": "0.1.0",
        "device": "0.1.0",
        "maintenance": "0.1.0",
        "contact": "0.1.0",
        "secrets": "0.1.0",
        "locks": "0.1.0",
        "hooks": "0.1.0",
        "onFailure": "0.1.0",
        "onDrift": "0.1.0",
        "health": "0.1.0",
        "stop": "0.1.0",
        "largeArtifacts": "0.1.0",
    }
)
"""The first agent that obeys each member of the extension; older ones refuse a deployment that has it."""


def component_format(component: Component) -> str | None:
    """Return what the content of a component of a custom profile is, "kubernetes"; None where it does not say."""
    own = component.extensions.get(OWN_EXTENSION)
    named = own.get("format") if isinstance(own, dict) else None
    return named if isinstance(named, str) else None


def served_kind(profile: DeployedProfile) -> str:
    """Return what an applier must serve: the profile's type, or `custom/FORMAT` if all components have one format."""
    formats = {component_format(component) for component in profile.components}
    named = formats.pop() if len(formats) == 1 and profile.type == "custom" else None
    return f"{profile.type}/{named}" if named else profile.type


def fleet_device(document: ApplicationDeployment) -> str:
    """Return which device a deployment is for, by its id in the fleet repo; empty where it names none."""
    own = document.spec.extensions.get(OWN_EXTENSION)
    device = own.get("device") if isinstance(own, dict) else None
    return device if isinstance(device, str) else document.metadata.device_id or ""
