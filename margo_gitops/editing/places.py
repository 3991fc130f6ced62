"""Add and rename sites, move and remove devices, and follow their names in deployments and in the policy.

PLACE-1  A name is followed where documents select by it (`devices`, `sites`); never in parameters.
PLACE-2  What selected only a removed device goes, if it is an overlay or a freeze. A deployment that goes
         nowhere else stops the edit.
PLACE-3  A file in a folder of its site (`devices/north/press-01.yaml`) goes with the site.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from margo_gitops.documents.capabilities import LabelValue
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.constraints import NAME_PATTERN
from margo_gitops.documents.declarations import API_VERSION
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_kinds import Deployment, Device, Fleet
from margo_gitops.documents.kinds import read_source
from margo_gitops.documents.matching import plain_labels
from margo_gitops.documents.nodes import Json
from margo_gitops.editing.devices import DeviceRequest, add_device
from margo_gitops.editing.edit import Base, Edit, FileChange, make_edit
from margo_gitops.editing.named import all_known, known_device, placed_deployments
from margo_gitops.editing.round_trip import document_and_spec, new_document, rewritten, schema_line
from margo_gitops.editing.values import plain_values
from margo_gitops.errors import EditImpossible, Location
from margo_gitops.rendering.intent import Located


def add_site(base: Base, site: str, labels: Mapping[str, LabelValue], parameters: Mapping[str, ParameterValue]) -> Edit:
    """Return the edit that adds a site (EditImpossible: it is there, or its name is not valid)."""
    path = _new_site(base, site)
    metadata: dict[str, Json] = {"name": site}
    if labels:
        metadata["labels"] = plain_labels(labels)
    document: dict[str, Json] = {"apiVersion": API_VERSION, "kind": "Site", "metadata": metadata}
    if parameters:
        document["spec"] = {"parameters": plain_values(parameters)}
    content = new_document(document, schema_line(base.tree, "site", path))
    return make_edit(f"Add site {site}", ["site", site], [FileChange(path, None, content)])


def _new_site(base: Base, site: str) -> str:
    path = f"sites/{site}.yaml"
    if not re.search(NAME_PATTERN, site):
        raise EditImpossible(f"{site!r} is not a name", remedy="write 1 to 63 lower-case letters, digits and dashes")
    if site in base.intent.sites or base.tree.file(path) is not None:
        raise EditImpossible(f"{site} is a site of this fleet already", where=Location(path), remedy="edit the file")
    return path


def rename_site(base: Base, old: str, new: str) -> Edit:
    """Return the edit that renames a site, in everything that names it.

    Raises:
        ReferenceUnknown: there is no such site.
        EditImpossible: there is one of the new name, or that name is not valid.
        NotEditable: a file cannot be changed.
    """
    all_known("site", [old], base.intent.sites)
    path, known = _new_site(base, new), base.intent.sites[old]
    document = read_source(known.content, known.file).root.plain()
    if isinstance(document, dict) and isinstance(document["metadata"], dict):
        document["metadata"]["name"] = new
    changes = [
        FileChange(known.file, known.content, None),
        FileChange(path, None, rewritten(known.content, known.file, document)),
    ]
    for device in base.intent.devices.values():
        if device.value.spec.site == old:
            plain, spec = document_and_spec(device.content, device.file, "device")
            spec["site"] = new
            changes += _moved(device, rewritten(device.content, device.file, plain), old, new)
    changes += _followed(base, "sites", old, new)
    notes = [
        f"{each} names {old}, too: look at it"
        for each in ("CODEOWNERS", ".github/CODEOWNERS", "docs/CODEOWNERS")
        if (file := base.tree.file(each)) and re.search(rf"\b{old}\b", file.read().decode(errors="replace"))
    ]
    return make_edit(f"Rename site {old} to {new}", ["site", old, new], changes, notes)


def move_device(base: Base, device: str, site: str) -> Edit:
    """Return the edit that moves a device to another site.

    Raises:
        ReferenceUnknown: there is no such device or site.
        NotEditable: its file cannot be changed.
    """
    known = known_device(base.intent, device)
    all_known("site", [site], base.intent.sites)
    edit = add_device(base, DeviceRequest(device, None, site, update=True))
    changes = [move for each in edit.changes for move in _moved(known, each.after or b"", known.value.spec.site, site)]
    return make_edit(f"Move device {device} to {site}", ["device", device, site], changes)


def remove_device(base: Base, device: str) -> Edit:
    """Return the edit that removes a device, from everything that names it.

    Raises:
        ReferenceUnknown: there is no such device.
        EditImpossible: it is the gateway of others, or a deployment goes to no other device.
        NotEditable: a file cannot be changed.
    """
    known = known_device(base.intent, device)
    children = sorted(each for each in base.intent.devices if each != device and client_of(each) == device)
    if children:
        raise EditImpossible(f"{device} is the gateway of {', '.join(children)}", remedy="remove or move them first")
    notes = [f"nothing on {device} stops by this: its branch stays as it is"]
    running = [each.name for each in placed_deployments(base.intent, device)]
    if running:
        notes.append(f"it has {', '.join(running)}; to stop them, take the device out of them and render first")
    changes = [FileChange(known.file, known.content, None), *_followed(base, "devices", device, None)]
    return make_edit(f"Remove device {device}", ["remove", device], changes, notes)


def _moved(device: Located[Device], content: bytes, old: str | None, new: str) -> Iterator[FileChange]:
    """Yield what gives a device's file other content, in its new site's folder where it was in the old one's."""
    path = device.file.replace(f"devices/{old}/", f"devices/{new}/", 1)
    if path == device.file:
        yield FileChange(path, device.content, content)
    else:
        yield FileChange(device.file, device.content, None)
        yield FileChange(path, None, content)


def _followed(base: Base, kind: str, old: str, new: str | None) -> Iterator[FileChange]:
    """Yield the deployments and the fleet document with another name; None: without it."""
    documents: list[Located[Deployment] | Located[Fleet]] = [*base.intent.deployments.values(), base.intent.fleet]
    for each in documents:
        before = read_source(each.content, each.file).root.plain()
        after = _renamed(before, kind, old, new)
        if after == before:
            continue
        if isinstance(after, dict) and isinstance(spec := after["spec"], dict) and spec.get("placement") == {}:
            raise EditImpossible(
                f"{each.value.metadata.name} goes to no device but {old}",
                where=Location(each.file),
                remedy="remove this deployment first, or deploy it elsewhere",
            )
        yield FileChange(each.file, each.content, rewritten(each.content, each.file, after))


def _renamed(value: Json, kind: str, old: str, new: str | None) -> Json:
    if isinstance(value, list):
        items = [(each, _renamed(each, kind, old, new)) for each in value]
        return [after for before, after in items if before == after or not _selects_nothing(after)]
    if not isinstance(value, dict):
        return value
    made: dict[str, Json] = {}
    for key, child in value.items():
        if key != kind or not isinstance(child, (list, dict)):
            after = child if key == "parameters" else _renamed(child, kind, old, new)
            if after != [] or child == []:
                made[key] = after
        elif isinstance(child, dict):
            made[key] = {new if name == old and new else name: each for name, each in child.items()}
        else:
            names = [new if each == old else each for each in child if each != old or new is not None]
            if names or not child:
                made[key] = names
    return made


def _selects_nothing(item: Json) -> bool:
    """Return whether an overlay or a freeze lost its last device."""
    return isinstance(item, dict) and item.get("match") == {}
