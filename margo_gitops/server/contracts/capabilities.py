"""Capabilities of the older contract, made those of the device that the fleet knows (pure).

A client of the older contract knows its client id only, and calls itself by it, or by a name of its own; the fleet
knows it by its device id.
"""

from __future__ import annotations

import json
from typing import Final

from margo_gitops.documents.json_reader import read_json
from margo_gitops.documents.nodes import Bounds, Node
from margo_gitops.errors import UnreadableDocument
from margo_gitops.server.contracts.verification import SignatureProfile
from margo_gitops.server.problems import SEMANTIC_ERROR, FieldError, RequestRefused
from margo_gitops.server.reports.reading import MAX_BODY

_BOUNDS: Final = Bounds(size=MAX_BODY, depth=16, nodes=5_000)


def device_of(name: str, client_id: str, device: str) -> str:
    """Return the device id that a client means.

    Args:
        name: what it says: its client id, that and a child's name, or a device id.
        client_id: its own.
        device: its device id.
    """
    first, slash, child = name.partition("/")
    return f"{device}{slash}{child}" if first == client_id else name


def of_device(body: bytes, client_id: str, device: str, profile: SignatureProfile, *, own: bool) -> bytes:
    """Return capabilities with the device's id in place of the client's own name for itself.

    What is no readable document passes as it is: the reader of reports says what is wrong with it.

    Args:
        body: of the request.
        client_id: whose it is.
        device: what the capabilities are of.
        profile: strict demands that a client calls itself by its client id.
        own: whether they are the client's own, and not those of a device in the path.

    Raises:
        RequestRefused: 422 for another name where the profile is strict.
    """
    try:
        root = read_json(body, "body", _BOUNDS).root
    except UnreadableDocument:
        return body
    properties = root.get("properties")
    name = root.text("properties", "id")
    if properties is None or not isinstance(properties.value, dict) or name is None:
        return body
    if own and profile == "strict" and name != client_id:
        wrong = FieldError("properties.id", "must be the client id")
        raise RequestRefused(SEMANTIC_ERROR.because("These are no valid capabilities of this client.", [wrong]))
    properties.value["id"] = Node(device if own else device_of(name, client_id, device.partition("/")[0]))
    return json.dumps(root.plain(), ensure_ascii=False).encode()
