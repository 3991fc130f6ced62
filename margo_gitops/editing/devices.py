"""Add devices to a fleet, change them, and bring what they report of themselves into the fleet repo.

Placement goes by what a Device document holds, so that a render depends on commits of the fleet repo alone. A document
with `capabilitiesFrom: reports` says whose word its capabilities are: they are a copy of the device's own report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.capabilities import DeviceCapabilities, LabelValue
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.device_id import encode_device_id, is_device_id
from margo_gitops.documents.fleet_kinds import Device
from margo_gitops.documents.kinds import CAPABILITIES, read_as, read_source
from margo_gitops.documents.matching import plain_labels
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.versions import version_key
from margo_gitops.editing.edit import Base, Edit, FileChange, make_edit
from margo_gitops.editing.named import known_device
from margo_gitops.editing.round_trip import document_and_spec, new_resource, refuse_unreadable, rewritten
from margo_gitops.editing.selectors import typed_scalar
from margo_gitops.editing.values import plain_values, typed_value
from margo_gitops.errors import EditImpossible, InvalidDocument, Location, UnreadableDocument
from margo_gitops.fleet_status.reading import ReportedCapabilities
from margo_gitops.rendering.intent import Intent, Located
from margo_gitops.values import dataclass, field

MAX_CAPABILITIES_BYTES = 1024 * 1024

_PLAIN_SEGMENT = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """A device that must be in the fleet.

    Attributes:
        capabilities: Margo's document, in its current shape; None: as they are.
        site: name of its site; None: none, or as it is.
        update: whether the device is there already and must be changed.
    """

    device: str
    capabilities: Mapping[str, Json] | None
    site: str | None = None
    labels: Mapping[str, LabelValue] = field(default_factory=dict)
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    update: bool = False


def read_capabilities_file(path: Path) -> dict[str, Json]:
    """Return what a file says of a device, in any shape of the standard, JSON or YAML; keys of its own are kept.

    Raises:
        EditImpossible: it cannot be read, or is too large.
        UnreadableDocument, InvalidDocument: it is not a capabilities document.
    """
    what = "the capabilities cannot be read"
    return capabilities_of(read_small_file(path, MAX_CAPABILITIES_BYTES, what=what, error=EditImpossible), str(path))


def capabilities_of(content: bytes, file: str) -> dict[str, Json]:
    """Return a capabilities document as a Device has it: in the current shape, with keys of its own.

    Args:
        content: in any shape of the standard, JSON or YAML.

    Raises:
        UnreadableDocument, InvalidDocument: it is not a capabilities document.
    """
    source = read_source(content, file)
    read_as(DeviceCapabilities, source)
    plain = CAPABILITIES.upgrade(source).root.plain()
    fields = plain if isinstance(plain, dict) else {}
    return {name: value for name, value in fields.items() if name not in ("apiVersion", "kind")}


def add_device(base: Base, request: DeviceRequest) -> Edit:
    """Return the edit that adds or changes a device.

    Raises:
        EditImpossible: the device is there already, or is not there to be changed; or its id is not valid.
        NotEditable: its file cannot be changed.
    """
    if not is_device_id(request.device):
        raise EditImpossible(
            f"{request.device!r} is not a device id",
            remedy="write letters, digits, and . _ ~ - ; a child as gateway/child",
        )
    known = base.intent.devices.get(request.device)
    if request.update:
        if known is None:
            refuse_unreadable(base.tree, _path(request.device))
            raise EditImpossible(
                f"{request.device} is not a device of this fleet", remedy="leave out --update to add it"
            )
        return _changed(known, request)
    if known is not None:
        raise EditImpossible(
            f"{request.device} is a device of this fleet already",
            where=Location(known.file),
            remedy="pass --update to change it, or edit the file",
        )
    if request.capabilities is None:
        raise EditImpossible("a new device needs its capabilities", remedy="pass --capabilities FILE")
    metadata: dict[str, Json] = {"name": request.device}
    if request.labels:
        metadata["labels"] = plain_labels(request.labels)
    spec: dict[str, Json] = {"site": request.site} if request.site is not None else {}
    if request.parameters:
        spec["parameters"] = plain_values(request.parameters)
    spec["capabilities"] = dict(request.capabilities)
    notes = [] if request.site is not None else [f"{request.device} has no site; give it one with --site"]
    change = new_resource(base.tree, "Device", _path(request.device), metadata, spec)
    return make_edit(f"Add device {request.device}", ["device", request.device], [change], notes)


def _path(device: str) -> str:
    """Return the file of a device: its id where every file system keeps the id apart from others."""
    plain = all(_PLAIN_SEGMENT.fullmatch(part) and encode_device_id(part) == part for part in device.split("/"))
    return f"devices/{device if plain else encode_device_id(device)}.yaml"


def _changed(known: Located[Device], request: DeviceRequest) -> Edit:
    document, spec = document_and_spec(known.content, known.file, "device")
    if request.capabilities is not None:
        spec["capabilities"] = dict(request.capabilities)
    if request.site is not None:
        spec["site"] = request.site
    if request.labels:
        _mapping(_mapping(document, "metadata"), "labels").update(plain_labels(request.labels))
    if request.parameters:
        _mapping(spec, "parameters").update(plain_values(request.parameters))
    change = FileChange(known.file, known.content, rewritten(known.content, known.file, document))
    return make_edit(f"Change device {request.device}", ["device", request.device], [change])


def _mapping(parent: dict[str, Json], key: str) -> dict[str, Json]:
    """Return the mapping below a key, which is made where it is missing."""
    child = parent.get(key)
    if not isinstance(child, dict):
        child = parent[key] = {}
    return child


def device_parameters(intent: Intent, assignments: Sequence[str]) -> dict[str, ParameterValue]:
    """Return the values of `name=value` texts for a device or site, which any application may have.

    Raises:
        EditImpossible: one is not an assignment.
        ParameterNotTyped: a value breaks the rules of the newest application that has the parameter.
    """
    values: dict[str, ParameterValue] = {}
    newest_first = sorted(intent.applications, key=lambda key: (key[0], version_key(key[1])), reverse=True)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise EditImpossible(f"{assignment!r} is not a parameter", remedy="write NAME=VALUE")
        descriptions = [intent.applications[key].description.value for key in newest_first]
        having = next((each for each in descriptions if name in each.parameters), None)
        values[name] = typed_value(having, name, text) if having is not None else typed_scalar(text)
    return values


REPORTS_TRAILER = "Reports-Commit"
"""Names, in the commit that `--commit` makes, the commit of the branch of reports that was copied from."""


def name_receipt_keys(base: Base, keys: Mapping[str, str]) -> Edit:
    """Return the edit that names keys with which devices sign their receipts; those that are named stay.

    Args:
        keys: public keys as in a `.pub` file, without the comment, by device.

    Raises:
        ReferenceUnknown: a device is not in the fleet.
        NotEditable: a device's file cannot be changed.
    """
    changes: list[FileChange] = []
    for device, key in sorted(keys.items()):
        known = known_device(base.intent, device)
        if key in known.value.spec.receipt_keys:
            continue
        document, spec = document_and_spec(known.content, known.file, "device")
        held = spec.get("receiptKeys")
        spec["receiptKeys"] = [*(held if isinstance(held, list) else []), key]
        changes.append(FileChange(known.file, known.content, rewritten(known.content, known.file, document)))
    whose = next(iter(keys)) if len(keys) == 1 else f"{len(changes)} devices"
    return make_edit(f"Name the key of the receipts of {whose}", ["receipt-key", *sorted(keys)[:3]], changes)


def refresh_devices(
    base: Base, reported: ReportedCapabilities, devices: Sequence[str] = (), *, site: str | None = None
) -> Edit:
    """Return the edit that makes capabilities what devices report.

    Args:
        devices: only these; each takes its capabilities from its reports from now on, and one that is new is added.
            Empty: all whose document says that they do.
        site: of devices that are added.

    Raises:
        EditImpossible: a device named has not reported, or its report is not a capabilities document.
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
        changes += [(device, each) for each in _refresh_changes(base, device, content, site, notes)]
    changed = [device for device, each in changes]
    whose = changed[0] if len(changed) == 1 else f"{len(changed)} devices"
    body = f"{REPORTS_TRAILER}: {reported.commit}\n" if reported.commit and changes else ""
    title = f"Take the capabilities of {whose} from reports"
    return make_edit(title, ["refresh", *changed[:3]], [each for _, each in changes], notes, body)


def _refresh_changes(
    base: Base, device: str, content: bytes, site: str | None, notes: list[str]
) -> Iterator[FileChange]:
    try:
        plain = capabilities_of(content, f"report of {device}")
    except (UnreadableDocument, InvalidDocument) as error:
        raise EditImpossible(f"what {device} reports is not a capabilities document", why=[error.what]) from error
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
    document, spec = document_and_spec(content, file, "device")
    spec["capabilitiesFrom"] = "reports"
    if capabilities is not None:
        spec["capabilities"] = capabilities
    return rewritten(content, file, document)
