"""SPIFFE X.509-SVIDs of Margo clients, and which of them are accepted (Margo identity framework, WFM identity profile).

    spiffe://plant.example/margo/wfm/main/client/press-07
    spiffe://plant.example/margo/wfm/main/client/*

The second form accepts the whole namespace, said explicitly. A valid certificate alone is never enough.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from margo_gitops.errors import ServerMisconfigured
from margo_gitops.server.identity.callers import is_client
from margo_gitops.server.watched_file import said_lines

_UNRESERVED = r"[A-Za-z0-9._~-]+"
_TRUST_DOMAIN = r"[a-z0-9._-]{1,255}"
_CLIENT_ID = re.compile(rf"spiffe://({_TRUST_DOMAIN})/margo/wfm/({_UNRESERVED})/client/({_UNRESERVED}|\*)")
_MAX_URI = 2048
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


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
    """Return the client that a leaf SVID names; None where it is no leaf SVID of a client.

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
        ServerMisconfigured: a line is no client's SPIFFE ID, or two trust domains or WFMs are mixed: two clients of
            them could have one name.
    """
    found: list[ClientId] = []
    for where, entry in said_lines(text, path):
        client = read_client_id(entry)
        if client is None:
            raise ServerMisconfigured(
                f"{entry[:120]!r} is no client's SPIFFE ID",
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
