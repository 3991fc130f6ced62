"""Where a device reads its desired state over HTTP: the settings, checked by the rules of `transport.web.source`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from margo_gitops.transport.web.source import (
    TLS_SETTINGS,
    check_foreign,
    check_secrets,
    check_times,
    parse_address,
    refuse_settings,
)

_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*/?")
_SPIFFE_ID: Final = re.compile(r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._~-]+)+")
_REMEDY: Final = "give https://host[:port], with the path that stands before /api/v1 if there is one"


@dataclass(frozen=True, slots=True)
class HttpSource:
    """Settings of one source; made once, checked when made.

    Attributes:
        url: base of the API, `https://host[:port][/prefix]`: what stands before `/api/v1/deployments`.
        token_file: file that holds the token and nothing else; read again whenever it changes.
        token_variable: name of the environment variable that holds the token; read at each request.
        username: send the token as the password of this user (Basic) instead of as a bearer token.
        allow_plain_token: let the token travel over http to another machine.
        ca_file: certificates (PEM) to trust instead of the system's.
        client_certificate: certificate chain (PEM) to present to the server; read again whenever it changes.
        client_key: its private key (PEM, unencrypted); None where it is in the file of the certificate.
        server_spiffe_id: the SPIFFE ID that the server's certificate must have; then its host name does not count.
        proxy_from_environment: honour http_proxy, https_proxy and no_proxy.
        connect_seconds: bound on one connection attempt, TLS included.
        read_seconds: bound on each wait for the other side; a poll that waits for a change waits longer.
        pull_seconds: bound on one whole pull, without what it waits for a change.
    """

    url: str
    token_file: Path | None = None
    token_variable: str | None = None
    username: str | None = None
    allow_plain_token: bool = False
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    server_spiffe_id: str | None = None
    proxy_from_environment: bool = False
    connect_seconds: float = 15
    read_seconds: float = 30
    pull_seconds: float = 300

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            SourceMisconfigured: they cannot work, or would give a secret away.
        """
        address = parse_address(self.url, ("https", "http"), _REMEDY)
        if not _PATH.fullmatch(address.path):
            refuse_settings("the path in the URL of the source holds what no path may hold", _REMEDY)
        foreign = (
            [name for name in (*TLS_SETTINGS, "server_spiffe_id") if getattr(self, name)]
            if address.scheme == "http"
            else []
        )
        check_foreign(foreign, address)
        if self.server_spiffe_id is not None and not _SPIFFE_ID.fullmatch(self.server_spiffe_id):
            refuse_settings("the SPIFFE ID of the server is none", "give it as spiffe://<trust domain>/margo/wfm/<id>")
        check_secrets(self, address)
        check_times(self)

    @property
    def address(self) -> SplitResult:
        """The URL in its parts."""
        return urlsplit(self.url)

    @property
    def prefix(self) -> str:
        """The path before `/api/v1`, without a slash at its end."""
        return self.address.path.rstrip("/")
