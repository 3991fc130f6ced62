"""Move the deployments of an application to another version of it."""

from __future__ import annotations

from dataclasses import dataclass

from margo_gitops.catalog.package import Package
from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.fleet_kinds import Deployment
from margo_gitops.documents.versions import newest, version_key
from margo_gitops.editing.deploy import with_version
from margo_gitops.editing.edit import Base, Edit, FileChange, make_edit
from margo_gitops.editing.unknown_names import unknown
from margo_gitops.editing.vendoring import vendored
from margo_gitops.editing.version_difference import Difference, version_differences
from margo_gitops.errors import EditImpossible, ReferenceUnknown
from margo_gitops.rendering.intent import Intent, Located


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """Which deployments shall run what.

    Attributes:
        application: id of the application.
        package: a package to vendor; None: the version is in the fleet repo already.
        version: None: that of the package, or the newest one in the fleet repo.
        deployments: names; empty: every deployment of the application.
    """

    application: str
    package: Package | None = None
    version: str | None = None
    deployments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What changes for deployments that come from one version.

    Attributes:
        version: the one they run now.
        deployments: their names.
        differences: between that version and the new one.
    """

    version: str
    deployments: tuple[str, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An upgrade, not written yet.

    Attributes:
        version: the new one.
        steps: for each version that deployments come from, newest first.
        edit: the files.
    """

    version: str
    steps: tuple[Step, ...]
    edit: Edit


def upgrade(base: Base, request: UpgradeRequest) -> Upgrade:
    """Return the edit that upgrades deployments, and what changes for them.

    Raises:
        ReferenceUnknown: there is no such application, version or deployment.
        EditImpossible: the package is of another application or version, or no deployment is there to upgrade.
        PackageExists: the package's version is there with other content.
        NotEditable: a deployment's file cannot be changed.
    """
    description = _new_description(base.intent, request)
    version = description.metadata.version
    moving = _moving(base.intent, request, version)
    changes: list[FileChange] = vendored(base, request.package) if request.package is not None else []
    changes += [with_version(each, version) for each in moving]
    steps = tuple(_step(base.intent, old, moving, description) for old in _versions(moving))
    notes = [
        f"{version} is older than {step.version}, which {', '.join(step.deployments)} runs now"
        for step in steps
        if version_key(version) < version_key(step.version)
    ]
    title = f"Upgrade {request.application} to {version}"
    return Upgrade(version, steps, make_edit(title, ["upgrade", request.application, version], changes, notes))


def _new_description(intent: Intent, request: UpgradeRequest) -> ApplicationDescription:
    known = {number: each for (name, number), each in intent.applications.items() if name == request.application}
    if request.package is not None:
        description = request.package.application.description.value
        if description.id != request.application:
            raise EditImpossible(f"the package is of {description.id}, not of {request.application}")
        if request.version not in (None, description.metadata.version):
            raise EditImpossible(f"the package is {description.metadata.version}, not {request.version}")
        return description
    if not known:
        raise unknown("application", request.application, {name for name, _ in intent.applications})
    version = request.version or newest(known)
    if version not in known:
        raise ReferenceUnknown(
            f"there is no version {version} of the application {request.application}",
            why=[f"versions in this fleet repo: {', '.join(sorted(known))}"],
            remedy="name one of these, or the folder of the package",
        )
    return known[version].description.value


def _moving(intent: Intent, request: UpgradeRequest, version: str) -> list[Located[Deployment]]:
    """Return the deployments that run another version and shall not."""
    having = {
        name: each
        for name, each in sorted(intent.deployments.items())
        if each.value.spec.application.id == request.application
    }
    for name in request.deployments:
        if name not in having:
            raise unknown(f"deployment of {request.application}", name, having)
    chosen = [each for name, each in having.items() if not request.deployments or name in request.deployments]
    if not chosen and request.package is None:
        raise EditImpossible(
            f"no deployment is of {request.application}",
            remedy=f"deploy it: margo-gitops deploy {request.application} {version} --to SELECTOR",
        )
    return [each for each in chosen if each.value.spec.application.version != version]


def _versions(moving: list[Located[Deployment]]) -> list[str]:
    found = {each.value.spec.application.version for each in moving}
    return sorted(found, key=version_key, reverse=True)


def _step(intent: Intent, version: str, moving: list[Located[Deployment]], new: ApplicationDescription) -> Step:
    names = tuple(each.value.metadata.name for each in moving if each.value.spec.application.version == version)
    old = intent.applications.get((new.id, version))
    return Step(version, names, version_differences(old.description.value, new) if old is not None else ())
