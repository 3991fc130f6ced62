"""Certificates of clients: from the connection itself (mutual TLS), or from a proxy that ended it (RFC 9440).

A `Client-Cert` header is believed from the configured proxies alone; they must remove what clients send in it. From
everybody else the header means nothing, not even that the request is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from starlette.types import Scope

from margo_gitops.server.identity.callers import Caller, Network, header, is_within, peer
from margo_gitops.server.identity.spiffe import AcceptedClients, ClientId, client_of_certificate, read_accepted_clients
from margo_gitops.server.watched_file import WatchedFile

_MAX_CERTIFICATE: Final = 16 * 1024
_BYTE_SEQUENCE = re.compile(r":([A-Za-z0-9+/]*={0,2}):")


class ProxiedCertificate:
    """Identifies a client by the certificate that a trusted proxy forwards (RFC 9440)."""

    challenge: tuple[tuple[str, str], ...] = ()

    def __init__(self, proxies: Sequence[Network], accepted: Path, clock: Callable[[], float]) -> None:
        """Believe these proxies.

        Args:
            proxies: their addresses.
            accepted: file with the accepted-client policy.
            clock: the time, seconds since the epoch.

        Raises:
            ServerMisconfigured: the policy cannot be read, or has a mistake.
        """
        self._proxies = tuple(proxies)
        self._accepted = WatchedFile(accepted, read_accepted_clients, AcceptedClients())
        self._clock = clock

    def __call__(self, scope: Scope) -> Caller | None:
        """Return whose certificate a proxy forwards."""
        if not is_within(peer(scope), self._proxies):
            return None
        value = header(scope, b"client-cert") or ""
        match = _BYTE_SEQUENCE.fullmatch(value) if len(value) <= 2 * _MAX_CERTIFICATE else None
        if match is None:
            return None
        try:
            der = base64.b64decode(match[1], validate=True)
        except binascii.Error:
            return None
        return accepted_caller(der, self._accepted.value(), self._clock())


class PeerCertificate:
    """Identifies a client by the certificate of its own connection, which TLS has verified against the trust bundle."""

    challenge: tuple[tuple[str, str], ...] = ()

    def __init__(self, accepted: Path, clock: Callable[[], float]) -> None:
        """Accept the clients of a policy.

        Args:
            accepted: file with the accepted-client policy.
            clock: the time, seconds since the epoch.

        Raises:
            ServerMisconfigured: the policy cannot be read, or has a mistake.
        """
        self._accepted = WatchedFile(accepted, read_accepted_clients, AcceptedClients())
        self._clock = clock

    def __call__(self, scope: Scope) -> Caller | None:
        """Return whose certificate the connection has."""
        der = scope.get("extensions", {}).get("tls", {}).get("client_cert_der")
        # Checked on each request: a connection may live longer than its certificate, and than the policy.
        return accepted_caller(der, self._accepted.value(), self._clock()) if isinstance(der, bytes) else None


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
