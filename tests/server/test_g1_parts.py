"""The parts of the older contract on their own: replays, names of the server, the registry, paths."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import time
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from support.deployments import deployment
from support.signed_requests import SignedClient, certificate, private_key

from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import write_bundle, write_manifest
from margo_gitops.documents.upgrade import older_deployment
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.errors import ClientRegistryUnusable, ServerMisconfigured, SourceMisconfigured
from margo_gitops.server.contracts import older
from margo_gitops.server.contracts.older import ROUTES, client_of_path
from margo_gitops.server.contracts.onboarding import read_onboarding_request, read_root_certificate
from margo_gitops.server.contracts.registry import ClientRegistry, SeenSignatures, read_certificate
from margo_gitops.server.contracts.signatures import SignatureVerifier, digest_fits, is_usable
from margo_gitops.server.identity.certificates import AcceptedClients, accepted_caller
from margo_gitops.server.resources.discovery import read_trust_bundle
from margo_gitops.server.routing import Call, RouteTable
from margo_gitops.state_repo.objects import DeviceState
from margo_gitops.transport.http.signing import read_device_key


def test_what_was_seen_is_forgotten_when_its_time_is_over() -> None:
    now = [0.0]
    seen = SeenSignatures(10, lambda: now[0])
    assert [seen.is_first(b"a", "x"), seen.is_first(b"a", "x"), seen.is_first(b"b", "x")] == [True, False, True]
    now[0] = 9.9
    assert not seen.is_first(b"a", "x")
    now[0] = 10.0
    assert seen.is_first(b"a", "x")


def test_memory_for_what_was_seen_is_bounded() -> None:
    now = [0.0]
    seen = SeenSignatures(10, lambda: now[0], most=3)
    assert all(seen.is_first(bytes([number]), "x") for number in range(3))
    assert seen.full
    now[0] = 10.0
    assert not seen.full


def test_a_client_that_floods_takes_no_room_of_others() -> None:
    now = [0.0]
    seen = SeenSignatures(10, lambda: now[0], most_of_one=2)
    assert all(seen.is_first(bytes([number]), "flood") for number in range(2))
    assert seen.is_full_of("flood")
    assert not seen.is_full_of("other")
    assert not seen.full
    now[0] = 10.0
    assert not seen.is_full_of("flood")


def scope_of(request: httpx.Request) -> dict[str, object]:
    return {
        "method": request.method,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }


@pytest.mark.parametrize(
    ("signed_for", "host", "right"),
    [
        ("https://wfm.example", "wfm.example", True),
        ("https://wfm.example", "127.0.0.1:8080", True),
        ("https://10.0.0.5:8443", "10.0.0.5:8443", True),
        ("https://10.0.0.5:8443", "wfm.example", False),
        ("https://evil.example", "evil.example", False),
        ("http://wfm.example", "wfm.example", False),
    ],
)
def test_a_signature_holds_for_the_names_of_this_server(signed_for: str, host: str, right: bool) -> None:
    with httpx.Client(base_url=f"https://{host}") as http:
        client = SignedClient(http, url=signed_for)
        request = client.signed("GET", "/api/v1/x?y=1")
    verifier = SignatureVerifier(["https://wfm.example", "https://10.0.0.5:8443"], "specification", 300, time.time)
    key = client.key.public_key()
    assert (verifier.verify(scope_of(request), lambda _: key, has_body=False) is not None) == right
    assert verifier.verify(scope_of(request), lambda _: None, has_body=False) is None


def test_a_prefix_that_a_proxy_takes_away_is_signed_too() -> None:
    with httpx.Client(base_url="https://wfm.example") as http:
        client = SignedClient(http, url="https://wfm.example/plant")
        request = client.signed("GET", "/api/v1/x")
    key = client.key.public_key()
    for url, right in (("https://wfm.example/plant", True), ("https://wfm.example", False)):
        verifier = SignatureVerifier([url], "specification", 300, time.time)
        assert (verifier.verify(scope_of(request), lambda _: key, has_body=False) is not None) == right


TEXT = st.text(st.characters(max_codepoint=255), max_size=80).map(lambda text: text.encode("latin-1"))
INPUTS = TEXT | st.from_regex(
    r'[a-z]{1,4}=\(("(@method|@target-uri|@query|@status|date|X)"(;(req|key="a"|bs|sf))? ?){0,4}\)'
    r'(;(created|expires|keyid|nonce|alg|x)=("[a-z0-9-]{0,20}"|[0-9]{1,16}|\?1|:AA==:|1\.5)){0,5}',
    fullmatch=True,
).map(str.encode)
SIGNATURES = TEXT | st.binary(max_size=300).map(lambda raw: b"sig1=:" + base64.b64encode(raw) + b":")


@given(
    inputs=st.lists(INPUTS, max_size=2), signatures=st.lists(SIGNATURES, max_size=2), path=TEXT, profile=st.booleans()
)
def test_no_header_of_a_stranger_is_more_than_refused(
    inputs: list[bytes], signatures: list[bytes], path: bytes, profile: bool
) -> None:
    headers = [(b"signature-input", value) for value in inputs] + [(b"signature", value) for value in signatures]
    scope = {"method": "GET", "raw_path": b"/" + path, "query_string": path, "headers": [*headers, (b"host", path)]}
    verifier = SignatureVerifier(["https://w"], "strict" if profile else "specification", 300, time.time)
    key = private_key("ecdsa-p256-sha256").public_key()
    assert verifier.verify(scope, lambda _: key, has_body=profile) is None


@pytest.mark.parametrize(
    ("lines", "fits"),
    [
        ([b"sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"], True),
        ([b"sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"] * 2, False),
        ([b"sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:, sha-512=:AAAA:"], False),
        ([b"sha-256=LPJNul"], False),
        ([b"\xff"], False),
        ([b"sha-256=:" + b"A" * 100_000 + b":"], False),
        ([], False),
    ],
    ids=["right", "twice", "another is wrong", "no bytes", "no text", "of any length", "none"],
)
def test_a_digest_fits_or_not(lines: list[bytes], fits: bool) -> None:
    scope = {"headers": [(b"content-digest", line) for line in lines]}
    assert digest_fits(scope, b"hello") == fits


def der(number: int, name: str = "press") -> bytes:
    return certificate(private_key("ecdsa-p256-sha256", number), name).public_bytes(Encoding.DER)


def of_no_version(content: bytes) -> bytes:
    """Return a certificate of a version that X.509 does not have."""
    third = bytes.fromhex("a003020102")
    assert content.count(third) == 1
    return content.replace(third, third[:-1] + b"\x7f")


def test_a_certificate_of_no_version_is_none_for_every_reader(tmp_path: Path) -> None:
    odd = of_no_version(der(1))
    text = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(odd).decode()}-----END CERTIFICATE-----\n"
    with pytest.raises(ValueError, match="no certificate"):
        read_certificate(odd)
    for content in (base64.b64encode(odd), base64.b64encode(text.encode()), text.encode()):
        request = {"apiVersion": "x/v1", "kind": "OnboardingRequest", "certificate": content.decode()}
        with pytest.raises(ValueError, match="no certificate"):
            read_onboarding_request(json.dumps(request).encode())
    assert accepted_caller(odd, AcceptedClients(), 0) is None
    for read in (read_root_certificate, read_trust_bundle):
        with pytest.raises(ServerMisconfigured):
            read(text, tmp_path)
    (tmp_path / "device.pem").write_text(text)
    with pytest.raises(SourceMisconfigured, match="holds no certificate"):
        read_device_key(tmp_path / "device.pem", tmp_path / "device.key", None)


def test_an_id_is_issued_once_and_found_again(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "clients.sqlite"
    registry = ClientRegistry(file)
    first, renewed, other = (read_certificate(der(number)) for number in (1, 1, 2))
    issued, made = registry.issue(first)
    assert made
    assert registry.issue(first) == (issued, False)
    later, _ = registry.issue(renewed)
    assert registry.issue(other)[0] not in {issued, later}
    registry.close()
    assert file.stat().st_mode & 0o777 == 0o600
    again = ClientRegistry(file)
    found = again.find(issued)
    assert found is not None
    assert found.certificate == first
    assert again.find("") is None
    again.close()


def test_a_registry_of_an_older_version_keeps_its_clients(tmp_path: Path) -> None:
    file, known = tmp_path / "clients.sqlite", read_certificate(der(1))
    with contextlib.closing(sqlite3.connect(file)) as old:
        old.executescript(
            "CREATE TABLE client (id TEXT PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, key_id TEXT NOT NULL,"
            " certificate BLOB NOT NULL) WITHOUT ROWID; CREATE INDEX client_by_key ON client (key_id);"
        )
        old.execute("INSERT INTO client VALUES ('press', ?, 'key', ?)", (known.fingerprint, known.der))
        old.commit()
    for _ in range(2):
        registry = ClientRegistry(file)
        assert registry.issue(known) == ("press", False)
        assert registry.issue(read_certificate(der(2)))
        registry.close()
    with contextlib.closing(sqlite3.connect(file)) as now:
        assert "key_id" not in str(now.execute("SELECT sql FROM sqlite_schema").fetchall())


def test_a_registry_that_is_none_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "clients.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ClientRegistryUnusable):
        ClientRegistry(tmp_path / "clients.sqlite")


def test_a_registry_that_breaks_while_it_is_used_is_told_of(tmp_path: Path) -> None:
    registry = ClientRegistry(tmp_path / "clients.sqlite")
    other = sqlite3.connect(tmp_path / "clients.sqlite")
    other.execute("DROP TABLE client")
    other.close()
    with pytest.raises(ClientRegistryUnusable):
        registry.find("x")
    with pytest.raises(ClientRegistryUnusable):
        registry.issue(read_certificate(der(1)))
    registry.close()


DIGEST = f"sha256:{'a' * 64}"
UUID = "a3e2f5dc-912e-494f-8395-52cf3769bc06"


CLIENT = "/api/v1/clients/{clientId}"


def found(path: bytes, base: str = "") -> tuple[str | None, str, dict[str, str]]:
    """Return the client id in a path, the resource there, and its other parameters."""
    match = RouteTable(ROUTES, base).find(path)
    parameters = dict(match.parameters) if match else {}
    client_id = client_of_path(path, base)
    assert parameters.pop("clientId", client_id) == client_id
    return client_id, match.route.template if match else "", parameters


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("deployments", ("c-1", CLIENT + "/deployments", {})),
        (f"bundles/{DIGEST}", ("c-1", CLIENT + "/bundles/{digest}", {"digest": DIGEST})),
        (
            f"deployments/{UUID}/status",
            ("c-1", CLIENT + "/deployments/{deploymentId}/status", {"deploymentId": UUID}),
        ),
        ("capabilities", ("c-1", CLIENT + "/capabilities", {})),
        ("capabilities/c-1/x", ("c-1", CLIENT + "/capabilities/{deviceId}", {"deviceId": "c-1/x"})),
        ("capabilities/", ("c-1", "", {})),
        ("clients/c-2/deployments", ("c-1", "", {})),
        ("", ("c-1", "", {})),
        ("/deployments", ("c-1", "", {})),
        ("deployments?", ("c-1", "", {})),
        ("../deployments", ("c-1", "", {})),
        ("x" * 2000, ("", "", {})),
    ],
)
def test_paths_below_a_client(path: str, expected: tuple[str, str, dict[str, str]]) -> None:
    assert found(f"/b/api/v1/clients/c-1/{path}".encode(), "/b") == expected


def test_a_link_of_a_manifest_may_be_taken_literally() -> None:
    template, own = CLIENT + "/bundles/{digest}", {"digest": DIGEST}
    assert found(f"/api/v1/clients/c-1/bundles/{DIGEST}".encode(), "/b") == ("c-1", template, own)


@pytest.mark.parametrize("path", ["a%2Fb/deployments", "/deployments", "ä/deployments", "..%2f/x"])
def test_what_is_no_client_id_is_none(path: str) -> None:
    assert found(f"/api/v1/clients/{path}".encode()) == ("", "", {})


def test_other_paths_are_of_the_current_contract() -> None:
    for path in (b"/api/v1/deployments", b"/api/v1/client", b"/api/v1/clients", b"/clients/x/deployments"):
        assert found(path) == (None, "", {})
    assert found(b"/api/v1/onboarding") == (None, "/api/v1/onboarding", {})
    assert found(b"/b/api/v1/onboarding/certificate", "/b") == (None, "/api/v1/onboarding/certificate", {})
    assert found(b"/api/v1/onboarding/") == (None, "", {})


def test_keys_that_would_cost_too_much_are_refused() -> None:
    modulus = private_key("rsa").public_key().public_numbers().n  # type: ignore[union-attr]
    assert is_usable(rsa.RSAPublicNumbers(65537, modulus).public_key())
    assert not is_usable(rsa.RSAPublicNumbers(2**2000 + 1, modulus).public_key())
    assert not is_usable(rsa.RSAPublicNumbers(65537, 2**16384 - 1).public_key())
    assert not is_usable(ed25519.Ed25519PrivateKey.generate().public_key())


def test_what_is_no_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="no certificate"):
        read_certificate(b"x")
    with pytest.raises(ValueError, match="larger"):
        read_certificate(b"x" * 100_000)


def test_a_document_is_converted_once_for_all_clients_and_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[bytes] = []

    def convert(content: bytes) -> bytes:
        converted.append(content)
        return older_deployment(content)

    monkeypatch.setattr(older, "older_deployment", convert)
    shapes, content = older.OlderShapes(), write_yaml(deployment())
    documents = dict.fromkeys((UUID, UUID.replace("a", "b")), content)
    stored = write_manifest(7, documents)
    state = DeviceState("c" * 40, b"", stored, sha256(stored), documents)
    for client_id in ("c-1", "c-2", "c-1"):
        shaped = shapes.of(Call({}, None, None, {"clientId": client_id}))(state)  # type: ignore[arg-type]
        assert json.loads(shaped.manifest)["bundle"]["digest"] == sha256(write_bundle(shaped.deployments))
        assert shaped.manifest_digest == sha256(shaped.manifest) != state.manifest_digest
        assert f"/clients/{client_id}/".encode() in shaped.manifest
        assert "x" not in shaped.deployments
    assert converted == [content]
