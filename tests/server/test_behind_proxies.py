"""`serve` behind nginx and Caddy as docs/deploy/ ships them."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from server.certificates import Authority, spiffe_id
from server.serving import FLEET, ServedFleet
from support.serve_proxy import caddy_before, nginx_before

pytestmark = pytest.mark.real
MANIFEST = "/api/v1/deployments"


@pytest.fixture
def authority() -> Authority:
    return Authority()


def trusting(authority: Authority, folder: Path, client: str | None = None) -> ssl.SSLContext:
    """Return a client's TLS settings; with a certificate of `client`, if named."""
    bundle, _ = authority.issued.write(folder, "authority")
    context = ssl.create_default_context(cafile=str(bundle))
    if client is not None:
        context.load_cert_chain(*authority.client(spiffe_id(client)).write(folder, client))
    return context


@pytest.fixture
def nginx_url(fleet: ServedFleet, authority: Authority, tmp_path: Path) -> Iterator[str]:
    fleet.start()
    with nginx_before(tmp_path / "nginx", fleet.port, *authority.server().write(tmp_path, "server")) as url:
        yield url


class TestNginx:
    def test_a_device_reads_its_state_by_its_token(
        self, fleet: ServedFleet, nginx_url: str, authority: Authority, tmp_path: Path
    ) -> None:
        headers = {"Authorization": f"Bearer {fleet.tokens['press-01']}"}
        with httpx.Client(
            base_url=nginx_url, headers=headers, verify=trusting(authority, tmp_path), trust_env=False
        ) as client:
            answer = client.get(MANIFEST)
            assert answer.json() == fleet.manifest("press-01")
            assert client.get(MANIFEST, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
            for listed in answer.json()["deployments"]:
                assert client.get(listed["url"]).status_code == 200
            assert client.get(f"/{MANIFEST}").status_code == 404
            assert client.get(MANIFEST.replace("/v1/", "//v1/")).status_code == 404

    def test_nobody_says_who_it_is_in_a_header_of_proxies(
        self, nginx_url: str, authority: Authority, tmp_path: Path
    ) -> None:
        with httpx.Client(base_url=nginx_url, verify=trusting(authority, tmp_path), trust_env=False) as client:
            assert client.get(MANIFEST, headers={"Margo-Device": "press-01"}).status_code == 403

    def test_a_poll_that_waits_hears_of_a_render_at_once(
        self, fleet: ServedFleet, nginx_url: str, authority: Authority, tmp_path: Path
    ) -> None:
        headers = {"Authorization": f"Bearer {fleet.tokens['press-01']}"}
        with (
            httpx.Client(
                base_url=nginx_url, headers=headers, verify=trusting(authority, tmp_path), trust_env=False, timeout=30
            ) as client,
            ThreadPoolExecutor() as pool,
        ):
            held = client.get(MANIFEST).headers["ETag"]
            poll = pool.submit(client.get, MANIFEST, headers={"If-None-Match": held, "Prefer": "wait=40"})
            fleet.render(FLEET | {"press-01": {"hmi": b"new\n"}})
            assert poll.result().json()["manifestVersion"] == 2


class TestCaddy:
    @pytest.fixture
    def url(self, fleet: ServedFleet, authority: Authority, tmp_path: Path) -> Iterator[str]:
        (fleet.folder / "accepted").write_text(f"{spiffe_id('press-01')}\n{spiffe_id('press-02')}\n")
        fleet.start(identity={"clientCert": {"proxies": ["127.0.0.1"], "accepted": "accepted"}})
        bundle, _ = authority.issued.write(tmp_path, "devices-ca")
        server = authority.server("localhost").write(tmp_path, "server")
        with caddy_before(tmp_path / "caddy", fleet.port, *server, bundle) as url:
            yield url

    def test_a_device_reads_its_state_by_its_certificate(
        self, fleet: ServedFleet, url: str, authority: Authority, tmp_path: Path
    ) -> None:
        for device in ("press-01", "press-02"):
            with httpx.Client(base_url=url, verify=trusting(authority, tmp_path, device), trust_env=False) as client:
                assert client.get(MANIFEST).json() == fleet.manifest(device)

    def test_a_certificate_in_a_header_of_the_client_counts_for_nothing(
        self, fleet: ServedFleet, url: str, authority: Authority, tmp_path: Path
    ) -> None:
        other = base64.b64encode(authority.client(spiffe_id("press-02")).der).decode()
        forged = {"Client-Cert": f":{other}:", "Margo-Device": "press-02"}
        with httpx.Client(base_url=url, verify=trusting(authority, tmp_path, "press-01"), trust_env=False) as client:
            assert client.get(MANIFEST, headers=forged).json() == fleet.manifest("press-01")

    def test_who_is_not_accepted_is_refused_whatever_signed_the_certificate(
        self, url: str, authority: Authority, tmp_path: Path
    ) -> None:
        with httpx.Client(base_url=url, verify=trusting(authority, tmp_path, "idle-01"), trust_env=False) as client:
            assert client.get(MANIFEST).status_code == 403

    def test_without_a_certificate_there_is_no_connection(self, url: str, authority: Authority, tmp_path: Path) -> None:
        with (
            httpx.Client(base_url=url, verify=trusting(authority, tmp_path), trust_env=False) as client,
            pytest.raises(httpx.TransportError),
        ):
            client.get(MANIFEST)
