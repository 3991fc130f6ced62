"""What a device knows of a server of the older contract: client ids, paths, and reports in older shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.faulty_http import Answer, Request, listening
from support.margo_server import MargoServer, margo_server, problem
from support.signed_requests import certificate, pem_of, private_key

from margo_gitops.documents.kinds import CAPABILITIES, STATUS, check_document, read_source
from margo_gitops.errors import (
    ClientIdUnusable,
    OnboardingRefused,
    SourceMisbehaved,
    SourceMisconfigured,
    SourceRefused,
)
from margo_gitops.transport.http.http_transport import HttpTransport
from margo_gitops.transport.http.older_contract import ClientIdFile, SignedContract, older_capabilities, older_status
from margo_gitops.transport.http.signing import DeviceKey
from margo_gitops.transport.http.source import HttpSource
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.web.metering import Deadline

ID = "0f7c9b9d-41c5-4f6a-8111-5ac1a5c87f2f"
WORKLOAD = "a3e2f5dc-912e-494f-8395-52cf3769bc06"
CAPABILITIES_DOCUMENT: dict[str, Any] = {
    "properties": {
        "id": "press-07",
        "vendor": "Northstar",
        "modelNumber": "NIA-300",
        "serialNumber": "1",
        "cpus": [{"cores": 1, "architecture": "arm"}, {"cores": 2.5, "architecture": "arm64"}],
        "memory": "8 Gi",
        "interfaces": [{"type": "wifi"}],
        "otelCollector": True,
        "supportedRuntimes": ["oci"],
        "supportedDeploymentTypes": ["compose"],
    },
    "labels": {"line": "3"},
}


class OlderServer(MargoServer):
    """A server of the older contract, as somebody else writes one: it follows its paths, and judges no signature."""

    client_id = ID
    onboarding: tuple[int, Any] = (201, {"clientId": ID})
    refuse_post = 0

    def _backend(self, request: Request) -> Answer:
        path = request.path.removeprefix(self.prefix)
        if path == "/api/v1/onboarding":
            self.reports.append((request.method, path, request.body))
            status, content = self.onboarding
            return Answer(status, [("Content-Type", "application/json")], json.dumps(content).encode())
        below = f"/api/v1/clients/{self.client_id}/"
        if not path.startswith(below):
            return problem(401, "who is that?")
        if request.method == "POST" and self.refuse_post and path.endswith("capabilities"):
            return problem(self.refuse_post, "PUT it")
        return super()._backend(replace(request, path=f"{self.prefix}/api/v1/{path.removeprefix(below)}"))


@pytest.fixture
def server() -> Any:
    made = OlderServer(prefix="/margo")
    with listening(made):
        made.publish(1, {WORKLOAD: b"a: 1\n"})
        yield made
        made.stopping.set()


@pytest.fixture
def source(server: OlderServer, tmp_path: Path) -> Callable[..., HttpSource]:
    key = private_key("ecdsa-p256-sha256", 3)
    (tmp_path / "device.pem").write_bytes(certificate(key).public_bytes(Encoding.PEM))
    (tmp_path / "device.key").write_bytes(pem_of(key))

    def made(**changes: Any) -> HttpSource:
        settings = {
            "url": server.base(),
            "contract": "g1",
            "device": "press-07",
            "signing_certificate": tmp_path / "device.pem",
            "signing_key": tmp_path / "device.key",
            "client_id_file": tmp_path / "client-id.json",
        }
        return HttpSource(**{**settings, **changes})

    return made


def onboardings(server: OlderServer) -> int:
    return sum(path == "/api/v1/onboarding" for _, path, _ in server.reports)


def test_a_device_is_onboarded_once_and_pulls_below_its_id(
    server: OlderServer, source: Callable[..., HttpSource]
) -> None:
    held = None
    for _ in range(2):
        transport = HttpTransport(source())
        held = transport.pull(held if isinstance(held, Snapshot) else None).snapshot
        transport.close()
    assert onboardings(server) == 1
    first, *asked = [request.path for request in server.requests]
    assert first == "/margo/api/v1/onboarding"
    assert len(asked) >= 3
    assert all(path.startswith(f"/margo/api/v1/clients/{ID}/") for path in asked)
    request = json.loads(server.reports[0][2])
    assert (request["apiVersion"], request["kind"]) == ("onboarding.margo.org/v1alpha1", "OnboardingRequest")


def test_every_request_is_signed(server: OlderServer, source: Callable[..., HttpSource]) -> None:
    transport = HttpTransport(source())
    transport.pull(None)
    transport.close()
    assert len(server.requests) >= 3
    for request in server.requests:
        assert request.headers["signature"].startswith("sig1=:")
        assert ("content-digest" in request.headers) == (request.method == "POST")


def test_what_is_sent_twice_is_signed_twice(server: OlderServer, source: Callable[..., HttpSource]) -> None:
    transport = HttpTransport(source())
    server.faults.append(lambda _, answer: replace(answer, close=True))
    held = transport.pull(None).snapshot
    assert isinstance(held, Snapshot)
    server.publish(2, {WORKLOAD: b"a: 2\n"})
    assert isinstance(transport.pull(held).snapshot, Snapshot)
    transport.close()
    signatures = [request.headers["signature-input"] for request in server.requests]
    assert len(set(signatures)) == len(signatures)
    assert transport.cost.requests > len(signatures)


@pytest.mark.parametrize("given", [True, False], ids=["id in the settings", "id from the server"])
def test_another_id_is_asked_for_where_the_server_knows_this_one_no_more(
    server: OlderServer, source: Callable[..., HttpSource], given: bool
) -> None:
    transport = HttpTransport(source(client_id=ID if given else None))
    transport.pull(None)
    server.client_id = "other"
    server.onboarding = (201, {"clientId": "other"})
    if given:
        with pytest.raises(SourceRefused, match="401"):
            transport.pull(None)
        assert onboardings(server) == 0
    else:
        assert isinstance(transport.pull(None).snapshot, Snapshot)
        assert onboardings(server) == 2
    transport.close()


def test_an_id_that_is_refused_is_kept_where_there_is_no_other(
    server: OlderServer, source: Callable[..., HttpSource], tmp_path: Path
) -> None:
    transport = HttpTransport(source())
    transport.pull(None)
    kept = (tmp_path / "client-id.json").read_bytes()
    server.client_id = "away"
    server.onboarding = (409, {"error": "Client is onboarded already"})
    with pytest.raises(SourceRefused, match="401"):
        transport.pull(None)
    assert (tmp_path / "client-id.json").read_bytes() == kept
    server.client_id = ID
    assert isinstance(transport.pull(None).snapshot, Snapshot)
    transport.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, {"error": "Client rejected"}), "403, Client rejected"),
        ((409, {"error": "known"}), "write it into clientId"),
        ((401, {}), "clock"),
        ((404, "nothing"), "speaks the older contract"),
        ((500, None), "see the log"),
    ],
    ids=["403", "409", "401", "404", "500"],
)
def test_a_server_that_issues_no_id_is_told_of(
    server: OlderServer, source: Callable[..., HttpSource], answer: tuple[int, Any], said: str
) -> None:
    server.onboarding = answer
    transport = HttpTransport(source())
    with pytest.raises(OnboardingRefused) as raised:
        transport.pull(None)
    transport.close()
    assert said in f"{raised.value.what} {raised.value.remedy}"


@pytest.mark.parametrize("client_id", ["", "..", "a/b", "a b", "x" * 201, 7, None, "%2e"])
def test_an_id_that_is_none_is_refused(
    server: OlderServer, source: Callable[..., HttpSource], client_id: object, tmp_path: Path
) -> None:
    server.onboarding = (201, {"clientId": client_id})
    transport = HttpTransport(source())
    with pytest.raises(SourceMisbehaved):
        transport.pull(None)
    transport.close()
    assert not (tmp_path / "client-id.json").exists()


@pytest.mark.parametrize("status", [405, 409])
def test_capabilities_are_put_where_they_cannot_be_posted(
    server: OlderServer, source: Callable[..., HttpSource], status: int
) -> None:
    server.refuse_post = status
    transport = HttpTransport(source())
    reply = transport.api.put_capabilities("press-07", json.dumps(CAPABILITIES_DOCUMENT).encode(), Deadline(9, 9))
    transport.close()
    assert reply.status == 201
    method, path, _ = server.reports[-1]
    assert (method, path) == ("PUT", "/api/v1/capabilities")


def test_reports_go_out_in_the_older_shapes(server: OlderServer, source: Callable[..., HttpSource]) -> None:
    transport = HttpTransport(source())
    child = {"properties": {**CAPABILITIES_DOCUMENT["properties"], "id": "press-07/axis-1"}}
    transport.api.put_capabilities("press-07/axis-1", json.dumps(child).encode(), Deadline(9, 9))
    transport.api.post_status(WORKLOAD, b'{"deploymentId": "x", "status": {"state": "installed"}}', Deadline(9, 9))
    transport.close()
    (_, axis, capabilities), (_, path, status) = server.reports[-2:]
    assert axis == f"/api/v1/capabilities/{ID}/axis-1"
    assert json.loads(capabilities)["properties"]["id"] == f"{ID}/axis-1"
    assert path == f"/api/v1/deployments/{WORKLOAD}/status"
    assert json.loads(status)["kind"] == "DeploymentStatusManifest"


def test_older_capabilities_say_what_the_older_shape_has_words_for() -> None:
    older = json.loads(older_capabilities(json.dumps(CAPABILITIES_DOCUMENT).encode(), ID))
    assert older == {
        "apiVersion": "device.margo.org/v1alpha1",
        "kind": "DeviceCapabilitiesManifest",
        "properties": {
            "id": ID,
            "vendor": "Northstar",
            "modelNumber": "NIA-300",
            "serialNumber": "1",
            "roles": ["Standalone Device"],
            "resources": {
                "cpu": {"cores": 2.5, "architecture": "arm64"},
                "memory": "8 Gi",
                "interfaces": [{"type": "wifi"}],
            },
        },
    }
    checked = check_document(read_source(json.dumps(older).encode(), "c.json"))
    assert (checked.kind, checked.shape) == (CAPABILITIES.name, "G1")
    assert checked.value is not None


@pytest.mark.parametrize(
    ("types", "role"),
    [(["helm", "compose"], "Standalone Cluster"), (["custom"], "Standalone Device"), (None, "Gateway")],
)
def test_a_role_follows_from_what_a_device_hosts(types: list[str] | None, role: str) -> None:
    properties = {"id": "x", "vendor": "v", **({"supportedDeploymentTypes": types} if types else {})}
    older = json.loads(older_capabilities(json.dumps({"properties": properties}).encode(), ID))
    assert older["properties"]["roles"] == [role]


def test_an_older_status_is_one_for_every_reader() -> None:
    current = {
        "deploymentId": WORKLOAD,
        "adoptedManifestVersion": 7,
        "status": {"state": "installed"},
        "components": [],
    }
    older = older_status(json.dumps(current).encode())
    checked = check_document(read_source(older, "s.json"))
    assert (checked.kind, checked.shape, checked.value is not None) == (STATUS.name, "G1", True)
    assert json.loads(older)["adoptedManifestVersion"] == 7


def contract_of(prefix: str = "/margo") -> SignedContract:
    def no_key() -> DeviceKey:
        raise AssertionError("nothing is signed here")

    return SignedContract(prefix, "press-07", no_key, ClientIdFile(None, "u"), ID)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("/api/v1/bundles/sha256:00", f"/margo/api/v1/clients/{ID}/bundles/sha256:00"),
        ("/margo/api/v1/bundles/sha256:00", f"/margo/api/v1/clients/{ID}/bundles/sha256:00"),
        (f"/api/v1/clients/{ID}/bundles/sha256:00", f"/margo/api/v1/clients/{ID}/bundles/sha256:00"),
        ("/elsewhere/x", "/margo/elsewhere/x"),
    ],
)
def test_paths_of_a_manifest_lead_to_this_client(url: str, target: str) -> None:
    assert contract_of().path_of(url) == target


@pytest.mark.parametrize("url", ["https://evil.example/x", "x", "/a b", "/a#b", "/a\r\nX: y", "/ä"])
def test_paths_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(SourceMisbehaved):
        contract_of().path_of(url)


def test_an_id_holds_for_one_server_and_one_certificate(tmp_path: Path) -> None:
    ids = ClientIdFile(tmp_path / "client-id.json", "https://wfm.example")
    assert ids.read(b"certificate") is None
    ids.write(b"certificate", ID)
    assert ids.read(b"certificate") == ID
    assert ids.read(b"renewed") is None
    assert ClientIdFile(tmp_path / "client-id.json", "https://other.example").read(b"certificate") is None
    for damaged in (b"", b"{", b"[]", b'{"url": 1}', b"\xff", b"x" * 100_000):
        (tmp_path / "client-id.json").write_bytes(damaged)
        assert ids.read(b"certificate") is None
    assert ClientIdFile(None, "u").read(b"certificate") is None


def test_a_folder_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ClientIdUnusable):
        ClientIdFile(tmp_path / "gone" / "client-id.json", "u").write(b"c", ID)


def test_a_place_that_is_a_folder_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ClientIdUnusable):
        ClientIdFile(tmp_path, "u").read(b"c")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signing_key": None}, "needs a device that signs"),
        ({"signing_certificate": None}, "needs a device that signs"),
        ({"client_id": ".."}, "client id of the source is not valid"),
        ({"client_id": "a/b"}, "client id of the source is not valid"),
        ({"contract": "g2"}, "no signed requests"),
    ],
    ids=["no key", "no certificate", "dots", "a slash", "the current contract"],
)
def test_settings_that_cannot_work_are_refused(
    source: Callable[..., HttpSource], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SourceMisconfigured, match=said):
        source(**changes)


def test_the_current_contract_signs_nothing(tmp_path: Path) -> None:
    with margo_server() as current:
        current.publish(1, {})
        transport = HttpTransport(HttpSource(url=current.base()))
        transport.pull(None)
        transport.close()
        assert all("signature" not in request.headers for request in current.requests)
