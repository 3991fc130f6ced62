"""The shipped nginx configuration over published files: the Margo desired state API to the letter."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from support.published import FIRST, SECOND, Plant
from support.static_server import StaticServer, nginx

from margo_gitops.digests import sha256

pytestmark = pytest.mark.real
MANIFEST = "/api/v1/deployments"


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@pytest.fixture
def server(plant: Plant) -> Iterator[StaticServer]:
    plant.publish(FIRST)
    with nginx(plant.folder.parent / "nginx", plant.folder) as running:
        yield running


def ask(
    server: StaticServer,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    device: str | None = "press-01",
    method: str = "GET",
) -> Answer:
    sent = {**({"Authorization": f"Bearer {server.tokens[device]}"} if device else {}), **(headers or {})}
    connection = http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, headers=sent)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def manifest(server: StaticServer, device: str = "press-01") -> dict:
    return json.loads(ask(server, MANIFEST, device=device).body)


def test_a_manifest_has_its_digest_as_strong_etag(server: StaticServer):
    answer = ask(server, MANIFEST)
    assert answer.status == 200
    assert answer.headers["ETag"] == f'"{sha256(answer.body)}"'
    assert answer.headers["Content-Type"] == "application/vnd.margo.manifest.v1+json"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert json.loads(answer.body)["manifestVersion"] == 1


def test_every_listed_resource_is_there_with_its_digest_and_may_be_kept_for_ever(server: StaticServer):
    state = manifest(server)
    kinds = {each["url"]: "application/yaml" for each in state["deployments"]}
    kinds[state["bundle"]["url"]] = "application/vnd.margo.bundle.v1+tar+gzip"
    assert len(kinds) == 5
    for url, media_type in kinds.items():
        answer = ask(server, url)
        assert (answer.status, answer.headers["Content-Type"]) == (200, media_type)
        assert sha256(answer.body) == url.rpartition("/")[2]
        assert answer.headers["ETag"] == f'"{sha256(answer.body)}"'
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"


def test_if_none_match_with_the_current_digest_is_a_304_without_body(server: StaticServer):
    state = manifest(server)
    for url in (MANIFEST, state["bundle"]["url"], state["deployments"][0]["url"]):
        etag = ask(server, url).headers["ETag"]
        for sent in (etag, f'"x", {etag}', f"W/{etag}", "*"):
            answer = ask(server, url, {"If-None-Match": sent})
            assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", etag), sent
            assert "Cache-Control" in answer.headers
        other = f'"sha256:{"0" * 64}"'
        assert ask(server, url, {"If-None-Match": other}).status == 200


def test_a_new_manifest_is_seen_at_once_and_the_old_etag_is_no_match(server: StaticServer, plant: Plant):
    before = ask(server, MANIFEST)
    plant.publish(SECOND)
    answer = ask(server, MANIFEST, {"If-None-Match": before.headers["ETag"]})
    assert (answer.status, json.loads(answer.body)["manifestVersion"]) == (200, 2)
    assert ask(server, MANIFEST, {"If-None-Match": answer.headers["ETag"]}).status == 304


def test_head_says_what_get_says_without_a_body(server: StaticServer):
    for url in (MANIFEST, manifest(server)["bundle"]["url"]):
        got, told = ask(server, url), ask(server, url, method="HEAD")
        assert (told.status, told.body) == (200, b"")
        for name in ("ETag", "Content-Type", "Content-Length", "Cache-Control"):
            assert told.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (None, 200),
        ("*/*", 200),
        ("application/vnd.margo.manifest.v1+json", 200),
        ("text/html, application/vnd.margo.manifest.v1+json;q=0.5", 200),
        ("text/html", 406),
        ("application/json", 406),
    ],
)
def test_accept_decides_between_the_manifest_and_406(server: StaticServer, accept: str | None, status: int):
    answer = ask(server, MANIFEST, {"Accept": accept} if accept else {})
    assert answer.status == status
    if status == 406:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert json.loads(answer.body)["type"].endswith("#server-cannot-generate-response")


def test_who_is_not_known_gets_401_and_nothing_else(server: StaticServer):
    known = manifest(server)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
        for path in (MANIFEST, known["bundle"]["url"], "/", "/press-01/manifests"):
            answer = ask(server, path, headers, device=None)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert json.loads(answer.body)["status"] == 401


def test_a_device_gets_nothing_of_another_however_it_spells_the_path(server: StaticServer):
    others = manifest(server, "mixer-01")
    assert manifest(server)["deployments"] != others["deployments"]
    paths = [others["bundle"]["url"], *(each["url"] for each in others["deployments"])]
    spelt = [
        *paths,
        *(path.replace("/", "//") for path in paths),
        *(path.replace("/api/", "/..%2f..%2fmixer-01%2fapi/") for path in paths),
        *(path.replace("/v1/", "/v1/%2e%2e/%2e%2e/mixer-01/api/v1/") for path in paths),
        *(f"/mixer-01{path}" for path in paths),
        "/mixer-01/api/v1/deployments/manifest",
        "/api/v1/deployments/manifest",
        "/api/v1/deployments/../../../../mixer-01/api/v1/deployments/manifest",
        "/margo-manifest",
        "/.margo-gitops-publish",
        "/",
    ]
    answers = {path: ask(server, path) for path in spelt}
    assert {path: answer.status for path, answer in answers.items() if answer.status not in {400, 404}} == {}
    assert len({answer.body for answer in answers.values() if answer.status == 404}) == 1


def test_an_unknown_digest_is_404_even_for_who_says_it_holds_it(server: StaticServer):
    url = f"/api/v1/bundles/sha256:{'0' * 64}"
    assert ask(server, url).status == 404
    assert ask(server, url, {"If-None-Match": f'"sha256:{"0" * 64}"'}).status == 404


def test_nothing_can_be_written(server: StaticServer):
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        answer = ask(server, MANIFEST, method=method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_client_certificate_names_the_device_too(server: StaticServer):
    context = ssl.create_default_context(cafile=str(server.folder / "authority.pem"))
    host = server.https.removeprefix("https://")

    def status() -> int:
        connection = http.client.HTTPSConnection(host, timeout=10, context=context)
        try:
            connection.request("GET", MANIFEST)
            with connection.getresponse() as answer:
                answer.read()
                return answer.status
        finally:
            connection.close()

    assert status() == 401
    context.load_cert_chain(server.folder / "client.pem", server.folder / "client.key")
    assert status() == 200


def test_a_device_without_deployments_has_a_manifest_without_bundle(plant: Plant, server: StaticServer):
    assert manifest(server, "mixer-01")["bundle"] is not None
    plant.publish({**FIRST, "mixer-01": {}})
    assert manifest(server, "mixer-01") == {"bundle": None, "deployments": [], "manifestVersion": 2}
