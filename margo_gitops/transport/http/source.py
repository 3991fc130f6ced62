"""Where a device reads its desired state over HTTP: the settings, checked by the rules of `transport.web.source`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from margo_gitops.transport.web.source import (
    TLS_SETTINGS,
    WebSource,
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
class HttpSource(WebSource):
    """Settings of one source; made once, checked when made.

    Its URL is the base of the API, `https://host[:port][/prefix]`: what stands before `/api/v1/deployments`. A poll
    that waits for a change waits longer than `read_seconds`, and does not count for `pull_seconds`.

    Attributes:
        server_spiffe_id: the SPIFFE ID that the server's certificate must have; then its host name does not count.
    """

    server_spiffe_id: str | None = None

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
    def prefix(self) -> str:
        """The path before `/api/v1`, without a slash at its end."""
        return self.address.path.rstrip("/")
