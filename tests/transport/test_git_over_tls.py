"""TLS and proxies, with a server that shows what it saw."""

from __future__ import annotations

import dataclasses
import os
import shutil
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_repository import DEVICE, FIRST, MANIFEST, DeviceRepository
from git_http_server import Answer, GitHttpServer, Request, serve
from support.real import require_program
from support.tunnel_proxy import tunnel_proxy
from testbed.certificates import make_certificates

from margo_gitops.errors import SourceMisconfigured, SourceRefused, SourceUnreachable
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.web.tls import client_context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_program("openssl", "openssl")
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture
def context(certificates: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "authority.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def server(tmp_path: Path, context: ssl.SSLContext) -> Iterator[GitHttpServer]:
    DeviceRepository.create(tmp_path / "served/state.git").commit(MANIFEST, {FIRST: b"x"})
    with serve(tmp_path / "served", context) as running:
        yield running


@pytest.fixture
def source(server: GitHttpServer, certificates: Path, tmp_path: Path) -> GitSource:
    for name in ("client.pem", "client.key"):
        shutil.copy(certificates / name, tmp_path / name)
    time.sleep(0.1)  # younger files are read again
    return GitSource(
        server.url("state.git"),
        device=DEVICE,
        ca_file=certificates / "authority.pem",
        client_certificate=tmp_path / "client.pem",
        client_key=tmp_path / "client.key",
        pull_seconds=20,
    )


def pulled(transport: GitTransport) -> Snapshot:
    found = transport.pull(None).snapshot
    assert isinstance(found, Snapshot)
    return found


def test_a_device_proves_itself_with_its_certificate(source: GitSource) -> None:
    transport = GitTransport(source)
    assert transport.pull(pulled(transport)).snapshot is None
    transport.close()


def test_a_session_is_resumed_where_the_connection_was_lost(server: GitHttpServer, source: GitSource) -> None:
    def close(request: Request, answer: Answer) -> None:
        answer.close = True

    transport = GitTransport(source)
    held = pulled(transport)
    server.faults.append(close)
    for _ in range(3):
        assert transport.pull(held).snapshot is None
    assert transport.cost.connections == 3
    assert server.resumed == [False, True, True]
    transport.close()


def test_an_end_without_a_notice_costs_no_session_on_any_python() -> None:
    assert client_context().options & ssl.OP_IGNORE_UNEXPECTED_EOF  # 3.13.5 resumes nothing without it


def test_a_certificate_that_was_renewed_in_place_is_used_at_the_next_pull(
    server: GitHttpServer, source: GitSource, tmp_path: Path
) -> None:
    transport = GitTransport(source)
    held = pulled(transport)
    os.utime(tmp_path / "client.pem", ns=(1, 1))
    assert transport.pull(held).snapshot is None
    assert transport.cost.connections == 2
    assert server.resumed == [False, False]
    transport.close()


def test_no_certificate_and_a_foreign_one_are_refused(source: GitSource, certificates: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    make_certificates(tmp_path / "other")
    foreign = {"client_certificate": tmp_path / "other/client.pem", "client_key": tmp_path / "other/client.key"}
    for settings in ({"client_certificate": None, "client_key": None}, foreign):
        with pytest.raises((SourceRefused, SourceUnreachable)) as caught:
            GitTransport(dataclasses.replace(source, **settings)).pull(None)
        assert caught.value.remedy or "broke" in caught.value.what


def test_a_key_of_another_certificate_is_a_misconfiguration(source: GitSource, certificates: Path) -> None:
    with pytest.raises(SourceMisconfigured, match=r"client\.pem"):
        GitTransport(dataclasses.replace(source, client_key=certificates / "server.key")).pull(None)


def test_a_key_with_a_passphrase_is_a_misconfiguration_and_asks_nobody(
    source: GitSource, certificates: Path, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((certificates / "client.key").read_bytes(), None)
    (tmp_path / "client.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    with pytest.raises(SourceMisconfigured, match=r"client\.key"):
        GitTransport(source).pull(None)


def test_plain_http_on_the_port_of_https_is_unreachable(tmp_path: Path, certificates: Path) -> None:
    with serve(tmp_path) as plain:
        url = f"https://127.0.0.1:{plain.port}/state.git"
        with pytest.raises(SourceUnreachable, match="TLS failed"):
            GitTransport(GitSource(url, device=DEVICE, ca_file=certificates / "authority.pem")).pull(None)


class TestProxy:
    def test_the_environment_is_not_asked_unless_the_settings_say_so(
        self, source: GitSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "")
        transport = GitTransport(source)
        pulled(transport)
        transport.close()
        with pytest.raises(SourceUnreachable, match="port 1"):
            GitTransport(dataclasses.replace(source, proxy_from_environment=True)).pull(None)

    def test_https_goes_through_a_tunnel(
        self, server: GitHttpServer, source: GitSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with tunnel_proxy(server.port) as proxy:
            monkeypatch.setenv("https_proxy", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "")
            transport = GitTransport(dataclasses.replace(source, proxy_from_environment=True))
            assert transport.pull(pulled(transport)).snapshot is None
            transport.close()
        (asked,) = proxy.seen
        assert asked.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n".encode())
        assert b"Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in asked

    def test_a_proxy_that_refuses_is_named(
        self, server: GitHttpServer, source: GitSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with tunnel_proxy(server.port, b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n") as proxy:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "")
            with pytest.raises(SourceRefused, match=r"proxy 127\.0\.0\.1 .* 407"):
                GitTransport(dataclasses.replace(source, proxy_from_environment=True)).pull(None)

    def test_no_proxy_is_honoured(self, source: GitSource, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        transport = GitTransport(dataclasses.replace(source, proxy_from_environment=True))
        pulled(transport)
        transport.close()

    @pytest.mark.parametrize("value", ["socks5://127.0.0.1:1", "http://", "http://[::1"])
    def test_a_variable_that_holds_no_proxy_is_a_misconfiguration(
        self, source: GitSource, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("https_proxy", value)
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(SourceMisconfigured, match="https_proxy"):
            GitTransport(dataclasses.replace(source, proxy_from_environment=True))
