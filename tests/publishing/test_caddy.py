"""The shipped Caddy configuration over published files."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.published import FIRST, SECOND, Plant
from support.pull_script import small_device
from support.static_server import SPIFFE_ID, TOKENS, StaticServer, caddy
from testbed.processes import run

from margo_gitops.digests import sha256

pytestmark = pytest.mark.real
MANIFEST = "/api/v1/deployments"


@pytest.fixture
def server(plant: Plant) -> Iterator[StaticServer]:
    plant.publish(FIRST)
    with caddy(plant.folder.parent / "caddy", plant.folder) as running:
        yield running


def ask(
    server: StaticServer,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    device: str | None = "press-01",
    method: str = "GET",
) -> tuple[int, Mapping[str, str], bytes]:
    sent = {**({"Authorization": f"Bearer {TOKENS[device]}"} if device else {}), **(headers or {})}
    context = ssl.create_default_context(cafile=str(server.folder / "authority.pem"))
    connection = http.client.HTTPSConnection(server.https.removeprefix("https://"), timeout=10, context=context)
    try:
        connection.request(method, path, headers=sent)
        answer = connection.getresponse()
        return answer.status, {name.title(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_a_manifest_and_all_it_lists_with_the_right_headers(server: StaticServer):
    status, headers, body = ask(server, MANIFEST)
    assert status == 200
    assert headers["Content-Type"] == "application/vnd.margo.manifest.v1+json"
    assert headers["Cache-Control"] == "private, no-cache"
    state = json.loads(body)
    kinds = {each["url"]: "application/yaml" for each in state["deployments"]}
    kinds[state["bundle"]["url"]] = "application/vnd.margo.bundle.v1+tar+gzip"
    for url, media_type in kinds.items():
        status, headers, body = ask(server, url)
        assert (status, headers["Content-Type"]) == (200, media_type)
        assert headers["Etag"] == f'"{sha256(body)}"'
        assert sha256(body) == url.rpartition("/")[2]
        assert headers["Cache-Control"] == "private, max-age=31536000, immutable"
        assert ask(server, url, {"If-None-Match": headers["Etag"]})[::2] == (304, b"")
        assert ask(server, url, method="HEAD")[::2] == (200, b"")


def test_the_etag_of_the_manifest_is_strong_and_another_for_each_manifest(server: StaticServer, plant: Plant):
    _, headers, _ = ask(server, MANIFEST)
    assert not headers["Etag"].startswith("W/")
    assert ask(server, MANIFEST, {"If-None-Match": headers["Etag"]})[0] == 304
    plant.publish(SECOND)
    status, later, body = ask(server, MANIFEST, {"If-None-Match": headers["Etag"]})
    assert (status, json.loads(body)["manifestVersion"]) == (200, 2)
    assert later["Etag"] != headers["Etag"]


def test_a_device_gets_nothing_of_another(server: StaticServer):
    others = json.loads(ask(server, MANIFEST, device="mixer-01")[2])
    paths = [others["bundle"]["url"], *(each["url"] for each in others["deployments"])]
    spelt = [
        *paths,
        *(path.replace("/api/", "/..%2f..%2fmixer-01%2fapi/") for path in paths),
        *(path.replace("/v1/", "/v1/%2e%2e/%2e%2e/mixer-01/api/v1/") for path in paths),
        *(f"/mixer-01{path}" for path in paths),
        "/api/v1/deployments/manifest",
        "/api/v1/deployments/",
        "/.margo-gitops-publish",
        "/",
    ]
    assert {path: ask(server, path)[0] for path in spelt} == dict.fromkeys(spelt, 404)


def test_refusals_are_problems(server: StaticServer):
    for status, options in {
        401: {"device": None},
        404: {"path": "/x"},
        405: {"method": "PUT"},
        406: {"headers": {"Accept": "text/html"}},
    }.items():
        arguments = {"path": MANIFEST, **options}
        code, headers, body = ask(server, **arguments)
        assert (code, headers["Content-Type"]) == (status, "application/problem+json")
        assert json.loads(body)["status"] == status
    assert ask(server, MANIFEST, {"Authorization": "Bearer wrong"}, device=None)[0] == 401
    assert ask(server, MANIFEST, {"Accept": "text/html, */*;q=0.1"})[0] == 200


def test_a_spiffe_certificate_names_the_device_too(server: StaticServer, tmp_path: Path):
    device = small_device(tmp_path / "device", "dash")
    tls = ["--ca-file", str(server.folder / "authority.pem"), "--token-file", ""]
    assert "HTTP 401" in device.pull(server.https, TOKENS["press-01"], *tls).stderr
    for name, code in ((SPIFFE_ID, 0), (f"{SPIFFE_ID}x", 3)):
        certificate, key = tmp_path / "svid.pem", tmp_path / "svid.key"
        run(
            [
                *("openssl", "req", "-x509", "-sha256", "-days", "1", "-newkey", "ec", "-noenc", "-subj", "/CN=x"),
                *("-pkeyopt", "ec_paramgen_curve:P-256", "-config", server.folder / "openssl.cnf"),
                *("-CA", server.folder / "authority.pem", "-CAkey", server.folder / "authority.key"),
                *("-extensions", "client", "-addext", f"subjectAltName=URI:{name}"),
                *("-keyout", key, "-out", certificate),
            ]
        )
        outcome = device.pull(
            server.https, TOKENS["press-01"], *tls, "--cert-file", str(certificate), "--key-file", str(key)
        )
        assert outcome.code == code, outcome


def test_the_pull_script_pulls(server: StaticServer, plant: Plant, tmp_path: Path):
    device = small_device(tmp_path / "device", "dash")
    authority = ["--ca-file", str(server.folder / "authority.pem")]
    for devices in (FIRST, SECOND):
        plant.publish(devices)
        for _ in range(2):
            outcome = device.pull(server.https, TOKENS["press-01"], *authority)
            assert outcome.code == 0, outcome
        assert sorted(device.documents().values()) == sorted(devices["press-01"].values())
    assert len(device.hooks()) == 2
