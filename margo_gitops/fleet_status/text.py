"""A fleet's status for a terminal: counts by site, what is stuck and why, then the devices.

Five devices or five thousand: the first two parts stay short, because the same failure is shown once with the number of
devices; the third has the most urgent devices first, and is cut unless somebody asks for the details.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from margo_gitops.fleet_status.status import (
    DEVICE_STATES,
    DeploymentReport,
    DeviceStatus,
    FleetStatus,
    StateCounts,
)
from margo_gitops.values import astuple, fields
from margo_gitops.wording import counted, cut, few, printable, shortened, table_lines

SHOWN: Final = 20
"""Lines of each part that are shown without --details."""

_NAMED: Final = 3
_LONGEST: Final = 300
_COUNTED: Final = tuple(each.name for each in fields(StateCounts))


def status_lines(status: FleetStatus, *, details: bool = False) -> Iterator[str]:
    """Yield a status."""
    if status.state_commit is None:
        yield "nothing was rendered yet: the state repo is empty"
        return
    yield f"fleet    {(status.fleet_commit or '?')[:12]}  state {status.state_commit[:12]}"
    yield f"devices  {_summary(status.counts)}"
    if status.reports_commit is None and not status.pushing:
        yield "note: no device ever reported to this state repo; docs/status.md says how reports get there"
    if len(status.sites) > 1:
        yield ""
        rows = [(each.site or "(no site)", *_numbers(each.counts)) for each in status.sites]
        every = [("site", *_COUNTED), *rows, ("all sites", *_numbers(status.counts))]
        yield from table_lines([("", *row) for row in every])
    if stuck := list(_stuck(status)):
        yield ""
        yield "stuck"
        yield from cut(stuck, None if details else 2 * SHOWN)
    if waiting := list(_waiting(status)):
        yield ""
        yield "waiting"
        yield from cut(waiting, None if details else SHOWN)
    if keys := list(_keys(status)):
        yield ""
        yield "keys"
        yield from keys
    if status.devices:
        yield ""
        urgent = sorted(status.devices, key=lambda each: DEVICE_STATES.index(each.state))
        shown = urgent if details else urgent[:SHOWN]
        yield from _devices(shown, details=details)
        if len(shown) < len(urgent):
            yield f"  and {counted(len(urgent) - len(shown), 'more device')}: see them with --details"


def _summary(counts: StateCounts) -> str:
    parts = [f"{number} {name}" for name, number in zip(_COUNTED[1:], astuple(counts)[1:], strict=True) if number]
    return f"{counts.devices}: {', '.join(parts)}" if parts else "none"


def _numbers(counts: StateCounts) -> tuple[str, ...]:
    return tuple(map(str, astuple(counts)))


def _stuck(status: FleetStatus) -> Iterator[str]:
    """Yield each failure once, the most frequent first, and what a device that is ahead means."""
    failures: dict[tuple[str, str], list[str]] = {}
    for device in status.devices:
        for each in device.deployments:
            if each.state == "failed":
                places = failures.setdefault((each.name, each.error or "the device does not say why"), [])
                places.append(_place(device, each))
    for (name, error), places in sorted(failures.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"  {name}: failed on {few(places, _NAMED)}"
        yield f"    {_one_line(error)}"
    copied = [_place(each, None) for each in status.devices if each.copied]
    if copied:
        yield f"  {few(copied, _NAMED)}: there are two of it, with one identity"
        yield "    find the copy, and enrol the right one again: margo-gitops device enroll"
    ahead = [_place(each, None) for each in status.devices if each.state == "ahead"]
    if ahead:
        yield f"  {few(ahead, _NAMED)}: adopted a manifest newer than the state repo's"
        yield "    was the state repo moved back, or restored from a backup? margo-gitops audit verify"


def _waiting(status: FleetStatus) -> Iterator[str]:
    """Yield what devices say they wait for, or are held up by, once each, the most frequent first."""
    reasons: dict[str, list[str]] = {}
    for device in status.devices:
        said = [_reason(each) for each in device.deployments if each.error and each.state in ("pending", "installed")]
        for reason in dict.fromkeys(said):
            reasons.setdefault(reason, []).append(_place(device, None))
    for reason, places in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"  {shortened(printable(reason), _LONGEST)}: {few(places, _NAMED)}"


def _reason(deployment: DeploymentReport) -> str:
    """Return the first line of what a device says of a deployment; what holds up all of them, without its name."""
    text = (deployment.error or "").partition("\n")[0]
    return text.removeprefix(f"{deployment.name}: ")


def _one_line(error: str) -> str:
    """Return what a device says, its remedy too; a message has a line for each of its parts."""
    return shortened(printable("; ".join(map(str.strip, error.splitlines()))), _LONGEST)


def _keys(status: FleetStatus) -> Iterator[str]:
    """Yield the devices whose adopted state another key signed than the newest render."""
    others: dict[str, list[DeviceStatus]] = {}
    for device in status.devices:
        if device.signer not in (None, status.signer):
            others.setdefault(device.signer or "", []).append(device)
    if others:
        yield f"  {status.signer or 'no key'} signed the newest render"
    for signer, devices in sorted(others.items()):
        yield f"  {signer} signed what {counted(len(devices), 'device')} adopted"
        if late := [_place(each, None) for each in devices if each.adopted != each.desired]:
            yield f"    not adopted yet what was signed since: {few(late, _NAMED)}"


def _place(device: DeviceStatus, deployment: DeploymentReport | None) -> str:
    name = deployment.device if deployment is not None and deployment.device else device.device
    return f"{device.site}/{name}" if device.site else name


def _devices(devices: Sequence[DeviceStatus], *, details: bool) -> Iterator[str]:
    heading = ("device", "state", "desired", "adopted", "last report")
    rows = [
        (
            _place(each, None),
            each.state,
            str(each.desired),
            str(each.adopted) if each.adopted is not None else "-",
            _time(each.last_seen),
        )
        for each in devices
    ]
    lines = iter(table_lines([("", *row) for row in (heading, *rows)]))
    yield next(lines)
    for each, line in zip(devices, lines, strict=True):
        yield line
        if details:
            for deployment in each.deployments:
                yield _deployment(each, deployment)


def _deployment(device: DeviceStatus, each: DeploymentReport) -> str:
    child = f" on {each.device}" if each.device not in ("", device.device) else ""
    state = each.state or "not reported"
    adopted = f", manifest {each.adopted}" if each.adopted is not None else ""
    gone = "" if each.wanted else " (to be removed)"
    error = f": {_one_line(each.error)}" if each.error else ""
    return f"      {each.name}{child}: {state}{adopted}{gone}{error}"


def _time(moment: str | None) -> str:
    return moment.replace("+00:00", "Z") if moment else "-"
