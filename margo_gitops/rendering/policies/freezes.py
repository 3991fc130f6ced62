"""Whether a change reaches devices that are frozen at its date. No clock is read: the date is handed in.

FREEZE-1  A device is frozen if it matches as it was before the change, or as it is after: neither a new label nor a
          move to another site is a way out.
FREEZE-2  Frozen means: its branch does not get another commit; leaving the fleet and moving between sites count as
          changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.documents.fleet_policy import Freeze
from margo_gitops.errors import Location, SiteFrozen
from margo_gitops.rendering.changes import DeviceChange
from margo_gitops.rendering.placement import TargetDevice, selected
from margo_gitops.rendering.policies.facts import PolicyInForce, Verdict
from margo_gitops.wording import few

_SHOWN = 20
"""Devices that a message names."""

Targets = Callable[[str], Collection[TargetDevice]]
"""A device as it was and as it is; nothing for one that is not known."""


def active_freezes(policies: Iterable[PolicyInForce], at: int) -> Iterator[tuple[PolicyInForce, int, Freeze]]:
    """Yield the freezes that are on at a moment, each once, with their index.

    Args:
        at: seconds since 1970-01-01 UTC.
    """
    seen: list[Freeze] = []
    for force in policies:
        for index, freeze in enumerate(force.policy.freezes):
            if freeze.is_on(at) and freeze not in seen:
                seen.append(freeze)
                yield force, index, freeze


def ended_freezes(force: PolicyInForce, at: int) -> Iterator[tuple[Location, Freeze]]:
    """Yield the freezes that were over before a moment, and where they are written."""
    for index, freeze in enumerate(force.policy.freezes):
        if freeze.is_over(at):
            yield force.at("freezes", index), freeze


def judge_freezes(
    policies: Sequence[PolicyInForce], at: int, changes: Callable[[], Iterable[DeviceChange]], targets: Targets
) -> Verdict | None:
    """Return whether a change leaves frozen devices alone; None where the policies have no freezes.

    Args:
        at: the change's date, seconds since 1970-01-01 UTC.
        changes: what it changes; asked only while a freeze is on.
    """
    if not any(force.policy.freezes for force in policies):
        return None
    day = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    active = list(active_freezes(policies, at))
    if not active:
        return Verdict("freezes", "passed", f"no freeze is on at {day}")
    found = list(changes())
    reasons = []
    for force, index, freeze in active:
        hit = [change for change in found if _frozen(freeze.match, change, targets)]
        sites: dict[str | None, list[str]] = {}
        for change in hit:
            sites.setdefault(change.site, []).append(change.device)
        reasons += [
            _refusal(force, index, freeze, site, sites[site], day)
            for site in sorted(sites, key=lambda name: name or "")
        ]
    if reasons:
        return Verdict("freezes", "refused", "the change reaches frozen devices", tuple(reasons))
    return Verdict("freezes", "passed", f"freezes on at {day}: {len(active)}; the change reaches none of their devices")


def _frozen(selector: DeviceSelector, change: DeviceChange, targets: Targets) -> bool:
    devices = {change.device, *(deployment.device for deployment in change.deployments)}
    if selector.all or devices & set(selector.devices):
        return True
    if {change.site, change.site_before} & set(selector.sites) and not (
        selector.match_labels or selector.match_expressions
    ):
        return True
    return any(selected(selector, target) for device in devices for target in targets(device))


def _refusal(
    force: PolicyInForce, index: int, freeze: Freeze, site: str | None, devices: list[str], day: str
) -> SiteFrozen:
    noun = "device" if len(devices) == 1 else "devices"
    place = f"of site {site}" if site else "without a site"
    return SiteFrozen(
        f"the change reaches {len(devices)} frozen {noun} {place}: {freeze.reason}",
        where=force.at("freezes", index),
        why=[
            f"frozen from {freeze.begins} to {freeze.ends}; the change is of {day}",
            f"{noun}: {few(devices, _SHOWN)}",
            *force.origin(),
        ],
        remedy="leave these devices out, or commit the change when the freeze is over",
    )
