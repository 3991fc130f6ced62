"""Deploy an application: create or change a Deployment."""

from __future__ import annotations

import re
from collections.abc import Mapping

from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.constraints import NAME_PATTERN, DeviceSelector
from margo_gitops.documents.fleet_kinds import Deployment
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.documents.versions import newest
from margo_gitops.editing.edit import Base, Edit, FileChange, make_edit
from margo_gitops.editing.named import unknown, unknown_version
from margo_gitops.editing.round_trip import document_and_spec, new_resource, rewritten
from margo_gitops.editing.values import check_parameter_name, check_value, plain_values
from margo_gitops.errors import EditImpossible, Location
from margo_gitops.rendering.intent import Intent, Located
from margo_gitops.values import dataclass, field


@dataclass(frozen=True, slots=True)
class DeployTarget:
    """Which Deployment is meant, and what it will run.

    Attributes:
        known: as it is; None for a new one.
    """

    name: str
    known: Located[Deployment] | None
    description: ApplicationDescription

    @property
    def version(self) -> str:
        """The version that it will run."""
        return self.description.metadata.version


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """What a Deployment must be; what is not given stays as it is.

    Attributes:
        version: None: as it is; for a new Deployment the newest one in the fleet repo.
        name: of the Deployment; None: that of this application, or for a new one the application's id.
        parameters: values to set, typed as the application wants them.
        unset: names of parameters to take out of the Deployment.
        profiles: ids, best first; empty: as they are.
        secrets: parameters that get their values on the device, with the secret's name; None: the parameter's.
    """

    application: str
    version: str | None = None
    name: str | None = None
    placement: DeviceSelector | None = None
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    secrets: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def secret_refs(self) -> dict[str, Json]:
        """The secrets as a Deployment has them."""
        return {name: {"name": secret} if secret else {} for name, secret in self.secrets.items()}


def deploy_target(intent: Intent, application: str, version: str | None, name: str | None) -> DeployTarget:
    """Return which Deployment a person means.

    Raises:
        ReferenceUnknown: there is no such application or version.
        EditImpossible: the name is not valid, or is of another application; or several Deployments could be meant.
    """
    versions = [number for each, number in intent.applications if each == application]
    if not versions:
        raise unknown("application", application, {each for each, _ in intent.applications})
    known = _known(intent, application, name)
    chosen = version or (known.value.spec.application.version if known else newest(versions))
    if chosen not in versions:
        raise unknown_version(application, chosen, sorted(versions))
    final = known.value.metadata.name if known else name or application
    if not re.search(NAME_PATTERN, final):
        raise EditImpossible(
            f"{final!r} is not a name for a deployment",
            remedy="pass --name with 1 to 63 lower-case letters, digits and inner dashes",
        )
    return DeployTarget(final, known, intent.applications[application, chosen].description.value)


def _known(intent: Intent, application: str, name: str | None) -> Located[Deployment] | None:
    """Return the Deployment that is there already; None for a new one."""
    if name is not None:
        found = intent.deployments.get(name)
        if found is not None and found.value.spec.application.id != application:
            raise EditImpossible(
                f"the deployment {name} is of the application {found.value.spec.application.id}",
                where=found.at("spec", "application", "id"),
                remedy="another name makes another deployment: --name NAME",
            )
        return found
    having = [each for each in intent.deployments.values() if each.value.spec.application.id == application]
    if len(having) > 1:
        names = ", ".join(sorted(each.value.metadata.name for each in having))
        raise EditImpossible(
            f"several deployments are of {application}: {names}", remedy="name one, or a new one: --name NAME"
        )
    return having[0] if having else None


def deploy(base: Base, request: DeployRequest) -> Edit:
    """Return the edit that creates or changes a Deployment.

    Raises:
        ReferenceUnknown, EditImpossible: as `deploy_target`; or a new Deployment is to go nowhere.
        ParameterNotTyped: a parameter is not the application's, or breaks its rules.
        NotEditable: the Deployment's file cannot be changed.
    """
    target = deploy_target(base.intent, request.application, request.version, request.name)
    for name in request.secrets:
        check_parameter_name(target.description, name)
    for name, value in request.parameters.items():
        check_parameter_name(target.description, name)
        check_value(target.description, name, value)
    change = _new(base, target, request) if target.known is None else _changed(target.known, target, request)
    return make_edit(f"Deploy {target.name} {target.version}", ["deploy", target.name, target.version], [change])


def _new(base: Base, target: DeployTarget, request: DeployRequest) -> FileChange:
    if request.placement is None:
        raise EditImpossible(f"the deployment {target.name} is new: say where it goes", remedy="pass --to SELECTOR")
    spec: dict[str, Json] = {
        "application": {"id": request.application, "version": target.version},
        "placement": write(request.placement),
    }
    if request.profiles:
        spec["profiles"] = list(request.profiles)
    if request.parameters:
        spec["parameters"] = plain_values(request.parameters)
    if request.secrets:
        spec["secretRefs"] = request.secret_refs
    return new_resource(base.tree, "Deployment", f"deployments/{target.name}.yaml", {"name": target.name}, spec)


def _changed(known: Located[Deployment], target: DeployTarget, request: DeployRequest) -> FileChange:
    document, spec = _with_version(known, target.version)
    if request.placement is not None and request.placement != known.value.spec.placement:
        spec["placement"] = write(request.placement)
    if request.profiles:
        spec["profiles"] = list(request.profiles)
    written = spec.get("parameters")
    parameters = dict(written) if isinstance(written, dict) else {}
    for name in request.unset:
        if name not in parameters:
            raise EditImpossible(
                f"the deployment {target.name} does not set {name}",
                where=known.at("spec"),
                remedy=f"it sets: {', '.join(parameters) or 'nothing'}",
            )
        del parameters[name]
    parameters.update(plain_values(request.parameters))
    if request.secrets:
        held = spec.get("secretRefs")
        spec["secretRefs"] = {**(held if isinstance(held, dict) else {}), **request.secret_refs}
        parameters = {name: value for name, value in parameters.items() if name not in request.secrets}
    if parameters:
        spec["parameters"] = parameters
    else:
        spec.pop("parameters", None)
    return FileChange(known.file, known.content, rewritten(known.content, known.file, document))


def with_version(known: Located[Deployment], version: str) -> FileChange:
    """Return the change that makes a Deployment run another version (NotEditable: its file cannot be changed)."""
    document, _ = _with_version(known, version)
    return FileChange(known.file, known.content, rewritten(known.content, known.file, document))


def _with_version(known: Located[Deployment], version: str) -> tuple[Json, dict[str, Json]]:
    """Return a Deployment's document with another version, and the `spec` in it."""
    document, spec = document_and_spec(known.content, known.file, "deployment")
    application = spec.get("application")
    if not isinstance(application, dict):
        raise EditImpossible("the file holds no deployment", where=Location(known.file))
    application["version"] = version
    return document, spec
