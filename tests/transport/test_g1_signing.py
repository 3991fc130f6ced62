"""Signed requests of a device, judged by the library that servers verify with, and by RFC 9421's own example."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from http_message_signatures.algorithms import ECDSA_P256_SHA256
from hypothesis import given
from hypothesis import strategies as st
from support.signed_requests import PrivateKey, certificate, pem_of, private_key

from margo_gitops.errors import SourceMisconfigured
from margo_gitops.server.contracts.signatures import Attempt, SignatureVerifier, digest_fits, family_of, key_id_of
from margo_gitops.transport.http.signing import DeviceKey, DeviceKeyFiles, RequestSigner, read_device_key
from margo_gitops.transport.http.source import Algorithm

NOW = 1_790_000_000
ALGORITHMS: tuple[Algorithm, ...] = ("ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-v1_5-sha256", "rsa-pss-sha256")


def device_key(algorithm: Algorithm) -> DeviceKey:
    key = private_key(algorithm)
    leaf = certificate(key)
    return DeviceKey(key, algorithm, leaf.public_bytes(Encoding.DER), key_id_of(key.public_key()))


@dataclass
class Sent:
    """A request as a server sees it."""

    method: str
    target: str
    host: str
    headers: dict[str, str]

    @property
    def scope(self) -> dict[str, object]:
        path, _, query = self.target.partition("?")
        headers = {"Host": self.host, **self.headers}
        return {
            "method": self.method,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }


def sent(algorithm: Algorithm, method: str, target: str, body: bytes, url: str = "https://wfm.example:8443") -> Sent:
    signer = RequestSigner(lambda: device_key(algorithm), url, lambda: NOW + 0.7)
    return Sent(method, target, url.removeprefix("https://"), dict(signer.headers(method, target, body)))


@pytest.mark.parametrize("profile", ["specification", "strict"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(
    path=st.from_regex(r"(/[A-Za-z0-9._~:-]+)+", fullmatch=True),
    query=st.from_regex(r"(\?[a-z]+=[0-9a-z]+)?", fullmatch=True),
    body=st.binary(max_size=50),
    method=st.sampled_from(["GET", "HEAD", "DELETE", "POST", "PUT"]),
)
def test_what_a_device_signs_is_right_for_a_server(
    algorithm: Algorithm, profile: str, path: str, query: str, body: bytes, method: str
) -> None:
    body = body if method in ("POST", "PUT") else b""
    request = sent(algorithm, method, path + query, body)
    has_body = method in ("POST", "PUT")
    verifier = SignatureVerifier(["https://wfm.example:8443"], profile, 300, lambda: NOW)  # type: ignore[arg-type]
    key = private_key(algorithm).public_key()
    verified = verifier.verify(request.scope, lambda _: key, has_body=has_body)
    assert verified is not None
    assert verified.key_id == key_id_of(key)
    assert len(verified.nonce) >= 20
    assert not has_body or digest_fits(request.scope, body)
    assert not has_body or not digest_fits(request.scope, body + b"x")
    assert verifier.verify(request.scope, lambda _: private_key(algorithm, 5).public_key(), has_body=has_body) is None
    request.method = "PATCH"
    assert verifier.verify(request.scope, lambda _: key, has_body=has_body) is None


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://wfm.example", "wfm.example"),
        ("https://WFM.Example:443/base", "wfm.example"),
        ("http://wfm.example:80", "wfm.example"),
        ("https://wfm.example:8443", "wfm.example:8443"),
        ("https://[::1]:8443", "[::1]:8443"),
        ("https://[::1]", "[::1]"),
    ],
)
def test_the_authority_is_in_its_normal_form(url: str, authority: str) -> None:
    signed: list[bytes] = []
    key = device_key("ecdsa-p256-sha256")

    class Listening:
        algorithm, key_id = key.algorithm, key.key_id

        def sign(self, content: bytes) -> bytes:
            signed.append(content)
            return key.sign(content)

    RequestSigner(lambda: Listening(), url, lambda: NOW).headers("GET", "/x", b"")  # type: ignore[arg-type,return-value]
    assert f'\n"@authority": {authority}\n' in signed[0].decode()


def test_each_sending_has_a_signature_of_its_own() -> None:
    inputs = [sent("rsa-v1_5-sha256", "GET", "/x", b"").headers["Signature-Input"] for _ in range(3)]
    assert len(set(inputs)) == 3


RFC_KEY = b"""-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIFKbhfNZfpDsW43+0+JjUr9K+bTeuxopu653+hBaXGA7oAoGCCqGSM49
AwEHoUQDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lfw0EkjqF7xB4FivAxzic30tMM
4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==
-----END EC PRIVATE KEY-----
"""
RFC_BASE = (
    b'"@status": 200\n'
    b'"content-type": application/json\n'
    b'"content-digest": sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuahq4l5aGgf'
    b"LQ==:\n"
    b'"content-length": 23\n'
    b'"@signature-params": ("@status" "content-type" "content-digest" "content-length")'
    b';created=1618884473;keyid="test-key-ecc-p256"'
)
RFC_SIGNATURE = "wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlYUEkLIj+32oiasw=="


def test_the_example_of_the_rfc() -> None:
    """RFC 9421, appendix B.2.4: ECDSA on P-256 with r and s, one after the other."""
    key = load_pem_private_key(RFC_KEY, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = base64.b64decode(RFC_SIGNATURE)
    (algorithm,) = family_of(len(signature)).algorithms
    attempt = Attempt(key.public_key())
    algorithm(public_key=attempt).verify(signature, RFC_BASE)
    assert attempt.mark
    own = DeviceKey(key, "ecdsa-p256-sha256", b"", "").sign(RFC_BASE)
    ECDSA_P256_SHA256(public_key=key.public_key()).verify(own, RFC_BASE)
    with pytest.raises(InvalidSignature):
        algorithm(public_key=attempt).verify(signature, RFC_BASE + b" ")


def written(folder: Path, key: PrivateKey, other: PrivateKey | None = None) -> tuple[Path, Path]:
    leaf, private = folder / "device.pem", folder / "device.key"
    leaf.write_bytes(certificate(other or key).public_bytes(Encoding.PEM))
    private.write_bytes(pem_of(key))
    return leaf, private


def test_a_renewed_certificate_is_used_at_once(tmp_path: Path) -> None:
    leaf, private = written(tmp_path, private_key("ecdsa-p256-sha256", 1))
    files = DeviceKeyFiles(leaf, private, None)
    time.sleep(0.1)  # younger files are read again
    before = files()
    assert files() is before
    written(tmp_path, private_key("rsa", 1))
    after = files()
    assert (before.algorithm, after.algorithm) == ("ecdsa-p256-sha256", "rsa-v1_5-sha256")
    assert after.certificate != before.certificate


def test_mistakes_in_the_files_are_told(tmp_path: Path) -> None:
    leaf, private = written(tmp_path, private_key("ecdsa-p256-sha256", 1))
    assert read_device_key(leaf, private, "ecdsa-p256-sha256").key_id
    with pytest.raises(SourceMisconfigured, match="no kind that can sign for rsa-pss-sha256"):
        read_device_key(leaf, private, "rsa-pss-sha256")
    with pytest.raises(SourceMisconfigured, match="no certificate"):
        read_device_key(private, private, None)
    with pytest.raises(SourceMisconfigured, match="no private key"):
        read_device_key(leaf, leaf, None)
    with pytest.raises(SourceMisconfigured, match="cannot be read"):
        read_device_key(tmp_path / "none", private, None)
    leaf, private = written(tmp_path, private_key("ecdsa-p256-sha256", 1), private_key("ecdsa-p256-sha256", 2))
    with pytest.raises(SourceMisconfigured, match="is not the one of the certificate"):
        read_device_key(leaf, private, None)


@pytest.mark.parametrize("kind", ["P-521", "small RSA"])
def test_keys_of_other_kinds_are_refused(tmp_path: Path, kind: str) -> None:
    key = ec.generate_private_key(ec.SECP521R1()) if kind == "P-521" else rsa.generate_private_key(65537, 1024)
    leaf, private = written(tmp_path, key)
    with pytest.raises(SourceMisconfigured, match="no kind that can sign"):
        read_device_key(leaf, private, None)
