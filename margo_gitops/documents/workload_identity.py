"""What of a deployment makes its workloads run: each component's content and values, and a digest over both. Pure.

The agent restarts a workload when this digest changes, and a plan announces a restart when it changes: both ask here.

IDENTITY-1  The digest covers what makes a workload run, and nothing else: profile type; the component's name,
            repository, revision, packageLocation and extensions; artifact digest; values; large artifacts by name and
            digest. Where an artifact is, how long installing may take, the order of components, and names for people do
            not count. Of a secret its name counts, and the encrypted value; the device adds a mark of values that it
            has from elsewhere.
IDENTITY-2  A field that the standard gains counts only once it is listed here: a new agent must not restart what runs.
IDENTITY-3  A component gets the parameters whose targets name it. Two parameters that write one place with different
            values are refused: the last one never wins.
IDENTITY-4  1, 1.0, true and "1" are four values.
IDENTITY-5  A workload is known by its deployment's id, in lower case, and the name of its component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.components import Component, ParameterValue
from margo_gitops.documents.deployment import (
    OWN_EXTENSION,
    ApplicationDeployment,
    Artifact,
    DeploymentExtension,
    fleet_device,
)
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.large_artifacts import LargeArtifact
from margo_gitops.documents.nodes import Json, Node, SourceText
from margo_gitops.documents.records import read
from margo_gitops.documents.secrets import DeployedSecret, WantedSecret
from margo_gitops.errors import DeploymentUnusable, InvalidDocument
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class WorkloadContent:
    """One component of a deployment, with all that makes it run.

    Attributes:
        component: as the deployment has it.
        artifact: its content by digest; None where it comes from a registry.
        values: parameter values by the place they go to.
        secrets: those that it gets, by the place they go to.
        digest: changes if and only if the workload must restart.
        large: large artifacts that it gets.
    """

    component: Component
    artifact: Artifact | None
    values: Mapping[str, ParameterValue]
    digest: Digest
    secrets: Mapping[str, WantedSecret]
    large: tuple[LargeArtifact, ...] = ()


def workload_contents(
    document: ApplicationDeployment, extension: DeploymentExtension | None
) -> tuple[WorkloadContent, ...]:
    """Return the components of a deployment in order, with their digests (IDENTITY-1 to IDENTITY-4).

    Args:
        document: the deployment.
        extension: its own extension, as `own_extension` returns it.

    Raises:
        DeploymentUnusable: two parameters write one place, or an artifact is for a component that is not there.
    """
    components = document.spec.deployment_profile.components
    artifacts = {artifact.component: artifact for artifact in extension.artifacts} if extension else {}
    unknown = sorted(artifacts.keys() - {component.name for component in components})
    if unknown:
        raise deployment_unusable(document, f"it has an artifact for {unknown[0]}, which is not a component of it")
    secrets = extension.secrets if extension else ()
    large = extension.large_artifacts if extension else ()
    return tuple(
        _content(
            document,
            component,
            artifacts.get(component.name),
            secrets,
            tuple(each for each in large if component.name in (each.components or (component.name,))),
        )
        for component in components
    )


def own_extension(document: ApplicationDeployment) -> DeploymentExtension | None:
    """Return what this project's renderer says in a deployment; None where another manager wrote it.

    Raises:
        DeploymentUnusable: this version cannot read it.
    """
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


def deployment_unusable(document: ApplicationDeployment, reason: str) -> DeploymentUnusable:
    """Return the error for a deployment that contradicts itself or its state."""
    return DeploymentUnusable(
        f"the deployment {document.metadata.name} cannot be applied: {reason}",
        remedy="correct the fleet repo and render again",
    )


def _content(
    document: ApplicationDeployment,
    component: Component,
    artifact: Artifact | None,
    secrets: Sequence[DeployedSecret],
    large: tuple[LargeArtifact, ...],
) -> WorkloadContent:
    values: dict[str, ParameterValue] = {}
    secret: dict[str, DeployedSecret] = {}
    for each in secrets:
        for target in each.targets:
            if component.name in target.components and secret.setdefault(target.pointer, each) is not each:
                raise deployment_unusable(document, f"two secrets both write {target.pointer}")
    for name, parameter in document.spec.parameters.items():
        for target in parameter.targets:
            if component.name not in target.components:
                continue
            if target.pointer in secret:
                raise deployment_unusable(document, f"the parameter {name} and a secret both write {target.pointer}")
            held = values.setdefault(target.pointer, parameter.value)
            if _tagged(held) != _tagged(parameter.value):
                raise deployment_unusable(document, f"the parameter {name} and another one both write {target.pointer}")
    properties = component.properties
    # The list of IDENTITY-1. A change of it restarts every component of every device: the golden test guards it.
    content: dict[str, Json] = {
        "type": document.spec.deployment_profile.type,
        "name": component.name,
        "repository": properties.repository,
        "revision": properties.revision,
        "packageLocation": properties.package_location,
        "extensions": _tagged(dict(component.extensions)),
        "artifact": artifact.digest if artifact else None,
        "values": {pointer: _tagged(value) for pointer, value in values.items()},
    }
    if secret:
        content["secrets"] = {pointer: [each.name, each.sealed] for pointer, each in secret.items()}
    if large:
        content["largeArtifacts"] = {each.name: each.digest for each in large}
    device = fleet_device(document)
    wanted = {pointer: WantedSecret(device, each.name, each.sealed) for pointer, each in secret.items()}
    return WorkloadContent(component, artifact, values, sha256(write_json(content)), wanted, large)


def _tagged(value: Json | ParameterValue) -> Json:
    """Return `value` with floats spelled out and mappings marked, so that no two values look alike (IDENTITY-4)."""
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, dict):
        return {"mapping": {key: _tagged(child) for key, child in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_tagged(child) for child in value]
    return value
