"""What is placed on a device, as far as the fleet can be read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from margo_gitops.documents.fleet_kinds import Device
from margo_gitops.editing.unknown_names import unknown
from margo_gitops.rendering.intent import Intent, Located
from margo_gitops.rendering.render import find_placements


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
    """Return a device of the fleet.

    Raises:
        ReferenceUnknown: there is none; a near match is named.
    """
    if device not in intent.devices:
        raise unknown("device", device, intent.devices)
    return intent.devices[device]
