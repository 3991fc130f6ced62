"""From a trusted state to the ordered workloads that it asks for, and which of them this device may run; pure.

Only `read_eligibility` reads files.

ORDER-1  Components of a deployment keep their order (Margo application description, deployment profile).
ORDER-2  A deployment comes after those its extension names in `after`, and before those it names in `stop`; otherwise
         the manifest's order holds. One that is stopped waits only for its turn: it does not need the other.
ORDER-3  A deployment that waits for one that is not there, or for itself through others, is refused, alone with those
         that wait for it.
ORDER-4  What makes a workload run, and so its digest, is decided in margo_gitops/documents/workload_identity.py.
ORDER-5  A deployment that this device may not run is refused, and so is one with a secret that has no value here.

ELIGIBLE-1  Where a profile has eligibility rules, one of them must hold for the device's capabilities, or the
            deployment is refused. Without capabilities nothing holds.
ELIGIBLE-2  Capacity that the profile asks for is compared as well, where there are capabilities to compare it with.
ELIGIBLE-3  A deployment for a child device is held against that child's capabilities, found by `properties.id`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from margo_gitops import __version__
from margo_gitops.agent.settings.loading import capabilities_unusable, read_capabilities
from margo_gitops.appliers.applier import LONGEST_TIMEOUT_SECONDS, HeldArtifact, Workload, WorkloadKey, no_secrets
from margo_gitops.digests import Digest
from margo_gitops.documents.deployment import (
    ApplicationDeployment,
    DeploymentExtension,
    OnDrift,
    OnFailure,
    fleet_device,
)
from margo_gitops.documents.large_artifacts import LargeArtifact
from margo_gitops.documents.maintenance import Calendar
from margo_gitops.documents.matching import DeviceFacts, unmet
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.documents.workload_identity import deployment_unusable, own_extension, workload_contents
from margo_gitops.errors import (
    ApplyError,
    ChangeWaits,
    DeploymentUnusable,
    DeviceIneligible,
    RolledBack,
    SecretUnavailable,
)
from margo_gitops.values import dataclass, field, replace

_RENDERER: Final = re.compile(r"margo-gitops ([0-9][0-9A-Za-z.+-]{0,40})")


@dataclass(frozen=True, slots=True)
class DesiredDeployment:
    """A deployment as the agent applies it.

    Attributes:
        document: the trusted document.
        workloads: its components, in order; empty where it is refused.
        after: ids of the deployments that must be installed before, lower case.
        refusal: why it cannot be applied; None where it can.
        calendars: when it may change; all must be open.
        extension: all that this project's renderer says of it; None where another manager wrote it.
        fallback: why this is what ran before, in place of what the state asks for; None where it is not.
    """

    document: ApplicationDeployment
    workloads: tuple[Workload, ...]
    after: tuple[str, ...] = ()
    refusal: ApplyError | None = None
    calendars: tuple[Calendar, ...] = ()
    extension: DeploymentExtension | None = None
    fallback: RolledBack | None = None

    @property
    def on_failure(self) -> OnFailure:
        """What is done when a component of it does not come up."""
        return self.extension.on_failure if self.extension else "hold"

    @property
    def on_drift(self) -> OnDrift:
        """What is done when it is changed on the device."""
        return self.extension.on_drift if self.extension else "repair"

    @property
    def stops(self) -> tuple[str, ...]:
        """Ids of the deployments that do not run while it is updated, lower case; perhaps of some that are not here."""
        return tuple(name.lower() for name in self.extension.stop) if self.extension else ()

    def others_wait(self, closed: Mapping[str, ChangeWaits], running: Collection[str]) -> ChangeWaits | None:
        """Return why one that runs, and that it stops, may not change now; nothing holds up a way back.

        Args:
            closed: why deployments may not change now, by id.
        """
        named = self.stops if self.fallback is None else ()
        return next((closed[name] for name in named if name in closed and name in running), None)

    @property
    def id(self) -> str:
        """The deployment's id, lower case."""
        return self.document.id.lower()

    @property
    def name(self) -> str:
        """The deployment's name in the fleet repo."""
        return self.document.metadata.name

    @property
    def keys(self) -> tuple[WorkloadKey, ...]:
        """The keys of all its components, those of a refused deployment too."""
        components = self.document.spec.deployment_profile.components
        return tuple(WorkloadKey(self.id, component.name) for component in components)


@dataclass(frozen=True, slots=True)
class Eligibility:
    """What is known of this device and its children.

    Attributes:
        device: this device's id, for deployments that name none.
        facts: capabilities by device id.
    """

    device: str = ""
    facts: Mapping[str, DeviceFacts] = field(default_factory=dict)

    def objection(self, document: ApplicationDeployment) -> DeviceIneligible | None:
        """Return why a deployment must not be applied here, or None (ELIGIBLE-1 to ELIGIBLE-3)."""
        constraints = document.spec.deployment_profile.device_constraints
        if constraints is None:
            return None
        device = fleet_device(document) or self.device
        facts = self.facts.get(device)
        name = document.metadata.name
        if facts is None:
            if not constraints.eligibility_rules:
                return None
            return DeviceIneligible(
                f"the deployment {name} has eligibility rules, and this agent has no capabilities of {device or 'it'}",
                remedy="write `discover: true` into the agent's configuration, or name a document at `capabilities`",
            )
        reasons = unmet(constraints, facts)
        if not reasons:
            return None
        return DeviceIneligible(
            f"the device {device} does not meet what the deployment {name} asks for",
            why=reasons,
            remedy="place it elsewhere, or correct the device's capabilities document",
        )


def without_secrets(wanted: Mapping[str, WantedSecret], digest: Digest) -> Digest:
    """Return the digest of a workload as it is (SecretUnavailable: it wants a secret, and this agent has none)."""
    no_secrets(wanted)
    return digest


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What this device allows.

    Attributes:
        longest_seconds: how long one step of a component may take; its document cannot raise this.
        digest: returns the digest of a workload with secrets, from these and the digest without them
            (SecretUnavailable: one has no value).
        content: where large artifacts are.
    """

    eligibility: Eligibility = field(default_factory=Eligibility)
    longest_seconds: int = LONGEST_TIMEOUT_SECONDS
    digest: Callable[[Mapping[str, WantedSecret], Digest], Digest] = without_secrets
    content: Path = Path("content")

    def held(self, artifacts: Iterable[LargeArtifact]) -> tuple[HeldArtifact, ...]:
        """Return where large artifacts are once they are on the device."""
        if not artifacts:
            return ()
        from margo_gitops.content.store import ContentStore  # loaded where a deployment has artifacts

        place = ContentStore(self.content).place
        return tuple(HeldArtifact(each, place(each.digest)) for each in artifacts)


def read_eligibility(device: str, files: Iterable[Path]) -> Eligibility:
    """Return what these capabilities documents say, in any shape of the standard.

    Args:
        files: one document each, of the device first, then of its children.

    Raises:
        AgentMisconfigured: a file cannot be read, is not a capabilities document, is not of this device (the first) or
            of a child of it (the others), or says of a device what another file says already.
    """
    facts: dict[str, DeviceFacts] = {}
    for path in files:
        capabilities = read_capabilities(path)
        owner = capabilities.properties.id
        if not facts and owner != device:
            why = f"it describes {owner}; the first document describes this device, {device}"
            raise capabilities_unusable(path, why)
        if facts and not owner.startswith(f"{device}/"):
            raise capabilities_unusable(path, f"it describes {owner}, which is not a child of {device}")
        if owner in facts:
            raise capabilities_unusable(path, f"another file describes {owner} already")
        facts[owner] = DeviceFacts.of(capabilities)
    return Eligibility(device, facts)


def desired_deployments(
    documents: Sequence[ApplicationDeployment],
    limits: DeviceLimits | None = None,
    rendered_by: Callable[[], str] = str,
) -> tuple[DesiredDeployment, ...]:
    """Return the deployments in the order they are installed in (ORDER-1 to ORDER-5).

    Args:
        documents: the trusted deployments, in the manifest's order.
        limits: what the device allows; None: the device says nothing about itself.
        rendered_by: returns the renderer and its version, as the state has it; empty where that is not known.
    """
    limits = limits or DeviceLimits()
    return _in_order([desired_deployment(document, limits, rendered_by) for document in documents])


def stopped_for(
    desired: Sequence[DesiredDeployment], there: Iterable[tuple[str, WorkloadKey]], left: Collection[WorkloadKey]
) -> Mapping[str, Sequence[tuple[str, WorkloadKey]]]:
    """Return what does not run while a deployment is updated, in the order of installation, by the deployment's id.

    Args:
        there: what is on the device, with its applier.
        left: what is left as it is: it does not run, or not as asked for.
    """
    stopping = [item for item in desired if item.stops]
    if not stopping:
        return {}
    order = {key: place for place, key in enumerate(key for item in desired for key in item.keys)}
    found = sorted((each for each in there if each[1] not in left), key=lambda each: order.get(each[1], -1))
    return {item.id: [each for each in found if each[1].deployment_id in item.stops] for item in stopping}


def desired_deployment(
    document: ApplicationDeployment, limits: DeviceLimits, rendered_by: Callable[[], str] = str
) -> DesiredDeployment:
    """Return a deployment by itself, as this device may run it."""
    objection = limits.eligibility.objection(document)
    if objection is not None:
        return DesiredDeployment(document, (), (), objection)
    try:
        extension = own_extension(document)
    except DeploymentUnusable as error:
        renderer = _RENDERER.fullmatch(rendered_by())
        if renderer is not None and renderer[1] != __version__:
            error.remedy = f"this agent is {__version__}; update it to {renderer[1]}, which rendered the state"
        return DesiredDeployment(document, (), (), error)
    try:
        workloads = tuple(
            Workload(
                document,
                item.component,
                item.artifact,
                item.values,
                limits.digest(item.secrets, item.digest) if item.secrets else item.digest,
                limits.longest_seconds,
                item.secrets,
                artifacts=limits.held(item.large),
            )
            for item in workload_contents(document, extension)
        )
    except (DeploymentUnusable, SecretUnavailable) as error:
        return DesiredDeployment(document, (), (), error)
    after = dict.fromkeys(name.lower() for name in extension.after) if extension else {}
    calendars = extension.maintenance if extension else ()
    return DesiredDeployment(document, workloads, tuple(after), calendars=calendars, extension=extension)


def _in_order(deployments: Sequence[DesiredDeployment]) -> tuple[DesiredDeployment, ...]:
    """Return the deployments in order, ties in the given one; those in cycles are refused and come last."""
    known = {item.id for item in deployments}
    checked = [_with_known_order(item, known) for item in deployments]
    first = {item.id: list(item.after) for item in checked}
    for item in checked:
        for stopped in known.intersection(item.stops):
            first[stopped].append(item.id)
    ordered: list[DesiredDeployment] = []
    placed: set[str] = set()
    waiting = checked
    while waiting:
        # The first that waits for no other; looking from the start again keeps the manifest's order among equals.
        ready = next((item for item in waiting if placed.issuperset(first[item.id])), None)
        if ready is None:
            break
        ordered.append(ready)
        placed.add(ready.id)
        waiting = [item for item in waiting if item is not ready]
    cyclic = _cyclic({item.id: first[item.id] for item in waiting})
    for item in waiting:
        if item.id in cyclic:
            refusal = deployment_unusable(item.document, "it waits for itself, through `after` or `stop`")
            item = replace(item, workloads=(), refusal=refusal)
        ordered.append(item)
    return tuple(ordered)


def _with_known_order(item: DesiredDeployment, known: set[str]) -> DesiredDeployment:
    missing = [name for name in item.after if name not in known]
    if not missing:
        return item
    refusal = deployment_unusable(
        item.document, f"it waits for the deployment {missing[0]}, which this device does not have"
    )
    return replace(item, workloads=(), after=(), refusal=refusal)


def _cyclic(after: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the deployments that reach themselves, of those that could not be ordered."""
    found = set()
    for start in after:
        reached: set[str] = set()
        edge = list(after[start])
        while edge:
            name = edge.pop()
            if name not in reached:
                reached.add(name)
                edge += after.get(name, ())
        if start in reached:
            found.add(start)
    return found
