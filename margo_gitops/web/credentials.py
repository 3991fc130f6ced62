"""What proves the device to a server, and the server to the device: a token, certificates, a SPIFFE ID."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from margo_gitops.disk.files import read_bounded, reason
from margo_gitops.disk.stamps import FileWatch
from margo_gitops.errors import SourceMisconfigured, SourceUnreachable
from margo_gitops.web.refusal import shown
from margo_gitops.web.source import WebSource
from margo_gitops.web.tls import client_context

_LONGEST_TOKEN = 16 * 1024


class Credentials:
    """Makes the Authorization header of each request; a token file is read again only when it changed."""

    def __init__(self, source: WebSource) -> None:
        self._source = source
        self._watch = FileWatch(source.token_file) if source.token_file else None
        self._token = ""

    def authorization(self) -> str | None:
        """Return the value of the header; None where the source needs no token.

        Raises:
            SourceMisconfigured: there is no token, or it cannot be read.
        """
        token = self._read()
        if token is None:
            return None
        if self._source.username is None:
            return f"Bearer {token}"
        return "Basic " + base64.b64encode(f"{self._source.username}:{token}".encode()).decode()

    def _read(self) -> str | None:
        if self._source.token_variable is not None:
            name = self._source.token_variable
            return _checked(os.environ.get(name, ""), f"the environment variable {name}")
        path = self._source.token_file
        if path is None or self._watch is None:
            return None
        if not self._token or self._watch.changed():
            self._token = ""
            self._watch.mark()
            self._token = _checked(_text(path), f"the token file {path}")
        return self._token


def _text(path: Path) -> str:
    try:
        return read_bounded(path, _LONGEST_TOKEN).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is not text"
        raise SourceMisconfigured(
            f"the token file {path} cannot be read: {why}",
            remedy="write the token into it, readable for the user the agent runs as",
        ) from None


def _checked(text: str, what: str) -> str:
    token = text.strip()
    if not token:
        raise SourceMisconfigured(f"{what} holds no token", remedy="put the token there, and nothing else")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SourceMisconfigured(
            f"{what} holds more than a token: blanks, lines or characters outside ASCII",
            remedy="put the token there, and nothing else",
        )
    return token


_Certificate = Mapping[str, object]


class TlsSettings:
    """The TLS context of a source; made again when one of its files changes, as certificates are renewed in place.

    With a SPIFFE ID, that is who the server must be, in place of its host (Margo identity profile).
    """

    def __init__(self, source: WebSource, spiffe_id: str | None = None) -> None:
        self._source = source
        self._spiffe_id = spiffe_id
        files = (source.ca_file, source.client_certificate, source.client_key)
        self._watch = FileWatch(*(path for path in files if path is not None))
        self._context: ssl.SSLContext | None = None

    def changed(self) -> bool:
        """Return whether a file changed since the context was made, so that sessions of the old one must end."""
        return self._context is not None and self._watch.changed()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection (SourceMisconfigured: a file is unreadable or of another kind)."""
        if self._context is None or self.changed():
            self._context = None
            self._watch.mark()
            self._context = self._make()
        return self._context

    def check_server(self, certificate: _Certificate | None) -> None:
        """Check who the server is, where that is not a matter of its host name: exactly one URI, and that one.

        Args:
            certificate: of a chain that was verified, as `ssl.SSLSocket.getpeercert` gives it.

        Raises:
            SourceUnreachable: it is another server.
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
            context = client_context(ca_file)
        except OSError as error:
            raise _unusable("the CA file", ca_file, error, "it should hold certificates in PEM form") from error
        # The chain is verified either way.
        context.check_hostname = self._spiffe_id is None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])

        if certificate is not None:
            try:
                # An empty passphrase: OpenSSL would otherwise ask at a terminal.
                context.load_cert_chain(certificate, key, password="")
            except OSError as error:
                files = f"{certificate}, {key}" if key else f"{certificate}"
                remedy = "they should be a PEM certificate chain and its own, unencrypted PEM key"
                raise _unusable("the client certificate and key", files, error, remedy) from error
        return context


def _unusable(what: str, where: Path | str | None, error: OSError, remedy: str) -> SourceMisconfigured:
    reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or type(error).__name__
    return SourceMisconfigured(f"{what} ({where}) cannot be used: {reason.lower().replace('_', ' ')}", remedy=remedy)
