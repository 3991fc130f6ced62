"""Render a fleet commit again, from its own files and the state that the commit before it left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from margo_gitops.documents.device_id import client_of, encode_device_id
from margo_gitops.documents.state_layout import DEVICES_FOLDER, NO_SITE
from margo_gitops.operations.render.fleet_render import without_collections
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.render import PlacementsByDevice, affected, place, render
from margo_gitops.state_repo.objects import DevicePlace, StateObjects

encoded_name = lru_cache(maxsize=65_536)(encode_device_id)
"""The name of a device in refs and folders."""


@dataclass(slots=True)
class Rerender:
    """Renders one fleet commit after the other.

    After the first, only what the commit can concern is rendered, and every device whose tree is another one than
    before; the rest is what was verified with the commit before.
    """

    objects: StateObjects
    _intent: Intent | None = None
    _placed: PlacementsByDevice = field(default_factory=dict)

    def __call__(
        self, intent: Intent, before: Mapping[str, DevicePlace], after: Mapping[str, DevicePlace]
    ) -> dict[str, DesiredState]:
        """Return the states that were rendered, by encoded device id; every other device keeps what it had.

        Args:
            intent: what the fleet commit says.
            before: where the state commit's parent holds each device.
            after: where the state commit holds each.

        Raises:
            RenderingRefused: the fleet commit cannot be rendered.
            StateTampered: the previous state cannot be read.
        """
        with without_collections():
            placed = place(intent)
            only = affected(self._intent, self._placed, intent, placed) if self._intent is not None else None
            self._intent = None  # until this commit is done, nothing is known
            if only is not None:
                clients = {client_of(device) for device in intent.devices}
                only |= {each for each in clients if _tree(before, each) != _tree(after, each)}
            states = render(intent, lambda device: self.objects.held(before, encoded_name(device)), only, placed)
        self._intent, self._placed = intent, placed
        return {encoded_name(state.device): state for state in states}


def _tree(places: Mapping[str, DevicePlace], client: str) -> str | None:
    found = places.get(encoded_name(client))
    return found.tree if found else None


def folders(intent: Intent) -> dict[str, str]:
    """Return where a fleet commit holds each device that pulls, by encoded device id."""
    return {
        encoded_name(name): f"{DEVICES_FOLDER}/{device.value.spec.site or NO_SITE}"
        for name, device in intent.devices.items()
        if client_of(name) == name
    }
