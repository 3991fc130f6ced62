"""Which devices a change of the intent can concern, so that only these are rendered again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_kinds import FleetSpec
from margo_gitops.rendering.intent import Intent, Located
from margo_gitops.rendering.render import PlacementsByDevice

T = TypeVar("T")


def affected(
    before: Intent, placed_before: PlacementsByDevice, after: Intent, placed_after: PlacementsByDevice
) -> frozenset[str] | None:
    """Return the clients whose state may differ between two intents that both render; None for any.

    A device's state follows from its own document, its site's, those of the deployments placed on it, and what all
    devices share: the fleet's document and the applications.
    """
    if _shared(before) != _shared(after) or _digests(before) != _digests(after):
        return None
    devices = _changed(before.devices, after.devices)
    sites = _changed(before.sites, after.sites)
    deployments = _changed(before.deployments, after.deployments)
    for intent, placed in ((before, placed_before), (after, placed_after)):
        if sites:
            devices |= {name for name, each in intent.devices.items() if each.value.spec.site in sites}
        if deployments:
            devices |= {name for name, placements in placed.items() if not deployments.isdisjoint(placements)}
    for name in placed_before.keys() | placed_after.keys():
        # Labels of a device or a site can place a deployment whose document did not change.
        if placed_before.get(name, {}).keys() != placed_after.get(name, {}).keys():
            devices.add(name)
    return frozenset(map(client_of, devices))


def _shared(intent: Intent) -> tuple[str, FleetSpec]:
    """Return what the fleet's document says to all devices: the policy says who may change them, not what they get."""
    fleet = intent.fleet.value
    return fleet.metadata.name, replace(fleet.spec, policy=None)


def _digests(intent: Intent) -> dict[tuple[str, str], str]:
    return {key: application.digest for key, application in intent.applications.items()}


def _changed(before: Mapping[str, Located[T]], after: Mapping[str, Located[T]]) -> set[str]:
    return {
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or before[name].content != after[name].content
    }
