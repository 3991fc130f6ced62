"""Where devices find the trust bundle: `/.well-known/margo` and the bundle itself (Margo trust bundle and discovery).

Both are public: they hold no secret, and a device asks before it trusts anybody. It must not believe the answer by
itself: first contact is authenticated by anchors or pins that the device was given.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from starlette.responses import Response

from margo_gitops.digests import sha256
from margo_gitops.errors import Location, ServerMisconfigured
from margo_gitops.server.identity.callers import header
from margo_gitops.server.problems import Problem, RequestRefused
from margo_gitops.server.requests import holds
from margo_gitops.server.routing import Call
from margo_gitops.server.watched_file import WatchedFile
from margo_gitops.values import dataclass

BUNDLE_PATH: Final = "/.well-known/margo/trust-bundle"
BundleKeys: TypeAlias = tuple[dict[str, object], ...]
"""JSON Web Keys, each with its certificate."""

_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384"}
_NO_BUNDLE: Final = Problem(503, "No trust bundle", retry_after=60)


@dataclass(frozen=True, slots=True)
class TrustDiscovery:
    """Answers about the trust domain.

    Attributes:
        public_url: where devices reach this server, `https://…` without a slash at its end.
        bundle: the trust bundle's keys, as the file is now.
        refresh_seconds: how often devices should look for a new bundle.
    """

    trust_domain: str
    public_url: str
    bundle: WatchedFile[BundleKeys]
    refresh_seconds: int

    async def document(self, call: Call) -> Response:
        """Answer with the discovery document."""
        return _answer(call, {"trustDomain": self.trust_domain, "trustBundleUri": f"{self.public_url}{BUNDLE_PATH}"})

    async def trust_bundle(self, call: Call) -> Response:
        """Answer with the trust bundle."""
        keys = self.bundle.value()
        if not keys:
            raise RequestRefused(_NO_BUNDLE)  # an empty bundle would be an order to trust nobody
        document: dict[str, object] = {
            "keys": list(keys),
            # Greater with every new bundle, as devices refuse a smaller one.
            "spiffe_sequence": self.bundle.changed_at,
            "spiffe_refresh_hint": self.refresh_seconds,
        }
        return _answer(call, document)


def _answer(call: Call, document: dict[str, object]) -> Response:
    body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    digest = sha256(body)
    headers = {"ETag": f'"{digest}"', "Cache-Control": "no-cache"}
    if holds(header(call.scope, b"if-none-match"), digest):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, "application/json")


def read_trust_bundle(text: str, path: Path) -> BundleKeys:
    """Return the certificates of a PEM file as keys of a SPIFFE bundle (SPIFFE trust domain and bundle, section 4).

    Raises:
        ServerMisconfigured: it holds no certificate, or one that is not an authority or has a key of another kind.
    """
    where = Location(str(path))
    try:
        certificates = x509.load_pem_x509_certificates(text.encode())
        return tuple(_key(certificate) for certificate in certificates)
    except (ValueError, x509.InvalidVersion) as error:
        raise ServerMisconfigured(
            "the trust bundle cannot be used", where=where, why=[str(error)], remedy="give the authorities as PEM"
        ) from error


def _key(certificate: x509.Certificate) -> dict[str, object]:
    try:
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    if not authority:
        raise ValueError("a certificate in it does not belong to an authority")
    der = certificate.public_bytes(serialization.Encoding.DER)
    return {
        **_public_key(certificate.public_key()),
        "use": "x509-svid",
        "x5c": [base64.b64encode(der).decode()],
    }


def _public_key(key: object) -> dict[str, object]:
    """Return a public key as a JSON Web Key (RFC 7517, RFC 7518 section 6, RFC 8037)."""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        numbers, size = key.public_numbers(), key.curve.key_size // 8
        point = {"x": _number(numbers.x, size), "y": _number(numbers.y, size)}
        return {"kty": "EC", "crv": _CURVES[key.curve.name], **point}
    if isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        return {"kty": "RSA", "n": _number(public.n), "e": _number(public.e)}
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": _base64url(key.public_bytes_raw())}
    raise ValueError("a certificate in it has a key that Margo does not name (EC P-256 and P-384, RSA, Ed25519)")


def _number(value: int, size: int = 0) -> str:
    return _base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
