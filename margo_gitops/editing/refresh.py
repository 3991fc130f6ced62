"""Bring what devices report of themselves into the fleet repo, as a change that people review.

Placement goes by what a Device document holds, so that a render depends on commits of the fleet repo alone. A document
with `capabilitiesFrom: reports` says whose word its capabilities are: they are a copy of the device's own report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from margo_gitops.documents.capabilities import DeviceCapabilities
from margo_gitops.documents.fleet_kinds import Device
from margo_gitops.documents.kinds import CAPABILITIES, read_as, read_source
from margo_gitops.documents.nodes import Json
from margo_gitops.editing.devices import DeviceRequest, add_device, capabilities_of
from margo_gitops.editing.edit import Base, Edit, FileChange, make_edit
from margo_gitops.editing.round_trip import rewritten
from margo_gitops.errors import EditImpossible, InvalidDocument, Location, UnreadableDocument
from margo_gitops.fleet_status.reported_capabilities import ReportedCapabilities
from margo_gitops.rendering.intent import Located

REPORTS_TRAILER = "Reports-Commit"
"""Names, in the commit that `--commit` makes, the commit of the branch of reports that was copied from."""


def refresh_devices(
    base: Base, reported: ReportedCapabilities, devices: Sequence[str] = (), *, site: str | None = None
) -> Edit:
    """Return the edit that makes capabilities what devices report.

    Args:
        base: the fleet repo.
        reported: what devices report.
        devices: only these; each takes its capabilities from its reports from now on, and one that is new is added.
            Empty: all whose document says that they do.
        site: of devices that are added.

    Raises:
        EditImpossible: a device named has not reported, or its report is no capabilities document.
        NotEditable: a device's file cannot be changed.
    """
    named = list(dict.fromkeys(devices)) or [
        name for name, each in sorted(base.intent.devices.items()) if each.value.spec.capabilities_from == "reports"
    ]
    changes: list[tuple[str, FileChange]] = []
    notes: list[str] = []
    for device in named:
        content = reported.documents.get(device)
        if content is None:
            if devices:
                raise EditImpossible(
                    f"{device} has reported no capabilities",
                    remedy="see that its agent runs, and what has arrived: margo-gitops status",
                )
            notes.append(f"{device} has reported no capabilities: its document stays as it is")
            continue
        changes += [(device, each) for each in _changes(base, device, content, site, notes)]
    changed = [device for device, each in changes]
    whose = changed[0] if len(changed) == 1 else f"{len(changed)} devices"
    body = f"{REPORTS_TRAILER}: {reported.commit}\n" if reported.commit and changes else ""
    title = f"Take the capabilities of {whose} from reports"
    return make_edit(title, ["refresh", *changed[:3]], [each for _, each in changes], notes, body)


def _changes(base: Base, device: str, content: bytes, site: str | None, notes: list[str]) -> Iterator[FileChange]:
    try:
        plain = capabilities_of(content, f"report of {device}")
    except (UnreadableDocument, InvalidDocument) as error:
        raise EditImpossible(f"what {device} reports is no capabilities document", why=[error.what]) from error
    known = base.intent.devices.get(device)
    if known is None:
        added = add_device(base, DeviceRequest(device, plain, site))
        notes.extend(added.notes)
        for each in added.changes:
            if each.after is not None:
                after = _with_source(each.after, each.path, None)
                yield FileChange(each.path, each.before, after)
        return
    if known.value.spec.capabilities_from is None:
        notes.append(f"{device} takes its capabilities from its reports from now on")
    elif _same(known, content, device):
        return
    yield FileChange(known.file, known.content, _with_source(known.content, known.file, plain))


def _same(known: Located[Device], content: bytes, device: str) -> bool:
    reported = read_as(DeviceCapabilities, CAPABILITIES.upgrade(read_source(content, f"report of {device}")))
    return reported == known.value.spec.capabilities


def _with_source(content: bytes, file: str, capabilities: dict[str, Json] | None) -> bytes:
    """Return a Device document that takes its capabilities from reports; None: those that it has stay."""
    document = read_source(content, file).root.plain()
    spec = document.get("spec") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(spec, dict):
        raise EditImpossible("the file holds no device", where=Location(file), remedy="margo-gitops validate")
    spec["capabilitiesFrom"] = "reports"
    if capabilities is not None:
        spec["capabilities"] = capabilities
    return rewritten(content, file, document)
