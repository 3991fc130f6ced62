"""Signs requests (RFC 9421; Margo API requirements and security, G1).

A signature covers `@method`, `@target-uri`, `@authority`, and `content-digest` where there is a body: what the
specification demands, and what its test suite demands in addition. Each sending gets a new one, with a nonce, so that
a request that must be sent twice is not taken for a replay.

Only signing is here, which needs no reader of structured fields: all that is signed was written a line above.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from margo_gitops.disk.files import read_bounded, reason
from margo_gitops.disk.stamps import FileWatch
from margo_gitops.errors import SourceMisconfigured
from margo_gitops.transport.http.source import Algorithm
from margo_gitops.values import dataclass

SigningKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_LABEL: Final = "sig1"
_LARGEST_FILE: Final = 64 * 1024
_SMALLEST_RSA: Final = 2048


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """What a device signs with.

    Attributes:
        certificate: of the key, DER.
        key_id: hex sha256 of the public key (DER SubjectPublicKeyInfo).
    """

    key: SigningKey
    algorithm: Algorithm
    certificate: bytes
    key_id: str

    def sign(self, content: bytes) -> bytes:
        """Return the signature: for ECDSA, r and s, one after the other."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            scheme = (
                padding.PKCS1v15()
                if self.algorithm == "rsa-v1_5-sha256"
                else padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
            )
            return self.key.sign(content, scheme, hashes.SHA256())
        digest = hashes.SHA256() if self.algorithm == "ecdsa-p256-sha256" else hashes.SHA384()
        size = self.key.key_size // 8
        r, s = decode_dss_signature(self.key.sign(content, ec.ECDSA(digest)))
        return r.to_bytes(size) + s.to_bytes(size)


def read_device_key(certificate: Path, key: Path, algorithm: Algorithm | None) -> DeviceKey:
    """Return a device's key with its certificate.

    Args:
        certificate: PEM file; the first certificate in it counts.
        key: PEM file, unencrypted.
        algorithm: to sign with; None: the one of the key's kind.

    Raises:
        SourceMisconfigured: a file cannot be read, or the three do not fit together.
    """
    try:
        leaf = x509.load_pem_x509_certificate(_read(certificate))
    except (ValueError, x509.InvalidVersion):
        raise SourceMisconfigured(
            f"{certificate} holds no certificate", remedy="give a PEM file that begins with the device's certificate"
        ) from None
    try:
        private = load_pem_private_key(_read(key), None)
    except (ValueError, TypeError):
        raise SourceMisconfigured(
            f"{key} holds no private key that can be read", remedy="give an unencrypted PEM key"
        ) from None
    possible = _algorithms_of(private)
    chosen = algorithm or next(iter(possible), None)
    if chosen not in possible or not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        wanted = f" for {algorithm}" if algorithm else ""
        raise SourceMisconfigured(
            f"the key {key} is of no kind that can sign{wanted}",
            remedy="use an ECDSA key on P-256 or P-384, or an RSA key of 2048 bits or more",
        )
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public:
        raise SourceMisconfigured(
            f"the key {key} is not the one of the certificate {certificate}",
            remedy="give the certificate and the key that belong together",
        )
    return DeviceKey(private, chosen, leaf.public_bytes(Encoding.DER), hashlib.sha256(public).hexdigest())


class DeviceKeyFiles:
    """A device's key and certificate, read when they are needed, and again when they were renewed."""

    def __init__(self, certificate: Path, key: Path, algorithm: Algorithm | None) -> None:
        """Take the settings (see `read_device_key`); nothing is read yet."""
        self._certificate = certificate
        self._private = key
        self._algorithm = algorithm
        self._watch = FileWatch(certificate, key)
        self._read: DeviceKey | None = None

    def __call__(self) -> DeviceKey:
        """Return what the files hold now."""
        if self._read is None or self._watch.changed():
            self._read = None
            self._watch.mark()
            self._read = read_device_key(self._certificate, self._private, self._algorithm)
        return self._read


class RequestSigner:
    """Makes the headers that sign a request."""

    def __init__(
        self,
        key: Callable[[], DeviceKey],
        url: str,
        clock: Callable[[], float],
        nonce: Callable[[], str] = lambda: secrets.token_urlsafe(16),
    ) -> None:
        """Take the parts; nothing is read yet.

        Args:
            key: returns what to sign with.
            url: of the server; its host and port are signed as the `Host` header has them.
            clock: the time, seconds since the epoch.
            nonce: returns a text that was never used before.
        """
        address = urlsplit(url)
        self._key = key
        self._origin = f"{address.scheme}://{address.netloc}"
        default = {"http": 80, "https": 443}[address.scheme]
        host = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname or ""
        self._authority = host if address.port in (None, default) else f"{host}:{address.port}"
        self._clock = clock
        self._nonce = nonce

    def headers(self, method: str, target: str, body: bytes) -> Mapping[str, str]:
        """Return what signs a request.

        Args:
            target: path and query.
            body: what is sent; empty for none, except for POST and PUT, which always have one.
        """
        key = self._key()
        covered = {"@method": method, "@target-uri": self._origin + target, "@authority": self._authority}
        headers = {}
        if body or method in ("POST", "PUT"):
            headers["Content-Digest"] = f"sha-256={_bytes(hashlib.sha256(body).digest())}"
            covered["content-digest"] = headers["Content-Digest"]
        names = " ".join(f'"{name}"' for name in covered)
        created = int(self._clock())
        parameters = f'({names});created={created};keyid="{key.key_id}";alg="{key.algorithm}";nonce="{self._nonce()}"'
        base = "\n".join(
            [*(f'"{name}": {value}' for name, value in covered.items()), f'"@signature-params": {parameters}']
        )
        headers["Signature-Input"] = f"{_LABEL}={parameters}"
        headers["Signature"] = f"{_LABEL}={_bytes(key.sign(base.encode()))}"
        return headers


def _algorithms_of(key: object) -> tuple[Algorithm, ...]:
    if isinstance(key, rsa.RSAPrivateKey):
        return ("rsa-v1_5-sha256", "rsa-pss-sha256") if key.key_size >= _SMALLEST_RSA else ()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if isinstance(key.curve, ec.SECP256R1):
            return ("ecdsa-p256-sha256",)
        return ("ecdsa-p384-sha384",) if isinstance(key.curve, ec.SECP384R1) else ()
    return ()


def _bytes(content: bytes) -> str:
    """Return bytes as a structured field has them (RFC 8941, 4.1.8)."""
    return f":{base64.b64encode(content).decode()}:"


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, _LARGEST_FILE)
    except OSError as error:
        raise SourceMisconfigured(
            f"{path} cannot be read: {reason(error)}", remedy="make it readable for the user the agent runs as"
        ) from None
