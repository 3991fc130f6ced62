"""Onboarding (Margo device client onboarding and certificate API, G1): a certificate gets a client id.

A client proves that it has the certificate's key by signing the request. Only certificates that the server's operator
has listed get an id, so that the registry cannot be filled by strangers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.responses import JSONResponse, Response

from margo_gitops.digests import Digest
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.nodes import Bounds
from margo_gitops.errors import Location, MargoGitopsError, ServerMisconfigured, UnreadableDocument
from margo_gitops.server.contracts.registry import ClientCertificate, ClientRegistry, read_certificate
from margo_gitops.server.contracts.signatures import SignatureProfile, SignatureVerifier, digest_fits
from margo_gitops.server.problems import NOT_FOUND, NOT_STORED, Problem, RequestRefused
from margo_gitops.server.requests import MAX_BODY, read_body
from margo_gitops.server.routing import Call
from margo_gitops.server.watched_file import WatchedFile
from margo_gitops.values import dataclass

BAD_DIGEST: Final = Problem(
    400, "Content digest missing or wrong", "invalid-request", "Content-Digest must be there and fit the body."
)
NOT_SIGNED: Final = Problem(
    401,
    "Signature not verified",
    headers=(
        ("WWW-Authenticate", 'Signature realm="margo"'),
        ("Accept-Signature", 'sig1=("@method" "@target-uri" "@authority" "content-digest");created;keyid'),
    ),
)
"""One text for an unknown client, another's key, a wrong signature, an old one, one seen before, and none."""

_BOUNDS: Final = Bounds(size=MAX_BODY, depth=4, nodes=50)
_NO_STORE: Final = {"Cache-Control": "no-store"}
_PEM: Final = b"-----BEGIN"
_KIND: Final = "OnboardingRequest"
_LOG = logging.getLogger("margo_gitops.server")


@dataclass(frozen=True, slots=True)
class Onboarding:
    """Answers the requests of clients that have no id yet.

    Attributes:
        accepted: the device of each accepted certificate.
        profile: strict refuses a certificate that has an id already (409).
        unsigned: whether a request may come without signature.
        root: the authority of the server's own certificate; None: clients get it elsewhere.
        clock: the time, seconds since the epoch.
    """

    registry: ClientRegistry
    accepted: WatchedFile[Mapping[Digest, str]]
    verifier: SignatureVerifier
    profile: SignatureProfile
    unsigned: bool
    root: WatchedFile[str] | None
    clock: Callable[[], float]

    async def root_certificate(self, _call: Call) -> Response:
        """Answer with the authority of the server's certificate, base64 of its PEM text."""
        text = self.root.value() if self.root is not None else ""
        if not text:
            raise RequestRefused(NOT_FOUND)
        return JSONResponse({"certificate": base64.b64encode(text.encode()).decode()}, 200, _NO_STORE)

    async def onboard(self, call: Call) -> Response:
        """Answer with the client id of a certificate: 201; the same id where it has one."""
        scope, body = call.scope, await read_body(call.scope, call.receive)
        named = {name for name, _ in scope["headers"]}
        signed = not self.unsigned or b"signature" in named
        if (signed or b"content-digest" in named) and not digest_fits(scope, body):
            raise RequestRefused(BAD_DIGEST)
        try:
            certificate = read_onboarding_request(body)
        except ValueError:
            return _refused(400, "Invalid certificate")
        if signed and self.verifier.verify(scope, lambda _: certificate.key, has_body=True) is None:
            raise RequestRefused(NOT_SIGNED)
        if certificate.fingerprint not in self.accepted.value() or not certificate.holds_at(self.clock()):
            _LOG.info("a client whose certificate is not accepted asked for an id: %s", certificate.fingerprint)
            return _refused(403, "Client rejected")
        try:
            client_id, made = await asyncio.to_thread(self.registry.issue, certificate)
        except MargoGitopsError as error:
            _LOG.error("no client id was issued: %s", error)
            raise RequestRefused(NOT_STORED) from error
        if self.profile == "strict" and not made:
            return _refused(409, "Client is onboarded already")
        return JSONResponse({"clientId": client_id}, 201, _NO_STORE)


def read_root_certificate(text: str, path: Path) -> str:
    """Return a PEM file's text (ServerMisconfigured: it holds no certificate)."""
    try:
        x509.load_pem_x509_certificates(text.encode())
    except (ValueError, x509.InvalidVersion) as error:
        raise ServerMisconfigured(
            "the root certificate cannot be used",
            where=Location(str(path)),
            why=[str(error)],
            remedy="give a PEM certificate",
        ) from error
    return text


def read_onboarding_request(body: bytes) -> ClientCertificate:
    """Return the certificate in a request, which may be base64 of DER or of PEM, or PEM text.

    Raises:
        ValueError: there is no certificate that can be used.
    """
    try:
        root = read_json(body, "body", _BOUNDS).root
    except UnreadableDocument as error:
        raise ValueError("not JSON") from error
    text = root.text("certificate")
    if root.text("kind") != _KIND or not root.text("apiVersion") or not text or not text.isascii():
        raise ValueError("not an onboarding request")
    content = text.encode()
    if not content.startswith(_PEM):
        try:
            content = base64.b64decode(b"".join(content.split()), validate=True)
        except binascii.Error as error:
            raise ValueError("not base64") from error
    if content.lstrip().startswith(_PEM):
        try:
            content = x509.load_pem_x509_certificate(content).public_bytes(Encoding.DER)
        except x509.InvalidVersion as error:
            raise ValueError("no certificate") from error
    return read_certificate(content)


def _refused(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status, _NO_STORE)
