"""A plan for a terminal: counts by site, what causes the changes, then the devices.

Five devices or five thousand: the first two parts stay short, because equal causes are named once with their number of
devices; the third is cut unless somebody asks for the details.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from margo_gitops.documents.components import ParameterValue
from margo_gitops.rendering.changes import (
    Counts,
    DeploymentChange,
    DeviceChange,
    Download,
    ObjectFieldChange,
    Plan,
    PolicyVerdict,
    Refusal,
    SiteRefusal,
)
from margo_gitops.values import dataclass
from margo_gitops.wording import byte_count, counted, cut, few, json_text, shortened, table_lines

SHOWN = 20
"""Lines of each part that are shown without --details."""

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Cause:
    """A change that several devices share.

    Attributes:
        what: "added", "removed", "application.version 1.0.0 -> 1.1.0", "parameter greeting "Hello" -> "Hi"".
        origin: where the new value is written; "" where that is not one place.
    """

    deployment: str
    what: str
    origin: str
    devices: int


def causes(plan: Plan) -> list[Cause]:
    """Return why devices change, the most frequent cause of each deployment first."""
    found: dict[tuple[str, str, str, str], dict[str, int]] = {}
    for device in plan.devices:
        for deployment in device.deployments:
            for kind, subject, change, origin in _elements(deployment):
                changes = found.setdefault((deployment.deployment, kind, subject, origin), {})
                changes[change] = changes.get(change, 0) + 1
    told = [
        Cause(
            name,
            " ".join(filter(None, (subject, next(iter(changes)) if len(changes) == 1 else "differs by device"))),
            origin,
            sum(changes.values()),
        )
        for (name, _, subject, origin), changes in found.items()
    ]
    return sorted(told, key=lambda cause: (cause.deployment, -cause.devices, cause.what, cause.origin))


def _elements(deployment: DeploymentChange) -> Iterator[tuple[str, str, str, str]]:
    """Yield (kind, subject, change, origin) of everything that changes in a deployment."""
    if deployment.change != "changed":
        named = {each.field: each.after or each.before for each in deployment.fields}
        application = f"({named.get('application.id')} {named.get('application.version')})"
        yield deployment.change, deployment.change, application, ""
        return
    # A calendar or a lock that comes or goes is one line; each says whose it is.
    whole = {
        each.field.removesuffix("of"): each
        for each in deployment.fields
        if each.field.endswith(".of") and (each.before is None or each.after is None)
    }
    for prefix, each in whole.items():
        kind = re.sub(r"(\.\d+)?\.$", "", prefix)
        yield "field", f"{kind} of {each.after or each.before}", "removed" if each.after is None else "added", ""
    for each in deployment.fields:
        if not each.field.startswith(tuple(whole)):
            yield "field", each.field, arrow(each.before, each.after), ""
    for parameter in deployment.parameters:
        place = (
            f"{parameter.origin.layer}, {_place(parameter.origin.file, parameter.origin.line)}"
            if parameter.origin
            else ""
        )
        yield "parameter", f"parameter {parameter.name}", arrow(parameter.before, parameter.after), place
    for found in deployment.objects:
        if found.change != "changed":
            yield "object", found.title, found.change, ""
        for changed in found.fields:
            place = _place(changed.origin.file, changed.origin.line) if changed.origin else ""
            yield "object", f"{found.title}: {changed.path}", _object_arrow(changed), place


def arrow(before: ParameterValue | None, after: ParameterValue | None) -> str:
    """Return a change of value as people read it."""
    return f"{shown(before)} -> {shown(after)}"


def shown(value: ParameterValue | None) -> str:
    """Return a value as JSON, shortened; "nothing" for none."""
    if value is None:
        return "nothing"
    return shortened(json_text(value), _LONGEST)


def _place(file: str | None, line: int | None, column: int | None = None) -> str:
    return ":".join(str(part) for part in (file, line, column) if part is not None)


def headline(plan: Plan) -> str:
    """Return the plan in one sentence."""
    if plan.refusals:
        reasons = "1 reason" if len(plan.refusals) == 1 else f"{len(plan.refusals)} reasons"
        return f"refused: nothing can be rendered, for {reasons}"
    if plan.refused:
        return f"refused by the fleet's policy, for {counted(len(plan.breaches), 'reason')}; {_changes(plan)}"
    return _changes(plan)


def _changes(plan: Plan) -> str:
    if not plan.devices:
        return f"no difference: {counted(plan.unchanged, 'device')} unchanged"
    counts = plan.counts
    parts = [
        f"{number} {verb}"
        for number, verb in (
            (counts.devices_added, "added"),
            (counts.devices_changed, "changed"),
            (counts.devices_removed, "leaving"),
            (plan.unchanged, "unchanged"),
        )
        if number
    ]
    workloads = [
        f"{number} {verb}"
        for number, verb in (
            (counts.workloads_starting, "start"),
            (counts.workloads_restarting, "restart"),
            (counts.workloads_stopping, "stop"),
        )
        if number
    ]
    return f"devices: {', '.join(parts)}; workloads: {', '.join(workloads) or 'no change'}"


def download_line(download: Download) -> str:
    """Return what has to be downloaded, in words; empty for nothing."""
    parts = [byte_count(download.bytes)] if download.bytes else []
    if download.unknown:
        noun = "image or chart" if download.unknown == 1 else "images or charts"
        parts.append(f"{download.unknown} {noun} of unknown size")
    return " and ".join(parts)


TABLE_HEADING = ("site", "devices", "deployments", "start", "restart", "stop")


def table_rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return a row for every site where something changes, and one for all where there are several."""
    rows = [_row(each.site or "(no site)", each.counts) for each in plan.sites]
    return [*rows, _row("all sites", plan.counts)] if len(rows) > 1 else rows


def _row(name: str, counts: Counts) -> tuple[str, ...]:
    return (
        name,
        f"+{counts.devices_added} ~{counts.devices_changed} -{counts.devices_removed}",
        f"+{counts.deployments_added} ~{counts.deployments_changed} -{counts.deployments_removed}",
        str(counts.workloads_starting),
        str(counts.workloads_restarting),
        str(counts.workloads_stopping),
    )


def as_text(plan: Plan, *, details: bool = False) -> Iterator[str]:
    """Yield the lines of a plan for a terminal.

    Args:
        details: every cause and every device, with each changed value.
    """
    yield f"plan  {plan.subject[:12]} against {plan.base}"
    yield headline(plan)
    if loaded := download_line(plan.counts.download):
        yield f"to download: {loaded}"
    for note in plan.notes:
        yield f"note: {note}"
    most = None if details else SHOWN
    if plan.refusals:
        yield ""
        yield from cut(
            [line for each in plan.refusals for line in _refusal_lines(each)], None if details else 3 * SHOWN
        )
    if plan.cannot_take:
        yield ""
        yield "cannot take it"
        yield from cut([f"  {site_refusal(each)}" for each in plan.cannot_take], most)
    if plan.policy:
        yield ""
        yield "policy"
        yield from cut([line for each in plan.policy for line in _verdict_lines(each)], None if details else 3 * SHOWN)
    if plan.sites:
        yield ""
        yield from (f"  {line}" for line in table_lines([TABLE_HEADING, *table_rows(plan)]))
    if told := causes(plan):
        yield ""
        yield "why"
        yield from cut([_cause_line(cause) for cause in told], most)
    if plan.devices:
        yield ""
        yield "devices"
        if details:
            for device in plan.devices:
                yield _device_line(device)
                yield from _device_details(device)
        else:
            yield from cut([_device_line(device) for device in plan.devices], most)


def _refusal_lines(refusal: Refusal) -> Iterator[str]:
    place = _place(refusal.file, refusal.line, refusal.column)
    device = f" on {refusal.device}" if refusal.device and refusal.device not in refusal.message else ""
    yield f"  {f'{place}: ' if place else ''}{refusal.message}{device} [{refusal.rule}]"
    for reason in refusal.why:
        yield f"    {reason}"
    if refusal.remedy:
        yield f"    remedy: {refusal.remedy}"


def site_refusal(refusal: SiteRefusal) -> str:
    """Return the devices of a site that cannot take what is wanted, in one line."""
    devices = refusal.devices
    return f"{refusal.site or '(no site)'}: {counted(len(devices), 'device')}: {few(devices, SHOWN)}"


def _verdict_lines(verdict: PolicyVerdict) -> Iterator[str]:
    yield f"  {verdict.outcome}  {verdict.part}: {verdict.message}"
    for reason in verdict.reasons:
        yield from (f"  {line}" for line in _refusal_lines(reason))


def _cause_line(cause: Cause) -> str:
    origin = f"  from {cause.origin}" if cause.origin else ""
    return f"  {cause.deployment}: {cause.what}{origin}  ({counted(cause.devices, 'device')})"


def _device_line(device: DeviceChange) -> str:
    site = f"{device.site}/" if device.site else ""
    return f"  {_SIGNS[device.change]} {site}{device.device}: {device_summary(device)}"


def device_summary(device: DeviceChange) -> str:
    """Return what happens to a device, in one line."""
    if device.change == "removed":
        return "leaves the fleet; its branch stays, nothing on it stops"
    parts = []
    if device.version_before is None:
        parts.append(f"manifest {device.version_after}")
    elif device.version_before != device.version_after:
        parts.append(f"manifest {device.version_before} -> {device.version_after}")
    if device.change == "changed" and not device.deployments and device.version_before != device.version_after:
        parts.append("the same deployments, signed again")
    if device.change == "added" and device.version_before is not None:
        parts.append("comes back to the fleet")
    if device.change == "changed" and device.site != device.site_before:
        parts.append(f"moves from site {device.site_before or '(none)'}")
    for effect in ("starts", "restarts", "stops"):
        names = [
            f"{deployment.deployment}/{workload.component}"
            for deployment in device.deployments
            for workload in deployment.workloads
            if workload.effect == effect
        ]
        if names:
            parts.append(f"{effect} {few(names, 3)}")
    if loaded := download_line(device.download):
        parts.append(f"downloads {loaded}")
    return "; ".join(parts)


def _device_details(device: DeviceChange) -> Iterator[str]:
    for deployment in device.deployments:
        child = f" on {deployment.device}" if deployment.device != device.device else ""
        yield f"      {_SIGNS[deployment.change]} {deployment.deployment}{child}  {deployment.id}"
        for line in deployment_details(deployment):
            yield f"          {line}"


def deployment_details(deployment: DeploymentChange) -> Iterator[str]:
    """Yield every changed value of a deployment, with its origin."""
    for each in deployment.fields:
        yield f"{each.field}: {_changed(deployment, each.before, each.after)}"
    for parameter in deployment.parameters:
        origin = parameter.origin
        place = f"  from {origin.layer}, {_place(origin.file, origin.line, origin.column)}" if origin else ""
        yield f"{parameter.name} = {_changed(deployment, parameter.before, parameter.after)}{place}"
    for workload in deployment.workloads:
        yield f"{workload.component} {workload.effect}"
    for found in deployment.objects:
        yield f"{_SIGNS[found.change]} {found.title}"
        for changed in found.fields:
            place = f"  from {_place(changed.origin.file, changed.origin.line)}" if changed.origin else ""
            yield f"    {changed.path}: {_object_arrow(changed)}{place}"


def _object_arrow(changed: ObjectFieldChange) -> str:
    before, after = (
        shortened(each, _LONGEST) if each is not None else "nothing" for each in (changed.before, changed.after)
    )
    return before if before == after else f"{before} -> {after}"


def _changed(deployment: DeploymentChange, before: ParameterValue | None, after: ParameterValue | None) -> str:
    if deployment.change == "changed":
        return arrow(before, after)
    return shown(before if deployment.change == "removed" else after)
