"""Certificates of clients: from the connection (mutual TLS), or from a proxy that ended it (RFC 9440).

A certificate is an X.509-SVID: its one URI is the client's SPIFFE ID. The accepted-client policy lists the IDs; a valid
certificate alone is never enough (Margo identity framework, WFM identity profile).

    spiffe://plant.example/margo/wfm/main/client/press-07
    spiffe://plant.example/margo/wfm/main/client/*          all clients of this WFM

A `Client-Cert` header is believed from the configured proxies alone; they must remove what clients send in it. From
everybody else the header means nothing: it is not even a reason to refuse the request.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from starlette.types import Scope

from margo_gitops.errors import ServerMisconfigured
from margo_gitops.server.identity.callers import (
    Caller,
    Network,
    header,
    is_client,
    is_within,
    peer,
    unknown,
)
from margo_gitops.server.watched_file import WatchedFile, said_lines
from margo_gitops.values import dataclass

_MAX_CERTIFICATE: Final = 16 * 1024
_MAX_URI: Final = 2048
_BYTE_SEQUENCE = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_UNRESERVED = r"[A-Za-z0-9._~-]+"
_TRUST_DOMAIN = r"[a-z0-9._-]{1,255}"
_CLIENT_ID = re.compile(rf"spiffe://({_TRUST_DOMAIN})/margo/wfm/({_UNRESERVED})/client/({_UNRESERVED}|\*)")
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class PeerCertificate:
    """Identifies a client by the certificate of its own connection, which TLS has verified against the trust bundle.

    The policy of accepted clients must be readable when this is made (`ServerMisconfigured`).
    """

    challenge: tuple[tuple[str, str], ...] = ()

    def __init__(self, accepted: Path, clock: Callable[[], float]) -> None:
        self._accepted = WatchedFile(accepted, read_accepted_clients, AcceptedClients(), "list of accepted clients")
        self._clock = clock

    def __call__(self, scope: Scope) -> Caller | None:
        """Return the client of a request's certificate."""
        der = self._certificate(scope)
        # Checked on each request: a connection may live longer than its certificate, and than the policy.
        if der is None:
            return unknown(scope, "no client certificate")
        found = accepted_caller(der, self._accepted.value(), self._clock())
        if found is not None:
            return found
        named = _read(der) if len(der) <= _MAX_CERTIFICATE else None
        return unknown(scope, f"{named[0]} is not accepted, or expired" if named else "no certificate of a client")

    def _certificate(self, scope: Scope) -> bytes | None:
        der = scope.get("extensions", {}).get("tls", {}).get("client_cert_der")
        return der if isinstance(der, bytes) else None


class ProxiedCertificate(PeerCertificate):
    """Identifies a client by the certificate that a trusted proxy forwards (RFC 9440)."""

    def __init__(self, proxies: Sequence[Network], accepted: Path, clock: Callable[[], float]) -> None:
        super().__init__(accepted, clock)
        self._proxies = tuple(proxies)

    def _certificate(self, scope: Scope) -> bytes | None:
        if not is_within(peer(scope), self._proxies):
            return None
        value = header(scope, b"client-cert") or ""
        match = _BYTE_SEQUENCE.fullmatch(value) if len(value) <= 2 * _MAX_CERTIFICATE else None
        try:
            return base64.b64decode(match[1], validate=True) if match else None
        except binascii.Error:
            return None


def accepted_caller(der: bytes, accepted: AcceptedClients, now: float) -> Caller | None:
    """Return the client of a verified certificate, if it is valid now and accepted."""
    found = _read(der) if len(der) <= _MAX_CERTIFICATE else None
    if found is None:
        return None
    client, not_before, not_after = found
    if client not in accepted or not not_before <= now <= not_after:
        return None
    return Caller(client.client, str(client))


@lru_cache(maxsize=16_384)
def _read(der: bytes) -> tuple[ClientId, float, float] | None:
    try:
        certificate = x509.load_der_x509_certificate(der)
        client = client_of_certificate(certificate)
        if client is None:
            return None
        return client, certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    except (ValueError, TypeError, x509.InvalidVersion):
        return None


@dataclass(frozen=True, slots=True)
class ClientId:
    """A client's SPIFFE ID, in its parts."""

    trust_domain: str
    wfm: str
    client: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/margo/wfm/{self.wfm}/client/{self.client}"

    @property
    def namespace(self) -> ClientId:
        """All clients of the same WFM."""
        return ClientId(self.trust_domain, self.wfm, "*")


def read_client_id(text: str) -> ClientId | None:
    """Return a SPIFFE ID of exactly the client form (Margo WFM identity profile); None for any other text."""
    match = _CLIENT_ID.fullmatch(text) if len(text) <= _MAX_URI else None
    if match is None or not is_client(match[2]) or (match[3] != "*" and not is_client(match[3])):
        return None
    return ClientId(match[1], match[2], match[3])


def client_of_certificate(certificate: x509.Certificate) -> ClientId | None:
    """Return the client that a leaf SVID names; None if it is not a leaf SVID of a client.

    Exactly one URI name, no certificate authority, no signing of certificates or lists (Margo SVIDs).
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        authority = _extension(certificate, x509.BasicConstraints)
        usage = _extension(certificate, x509.KeyUsage)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return None
    if len(uris) != 1 or (authority is not None and authority.ca):
        return None
    if usage is None or usage.key_cert_sign or usage.crl_sign or not usage.digital_signature:
        return None
    found = read_client_id(uris[0])
    return found if found is not None and found.client != "*" else None


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


class AcceptedClients:
    """The accepted-client policy: SPIFFE IDs one a line, `#` starts a comment."""

    def __init__(self, accepted: Sequence[ClientId] = ()) -> None:
        self._accepted = frozenset(accepted)

    def __contains__(self, client: ClientId) -> bool:
        return client in self._accepted or client.namespace in self._accepted


def read_accepted_clients(text: str, path: Path) -> AcceptedClients:
    """Return the policy in a file.

    Raises:
        ServerMisconfigured: a line is not a client's SPIFFE ID, or two trust domains or WFMs are mixed: two clients of
            them could have one name.
    """
    found: list[ClientId] = []
    for where, entry in said_lines(text, path):
        client = read_client_id(entry)
        if client is None:
            raise ServerMisconfigured(
                f"{entry[:120]!r} is not a client's SPIFFE ID",
                where=where,
                remedy="write: spiffe://<trust domain>/margo/wfm/<wfm-id>/client/<client-id>, or * as the client",
            )
        if found and client.namespace != found[0].namespace:
            raise ServerMisconfigured(
                f"{client} is of another WFM than the lines above",
                where=where,
                remedy="run one server for each WFM",
            )
        found.append(client)
    return AcceptedClients(found)
