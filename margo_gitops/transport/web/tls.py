"""What makes a server trusted, and the device known to it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from margo_gitops.errors import SourceMisconfigured, SourceUnreachable
from margo_gitops.transport.incoming import shown
from margo_gitops.transport.web.source import WebSource

_Certificate = Mapping[str, object]
_Stamp = tuple[tuple[int, int, int] | None, ...]


class TlsSettings:
    """The TLS context of a source; made anew when one of its files changes, as certificates are renewed in place."""

    def __init__(self, source: WebSource, spiffe_id: str | None = None) -> None:
        """Take the settings; nothing is read yet.

        Args:
            source: where the certificates are.
            spiffe_id: who the server must be, in place of the host it is reached at (Margo identity profile).
        """
        self._source = source
        self._spiffe_id = spiffe_id
        self._files = [
            path for path in (source.ca_file, source.client_certificate, source.client_key) if path is not None
        ]
        self._context: ssl.SSLContext | None = None
        self._stamp: _Stamp = ()

    def changed(self) -> bool:
        """Return whether a file changed since the context was made, so that sessions of the old one cannot go on."""
        return self._context is not None and self._stamp != tuple(_stamp(path) for path in self._files)

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection.

        Raises:
            SourceMisconfigured: a file cannot be read, or is not what it should be.
        """
        if self._context is None or self.changed():
            stamp = tuple(_stamp(path) for path in self._files)
            self._context = self._make()
            self._stamp = stamp
        return self._context

    def check_server(self, certificate: _Certificate | None) -> None:
        """Check who the server is, where that is not a matter of its host name: exactly one URI, and that one.

        Args:
            certificate: of a chain that was verified, as `ssl.SSLSocket.getpeercert` gives it.

        Raises:
            SourceUnreachable: it is somebody else.
        """
        if self._spiffe_id is None:
            return
        names = (certificate or {}).get("subjectAltName")
        uris = [str(pair[1]) for pair in names if pair[0] == "URI"] if isinstance(names, tuple) else []
        if uris != [self._spiffe_id]:
            found = ", ".join(shown(uri.encode()) for uri in uris) or "none"
            raise SourceUnreachable(
                f"the server's SPIFFE ID is {found}, not {self._spiffe_id}",
                remedy="check the URL, and the SPIFFE ID in the settings of the source",
            )

    def _make(self) -> ssl.SSLContext:
        ca_file, certificate, key = self._source.ca_file, self._source.client_certificate, self._source.client_key
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise _unusable("the CA file", ca_file, error, "it should hold certificates in PEM form") from error
        # The chain is verified either way.
        context.check_hostname = self._spiffe_id is None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])

        if certificate is not None:
            try:
                # An empty passphrase: OpenSSL would otherwise ask a terminal that nobody sits at.
                context.load_cert_chain(certificate, key, password="")
            except OSError as error:
                files = f"{certificate}, {key}" if key else f"{certificate}"
                remedy = "they should be a PEM certificate chain and its own, unencrypted PEM key"
                raise _unusable("the client certificate and key", files, error, remedy) from error
        return context


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _unusable(what: str, where: Path | str | None, error: OSError, remedy: str) -> SourceMisconfigured:
    reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or type(error).__name__
    return SourceMisconfigured(f"{what} ({where}) cannot be used: {reason.lower().replace('_', ' ')}", remedy=remedy)
