"""A device reads only its own state: everything else is one refusal, with nothing to learn from it."""

import re

import pytest
from server.serving import ServedFleet, capabilities, status

from margo_gitops.digests import sha256

A, B = "press-01", "idle-01"
"""Device B runs something that A does not."""


@pytest.fixture(scope="module")
def others(reading: ServedFleet) -> dict[str, str]:
    """Paths of a device that has documents of its own, by resource."""
    manifest = reading.manifest("press-01")
    own = min(manifest["deployments"], key=lambda each: each["sizeBytes"])
    return {"deployment": own["url"], "bundle": manifest["bundle"]["url"], "id": own["deploymentId"]}


def variants(path: str) -> list[str]:
    """Return spellings of a path that some server or proxy takes for the same."""
    found = [path, f"/{path}", path.replace("/api", "//api"), path.replace("/v1/", "/v1//"), f"{path}/", f"{path}//"]
    found += [path.replace("/v1/", "/v1%2F"), path.replace("/v1/", "/v1/./"), path.replace("/v1/", "/v1/x/../")]
    found += [path.replace("/v1/", "/v1/%2e%2e/v1/"), path.replace(":", "%3A"), path.replace(":", "%3a"), f"{path}?x=1"]
    found += [f"{path}%2F", f"{path}%00", path.replace("/api", "/API"), path.replace("sha256", "SHA256"), f"{path};x"]
    found += [path.replace("/deployments/", "/deployments%2F"), path.replace("/bundles/", "/bundles//")]
    return sorted(set(found))


def test_what_belongs_to_another_device_is_the_same_404_as_what_nobody_has(
    reading: ServedFleet, others: dict[str, str]
) -> None:
    token = reading.tokens["press-02"]
    for resource in ("deployment", "bundle"):
        path = others[resource]
        nobodys = re.sub(r"sha256:[0-9a-f]{64}", sha256(b"nobody has this"), path)
        assert reading.get_raw(path, reading.tokens["press-01"]).startswith(b"HTTP/1.1 200 ")
        assert reading.get_raw(path, token) == reading.get_raw(nobodys, token)
        assert reading.get_raw(path, token).startswith(b"HTTP/1.1 404 ")


def test_no_spelling_of_another_devices_path_leads_to_its_state(reading: ServedFleet, others: dict[str, str]) -> None:
    token = reading.tokens["press-02"]
    for resource in ("deployment", "bundle"):
        for path in variants(others[resource]):
            answer = reading.get_raw(path, token)
            assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), path
            assert b"b: 1" not in answer


def test_the_manifest_is_always_the_callers_own(reading: ServedFleet) -> None:
    for path in variants("/api/v1/deployments"):
        answer = reading.get_raw(path, reading.tokens["idle-01"])
        if answer.startswith(b"HTTP/1.1 200 "):
            assert b'"deployments":[]' in answer
        else:
            assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), path


@pytest.mark.parametrize(
    "device", ["press-02", "press-02/child", "press-02%2Fchild", "press-0", "press-01x", "PRESS-01"]
)
def test_nobody_writes_for_another_device(reading: ServedFleet, device: str) -> None:
    with reading.client("press-01") as client:
        path = f"/api/v1/capabilities/{device}"
        body = capabilities(device.replace("%2F", "/"))
        refusals = [client.put(path, json=body), client.delete(path)]
    assert [answer.status_code for answer in refusals] == [403, 403]
    assert refusals[0].content == refusals[1].content


def test_nobody_reports_on_another_devices_deployment(reading: ServedFleet, others: dict[str, str]) -> None:
    with reading.client("press-02") as client:
        theirs = client.post(f"/api/v1/deployments/{others['id']}/status", json=status(others["id"]))
        nobodys_id = "00000000-0000-4000-8000-000000000000"
        nobodys = client.post(f"/api/v1/deployments/{nobodys_id}/status", json=status(nobodys_id))
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.content == nobodys.content


PATHS = [
    "/api/v1/deployments",
    "/api/v1/nothing",
    "/",
    "/api/v1/capabilities/press-01",
    f"/api/v1/bundles/{sha256(b'')}",
]


def test_who_is_nobody_gets_one_answer_everywhere(reading: ServedFleet, others: dict[str, str]) -> None:
    tokens = ["", "wrong", "A" * 43, reading.tokens["press-01"][:-1], f"{reading.tokens['press-01']}x", "x" * 5000]
    answers = {
        reading.get_raw(path, token, method)
        for path in [*PATHS, *others.values()]
        for token in tokens
        for method in ("GET", "PUT", "BREW")
        if path.startswith("/")
    }
    statuses = {answer.partition(b"\r\n")[0] for answer in answers}
    assert statuses <= {b"HTTP/1.1 403 Forbidden", b"HTTP/1.1 400 Bad Request"}
    assert len([answer for answer in answers if b" 403 " in answer]) == 1


@pytest.mark.parametrize(
    "headers",
    [
        "",
        "Authorization: Basic {token}",
        "Authorization: {token}",
        "Authorization: Bearer {token}, Bearer {token}",
        "Authorization: Bearer {token}\r\nAuthorization: Bearer {token}",
        "Authorization: Bearer  ",
        "X-Authorization: Bearer {token}",
        "Margo-Device: press-01",
        "Client-Cert: :AAAA:",
        "X-Forwarded-User: press-01",
    ],
)
def test_only_one_authorization_header_of_the_right_form_counts(reading: ServedFleet, headers: str) -> None:
    text = headers.format(token=reading.tokens["press-01"])
    lines = ["GET /api/v1/deployments HTTP/1.1", "Host: x", "Connection: close", *([text] if text else []), "", ""]
    assert b" 403 Forbidden" in reading.raw("\r\n".join(lines).encode())
