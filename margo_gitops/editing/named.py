"""What a person names, found in the fleet: applications, devices, sites, and what is placed on a device."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from margo_gitops.documents.fleet_kinds import Device
from margo_gitops.errors import ReferenceUnknown
from margo_gitops.operations.application_catalog import application_versions
from margo_gitops.rendering.intent import Application, Intent, Located
from margo_gitops.rendering.render import find_placements
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import did_you_mean, one


def unknown(what: str, name: str, known: Iterable[str]) -> ReferenceUnknown:
    """Return the error for a name that the fleet does not have, with a near match."""
    return ReferenceUnknown(f"{name} is not {one(what)} of this fleet", remedy=did_you_mean(name, known))


def named_application(intent: Intent, application: str, version: str | None) -> Application:
    """Return an application in a version, or in its newest one (ReferenceUnknown: the fleet repo does not have it)."""
    versions = application_versions(intent, application)
    if not versions:
        raise unknown("application", application, {each for each, _ in intent.applications})
    if version is not None and version not in versions:
        raise unknown_version(application, version, versions)
    return intent.applications[application, version or versions[0]]


def unknown_version(
    application: str, version: str, known: Iterable[str], other: str = "add it with `margo-gitops app add PATH`"
) -> ReferenceUnknown:
    """Return the error for a version that the fleet repo does not have."""
    return ReferenceUnknown(
        f"there is no version {version} of the application {application}",
        why=[f"versions in this fleet repo: {', '.join(known)}"],
        remedy=f"name one of these, or {other}",
    )


def all_known(what: str, names: Collection[str], known: Collection[str]) -> frozenset[str]:
    """Return what a person named (ReferenceUnknown: one of the names is not known; `what` they are, "device")."""
    for name in names:
        if name not in known:
            raise unknown(what, name, known)
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class PlacedDeployment:
    """A deployment on a device.

    Attributes:
        problem: why it cannot run there; "" where it can.
    """

    name: str
    application: str
    version: str
    profile: str | None
    problem: str = ""


def placed_deployments(intent: Intent, device: str) -> tuple[PlacedDeployment, ...]:
    """Return the deployments that are placed on a device, those that it cannot run with the reason.

    Raises:
        ReferenceUnknown: there is no such device.
    """
    known_device(intent, device)
    placeable = {
        name: each
        for name, each in intent.deployments.items()
        if (each.value.spec.application.id, each.value.spec.application.version) in intent.applications
    }
    # One device is asked for: the others are not placed. Its gateway and site stay.
    sound = replace(intent, deployments=placeable, devices={device: intent.devices[device]})
    placed: list[PlacedDeployment] = []
    for name, deployment in placeable.items():
        wanted = deployment.value.spec.application
        placements, errors = find_placements(replace(sound, deployments={name: deployment}))
        placed += [
            PlacedDeployment(name, wanted.id, wanted.version, each.profile.id) for each in placements[device].values()
        ]
        problem = next((error for error in errors if error.device == device), None)
        if problem is not None:
            why = "; ".join([problem.what, *problem.why])
            placed.append(PlacedDeployment(name, wanted.id, wanted.version, None, why))
    return tuple(sorted(placed, key=lambda each: each.name))


def known_device(intent: Intent, device: str) -> Located[Device]:
    """Return a device of the fleet (ReferenceUnknown: it is not there; a near match is named)."""
    if device not in intent.devices:
        raise unknown("device", device, intent.devices)
    return intent.devices[device]
