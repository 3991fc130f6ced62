"""What devices read from the running server: the bytes of the state repo, and every header."""

import gzip
import json
import subprocess

import pytest
from server.serving import HMI, ServedFleet

from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import BUNDLE_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from margo_gitops.documents.state_layout import device_ref

MANIFEST = "/api/v1/deployments"


def test_the_manifest_is_the_bytes_of_the_branch(reading: ServedFleet) -> None:
    with reading.client("press-01") as client:
        answer = client.get(MANIFEST)
    assert answer.status_code == 200
    assert answer.content == reading.renderer.git.run_bytes("show", f"{device_ref('press-01')}:manifest.json")
    assert answer.headers["ETag"] == f'"{sha256(answer.content)}"'
    assert answer.headers["Content-Type"] == MANIFEST_MEDIA_TYPE
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["Vary"] == "Accept-Encoding"


def test_every_document_and_bundle_of_the_manifest_has_its_digest(reading: ServedFleet) -> None:
    with reading.client("press-01") as client:
        manifest = client.get(MANIFEST).json()
        for reference in manifest["deployments"]:
            answer = client.get(reference["url"])
            assert answer.status_code == 200
            assert sha256(answer.content) == reference["digest"]
            assert len(answer.content) == reference["sizeBytes"]
            assert answer.headers["Content-Type"] == "application/yaml"
            assert answer.headers["ETag"] == f'"{reference["digest"]}"'
            assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        answer = client.get(manifest["bundle"]["url"])
        assert sha256(answer.content) == manifest["bundle"]["digest"]
        assert answer.headers["Content-Type"] == BUNDLE_MEDIA_TYPE
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"


def test_a_device_without_deployments_gets_a_manifest_with_no_bundle(reading: ServedFleet) -> None:
    with reading.client("idle-01") as client:
        assert client.get(MANIFEST).json() == {"manifestVersion": 1, "bundle": None, "deployments": []}


@pytest.mark.parametrize("resource", ["manifest", "deployment", "bundle"])
def test_who_holds_it_gets_304_without_body(reading: ServedFleet, resource: str) -> None:
    with reading.client("press-01") as client:
        url = _url(reading, resource)
        full = client.get(url)
        answer = client.get(url, headers={"If-None-Match": full.headers["ETag"]})
        assert answer.status_code == 304
        assert answer.content == b""
        for header in ("ETag", "Cache-Control", "Vary"):
            assert answer.headers[header] == full.headers[header]
        assert client.get(url, headers={"If-None-Match": '"sha256:other"'}).status_code == 200


@pytest.mark.parametrize("resource", ["manifest", "deployment", "bundle"])
def test_head_gives_the_headers_of_get(reading: ServedFleet, resource: str) -> None:
    with reading.client("press-01") as client:
        url = _url(reading, resource)
        for encoding in ("identity", "gzip"):
            headers = {"Accept-Encoding": encoding}
            head, get = client.head(url, headers=headers), client.get(url, headers=headers)
            assert head.status_code == 200
            assert head.content == b""
            for name in ("ETag", "Content-Type", "Cache-Control", "Vary", "Content-Length"):
                assert head.headers[name] == get.headers[name]
        assert client.head("/api/v1/nothing").content == b""


def test_the_digest_is_of_the_content_before_compression(reading: ServedFleet) -> None:
    with reading.client("press-01") as client:
        url = _url(reading, "deployment")
        with client.stream("GET", url, headers={"Accept-Encoding": "gzip"}) as answer:
            sent = b"".join(answer.iter_raw())
            assert answer.headers["Content-Encoding"] == "gzip"
        assert len(sent) < len(HMI)
        assert gzip.decompress(sent) == HMI
        assert answer.headers["ETag"] == f'"{sha256(HMI)}"'
        plain = client.get(url, headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in plain.headers
        assert plain.content == HMI


def test_without_accept_the_manifest_is_served(reading: ServedFleet) -> None:
    answer = reading.get_raw(MANIFEST, reading.tokens["press-01"])
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"manifestVersion":1' in answer


def test_a_manifest_that_the_client_cannot_take_is_406(reading: ServedFleet) -> None:
    with reading.client("press-01", headers={"Accept": "application/json"}) as client:
        answer = client.get(MANIFEST)
        assert answer.status_code == 406
        assert answer.json()["type"].endswith("#server-cannot-generate-response")
        assert client.get(_url(reading, "deployment")).status_code == 200


def test_406_comes_before_304(reading: ServedFleet) -> None:
    with reading.client("press-01") as client:
        etag = client.get(MANIFEST).headers["ETag"]
        answer = client.get(MANIFEST, headers={"Accept": "application/json", "If-None-Match": etag})
    assert answer.status_code == 406


def test_problems_have_the_members_of_the_contract(reading: ServedFleet) -> None:
    with reading.client("press-01") as client:
        answer = client.get(f"/api/v1/bundles/{sha256(b'unknown')}")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == {
        "type": "https://docs.margo.org/specification/margo-management-interface/problem-types#invalid-bundle",
        "title": "Bundle not found",
        "status": 404,
        "retryable": False,
        "backoffStrategy": "none",
    }


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_405_with_the_allowed_ones(reading: ServedFleet, method: str) -> None:
    with reading.client("press-01") as client:
        answer = client.request(method, MANIFEST)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_a_client_without_state_is_told_to_come_back_and_never_to_remove_anything(reading: ServedFleet) -> None:
    with reading.client("new-01") as client:
        answer = client.get(MANIFEST)
    assert answer.status_code == 503
    assert answer.json()["retryable"] is True
    assert int(answer.headers["Retry-After"]) == answer.json()["retryAfterSeconds"] >= 60


def test_health_needs_no_identity_and_tells_nothing(reading: ServedFleet) -> None:
    with reading.client() as client:
        assert client.get("/healthz").text == "ok\n"
        assert client.get("/readyz").text == "ok\n"
        assert client.post("/healthz").status_code == 405


def test_curl_gets_the_same_bytes(reading: ServedFleet) -> None:
    token = reading.tokens["press-01"]
    done = subprocess.run(
        ["curl", "--silent", "--fail", "--noproxy", "*", "--compressed", "--header", "@-", f"{reading.url}{MANIFEST}"],
        input=f"Authorization: Bearer {token}\n".encode(),
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert json.loads(done.stdout) == reading.manifest("press-01")


def _url(fleet: ServedFleet, resource: str) -> str:
    if resource == "manifest":
        return MANIFEST
    manifest = fleet.manifest("press-01")
    if resource == "bundle":
        return manifest["bundle"]["url"]
    return max(manifest["deployments"], key=lambda each: each["sizeBytes"])["url"]
