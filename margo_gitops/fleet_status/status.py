"""Whether a device runs what it should, judged from its manifest and its reports; pure.

DEVICE-1  A device's adopted version is the highest that any of its reports names: a device reports what changed, so an
     older number on another deployment is not older state.
DEVICE-2  `failed` before all else: a deployment that should be there, or should go, is reported as failed.
DEVICE-3  `behind`: the adopted version is lower than the desired one; `ahead`: higher, which no render explains.
DEVICE-4  `applying`: the version is the desired one, and a deployment is not yet there, or not yet gone.
DEVICE-5  `silent`: there is something to run, and nothing was ever reported of it.
DEVICE-6  `installed`: none of these; a device with nothing to run that reports nothing is `installed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, Literal, TypeAlias

from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.documents.declarations import About, OwnKind
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.status import State
from margo_gitops.rendering.intent import Intent
from margo_gitops.state_repo.reported import ReportedStatus
from margo_gitops.values import dataclass

DeviceState: TypeAlias = Literal["installed", "applying", "behind", "failed", "silent", "ahead", "left"]
DEVICE_STATES: Final[tuple[DeviceState, ...]] = ("failed", "ahead", "silent", "behind", "applying", "installed", "left")
"""Most urgent first."""


@dataclass(frozen=True, slots=True)
class DeploymentReport:
    """A deployment that a device should run, or reports though it should not, and what is said of it."""

    name: Annotated[str, About("As in the fleet repo; the id where the state repo does not hold it any more.")]
    id: Annotated[str, About("UUID of the document.")]
    device: Annotated[str, About("The device; for a gateway's child, the child.")]
    application: Annotated[str | None, About("The application's id; null as for `name`.")]
    wanted: Annotated[bool, About("Whether the desired manifest lists it.")]
    state: Annotated[State | None, About("As reported; null where nothing is.")]
    adopted: Annotated[int | None, About("The manifestVersion that the report names.")]
    error: Annotated[str | None, About("Why it failed, as the device says.")]


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device: what it should run, and what it says it runs."""

    device: Annotated[str, About("The client: it has a branch.")]
    site: Annotated[str | None, About("Name of its site; null where it has none.")]
    state: Annotated[DeviceState, About("`installed` where all is as desired.")]
    desired: Annotated[int, About("manifestVersion that the state repo holds for it.")]
    adopted: Annotated[int | None, About("The highest manifestVersion that it reported; null for none.")]
    last_seen: Annotated[
        str | None, About("When its last report was committed, RFC 3339; null where that is not known.")
    ]
    signer: Annotated[
        str | None,
        About("Fingerprint of the key that signed what it adopted; null: not signed, or not known (docs/status.md)."),
    ]
    copied: Annotated[str | None, About("When the server noticed that there are two of this device; null: it did not.")]
    deployments: tuple[DeploymentReport, ...]


@dataclass(frozen=True, slots=True)
class StateCounts:
    """How many devices are in each state."""

    devices: int
    installed: int
    applying: int
    behind: int
    failed: int
    silent: int
    ahead: int


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """The devices of a site, counted."""

    site: Annotated[str | None, About("Its name; null for devices without one.")]
    counts: StateCounts


@dataclass(frozen=True, slots=True)
class FleetStatus(OwnKind):
    """What a fleet should run, and what its devices report."""

    state_repo: Annotated[str, About("Path or URL.")]
    state_commit: Annotated[str | None, About("The commit of the branch `fleet`; null before the first render.")]
    fleet_commit: Annotated[str | None, About("The commit of the fleet repo that it was rendered from.")]
    signer: Annotated[str | None, About("Fingerprint of the key that signed the newest render; null: not signed.")]
    reports_commit: Annotated[str | None, About("The commit of the branch `reports`; null where nothing was reported.")]
    pushing: Annotated[int, About("How many devices push reports to branches of their own (docs/git-host.md).")]
    searched_to: Annotated[
        str | None,
        About("lastSeen was not looked for in reports older than this; null: it was, or every device was met."),
    ]
    counts: Annotated[StateCounts, About("Of all devices that the filters let through.")]
    sites: Annotated[tuple[SiteStatus, ...], About("The same by site, sorted.")]
    devices: Annotated[tuple[DeviceStatus, ...], About("Sorted by site and device.")]

    @property
    def as_desired(self) -> bool:
        """Whether every device runs what it should; one that left the fleet does not count."""
        return self.counts.installed == self.counts.devices


def judge_device(
    version: int, wanted: Iterable[str], reported: Mapping[str, ReportedStatus]
) -> tuple[DeviceState, int | None]:
    """Return a device's state and its adopted version (DEVICE-1 to DEVICE-6).

    Args:
        wanted: ids of the deployments that it lists.
        reported: the device's statuses, by deployment id.
    """
    ids = frozenset(wanted)
    adopted = max((each.adopted for each in reported.values() if each.adopted is not None), default=None)
    leaving = [each for each in reported.values() if each.deployment_id not in ids and each.state != "removed"]
    present = [reported[each] for each in ids if each in reported]
    if any(each.state == "failed" for each in (*present, *leaving)):
        return "failed", adopted
    if adopted is not None and adopted > version:
        return "ahead", adopted
    if not reported:
        return ("silent" if ids else "installed"), adopted
    if adopted is not None and adopted < version:
        return "behind", adopted
    if leaving or len(present) < len(ids) or any(each.state != "installed" for each in present):
        return "applying", adopted
    return "installed", adopted


def counted_states(devices: Iterable[DeviceStatus]) -> StateCounts:
    """Return how many devices are in each state; those that left the fleet are not counted."""
    states = [each.state for each in devices if each.state != "left"]
    return StateCounts(len(states), **{each: states.count(each) for each in DEVICE_STATES if each != "left"})


def by_site(devices: Iterable[DeviceStatus]) -> tuple[SiteStatus, ...]:
    """Return the counts of each site, sorted; sites whose devices all left are not there."""
    groups: dict[str | None, list[DeviceStatus]] = {}
    for each in devices:
        if each.state != "left":
            groups.setdefault(each.site, []).append(each)
    ordered = sorted(groups, key=lambda site: (site is None, site or ""))
    return tuple(SiteStatus(site, counted_states(groups[site])) for site in ordered)


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
