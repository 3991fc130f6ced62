"""From a trusted state to the ordered workloads that it asks for; pure.

W-1  Components of a deployment keep their order (Margo application description, deployment profile).
W-2  A deployment comes after those its extension names in `after`; else the manifest's order holds.
W-3  A deployment that waits for one that is not there, or for itself through others, is refused, alone with those
     that wait for it.
W-4  A component gets the parameters whose targets name it. Two parameters that write one place with different values
     are refused (never "the last one wins").
W-5  A workload's digest covers what makes it run, and nothing else: profile type; the component's name, repository,
     revision, packageLocation and extensions; artifact digest; values. Where the artifact lies, how long installing
     may take, and names for people, do not count. A field that the standard gains counts only once it is listed here:
     a new agent must not restart what runs.
W-6  A deployment whose eligibility rules or capacity this device does not meet is refused (rules E-1 to E-3 of
     margo_gitops.agent.apply.eligibility).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from margo_gitops.agent.apply.eligibility import Eligibility
from margo_gitops.appliers.applier import LONGEST_TIMEOUT_SECONDS, Workload, WorkloadKey
from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.application import Component, ParameterValue
from margo_gitops.documents.deployment import OWN_EXTENSION, ApplicationDeployment, Artifact, DeploymentExtension
from margo_gitops.documents.json_writer import write_json
from margo_gitops.documents.nodes import Json, Node, SourceText
from margo_gitops.documents.records import read
from margo_gitops.errors import ApplyError, DeploymentUnusable, InvalidDocument


@dataclass(frozen=True, slots=True)
class DesiredDeployment:
    """A deployment as the agent applies it.

    Attributes:
        document: the trusted document.
        workloads: its components, in order; empty where it is refused.
        after: ids of the deployments that must be installed before, lower case.
        refusal: why it cannot be applied; None where it can.
    """

    document: ApplicationDeployment
    workloads: tuple[Workload, ...]
    after: tuple[str, ...] = ()
    refusal: ApplyError | None = None

    @property
    def id(self) -> str:
        """The deployment's id, lower case."""
        return self.document.id.lower()

    @property
    def keys(self) -> tuple[WorkloadKey, ...]:
        """The keys of all its components, those of a refused deployment too."""
        components = self.document.spec.deployment_profile.components
        return tuple(WorkloadKey(self.id, component.name) for component in components)


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What this device allows.

    Attributes:
        eligibility: which deployments it may run.
        longest_seconds: how long one step of a component may take, whatever its document says.
    """

    eligibility: Eligibility = field(default_factory=Eligibility)
    longest_seconds: int = LONGEST_TIMEOUT_SECONDS


def desired_deployments(
    documents: Sequence[ApplicationDeployment], limits: DeviceLimits | None = None
) -> tuple[DesiredDeployment, ...]:
    """Return the deployments in the order they are installed in (W-1 to W-6).

    Args:
        documents: the trusted deployments, in the manifest's order.
        limits: what the device allows; None is a device that says nothing of itself.
    """
    limits = limits or DeviceLimits()
    return _in_order([_desired(document, limits) for document in documents])


def _desired(document: ApplicationDeployment, limits: DeviceLimits) -> DesiredDeployment:
    objection = limits.eligibility.objection(document)
    if objection is not None:
        return DesiredDeployment(document, (), (), objection)
    try:
        extension = _extension(document)
        artifacts = {artifact.component: artifact for artifact in extension.artifacts} if extension else {}
        components = document.spec.deployment_profile.components
        unknown = sorted(artifacts.keys() - {component.name for component in components})
        if unknown:
            raise _unusable(document, f"it has an artifact for {unknown[0]}, which is no component of it")
        longest = limits.longest_seconds
        workloads = tuple(_workload(document, item, artifacts.get(item.name), longest) for item in components)
    except DeploymentUnusable as error:
        return DesiredDeployment(document, (), (), error)
    after = dict.fromkeys(name.lower() for name in extension.after) if extension else {}
    return DesiredDeployment(document, workloads, tuple(after))


def _extension(document: ApplicationDeployment) -> DeploymentExtension | None:
    plain = document.spec.extensions.get(OWN_EXTENSION)
    if plain is None:
        return None
    try:
        return read(DeploymentExtension, SourceText(f"{document.id}.yaml", Node.of(plain)))
    except InvalidDocument as error:
        raise DeploymentUnusable(
            f"the deployment {document.metadata.name} has an extension that this agent cannot read",
            why=error.why,
            remedy="render with a version that this agent knows, or update the agent",
        ) from error


def _workload(
    document: ApplicationDeployment, component: Component, artifact: Artifact | None, longest_seconds: int
) -> Workload:
    values: dict[str, ParameterValue] = {}
    for name, parameter in document.spec.parameters.items():
        for target in parameter.targets:
            if component.name not in target.components:
                continue
            held = values.setdefault(target.pointer, parameter.value)
            if _tagged_value(held) != _tagged_value(parameter.value):
                raise _unusable(document, f"the parameter {name} and another one both write {target.pointer}")
    digest = _digest(document, component, artifact, values)
    return Workload(document, component, artifact, values, digest, longest_seconds)


def _digest(
    document: ApplicationDeployment,
    component: Component,
    artifact: Artifact | None,
    values: Mapping[str, ParameterValue],
) -> Digest:
    properties = component.properties
    # The list of W-5. A change of it restarts every component of every device: the golden test guards it.
    content: dict[str, Json] = {
        "type": document.spec.deployment_profile.type,
        "name": component.name,
        "repository": properties.repository,
        "revision": properties.revision,
        "packageLocation": properties.package_location,
        "extensions": _tagged(dict(component.extensions)),
        "artifact": artifact.digest if artifact else None,
        "values": {pointer: _tagged_value(value) for pointer, value in values.items()},
    }
    return sha256(write_json(content))


def _tagged_value(value: ParameterValue) -> Json:
    return _tagged(list(value) if isinstance(value, tuple) else value)


def _tagged(value: Json) -> Json:
    """Return `value` with floats spelled out, so that 1, 1.0, true and "1.0" stay four different values."""
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, dict):
        return {"mapping": {key: _tagged(child) for key, child in value.items()}}
    if isinstance(value, list):
        return [_tagged(child) for child in value]
    return value


def _in_order(deployments: Sequence[DesiredDeployment]) -> tuple[DesiredDeployment, ...]:
    """Return the deployments sorted by `after`, ties in the given order; those in cycles are refused and come last."""
    known = {item.id for item in deployments}
    checked = [_with_known_order(item, known) for item in deployments]
    ordered: list[DesiredDeployment] = []
    placed: set[str] = set()
    waiting = checked
    while waiting:
        # The first that waits for nobody; looking from the start again keeps the manifest's order among equals.
        ready = next((item for item in waiting if placed.issuperset(item.after)), None)
        if ready is None:
            break
        ordered.append(ready)
        placed.add(ready.id)
        waiting = [item for item in waiting if item is not ready]
    cyclic = _cyclic({item.id: item.after for item in waiting})
    for item in waiting:
        refusal = _unusable(item.document, "it waits for itself, through `after`") if item.id in cyclic else None
        ordered.append(replace(item, workloads=(), refusal=refusal) if refusal else item)
    return tuple(ordered)


def _with_known_order(item: DesiredDeployment, known: set[str]) -> DesiredDeployment:
    missing = [name for name in item.after if name not in known]
    if not missing:
        return item
    refusal = _unusable(item.document, f"it waits for the deployment {missing[0]}, which this device does not have")
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


def _unusable(document: ApplicationDeployment, reason: str) -> DeploymentUnusable:
    return DeploymentUnusable(
        f"the deployment {document.metadata.name} cannot be applied: {reason}",
        remedy="correct the fleet repo and render again",
    )
