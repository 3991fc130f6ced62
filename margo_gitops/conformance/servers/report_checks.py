"""Checks of what a Margo server does with reports (docs/http.md, H-S-16 to H-S-19, H-S-26)."""

from __future__ import annotations

from typing import Final

from margo_gitops.conformance.servers.checking import Check, CheckSkipped, NotApplicable, expect
from margo_gitops.conformance.servers.client import Reply
from margo_gitops.conformance.servers.http_session import HttpSession, unknown_id
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.nodes import Json

_JSON: Final = {"Content-Type": "application/json"}
_TAKEN: Final = (200, 201)


def _status(deployment: str, version: int) -> dict[str, Json]:
    return {
        "deploymentId": deployment,
        "adoptedManifestVersion": version,
        "status": {"state": "installed"},
        "components": [{"name": "conformance", "state": "installed"}],
    }


def _capabilities(device: str) -> dict[str, Json]:
    return {
        "properties": {
            "id": device,
            "vendor": "margo-gitops",
            "modelNumber": "conformance",
            "serialNumber": "1",
            "cpus": [{"cores": 1, "architecture": "amd64"}],
            "memory": "1 Gi",
            "storage": "1 Gi",
            "peripherals": [],
            "interfaces": [{"type": "ethernet"}],
            "otelCollector": True,
            "supportedRuntimes": ["oci"],
            "supportedDeploymentTypes": ["compose"],
        },
        "labels": {},
    }


def _send(session: HttpSession, method: str, path: str, body: bytes) -> Reply:
    if session.target.reports == "none":
        raise NotApplicable("the server takes no reports (--reports none)")
    return session.client.ask(method, path, _JSON, body)


def _wrong_statuses(session: HttpSession) -> None:
    listed = session.first()
    path = session.status_path(listed.deployment_id)
    reply = _send(session, "POST", path, b"{no json")
    expect(reply.status in (400, 422), f"what is not JSON is answered with {reply.status}")
    wrong = _status(listed.deployment_id, 1) | {"status": {"state": "sleeping"}}
    reply = _send(session, "POST", path, write_json(wrong))
    expect(reply.status == 422, f"an invalid status is answered with {reply.status}")


def _takes_status(session: HttpSession) -> None:
    listed = session.first()
    body = write_json(_status(listed.deployment_id, session.manifest().manifest_version))
    _only_if_asked(session)
    reply = _send(session, "POST", session.status_path(listed.deployment_id), body)
    expect(reply.status in _TAKEN, f"a valid status is answered with {reply.status}")


def _status_of_nothing(session: HttpSession) -> None:
    nobody = unknown_id()
    reply = _send(session, "POST", session.status_path(nobody), write_json(_status(nobody, 1)))
    expect(reply.status == 404, f"it is answered with {reply.status}")


def _wrong_capabilities(session: HttpSession) -> None:
    device = session.target.device
    wrong: dict[str, Json] = {"properties": {"id": device, "vendor": 7}}
    reply = _send(session, "PUT", session.capabilities_path(device), write_json(wrong))
    expect(reply.status == 422, f"invalid capabilities are answered with {reply.status}")


def _takes_capabilities(session: HttpSession) -> None:
    _only_if_asked(session)
    device = session.target.device
    reply = _send(session, "PUT", session.capabilities_path(device), write_json(_capabilities(device)))
    expect(reply.status in _TAKEN, f"valid capabilities are answered with {reply.status}")


def _of_another(session: HttpSession) -> None:
    other = session.target.other_device
    if not other:
        raise CheckSkipped("name another device, with --other-device")
    reply = _send(session, "PUT", session.capabilities_path(other), write_json(_capabilities(other)))
    expect(reply.status in (403, 404), f"capabilities of another device are answered with {reply.status}")


def _wrong_receipts(session: HttpSession) -> None:
    reply = _send(session, "POST", session.receipts_path, b'{"receipts":[{"receipt":"{}","signature":""}]}')
    if reply.status in (404, 405):
        raise NotApplicable("the server takes no receipts")
    expect(reply.status == 422, f"what is not a receipt is answered with {reply.status}")


def _only_if_asked(session: HttpSession) -> None:
    if session.target.reports == "invalid":
        raise CheckSkipped("it would change what the server knows of the device; ask for it with --reports all")


REPORTING: Final[tuple[Check[HttpSession], ...]] = (
    Check("H-S-16", "a wrong status is refused", _wrong_statuses),
    Check("H-S-16", "a valid status is taken", _takes_status),
    Check("H-S-17", "a status of nothing is 404", _status_of_nothing),
    Check("H-S-18", "wrong capabilities are refused", _wrong_capabilities),
    Check("H-S-18", "valid capabilities are taken", _takes_capabilities),
    Check("H-S-26", "what is not a receipt is refused", _wrong_receipts),
    Check("H-S-19", "capabilities of another device are refused", _of_another),
)
"""Checks that send reports; valid ones only where that is asked for."""
