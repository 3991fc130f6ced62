"""Which devices a status is about; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.documents.device_id import client_of
from margo_gitops.fleet_status.status import DeviceState
from margo_gitops.rendering.intent import Intent

LabelSelector: TypeAlias = Callable[[Intent], DeviceSelector]
"""A selector that a person typed: its values get their types from the labels of the fleet."""


@dataclass(frozen=True, slots=True)
class StatusFilter:
    """Which devices to show; everything given must hold, and empty means any.

    Attributes:
        devices: ids; for a gateway's child, its gateway is shown.
        sites: names.
        applications: ids; devices that should run one of them.
        states: of devices; those that left the fleet are shown only where `left` is among them, or by name.
        labels: selectors; all must hold, for the device or for one of its children.
    """

    devices: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    applications: frozenset[str] = frozenset()
    states: frozenset[DeviceState] = frozenset()
    labels: tuple[LabelSelector, ...] = ()

    @property
    def clients(self) -> frozenset[str]:
        """The clients named by `devices`."""
        return frozenset(map(client_of, self.devices))

    def place(self, device: str, site: str | None, *, left: bool) -> bool:
        """Return whether a device may be shown, as far as its place in the state repo tells."""
        if self.devices and device not in self.clients:
            return False
        if left and not (self.devices or "left" in self.states):
            return False
        return not self.sites or (site or "") in self.sites
