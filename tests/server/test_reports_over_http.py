"""What devices write to the running server: validated, durable, committed in batches."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from server.serving import FLEET, ServedFleet, capabilities, status, until

GATEWAY = {
    "properties": {"id": "press-01", "vendor": "Northstar", "modelNumber": "G", "serialNumber": "2"},
}


def deployment_of(fleet: ServedFleet, device: str = "press-01") -> str:
    return fleet.manifest(device)["deployments"][0]["deploymentId"]


def status_path(deployment: str) -> str:
    return f"/api/v1/deployments/{deployment}/status"


def test_capabilities_are_created_updated_and_removed(fleet: ServedFleet) -> None:
    fleet.start()
    path = "/api/v1/capabilities/press-01"
    with fleet.client("press-01") as client:
        assert client.put(path, json=capabilities("press-01")).status_code == 201
        assert client.put(path, json=capabilities("press-01")).status_code == 200
        assert client.put(path, json=capabilities("press-01", memory="4 Gi")).status_code == 200
        # A commit may come between two reports.
        newest = capabilities("press-01", memory="4 Gi")
        until(lambda: fleet.reports().get("press-01/capabilities/press-01.json") == newest)
        assert client.delete(path).status_code == 204
        assert client.delete(path).status_code == 404
        until(lambda: not fleet.reports())


def test_a_child_comes_after_its_gateway(fleet: ServedFleet) -> None:
    fleet.start()
    with fleet.client("press-01") as client:
        child = "/api/v1/capabilities/press-01/axis-1"
        answer = client.put(child, json=capabilities("press-01/axis-1"))
        assert answer.status_code == 404
        assert answer.json()["type"].endswith("#gateway-not-found")
        assert client.put("/api/v1/capabilities/press-01", json=GATEWAY).status_code == 201
        assert client.put(child, json=capabilities("press-01/axis-1")).status_code == 201
        encoded = client.put("/api/v1/capabilities/press-01%2Faxis-1", json=capabilities("press-01/axis-1"))
        assert encoded.status_code == 200
        until(lambda: "press-01/capabilities/press-01_2faxis-1.json" in fleet.reports())
        assert client.delete("/api/v1/capabilities/press-01").status_code == 204
        assert client.delete(child).status_code == 404


def test_a_status_is_created_and_updated_and_its_sender_is_in_the_commit(fleet: ServedFleet) -> None:
    fleet.start()
    deployment = deployment_of(fleet)
    with fleet.client("press-01") as client:
        first = client.post(status_path(deployment), json=status(deployment, "installing"))
        later = client.post(status_path(deployment), json=status(deployment))
    assert (first.status_code, later.status_code) == (201, 200)
    reported = until(lambda: fleet.reports().get(f"press-01/status/{deployment}.json"))
    until(lambda: fleet.reports()[f"press-01/status/{deployment}.json"]["status"]["state"] == "installed")
    assert reported["deploymentId"] == deployment
    message = fleet.renderer.git.run("log", "-1", "--format=%B", "refs/heads/reports")
    assert f"press-01: status {deployment} installed" in message
    assert "Reported-By: press-01 (token)" in message


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"properties": {}, "properties": {}}', 400),
        (b"[" * 500, 400),
        (b'{"properties": NaN}', 400),
        (b'{"properties": 18446744073709551616}', 400),
        (b"{}", 422),
        (b"[]", 422),
        (b"null", 422),
        (json.dumps({"properties": {"id": "press-01"}}).encode(), 422),
        (json.dumps(capabilities("press-02")).encode(), 422),
        (json.dumps(capabilities("press-01", supportedRuntimes=["wasm"])).encode(), 422),
        (json.dumps(capabilities("press-01", supportedRuntimes=[])).encode(), 422),
        (json.dumps(capabilities("press-01", supportedDeploymentTypes=["zip"])).encode(), 422),
        (json.dumps(capabilities("press-01", interfaces=[{"type": "serial"}])).encode(), 422),
        (json.dumps(capabilities("press-01", peripherals=[{"type": "mouse"}])).encode(), 422),
        (json.dumps(capabilities("press-01", cpus=[{"cores": 1, "architecture": "sparc"}])).encode(), 422),
        (json.dumps(capabilities("press-01") | {"apiVersion": "v1"}).encode(), 422),
        (json.dumps(capabilities("press-01") | {"extra": 1}).encode(), 422),
        (json.dumps(capabilities("press-01") | {"labels": {"a": {"b": 1}}}).encode(), 422),
        (b" " * 300_000, 413),
    ],
)
def test_capabilities_that_are_none_are_refused(reading: ServedFleet, body: bytes, code: int) -> None:
    with reading.client("press-01") as client:
        answer = client.put("/api/v1/capabilities/press-01", content=body)
    assert answer.status_code == code
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["retryable"] is False
    if code == 422 and body.startswith(b"{"):
        assert all({"field", "message"} == set(each) for each in answer.json()["errors"])
        assert answer.json()["errors"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": {"state": "happy"}},
        {"status": {}},
        {"components": [{"state": "installed"}]},
        {"components": [{"name": "hmi", "state": "asleep"}]},
        {"components": "hmi"},
        {"deploymentId": "00000000-0000-4000-8000-000000000000"},
        {"adoptedManifestVersion": 0},
        {"adoptedManifestVersion": -1},
        {"adoptedManifestVersion": 1.5},
        {"deviceId": "press-01//x"},
    ],
)
def test_a_status_that_is_none_is_422(reading: ServedFleet, change: dict[str, Any]) -> None:
    deployment = deployment_of(reading)
    with reading.client("press-01") as client:
        answer = client.post(status_path(deployment), json=status(deployment) | change)
    assert answer.status_code == 422
    assert answer.json()["type"].endswith("#semantic-error")


def test_the_lenient_profile_takes_what_real_devices_send(fleet: ServedFleet) -> None:
    fleet.start()
    deployment = deployment_of(fleet)
    without_version = status(deployment)
    del without_version["adoptedManifestVersion"]
    older = {
        "apiVersion": "deployment.margo.org/v1alpha1",
        "kind": "DeploymentStatusManifest",
        **without_version,
    }
    with fleet.client("press-01") as client:
        no_collector = capabilities("press-01", otelCollector=False)
        assert client.put("/api/v1/capabilities/press-01", json=no_collector).status_code == 201
        assert client.post(status_path(deployment), json=without_version).status_code == 201
        assert client.post(status_path(deployment), json=older).status_code == 200
        assert client.post(status_path(deployment.upper()), json=status(deployment)).status_code == 200


def test_the_strict_profile_takes_the_contract_only(fleet: ServedFleet) -> None:
    fleet.start(profile="strict")
    deployment = deployment_of(fleet)
    without_version = status(deployment)
    del without_version["adoptedManifestVersion"]
    path = "/api/v1/capabilities/press-01"
    with fleet.client("press-01") as client:
        assert client.put(path, json=capabilities("press-01", otelCollector=False)).status_code == 422
        without_cpus = capabilities("press-01")
        del without_cpus["properties"]["cpus"]
        assert client.put(path, json=without_cpus).status_code == 422
        assert client.put(path, json=GATEWAY).status_code == 201
        assert client.put(path, json=capabilities("press-01")).status_code == 200
        assert client.post(status_path(deployment), json=without_version).status_code == 422
        wrong = client.get(fleet.manifest("press-01")["bundle"]["url"], headers={"Accept": "application/json"})
        assert wrong.status_code == 406


def test_a_deployment_that_was_just_removed_can_still_be_reported_on(fleet: ServedFleet) -> None:
    fleet.start()
    deployment = deployment_of(fleet)
    fleet.render(FLEET | {"press-01": {}})
    with fleet.client("press-01") as client:
        assert client.post(status_path(deployment), json=status(deployment, "removed")).status_code == 201


def test_what_says_the_same_is_not_committed_again(fleet: ServedFleet) -> None:
    fleet.start()
    deployment = deployment_of(fleet)
    with fleet.client("press-01") as client:
        client.post(status_path(deployment), json=status(deployment))
        until(fleet.reports)
        before = fleet.renderer.git.run("rev-parse", "refs/heads/reports")
        for _ in range(20):
            body = json.dumps(status(deployment), indent=7).encode()
            assert client.post(status_path(deployment), content=body).status_code == 200
        client.put("/api/v1/capabilities/press-01", json=capabilities("press-01"))
        until(lambda: len(fleet.reports()) == 2)
    assert fleet.renderer.git.run("rev-parse", "refs/heads/reports~1") == before


def test_a_render_and_reports_do_not_disturb_each_other(fleet: ServedFleet) -> None:
    fleet.start(reports={"commitSeconds": 0.1})
    deployment = deployment_of(fleet)
    with fleet.client("press-01") as client, ThreadPoolExecutor(1) as pool:
        states = ("installing", "installed", "failed")
        for number in range(15):
            sent = pool.submit(
                client.post, status_path(deployment), json=status(deployment, states[number % 3], number + 1)
            )
            fleet.render(FLEET | {"press-02": {"hmi": b"%d\n" % number}})
            assert sent.result().status_code in {200, 201}
    reported = until(lambda: fleet.reports()[f"press-01/status/{deployment}.json"]["adoptedManifestVersion"] == 15)
    assert reported
    assert fleet.manifest("press-02")["manifestVersion"] == 16
    fleet.renderer.git.run("fsck", "--strict")


def test_a_flooding_device_is_slowed_down_and_others_are_not(fleet: ServedFleet) -> None:
    fleet.start(limits={"requestsPerMinute": 60, "burst": 20})
    deployment = deployment_of(fleet)
    with fleet.client("press-01") as flood, fleet.client("press-02") as other:
        answers = [flood.post(status_path(deployment), json=status(deployment)) for _ in range(40)]
        codes = {answer.status_code for answer in answers}
        assert 429 in codes
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["retryable"] is True
        assert refused.json()["backoffStrategy"] == "exponential"
        for _ in range(10):
            assert other.get("/api/v1/deployments").status_code == 200


def test_on_how_many_subjects_a_device_reports_is_bounded(fleet: ServedFleet) -> None:
    fleet.start(reports={"perDevice": 3})
    with fleet.client("press-01") as client:
        client.put("/api/v1/capabilities/press-01", json=GATEWAY)
        codes = [
            client.put(f"/api/v1/capabilities/press-01/{n}", json=capabilities(f"press-01/{n}")).status_code
            for n in range(4)
        ]
        assert codes == [201, 201, 429, 429]
        assert client.put("/api/v1/capabilities/press-01", json=GATEWAY).status_code == 200


def test_device_ids_that_devices_chose_themselves_are_taken_where_asked_for(fleet: ServedFleet) -> None:
    fleet.start(reports={"anyDeviceId": True, "commitSeconds": 0.2})
    with fleet.client("press-01") as client:
        assert client.put("/api/v1/capabilities/robot-9", json=capabilities("robot-9")).status_code == 201
    until(lambda: "press-01/capabilities/robot-9.json" in fleet.reports())


def test_a_body_with_a_content_coding_is_refused(reading: ServedFleet) -> None:
    with reading.client("press-01", headers={"Content-Encoding": "gzip"}) as client:
        answer = client.put("/api/v1/capabilities/press-01", content=b"x")
    assert answer.status_code == 415


def test_one_device_fills_neither_disk_nor_history(fleet: ServedFleet) -> None:
    fleet.start(reports={"deviceBytesPerHour": 200_000, "deviceBytes": 50_000})
    with fleet.client("press-01") as client:
        path = "/api/v1/capabilities/press-01"
        large = client.put(path, json=capabilities("press-01", modelNumber="x" * 60_000))
        assert (large.status_code, "too much" in large.json()["detail"]) == (429, True)
        answers = [client.put(path, json=capabilities("press-01", modelNumber=n * 20_000)) for n in "abcdefghijklmno"]
        assert {answer.status_code for answer in answers[:8]} == {200, 201}
        assert {answer.status_code for answer in answers[-4:]} == {429}
        assert int(answers[-1].headers["retry-after"]) > 0
    with fleet.client("press-02") as client:
        assert client.put("/api/v1/capabilities/press-02", json=capabilities("press-02")).status_code == 201


def test_a_disk_that_is_almost_full_is_refused_politely(fleet: ServedFleet) -> None:
    fleet.start(reports={"freeBytes": 2**62})
    with fleet.client("press-01") as client:
        answer = client.put("/api/v1/capabilities/press-01", json=capabilities("press-01"))
        assert answer.status_code == 503
        assert "almost full" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) >= 30
        assert client.get("/api/v1/deployments").status_code == 200
    assert "almost full" in until(lambda: "almost full" in fleet.log.read_text() and fleet.log.read_text())


def test_a_status_of_a_deployment_that_is_gone_is_collected(fleet: ServedFleet) -> None:
    gone = deployment_of(fleet)
    fleet.start()
    with fleet.client("press-01") as client:
        assert client.post(status_path(gone), json=status(gone, version=1)).status_code == 201
        for n in range(6):
            fleet.render({**FLEET, "press-01": {"other": b"c: %d\n" % n}})
        stays = deployment_of(fleet)
        assert client.post(status_path(stays), json=status(stays, version=7)).status_code == 201
    until(lambda: len(fleet.reports()) == 2)
    fleet.stop()
    with sqlite3.connect(fleet.folder / "state.git" / "margo-gitops" / "reports.sqlite") as journal:
        journal.execute("UPDATE report SET received = 1")
    fleet.start()
    until(lambda: list(fleet.reports()) == [f"press-01/status/{stays}.json"])
