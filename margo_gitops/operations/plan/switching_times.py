"""When devices will change what runs: the next time that the calendars of what changes are open, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from zoneinfo import ZoneInfo

from margo_gitops.documents.calendars import never_open, next_opening, spoken
from margo_gitops.documents.maintenance import Calendar
from margo_gitops.rendering.changes import DeviceChange
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.placement import targets
from margo_gitops.rendering.resolution import calendars
from margo_gitops.wording import counted, few

_NAMED = 3


def switching_times(changes: Iterable[DeviceChange], intent: Intent, now: float) -> Iterator[str]:
    """Yield a note for the devices that change at the same time; nothing for those that change as soon as they poll.

    Args:
        now: seconds since the epoch.
    """
    found: dict[tuple[Calendar, ...], dict[str, None]] = {}
    fleet = targets(intent) if any(_all_maintenance(intent)) else {}
    for device in changes if fleet else ():
        for deployment in device.deployments:
            target, wanted = fleet.get(deployment.device), intent.deployments.get(deployment.deployment)
            if deployment.workloads and target is not None and wanted is not None:
                found.setdefault(calendars(wanted.value, target, intent), {})[device.device] = None
    for ruling, devices in found.items():
        if ruling:
            yield f"{counted(len(devices), 'device')} ({few(list(devices), _NAMED)}): {opening_text(ruling, now)}"


def _all_maintenance(intent: Intent) -> Iterator[object]:
    yield from (each.value.spec.maintenance for each in intent.sites.values())
    yield from (each.value.spec.maintenance for each in intent.devices.values())
    yield from (each.value.spec.maintenance for each in intent.deployments.values())


def opening_text(ruling: tuple[Calendar, ...], now: float) -> str:
    """Return when something may change, in words: "can change from Sunday 2026-12-06 02:00 CET on, by site north"."""
    whose = " and ".join(calendar.of for calendar in ruling)
    try:
        opening = next_opening(ruling, now, ZoneInfo)
        zone = ZoneInfo(ruling[0].time_zone)
    except (LookupError, ValueError, OSError):
        return f"the time zone of {whose} is not known here"
    if opening is None:
        return f"can never change: {never_open(ruling)}"
    if opening.start <= now:
        return f"can change now, until {spoken(opening.end, zone)}, by {whose}"
    return f"can change from {spoken(opening.start, zone)} on, by {whose}"
