"""What clients of the older contract send, in its shapes: kept as what the fleet knows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from server.serving import FLEET, served_fleet, status, until
from server.signing_fleet import SigningFleet
from support.signed_requests import SignedClient


@pytest.fixture
def signing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SigningFleet]:
    with served_fleet(tmp_path) as fleet:
        fleet.render(FLEET)
        made = SigningFleet(fleet).start(getattr(request, "param", "specification"))
        with made.http:
            yield made


@pytest.fixture(scope="module", params=["specification", "strict"])
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignedClient]:
    """A client for the tests whose requests change nothing."""
    with served_fleet(tmp_path_factory.mktemp("known")) as fleet:
        fleet.render(FLEET)
        made = SigningFleet(fleet).start(request.param)
        with made.http:
            yield made.client("press-01")


def older_capabilities(name: str, **properties: Any) -> dict[str, Any]:
    return {
        "apiVersion": "device.margo.org/v1alpha1",
        "kind": "DeviceCapabilitiesManifest",
        "properties": {
            "id": name,
            "vendor": "Northstar",
            "modelNumber": "332ANZE1-N1",
            "serialNumber": "PF45343-AA",
            "roles": ["Standalone Device"],
            "resources": {
                "cpu": {"cores": 2.4, "architecture": "x86_64"},
                "memory": "59 Gi",
                "storage": "1862 Gi",
                "peripherals": [{"type": "gpu", "manufacturer": "NVIDIA"}],
                "interfaces": [{"type": "ethernet"}],
            },
            **properties,
        },
    }


def older_status(deployment: str, state: str = "installed") -> dict[str, Any]:
    document = status(deployment, state)
    del document["adoptedManifestVersion"]
    return {"apiVersion": "deployment.margo.org/v1alpha1", "kind": "DeploymentStatusManifest", **document}


def deployment_of(client: SignedClient) -> str:
    return str(client.get("deployments").json()["deployments"][0]["deploymentId"])


def test_a_signed_poll_waits_for_a_change(signing: SigningFleet) -> None:
    client = signing.client("press-01")
    request = client.signed("GET", client.path("deployments"))
    request.headers["if-none-match"] = client.get("deployments").headers["etag"]
    request.headers["prefer"] = "wait=20"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(signing.http.send, request)
        until(lambda: signing.fleet.connections() >= 2 or waiting.running())
        signing.fleet.render({**FLEET, "press-01": {"mes": b"b: 2\n"}})
        answer = waiting.result(15)
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=20")
    assert answer.json() == signing.manifest(client)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_capabilities_are_kept_under_the_devices_name(signing: SigningFleet, method: str) -> None:
    client = signing.client("press-01")
    for memory in ("59 Gi", "60 Gi"):
        document = older_capabilities(client.client_id)
        document["properties"]["resources"]["memory"] = memory
        answer = client.send(method, client.path("capabilities"), document)
        assert answer.status_code == 201
    until(lambda: signing.fleet.reports()["press-01/capabilities/press-01.json"]["properties"]["memory"] == "60 Gi")
    kept = signing.fleet.reports()["press-01/capabilities/press-01.json"]["properties"]
    assert kept["id"] == "press-01"
    assert kept["cpus"] == [{"cores": 2.4, "architecture": "amd64"}]
    log = signing.fleet.renderer.git.run("log", "-1", "--format=%B", "refs/heads/reports")
    assert f"Reported-By: press-01 (signature {client.client_id})" in log


@pytest.mark.parametrize("signing", ["specification", "strict"], indirect=True)
def test_a_client_that_calls_itself_otherwise_is_known_by_its_key(signing: SigningFleet) -> None:
    client = signing.client("press-01")
    answer = client.send("POST", client.path("capabilities"), older_capabilities("northstarida.xtapro.k8s.edge"))
    if '"strict"' in (signing.folder / "server.yaml").read_text():
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"field": "properties.id", "message": "must be the client id"}]
        return
    assert answer.status_code == 201
    until(lambda: signing.fleet.reports()["press-01/capabilities/press-01.json"]["properties"]["id"] == "press-01")


def test_children_come_after_their_gateway_and_go_with_it(signing: SigningFleet) -> None:
    client = signing.client("press-01")
    child = f"{client.client_id}/axis-1"
    path = client.path(f"capabilities/{child}")
    assert client.send("PUT", path, older_capabilities(child)).status_code == 404
    assert client.send("PUT", client.path("capabilities"), older_capabilities(client.client_id)).status_code == 201
    assert client.send("PUT", path, older_capabilities(child)).status_code == 201
    until(lambda: "press-01/capabilities/press-01_2faxis-1.json" in signing.fleet.reports())
    by_name = client.path("capabilities/press-01/axis-2")
    assert client.send("PUT", by_name, older_capabilities("press-01/axis-2")).status_code == 201
    assert client.send("DELETE", client.path(f"capabilities/{client.client_id}")).status_code == 204
    assert client.send("DELETE", client.path(f"capabilities/{client.client_id}")).status_code == 404
    until(lambda: not signing.fleet.reports())


def test_nobody_writes_for_another_device(known: SignedClient) -> None:
    answer = known.send("PUT", known.path("capabilities/press-02"), older_capabilities("press-02"))
    assert answer.status_code == 403


def test_a_status_is_taken_in_the_older_shape(signing: SigningFleet) -> None:
    client = signing.client("press-01")
    deployment = deployment_of(client)
    path = client.path(f"deployments/{deployment}/status")
    answers = [client.send("POST", path, older_status(deployment, state)) for state in ("installing", "installed")]
    assert [answer.status_code for answer in answers] == [200, 200]
    # A commit may come between the two reports.
    newest = {key: value for key, value in status(deployment).items() if key != "adoptedManifestVersion"}
    until(lambda: signing.fleet.reports().get(f"press-01/status/{deployment}.json") == newest)


@pytest.mark.parametrize(
    "member", ["apiVersion", "vendor", "serial interface", "sparc", "empty", "no object", "no JSON"]
)
def test_documents_with_mistakes_are_refused(known: SignedClient, member: str) -> None:
    document: Any = older_capabilities(known.client_id)
    if member == "vendor":
        del document["properties"]["vendor"]
    elif member == "serial interface":
        document["properties"]["resources"]["interfaces"] = [{"type": "serial"}]
    elif member == "sparc":
        document["properties"]["resources"]["cpu"]["architecture"] = "sparc"
    elif member == "empty":
        document = {}
    elif member == "no object":
        document = [1]
    elif member == "apiVersion":
        document = {"apiVersion": 1, "kind": "DeviceCapabilitiesManifest", "properties": 7}
    if member == "no JSON":
        answer = known.http.send(known.signed("PUT", known.path("capabilities"), b"{"))
    else:
        answer = known.send("PUT", known.path("capabilities"), document)
    assert answer.status_code == (400 if member == "no JSON" else 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_methods_and_paths_are_told_to_who_is_known(known: SignedClient) -> None:
    answer = known.send("DELETE", known.path("capabilities"))
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, PUT")
    for path in ("nothing", "healthz", "clients", "onboarding", "", "capabilities/", "deployments/", "../x"):
        assert known.send("GET", f"/api/v1/clients/{known.client_id}/{path}").status_code in (401, 404), path


def test_conditions_hold_as_in_the_current_contract(known: SignedClient) -> None:
    held = known.get("deployments").headers["etag"]
    request = known.signed("GET", known.path("deployments"))
    request.headers["if-none-match"] = held
    assert known.http.send(request).status_code == 304
    request = known.signed("GET", known.path("deployments"))
    request.headers["accept"] = "application/json"
    assert known.http.send(request).status_code == 406
