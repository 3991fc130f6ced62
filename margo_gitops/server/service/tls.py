"""TLS by the server itself, with certificates of clients where they present one (Margo TLS requirements).

L-1  TLS 1.3 only.
L-2  A certificate that does not lead to the trust bundle ends the handshake; having none is refused by the resources,
     that health can be asked without one.
L-3  Certificate, key and trust bundle are read again when their files change; the next handshake uses them.
L-4  No session is resumed, and a connection ends after an hour: an old trust bundle does not live on in either.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from margo_gitops.errors import Location, MargoGitopsError, ServerMisconfigured
from margo_gitops.server.service.connection import BoundedConnection

_LOG = logging.getLogger("margo_gitops.server")
_LONGEST_CONNECTION: Final = 3600.0

_Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class TlsConnection(BoundedConnection):
    """A connection that tells its requests which certificate the client presented."""

    _certificate: bytes | None = None
    _began: float = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take over the connection, after its handshake."""
        super().connection_made(transport)
        connection = transport.get_extra_info("ssl_object")
        self._certificate = connection.getpeercert(binary_form=True) if connection is not None else None
        self._began = time.monotonic()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        ending = time.monotonic() - self._began > _LONGEST_CONNECTION
        self.scope["extensions"] = {"tls": {"client_cert_der": self._certificate, "ending": ending}}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What TLS is made of.

    Attributes:
        certificate: certificate chain (PEM).
        key: its private key (PEM).
        client_trust: certificates (PEM) that those of clients must lead to; None: clients are not asked for one.
    """

    certificate: Path
    key: Path
    client_trust: Path | None


class RenewedTls:
    """The settings of TLS, as the files are now (L-3)."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            ServerMisconfigured: one cannot be read, or holds something else.
        """
        self._files = files
        self._stamp = self._look()
        self._newest = _make(files)
        self.context = _make(files)
        # Called in every handshake, whether the client names a server or not.
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._newest = _make(self._files)
                _LOG.info("TLS uses the renewed files")
            except MargoGitopsError as error:
                _LOG.error("TLS goes on with what it had: %s", error)
        connection.context = self._newest

    def _look(self) -> _Stamp:
        return tuple(_mark(path) for path in (self._files.certificate, self._files.key, self._files.client_trust))


def _mark(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path) if path else None  # noqa: PTH116  # in every handshake
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


def _make(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise ServerMisconfigured(
            "the server's certificate and key cannot be used",
            where=Location(str(files.certificate)),
            why=[f"with the key {files.key}: {error}"],
            remedy="give a PEM chain and its unencrypted PEM key",
        ) from error
    if files.client_trust is not None:
        try:
            context.load_verify_locations(cafile=files.client_trust)
        except (OSError, ssl.SSLError) as error:
            raise ServerMisconfigured(
                "the trust bundle of clients cannot be read", where=Location(str(files.client_trust)), why=[str(error)]
            ) from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
