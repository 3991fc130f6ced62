"""Our own kinds, what people write into a fleet repo: Fleet, Site, Device, Deployment (docs/fleet-repo.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from margo_gitops.documents.capabilities import DeviceCapabilities, LabelValue
from margo_gitops.documents.components import APPLICATION_ID_PATTERN, ParameterValue
from margo_gitops.documents.constraints import DeviceName, DeviceSelector, Name
from margo_gitops.documents.declarations import About, DigestText, Items, Keys, OwnKind, Problem, Range, Text
from margo_gitops.documents.deployment import OnDrift, OnFailure
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, client_of, encode_device_id
from margo_gitops.documents.fleet_policy import Policy
from margo_gitops.documents.large_artifacts import LargeArtifacts, same_variables
from margo_gitops.documents.maintenance import Maintenance, PlaceMaintenance
from margo_gitops.documents.secrets import SealedSecrets, SecretRefs, unnamed_secrets
from margo_gitops.documents.switching import Health, Hooks, Lock
from margo_gitops.documents.trust_document import KeyText
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.values import dataclass, field

Alias = Annotated[
    str, Text(pattern=r"^[A-Za-z0-9._~-]+$", max_length=DEVICE_ID_MAX_LENGTH, what="a device id without a slash")
]
Locks = Annotated[tuple[Lock, ...], Items(unique="name", noun="lock", maximum=16)]
Labels = Annotated[
    Mapping[str, LabelValue],
    About("For selectors and expressions.", ({"line": "3"},)),
    Keys(r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?$", "a label key (letters, digits, and . _ / - inside)"),
]
Parameters = Annotated[
    Mapping[str, ParameterValue],
    About("Values by parameter name. Text may be a Jinja2 expression.", ({"greeting": "Hello {{ device.id }}"},)),
]


@dataclass(frozen=True, slots=True)
class NamedMetadata:
    """A name, unique among the documents of its kind."""

    name: Annotated[Name, About("Unique among the documents of this kind.", ("north",))]


@dataclass(frozen=True, slots=True)
class LabelledMetadata:
    """A name and labels."""

    name: Annotated[Name, About("Unique among the documents of this kind.")]
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceMetadata:
    """The device id and its labels."""

    name: Annotated[DeviceName, About("The device id; a child of a gateway as `gateway/child`.", ("press-07",))]
    labels: Labels = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        """Yield an id that no file system could hold."""
        try:
            encode_device_id(self.name)
        except ValueError as error:
            yield Problem(("name",), str(error))


@dataclass(frozen=True, slots=True)
class SigningPolicy:
    """Whether rendered state must be signed."""

    required: Annotated[bool, About("Refuse to write unsigned state.")] = False


@dataclass(frozen=True, slots=True)
class FreshnessPolicy:
    """Signed statements that a state is the newest; each render makes one with the key that it is given for it."""

    valid_for: Annotated[
        str,
        About("How long a device believes a statement; renew it at least twice in this time.", ("7d",)),
        Text(
            pattern=r"^([1-9][0-9]{0,3}[mh]|[1-9][0-9]?d|[12][0-9]{2}d|3[0-5][0-9]d|36[0-6]d)$", what="90m, 36h or 7d"
        ),
    ] = "7d"


ARTIFACTS_URL_PATTERN = r"^(file:///|https://[^/]).*/$"
"""Devices append the path of a content to it."""


@dataclass(frozen=True, slots=True)
class ArtifactPolicy:
    """Where devices find the content of vendored applications."""

    base_url: Annotated[
        str,
        About(
            "The `applications/` folder as devices see it: https, or file for devices that share the disk.",
            ("https://artifacts.plant.example/applications/", "file:///srv/fleet/applications/"),
        ),
        Text(pattern=ARTIFACTS_URL_PATTERN, what="a file:// or https:// URL that ends with a slash"),
    ]


@dataclass(frozen=True, slots=True)
class Shard:
    """A git repository with the branches of some devices, which `publish --shards` fills."""

    url: Annotated[str, About("Its path, relative to the fleet repo, or URL."), Text(min_length=1)]
    sites: Annotated[
        tuple[Name, ...],
        About("The sites of its devices. Default: those that no other shard names.", (["linz", "graz"],)),
    ] = ()


@dataclass(frozen=True, slots=True)
class LostReports:
    """What the branch of reports had before a commit is lost: receipts that are missing there were not dropped."""

    before: Annotated[
        str,
        About("The first commit of the branch `reports` after the loss; `audit verify` names it."),
        Text(pattern=r"^[0-9a-f]{40}$", what="a commit id, 40 lower-case hex digits"),
    ]
    reason: Annotated[
        str, About("What happened, for people.", ("the disk of the server broke",)), Text(min_length=1, max_length=1000)
    ]


@dataclass(frozen=True, slots=True)
class PushPolicy:
    """How a render pushes to a git host."""

    limit: Annotated[
        str | None,
        About("How long one push may take. Default: 15 minutes, and half a second for each branch.", ("2h",)),
        Text(pattern=r"^[1-9][0-9]{0,3}[mh]$", what="90m or 2h"),
    ] = None
    batch: Annotated[
        int | None,
        About("Move so many device branches at a time, `fleet` last; absent: all at once, if the host can.", (500,)),
        Range(minimum=1, maximum=10_000),
    ] = None


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """What holds for the whole fleet."""

    state_repo: Annotated[
        str,
        About("Where rendered state goes: a path (relative to the fleet repo) or a URL.", ("../state.git",)),
        Text(min_length=1),
    ]
    reports_repo: Annotated[
        str | None,
        About(
            "Where devices push their reports, a path or a URL; absent: into the state repo (docs/git-host.md).",
            ("https://git.example/reports.git",),
        ),
        Text(min_length=1),
    ] = None
    lost_reports: Annotated[
        tuple[LostReports, ...], About("Each loss of reports and receipts ([receipts](receipts.md)).")
    ] = ()
    branch: Annotated[
        str | None,
        About("The branch that devices get. Default: the default branch of the remote.", ("main",)),
        Text(min_length=1),
    ] = None
    namespace: Annotated[Name, About("`metadata.namespace` of every application deployment.")] = "margo"
    signing: SigningPolicy = field(default_factory=SigningPolicy)
    artifacts: ArtifactPolicy | None = None
    freshness: Annotated[
        FreshnessPolicy | None, About("Let devices know when they are shown nothing new for too long.")
    ] = None
    policy: Policy | None = None
    push: Annotated[
        PushPolicy, About("How a render pushes to a git host ([large fleets](git-host.md#large-fleets)).")
    ] = field(default_factory=PushPolicy)
    shards: Annotated[
        Mapping[Name, Shard],
        About("Repositories that devices read, where one for all is too large ([shards](shards.md))."),
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fleet(OwnKind):
    """The fleet: one `margo-gitops.yaml` in the root of the repo."""

    metadata: NamedMetadata
    spec: FleetSpec


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """What the devices of a site share."""

    parameters: Parameters = field(default_factory=dict)
    maintenance: Annotated[
        PlaceMaintenance | None,
        About("When its devices may change what runs, and when they may poll. Default: at any time."),
    ] = None


@dataclass(frozen=True, slots=True)
class Site(OwnKind):
    """A site: labels and parameters shared by its devices."""

    metadata: LabelledMetadata
    spec: SiteSpec = field(default_factory=SiteSpec)


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """Where a device is, and what it offers."""

    capabilities: Annotated[DeviceCapabilities, About("Margo's device capabilities document.")]
    capabilities_from: Annotated[
        Literal["reports"] | None,
        About("`reports`: `margo-gitops device refresh` keeps `capabilities` equal to what the device reports."),
    ] = None
    site: Annotated[Name | None, About("Name of the Site.")] = None
    parameters: Parameters = field(default_factory=dict)
    alias: Annotated[
        Alias | None,
        About("What the device calls itself, if that is not its name here; its deployments name it so.", ("SN-4711",)),
    ] = None
    workloads: Annotated[
        WorkloadPolicy | None,
        About(
            "What this device's agent lets a workload do to it, as its configuration says. `validate` reports what it"
            " will refuse; the device decides."
        ),
    ] = None
    receipt_keys: Annotated[
        tuple[KeyText, ...],
        About(
            "Keys that sign this device's receipts, for `audit verify` and `audit trace`. Keep old ones: they signed"
            " older receipts.",
        ),
    ] = ()
    secret_keys: Annotated[
        tuple[str, ...],
        About("Keys for which secrets of this device are encrypted. Default: the key of `receiptKeys`, if it has one."),
        Items(maximum=8),
    ] = ()
    secrets: SealedSecrets = field(default_factory=dict)
    maintenance: Annotated[
        PlaceMaintenance | None,
        About("When this device may change what runs, and may poll, in place of what its site says."),
    ] = None
    locks: Annotated[Locks, About("What may forbid it to change what runs, for now ([locks](locks.md)).")] = ()


@dataclass(frozen=True, slots=True)
class Device(OwnKind):
    """A device: labels, site, capabilities and its own parameters."""

    metadata: DeviceMetadata
    spec: DeviceSpec

    def problems(self) -> Iterator[Problem]:
        """Yield capabilities of another device, and the alias of a child."""
        capable, alias = self.spec.capabilities.properties.id, self.spec.alias
        if alias is not None and "/" in self.metadata.name:
            remedy = f"give the alias to {client_of(self.metadata.name)}: it replaces that part of the child's id"
            yield Problem(("spec", "alias"), "a child of a gateway has no alias of its own", remedy)
        if capable not in (self.metadata.name, alias):
            path = ("spec", "capabilities", "properties", "id")
            message = f"the capabilities are those of {capable}, the device is {self.metadata.name}"
            yield Problem(path, message, f"write {self.metadata.name}")


@dataclass(frozen=True, slots=True)
class ApplicationReference:
    """A version of an application in `applications/`."""

    id: Annotated[str, Text(pattern=APPLICATION_ID_PATTERN, what="an application id"), About("The application's id.")]
    version: Annotated[str, About("`metadata.version` of its description.", ("2.1.0",)), Text(min_length=1)]


@dataclass(frozen=True, slots=True)
class Overlay:
    """Parameters for some of the deployment's devices; a later overlay wins over an earlier one."""

    name: Annotated[Name, About("Unique within the deployment.")]
    match: DeviceSelector
    parameters: Annotated[Parameters, About("Values for the devices that match.")]


@dataclass(frozen=True, slots=True)
class DeploymentIntentSpec:
    """What must run where, and how."""

    application: ApplicationReference
    placement: DeviceSelector
    profiles: Annotated[
        tuple[str, ...], About("Profile ids, best first; needed only where a device could take several.")
    ] = ()
    parameters: Parameters = field(default_factory=dict)
    secret_refs: SecretRefs = field(default_factory=dict)
    overlays: Annotated[
        tuple[Overlay, ...],
        Items(unique="name", noun="overlay"),
        About("Parameters for some of the devices; a later overlay wins."),
    ] = ()
    after: Annotated[
        tuple[Name, ...], About("Deployments that must be installed first on a device that has both.")
    ] = ()
    stop: Annotated[
        tuple[Name, ...],
        About("Deployments that do not run while this one is updated on a device that has both ([locks](locks.md))."),
    ] = ()
    maintenance: Annotated[
        Maintenance | None, About("When it may change on a device, within what the device or its site says.")
    ] = None
    urgent: Annotated[bool, About("Change it at any time, even if a calendar is closed.")] = False
    locks: Annotated[
        Locks,
        About("What may forbid to update and remove it, for now, in addition to the device's ([locks](locks.md))."),
    ] = ()
    hooks: Annotated[Hooks | None, About("Programs of the device that run around a change ([locks](locks.md)).")] = None
    on_failure: Annotated[
        OnFailure,
        About(
            "When a component of an update does not come up: `hold` leaves the others as they are, `rollback` lets the"
            " whole deployment go back to what ran last, `continue` updates the others."
        ),
    ] = "hold"
    on_drift: Annotated[
        OnDrift,
        About(
            "When what runs is stopped or changed on the device: `repair` it, `report` and leave it, or `respect` what"
            " a person did."
        ),
    ] = "repair"
    health: Annotated[
        Health | None, About("When it counts as installed, after a change ([readiness](readiness.md)).")
    ] = None
    artifacts: LargeArtifacts = ()

    def problems(self) -> Iterator[Problem]:
        """Yield secrets that have no name, artifacts that share a variable, and hooks without a program."""
        yield from unnamed_secrets(self.secret_refs)
        yield from same_variables(self.artifacts)
        if self.hooks is not None and not (self.hooks.before or self.hooks.after):
            yield Problem(("hooks",), "names no program", "name one in before or after, or remove it")


@dataclass(frozen=True, slots=True)
class Deployment(OwnKind):
    """An intent: an application, the devices it goes to, and its parameters."""

    metadata: NamedMetadata
    spec: DeploymentIntentSpec


@dataclass(frozen=True, slots=True)
class LockedApplication:
    """A pinned version of an application."""

    id: Annotated[str, Text(pattern=APPLICATION_ID_PATTERN, what="an application id"), About("The application's id.")]
    version: Annotated[str, Text(min_length=1), About("`metadata.version` of its description.")]
    digest: Annotated[
        DigestText, About("Digest of the package folder's file list, as sha256sum prints it, sorted by path.")
    ]
    source: Annotated[
        str | None,
        About(
            "The registry that it came from, with the digest of its manifest; `app outdated` asks it.",
            ("oci://registry.example.com/acme/hmi:1.4.0@sha256:" + "0" * 64,),
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class ApplicationsLock(OwnKind):
    """`applications.lock`: which bytes each vendored application version has. Written by `margo-gitops app add`."""

    applications: Annotated[tuple[LockedApplication, ...], Items(minimum=0), About("Sorted by id and version.")] = ()
