"""Certificates count alike on every Python: 3.13 and newer check strictly by themselves, and would cut devices off."""

from __future__ import annotations

import runpy
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.error import HTTPError

import pytest
import urllib3.util.ssl_
from device_repository import DEVICE, FIRST, MANIFEST, DeviceRepository
from git_http_server import Answer, GitHttpServer, serve
from server.certificates import Authority, Issued
from support.command_line import margo_gitops
from support.fleet import TEMPLATE
from support.real import require_program
from testbed.certificates import make_certificates

from margo_gitops.appliers.kubernetes.client import ClusterClient
from margo_gitops.conformance.servers.client import RawClient, ServerTarget
from margo_gitops.errors import SourceUnreachable
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.web.tls import not_strict

Pull = Callable[[Path], object]


@pytest.fixture(autouse=True)
def as_on_3_13(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play the defaults of Python 3.13 on the older ones."""
    for module, name in ((ssl, "create_default_context"), (urllib3.util.ssl_, "create_urllib3_context")):
        made = getattr(module, name)

        def strict(*arguments: object, made: Callable[..., ssl.SSLContext] = made, **options: object) -> ssl.SSLContext:
            context = made(*arguments, **options)
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            return context

        monkeypatch.setattr(module, name, strict)


def openssl(folder: Path, *arguments: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"] if arguments[0] == "req" else []
    subprocess.run(["openssl", *arguments, *key], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what people make: an authority by plain `openssl req -x509`, and a server's certificate of it."""
    require_program("openssl", "openssl")
    folder = tmp_path_factory.mktemp("plain")
    openssl(folder, *["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=plant", "-days", "2"])
    openssl(
        folder,
        *[
            "req",
            "-keyout",
            "server.key",
            "-out",
            "asked.pem",
            "-subj",
            "/CN=x",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
    )
    signing = "x509 -req -in asked.pem -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy -days 2"
    openssl(folder, *signing.split(), "-out", "server.pem")
    return folder


@pytest.fixture(scope="module")
def server(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHttpServer]:
    with serving(tmp_path_factory.mktemp("served"), plain / "server.pem", plain / "server.key") as running:
        yield running


def serving(folder: Path, certificate: Path, key: Path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    DeviceRepository.create(folder / "state.git").commit(MANIFEST, {FIRST: b"x"})
    return serve(folder, context)


def test_a_strict_context_refuses_that_authority(server: GitHttpServer, plain: Path) -> None:
    context = ssl.create_default_context(cafile=plain / "ca.pem")
    with (
        socket.create_connection(("127.0.0.1", server.port)) as raw,
        pytest.raises(ssl.SSLCertVerificationError, match="key usage"),
    ):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


def by_the_agent(server: GitHttpServer, ca_file: Path) -> None:
    transport = GitTransport(GitSource(server.url("state.git"), device=DEVICE, ca_file=ca_file))
    try:
        assert transport.pull(None).snapshot is not None
    finally:
        transport.close()


def by_the_kit(server: GitHttpServer, ca_file: Path) -> None:
    client = RawClient(ServerTarget(server.url("state.git"), DEVICE, ca_file=ca_file))
    assert client.ask("GET", "/state.git/info/refs").status in (200, 403, 404)
    client.close()


def by_the_comments_script(server: GitHttpServer, ca_file: Path) -> None:
    script = runpy.run_path(str(TEMPLATE / ".margo-gitops/ci/comment.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(ca_file))
        with pytest.raises(HTTPError, match="404"):
            script["request"]("GET", server.url("comments"), {})


def by_the_kubernetes_client(server: GitHttpServer, ca_file: Path, checks: str = "certificate-authority: {}") -> None:
    cluster = f"{{server: 'https://127.0.0.1:{server.port}', {checks.format(ca_file)}}}"
    kubeconfig = ca_file.with_suffix(".kubeconfig")
    kubeconfig.write_text(
        f"{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {cluster}}}],"
        " users: [{name: c, user: {token: t}}], contexts: [{name: c, context: {cluster: c, user: c}}]}"
    )
    server.faults.append(lambda *_: Answer(200, [("Content-Type", "application/json")], b'{"gitVersion": "v1"}'))
    assert ClusterClient(kubeconfig).ask("/version") == {"gitVersion": "v1"}
    server.faults.clear()


@pytest.mark.parametrize("client", [by_the_agent, by_the_kit, by_the_comments_script, by_the_kubernetes_client])
def test_every_client_of_ours_accepts_it(
    server: GitHttpServer, plain: Path, client: Callable[[GitHttpServer, Path], None]
) -> None:
    client(server, plain / "ca.pem")


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_cluster_that_is_not_verified_stays_so(server: GitHttpServer, plain: Path) -> None:
    by_the_kubernetes_client(server, plain / "ca.pem", "insecure-skip-tls-verify: true")


def test_an_intermediate_authority_alone_is_trusted(tmp_path: Path) -> None:
    root = Authority("root")
    middle = Authority("middle", root.issued)
    middle.issued.write(tmp_path, "ca")
    with serving(tmp_path, *middle.server().write(tmp_path, "server")) as server:
        by_the_agent(server, tmp_path / "ca.pem")


OTHER_HOST = Authority("other host")
NO_AUTHORITY = Authority("no authority", ca=False)


@pytest.mark.parametrize(
    ("issued", "trusted", "remedy"),
    [
        (OTHER_HOST.client("spiffe://plant.example/x"), OTHER_HOST, "the host name in the URL"),
        (OTHER_HOST.server(ends=timedelta(hours=-1)), OTHER_HOST, "the device's clock"),
        (OTHER_HOST.server(), Authority("another"), "the authority that signed the server's certificate"),
        (NO_AUTHORITY.server(), NO_AUTHORITY, "basicConstraints = critical, CA:TRUE"),
    ],
    ids=["host", "time", "authority", "no authority"],
)
def test_a_refusal_says_what_to_do(tmp_path: Path, issued: Issued, trusted: Authority, remedy: str) -> None:
    trusted.issued.write(tmp_path, "ca")
    with (
        serving(tmp_path, *issued.write(tmp_path, "server")) as server,
        pytest.raises(SourceUnreachable) as caught,
    ):
        by_the_agent(server, tmp_path / "ca.pem")
    assert remedy in str(caught.value.remedy)


class TestWhatStrictProgramsRefuse:
    @pytest.mark.parametrize(
        ("options", "lacks"),
        [
            ("-addext keyUsage=critical,keyCertSign,cRLSign", []),
            ("", ["keyUsage"]),
            ("-addext basicConstraints=CA:TRUE", ["critical at its basicConstraints, keyUsage"]),
            ("-addext subjectKeyIdentifier=none", ["keyUsage, subjectKeyIdentifier"]),
        ],
        ids=["all", "plain", "not critical", "no identifier"],
    )
    def test_the_missing_extensions_of_an_authority_are_named(
        self, tmp_path: Path, options: str, lacks: list[str]
    ) -> None:
        made = "req -x509 -keyout ca.key -out ca.pem -subj /CN=plant -days 2"
        openssl(tmp_path, *made.split(), *options.split())
        notes = not_strict(tmp_path / "ca.pem")
        assert [note.partition(" lacks ")[2].partition(". ")[0] for note in notes] == lacks

    def test_certificates_of_our_tests_have_all(self, tmp_path: Path) -> None:
        make_certificates(tmp_path)
        authority = Authority()
        for name, issued in (("a", authority.issued), ("b", authority.server()), ("c", authority.client("spiffe://x"))):
            issued.write(tmp_path, name)
        assert [note for file in sorted(tmp_path.glob("*.pem")) for note in not_strict(file)] == []

    def test_the_agent_says_it_beforehand(self, tmp_path: Path, plain: Path) -> None:
        agent = tmp_path / "agent.yaml"
        source = f"source: {{git: {{url: 'https://git.example/state.git', caFile: {plain}/ca.pem}}}}"
        rest = "stateFolder: state, trust: {unsigned: true}, appliers: {files: {folder: workloads}}"
        agent.write_text(
            f"{{apiVersion: margo-gitops/v1, kind: AgentConfiguration, device: press-01, {source}, {rest}}}"
        )
        checked = margo_gitops("agent", "config", "check", "--config", agent, cwd=tmp_path)
        assert (checked.code, "'CN=plant' lacks keyUsage" in checked.stderr) == (0, True)
        agent.write_text(agent.read_text().replace("ca.pem", "ca.key"))
        assert margo_gitops("agent", "config", "check", "--config", agent, cwd=tmp_path).code == 2
