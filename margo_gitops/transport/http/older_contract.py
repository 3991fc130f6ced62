"""The older contract (G1), seen from a device (Margo device client onboarding; API requirements and security, G1).

1. A device is onboarded once; its client id is kept, and in every path from then on.
2. A server that refuses a signature (401) may have lost what it knew: the device asks for its id again, once, and keeps
   the one it has where that does not help.
3. Paths in a manifest are followed where they are a client's; others are looked for below this client's.
4. Reports have the older shapes: what these have no words for stays out.
5. A state is held in the current shape, as it was signed and rendered, where the older one was made of exactly that;
   what another program wrote is held as it came.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote

from margo_gitops.digests import sha256
from margo_gitops.disk.files import disk_errors, read_bounded, replace_file
from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.manifest import write_manifest
from margo_gitops.documents.nodes import Bounds, Json
from margo_gitops.documents.upgrade import current_deployment, older_state
from margo_gitops.errors import (
    ClientIdUnusable,
    OnboardingRefused,
    SourceMisbehaved,
    TransportError,
    UnreadableDocument,
)
from margo_gitops.transport.http.contract import ROOT, Contract, Submission, Submit, local_path
from margo_gitops.transport.http.signing import DeviceKey
from margo_gitops.transport.http.source import CLIENT_ID
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.values import dataclass, replace
from margo_gitops.web.refusal import shown

_CLIENTS: Final = f"{ROOT}clients/"
_ANSWER: Final = Bounds(size=64 * 1024, depth=8, nodes=200)
_LARGEST_FILE: Final = 1024 * 1024
_REMEDIES: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "check the device's clock, and that the URL is the one that the server knows itself by",
    HTTPStatus.FORBIDDEN: "let the server accept this device's certificate, and check its dates",
    HTTPStatus.CONFLICT: "the server has issued an id for this certificate: write it into clientId of the source",
    HTTPStatus.NOT_FOUND: "check the URL, and that the server speaks the older contract",
}
_CAPABILITIES: Final[dict[str, Json]] = {
    "apiVersion": "device.margo.org/v1alpha1",
    "kind": "DeviceCapabilitiesManifest",
}
_STATUS: Final[dict[str, Json]] = {"apiVersion": "deployment.margo.org/v1alpha1", "kind": "DeploymentStatusManifest"}
_SAME: Final = ("vendor", "modelNumber", "serialNumber")
_RESOURCES: Final = ("memory", "storage", "peripherals", "interfaces")


class SignedContract(Contract):
    """Knows this device's client id, and what follows from it."""

    def __init__(
        self,
        prefix: str,
        device: str,
        key: Callable[[], DeviceKey],
        ids: ClientIdFile,
        client_id: str | None = None,
    ) -> None:
        """Take the parts; nothing is asked yet.

        Args:
            device: the id by which the fleet knows this device.
            key: returns what it signs with.
            client_id: the one that was issued elsewhere; None: the server is asked.
        """
        super().__init__(prefix)
        self._device = device
        self._key = key
        self._ids = ids
        self._given = client_id is not None
        self._client_id = client_id or ""
        self._certificate = b""
        self._doubtful = False

    def prepare(self, submit: Submit) -> bool:
        """Have a client id, from the settings, the disk or the server (rules 1 and 2); return whether it is a new one.

        Raises:
            OnboardingRefused: the server issues none.
            ClientIdUnusable: it cannot be kept.
            SourceMisconfigured: there is nothing to sign with.
            TransportError: no usable answer came.
        """
        if self._given:
            return False
        certificate = self._key().certificate
        if certificate != self._certificate:  # at the start, and after a renewal
            self._client_id = self._ids.read(certificate) or ""
            self._certificate = certificate
        if self._client_id and not self._doubtful:
            return False
        try:
            issued = self._onboard(submit)
        except TransportError:
            if not self._client_id:
                raise
            return False
        finally:
            self._doubtful = False
        if issued == self._client_id:
            return False
        self._ids.write(certificate, issued)
        self._client_id = issued
        return True

    def answered(self, status: int) -> None:
        """Doubt the id where the server does not know it (rule 2)."""
        self._doubtful = self._doubtful or status == HTTPStatus.UNAUTHORIZED

    def sent(self, held: Snapshot, version: int) -> Snapshot:
        """Return a held state in the older shape, with the links of this client (rule 5)."""
        manifest, deployments = older_state(version, held.deployments, self._client_id)
        return replace(held, manifest=manifest, deployments=deployments)

    def taken(self, came: Snapshot, version: int) -> Snapshot:
        """Return a state in the current shape where that gives back the bytes that came (rule 5)."""
        deployments = {name: current_deployment(content) for name, content in came.deployments.items()}
        current = replace(came, manifest=write_manifest(version, deployments), deployments=deployments)
        return current if self.sent(current, version) == came else came

    def path(self, resource: str) -> str:
        """Return the target of a resource of this client."""
        return f"{self._prefix}{_CLIENTS}{self._client_id}/{resource}"

    def path_of(self, url: str) -> str:
        """Return the target of a path from a manifest, by rule 3 (SourceMisbehaved: no request may hold it)."""
        local = local_path(url, self._prefix)
        if local.startswith(ROOT) and not local.startswith(_CLIENTS):
            return self.path(local.removeprefix(ROOT))
        return self._prefix + local

    def capabilities(self, device: str, document: bytes) -> Submission:
        """Return the capabilities of this device, or of a child of it, in the older shape."""
        if device == self._device:
            content = older_capabilities(document, self._client_id)
            return Submission(("POST", "PUT"), self.path("capabilities"), content)
        name = f"{self._client_id}/{device.removeprefix(f'{self._device}/')}"
        return Submission(("PUT", "POST"), self.path(f"capabilities/{quote(name)}"), older_capabilities(document, name))

    def status(self, deployment_id: str, document: bytes) -> Submission:
        """Return the status of a deployment in the older shape."""
        return super().status(deployment_id, older_status(document))

    def _onboard(self, submit: Submit) -> str:
        request = write_json(
            {
                "apiVersion": "onboarding.margo.org/v1alpha1",
                "kind": "OnboardingRequest",
                "certificate": base64.b64encode(self._certificate).decode(),
            }
        )
        status, body = submit(Submission(("POST",), f"{self._prefix}{ROOT}onboarding", request))
        if status not in (HTTPStatus.OK, HTTPStatus.CREATED):
            said = shown(_text(body, "error").encode())
            raise OnboardingRefused(
                f"the server does not onboard this device: it answers {status}" + (f", {said}" if said else ""),
                remedy=_REMEDIES.get(status, "see the log of the server"),
            )
        client_id = _text(body, "clientId")
        if not CLIENT_ID.fullmatch(client_id):
            raise SourceMisbehaved("the server answers onboarding with something that is not a client id")
        return client_id


def _text(body: bytes, member: str) -> str:
    try:
        return read_json(body, "answer", _ANSWER).root.text(member) or ""
    except UnreadableDocument:
        return ""


@dataclass(frozen=True, slots=True)
class ClientIdFile:
    """Where the id is kept, with what it holds for: another server or another certificate has another one.

    Attributes:
        path: the file; None: it is not kept. `ClientIdUnusable` where the disk refuses.
    """

    path: Path | None
    url: str

    def read(self, certificate: bytes) -> str | None:
        """Return the id that the server has issued for a certificate; None where it is not known."""
        if self.path is None:
            return None
        with _disk_errors(self.path):
            try:
                content = read_bounded(self.path, _LARGEST_FILE)
            except FileNotFoundError:
                return None
        try:
            root = read_json(content, str(self.path), _ANSWER).root
        except UnreadableDocument:
            return None  # damaged: the server tells the id again
        if root.text("url") != self.url or root.text("certificate") != sha256(certificate):
            return None
        client_id = root.text("clientId") or ""
        return client_id if CLIENT_ID.fullmatch(client_id) else None

    def write(self, certificate: bytes, client_id: str) -> None:
        """Keep an id, durably."""
        if self.path is None:
            return
        document = {"url": self.url, "certificate": sha256(certificate), "clientId": client_id}
        with _disk_errors(self.path):
            replace_file(self.path, json.dumps(document, indent=2).encode() + b"\n")


def _disk_errors(path: Path) -> AbstractContextManager[None]:
    return disk_errors(
        path,
        what="the client id cannot be kept",
        error=ClientIdUnusable,
        remedy="free space on the disk, or let the agent's user write into the folder",
    )


def older_capabilities(document: bytes, name: str) -> bytes:
    """Return capabilities as a `DeviceCapabilitiesManifest`: labels, runtimes and the collector have no place there.

    Args:
        document: in the current shape.
        name: what the client calls the device: its client id, and a child's name behind it.
    """
    found = read_json(document, "capabilities").root.get("properties")
    properties = found.plain() if found is not None else {}
    if not isinstance(properties, dict):
        raise TypeError("capabilities without properties")
    resources: dict[str, Json] = {key: properties[key] for key in _RESOURCES if key in properties}
    cpu = _largest(properties.get("cpus"))
    if cpu is not None:
        resources = {"cpu": cpu, **resources}
    older: dict[str, Json] = {"id": name, **{key: properties[key] for key in _SAME if key in properties}}
    older |= {"roles": [_role(properties)], "resources": resources}
    return _written({**_CAPABILITIES, "properties": older})


def older_status(document: bytes) -> bytes:
    """Return a status as a `DeploymentStatusManifest`; its shape is open, so nothing stays out."""
    found = read_json(document, "status").root.plain()
    if not isinstance(found, dict):
        raise TypeError("a status is an object")
    return _written({**_STATUS, **found})


def _largest(cpus: Json) -> Json:
    """Return one CPU, because the older shape has but one, and CPUs are not added together."""
    if not isinstance(cpus, list):
        return None
    return max(cpus, key=_cores, default=None)


def _cores(cpu: Json) -> float:
    cores = cpu.get("cores") if isinstance(cpu, dict) else None
    return float(cores) if isinstance(cores, int | float) else 0.0


def _role(properties: Mapping[str, Json]) -> str:
    types = properties.get("supportedDeploymentTypes")
    if not isinstance(types, list):
        return "Gateway"
    return "Standalone Cluster" if "helm" in types else "Standalone Device"


def _written(document: Json) -> bytes:
    # Amounts of CPU may be fractions, which documents of the state never hold, and their writer refuses.
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
