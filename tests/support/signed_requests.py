"""A client of the older contract that signs with the library, not with our own code, and does everything wrong, too."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from http_message_signatures import HTTPMessageSigner, HTTPSignatureAlgorithm, MappingKeyResolver
from http_message_signatures.algorithms import ECDSA_P256_SHA256, ECDSA_P384_SHA384, RSA_V1_5_SHA256

from margo_gitops.digests import sha256
from margo_gitops.server.contracts.signatures import key_id_of

PUBLIC_URL = "https://wfm.plant.example"
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class PssSha256(RSA_V1_5_SHA256):
    """Margo's own algorithm, with the longest salt that fits, as Go's library chooses it."""

    algorithm_id = "rsa-pss-sha256"

    def __init__(self, public_key: Any = None, private_key: Any = None, password: Any = None) -> None:
        super().__init__(public_key, private_key, password)
        self.padding = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)


ALGORITHMS: Mapping[str, type[HTTPSignatureAlgorithm]] = {
    each.algorithm_id: each for each in (ECDSA_P256_SHA256, ECDSA_P384_SHA384, RSA_V1_5_SHA256, PssSha256)
}


@cache
def private_key(kind: str, number: int = 0) -> PrivateKey:
    """Return a key of an algorithm, the same for the same number."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP384R1() if "384" in kind else ec.SECP256R1())


def certificate(key: PrivateKey, name: str = "press-01", days: tuple[int, int] = (-1, 1)) -> x509.Certificate:
    """Return a certificate that a key has signed for itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .sign(key, hashes.SHA256())
    )


def pem_of(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class SignedClient:
    """One client; each attribute may be set to something wrong.

    Attributes:
        http: what sends.
        algorithm: how it signs.
        key: with what.
        client_id: in its paths.
        covered: what its signatures cover; `content-digest` comes by itself where there is a body.
        key_id: None: as the strict profile wants it.
        age: seconds since a signature was made.
        parameters: more of the signature's: nonce, expires.
        url: what the paths stand behind, as it is signed.
    """

    http: httpx.Client
    algorithm: str = "ecdsa-p256-sha256"
    key: PrivateKey = field(default_factory=lambda: private_key("ecdsa-p256-sha256"))
    certificate: x509.Certificate | None = None
    client_id: str = ""
    covered: Sequence[str] = ("@method", "@target-uri")
    key_id: str | None = None
    age: float = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    url: str = PUBLIC_URL
    include_alg: bool = True

    def __post_init__(self) -> None:
        if self.certificate is None:
            self.certificate = certificate(self.key)

    @property
    def der(self) -> bytes:
        assert self.certificate is not None
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def fingerprint(self) -> str:
        return sha256(self.der)

    def signed(self, method: str, path: str, body: bytes | None = None) -> httpx.Request:
        """Return a signed request, not sent yet."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        message = httpx.Request(method, self.url + path, headers=headers)
        key_id = key_id_of(self.key.public_key()) if self.key_id is None else self.key_id
        signer = HTTPMessageSigner(
            signature_algorithm=ALGORITHMS[self.algorithm],
            key_resolver=MappingKeyResolver(public_keys={}, private_keys={key_id: self.key}),
        )
        signer.sign(
            message,
            key_id=key_id,
            created=datetime.fromtimestamp(time.time() - self.age, UTC),
            label="sig1",
            covered_component_ids=self.covered,
            body=body,
            include_alg=self.include_alg,
            **self.parameters,
        )
        kept = {name: value for name, value in message.headers.items() if name not in ("host", "content-length")}
        return self.http.build_request(method, path, headers=kept, content=body)

    def send(self, method: str, path: str, document: Any = None) -> httpx.Response:
        body = None if document is None else json.dumps(document).encode()
        return self.http.send(self.signed(method, path, body))

    def onboard(self, encode: Any = None) -> httpx.Response:
        """Ask for a client id, and keep it."""
        content = base64.b64encode(self.der if encode is None else encode).decode()
        document = {
            "apiVersion": "onboarding.margo.org/v1alpha1",
            "kind": "OnboardingRequest",
            "certificate": content,
        }
        answer = self.send("POST", "/api/v1/onboarding", document)
        if answer.status_code == 201:
            self.client_id = answer.json()["clientId"]
        return answer

    def path(self, rest: str) -> str:
        return f"/api/v1/clients/{self.client_id}/{rest}"

    def get(self, rest: str) -> httpx.Response:
        return self.send("GET", self.path(rest))
