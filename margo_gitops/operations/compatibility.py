"""Which devices can run an application, with which profile, and why the others cannot; pure.

COMPATIBLE-1  The placement of a render judges each profile, so the answer here is its answer, in the same words.
COMPATIBLE-2  A device that fits several profiles can run the application once the deployment says which one it prefers.
COMPATIBLE-3  Only the device's capabilities count. Whether parameters have values there is judged at deployment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Annotated

from margo_gitops.documents.application import DeploymentProfile
from margo_gitops.documents.declarations import About, OwnKind
from margo_gitops.errors import NotPlaceable
from margo_gitops.rendering.intent import Application, Intent
from margo_gitops.rendering.placement import TargetDevice, choose_profile, select, targets
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class DeviceCompatibility:
    """Whether a device could take the application."""

    device: Annotated[str, About("The device id.")]
    site: Annotated[str | None, About("Name of its site; null where it has none.")]
    compatible: Annotated[bool, About("Whether it could take the application.")]
    profiles: Annotated[
        tuple[str, ...], About("Ids of the profiles that it can run; of several, a deployment names the preferred one.")
    ]
    deployments: Annotated[tuple[str, ...], About("Deployments of the application, in any version, that it has now.")]
    reasons: Annotated[tuple[str, ...], About("Why not, for each profile that it cannot run.")]


@dataclass(frozen=True, slots=True)
class SiteCompatibility:
    """The devices of a site, counted."""

    site: Annotated[str | None, About("Its name; null for devices without one.")]
    devices: Annotated[int, About("How many.")]
    compatible: Annotated[int, About("How many could take it.")]
    deployed: Annotated[int, About("How many have a deployment of it now.")]
    profiles: Annotated[Mapping[str, int], About("How many can run each profile, by its id.")]


@dataclass(frozen=True, slots=True)
class Compatibility(OwnKind):
    """Which devices could take an application."""

    application: Annotated[str, About("Id of the application.")]
    version: Annotated[str, About("Its version.")]
    counts: Annotated[SiteCompatibility, About("Of all devices that the filters let through; `site` is null.")]
    sites: Annotated[tuple[SiteCompatibility, ...], About("The same by site, sorted; devices without one last.")]
    devices: Annotated[tuple[DeviceCompatibility, ...], About("Sorted by site and device.")]

    @property
    def by_device(self) -> Mapping[str, DeviceCompatibility]:
        """The devices by id."""
        return {each.device: each for each in self.devices}


def compatibility(
    intent: Intent, application: Application, devices: Collection[str] = (), sites: Collection[str] = ()
) -> Compatibility:
    """Return which devices could take an application.

    Args:
        devices: only these; empty: all.
        sites: only devices of these sites; empty: of all.
    """
    description = application.description.value
    fleet = targets(intent)
    deployed = _deployed(intent, description.id, fleet)
    judged = [
        judge_device(target, description.deployment_profiles, deployed.get(target.id, ()))
        for target in fleet.values()
        if (not devices or target.id in devices) and (not sites or target.site in sites)
    ]
    judged.sort(key=lambda each: (each.site is None, each.site or "", each.device))
    return Compatibility(
        application=description.id,
        version=description.metadata.version,
        counts=_counted(None, judged),
        sites=tuple(
            _counted(site, list(devices_there)) for site, devices_there in groupby(judged, lambda each: each.site)
        ),
        devices=tuple(judged),
    )


def judge_device(
    target: TargetDevice, profiles: Sequence[DeploymentProfile], deployments: Iterable[str] = ()
) -> DeviceCompatibility:
    """Return whether a device could take an application (COMPATIBLE-1).

    Args:
        deployments: names of its deployments that the device has.
    """
    fitting: list[str] = []
    reasons: list[str] = []
    for profile in profiles:
        try:
            fitting.append(choose_profile((profile,), (), target).id)
        except NotPlaceable as error:
            reasons += error.why
    return DeviceCompatibility(
        target.id, target.site, bool(fitting), tuple(fitting), tuple(sorted(deployments)), tuple(reasons)
    )


def _deployed(intent: Intent, application: str, fleet: Mapping[str, TargetDevice]) -> dict[str, list[str]]:
    """Return the deployments of an application that each device is selected for."""
    found: dict[str, list[str]] = {}
    for name, deployment in intent.deployments.items():
        if deployment.value.spec.application.id == application:
            for target in select(deployment.value.spec.placement, fleet):
                found.setdefault(target.id, []).append(name)
    return found


def _counted(site: str | None, devices: Sequence[DeviceCompatibility]) -> SiteCompatibility:
    profiles = Counter(profile for each in devices for profile in each.profiles)
    return SiteCompatibility(
        site=site,
        devices=len(devices),
        compatible=sum(each.compatible for each in devices),
        deployed=sum(bool(each.deployments) for each in devices),
        profiles=dict(sorted(profiles.items())),
    )
