"""The server on its own TLS, with clients' certificates: curl and httpx against the real handshake."""

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from server.certificates import DAY, Authority, Issued, spiffe_id
from server.serving import FLEET, ServedFleet, served_fleet
from support.command_line import margo_gitops
from support.real import require_program

MANIFEST = "/api/v1/deployments"


class MutualFleet:
    """A server that asks for certificates, and clients with some."""

    def __init__(self, fleet: ServedFleet) -> None:
        self.fleet = fleet
        self.authority = Authority()
        self.bundle = self.authority.issued.write(fleet.folder, "bundle")[0]
        self.authority.server().write(fleet.folder, "server")
        self.accept(spiffe_id("press-01"), spiffe_id("press-02"))
        fleet.scheme = "https"
        fleet.start(
            identity={"mutualTls": {"accepted": "accepted"}},
            tls={"certificate": "server.pem", "key": "server.key", "clientTrust": "bundle.pem"},
        )

    def accept(self, *clients: str) -> None:
        (self.fleet.folder / "accepted").write_text("\n".join([*clients, ""]))

    def client(self, issued: Issued | None, version: ssl.TLSVersion | None = None) -> httpx.Client:
        context = ssl.create_default_context(cafile=self.bundle)
        if issued is not None:
            context.load_cert_chain(*issued.write(self.fleet.folder, "client"))
        if version is not None:
            context.maximum_version = version
        return httpx.Client(base_url=self.fleet.url, verify=context, timeout=20, trust_env=False)


@pytest.fixture
def mutual(tmp_path: Path) -> Iterator[MutualFleet]:
    with served_fleet(tmp_path) as fleet:
        fleet.render(FLEET)
        yield MutualFleet(fleet)


def test_a_client_with_an_accepted_certificate_gets_its_own_state(mutual: MutualFleet) -> None:
    with mutual.client(mutual.authority.client(spiffe_id("press-01"))) as client:
        assert client.get(MANIFEST).json() == mutual.fleet.manifest("press-01")
        theirs = mutual.fleet.manifest("press-02")["bundle"]["url"]
        assert client.get(theirs).status_code == 404
        assert client.get(mutual.fleet.manifest("press-01")["bundle"]["url"]).status_code == 200


def test_a_connection_that_is_kept_open_takes_little_memory(mutual: MutualFleet) -> None:
    assert mutual.fleet.process is not None
    status = Path(f"/proc/{mutual.fleet.process.pid}/status")

    def resident() -> int:
        return int(status.read_text().partition("VmRSS:")[2].split()[0])

    with ExitStack() as kept:
        for number in range(30):
            if number == 10:  # what the first ones load is not theirs
                before = resident()
            client = kept.enter_context(mutual.client(None))
            assert client.get("/healthz").status_code == 200
        assert (resident() - before) / 20 < 120, "KiB"  # with asyncio's own buffer, 270


def test_curl_with_a_certificate(mutual: MutualFleet) -> None:
    certificate, key = mutual.authority.client(spiffe_id("press-01")).write(mutual.fleet.folder, "curl")
    arguments = ["--silent", "--fail", "--noproxy", "*", "--cacert", str(mutual.bundle), "--cert", str(certificate)]
    done = subprocess.run(
        [require_program("curl", "curl"), *arguments, "--key", str(key), f"{mutual.fleet.url}{MANIFEST}"],
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert b'"manifestVersion":1' in done.stdout


def test_no_certificate_and_a_certificate_that_is_not_accepted_are_one_refusal(mutual: MutualFleet) -> None:
    answers = []
    for issued in (
        None,
        mutual.authority.client(spiffe_id("stranger")),
        mutual.authority.client(spiffe_id("press-01", wfm="other")),
        mutual.authority.client(spiffe_id("press-01"), spiffe_id("press-02")),
        mutual.authority.client(),
        mutual.authority.client(spiffe_id("press-01"), usage={"crl_sign": True}),
    ):
        with mutual.client(issued) as client:
            answers.append(client.get(MANIFEST))
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1
    with mutual.client(None) as client:
        assert client.get("/healthz").status_code == 200


def test_a_header_does_not_replace_a_certificate(mutual: MutualFleet) -> None:
    with mutual.client(None) as client:
        assert client.get(MANIFEST, headers={"Client-Cert": ":AAAA:", "Margo-Device": "press-01"}).status_code == 403


def test_certificates_of_other_authorities_and_times_end_the_handshake(mutual: MutualFleet) -> None:
    for issued in (
        Authority().client(spiffe_id("press-01")),
        mutual.authority.client(spiffe_id("press-01"), begins=-3 * DAY, ends=-DAY),
    ):
        with mutual.client(issued) as client, pytest.raises(httpx.TransportError):
            client.get(MANIFEST)


def test_a_client_is_revoked_on_the_connection_that_it_has(mutual: MutualFleet) -> None:
    with mutual.client(mutual.authority.client(spiffe_id("press-01"))) as client:
        assert client.get(MANIFEST).status_code == 200
        mutual.accept(spiffe_id("press-02"))
        assert client.get(MANIFEST).status_code == 403
        mutual.accept(spiffe_id("*"))
        assert client.get(MANIFEST).status_code == 200


def test_the_check_names_what_strict_clients_refuse(mutual: MutualFleet) -> None:
    def checked() -> str:
        return margo_gitops("serve", "--check", "--config", "server.yaml", cwd=mutual.fleet.folder).stdout

    assert "certificate" not in checked()
    require_program("openssl", "openssl")
    made = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout x -out bundle.pem -subj /CN=plain"
    )
    subprocess.run(made.split(), cwd=mutual.fleet.folder, check=True, capture_output=True)
    assert "bundle.pem: the certificate 'CN=plain' lacks keyUsage" in checked()


def test_tls_below_1_3_is_refused(mutual: MutualFleet) -> None:
    issued = mutual.authority.client(spiffe_id("press-01"))
    with mutual.client(issued, ssl.TLSVersion.TLSv1_2) as client, pytest.raises(httpx.ConnectError):
        client.get(MANIFEST)


def test_a_renewed_certificate_and_a_new_trust_bundle_hold_from_the_next_handshake(mutual: MutualFleet) -> None:
    old = mutual.authority
    with mutual.client(old.client(spiffe_id("press-01"))) as client:
        assert client.get(MANIFEST).status_code == 200
    mutual.authority = Authority("new authority")
    mutual.authority.server().write(mutual.fleet.folder, "server")
    mutual.authority.issued.write(mutual.fleet.folder, "bundle")
    with mutual.client(mutual.authority.client(spiffe_id("press-01"))) as client:
        assert client.get(MANIFEST).status_code == 200
    with mutual.client(old.client(spiffe_id("press-01"))) as client, pytest.raises(httpx.TransportError):
        client.get(MANIFEST)


def test_files_that_cannot_be_used_leave_tls_as_it_was(mutual: MutualFleet) -> None:
    (mutual.fleet.folder / "server.pem").write_text("half a certif")
    with mutual.client(mutual.authority.client(spiffe_id("press-01"))) as client:
        assert client.get(MANIFEST).status_code == 200
    assert "keeps its last good files" in mutual.fleet.log.read_text()
