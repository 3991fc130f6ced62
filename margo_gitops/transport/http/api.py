"""The resources of the Margo Workload Management API, as requests and replies (Margo desired state, endpoints)."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from margo_gitops.errors import SourceMisbehaved
from margo_gitops.transport.http.body import read_body
from margo_gitops.transport.http.limits import HttpLimits
from margo_gitops.transport.http.source import HttpSource
from margo_gitops.transport.web.connection import WebConnection
from margo_gitops.transport.web.deadline import Deadline

MANIFEST_PATH: Final = "/api/v1/deployments"
_ROOT: Final = "/api/v1/"
_JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, all of it.

    Attributes:
        status: the status code.
        body: decoded, without its Content-Encoding.
        response: what the headers are asked of.
    """

    status: int
    body: bytes
    response: http.client.HTTPResponse = field(repr=False)

    def header(self, name: str) -> str | None:
        """Return the value of a header."""
        return self.response.getheader(name)


class DeviceApi:
    """Asks one server on one kept connection."""

    def __init__(self, source: HttpSource, limits: HttpLimits, connection: WebConnection) -> None:
        """Take the settings; nothing is sent yet."""
        self._prefix = source.prefix
        self._limits = limits
        self._connection = connection

    def get(
        self, target: str, accept: str, limit: int, deadline: Deadline, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Fetch a resource.

        Args:
            target: path and query, with the prefix (`path_of`).
            accept: the media type that is wanted.
            limit: bytes that it may have, decoded.
            deadline: when it must be there.
            headers: more of them.

        Raises:
            TransportError: no usable answer came; any status is one.
        """
        sent = {"Accept": accept, "Accept-Encoding": "gzip"} | dict(headers or {})
        return self._ask("GET", target, sent, b"", limit, deadline)

    def post_status(self, deployment_id: str, document: bytes, deadline: Deadline) -> Reply:
        """Send what became of a deployment (Margo deployment status).

        Raises:
            TransportError: no usable answer came.
        """
        target = f"{self._prefix}{MANIFEST_PATH}/{quote(deployment_id, safe='')}/status"
        return self._ask("POST", target, _JSON, document, self._limits.problem_bytes, deadline)

    def put_capabilities(self, device: str, document: bytes, deadline: Deadline) -> Reply:
        """Send what a device is and offers (Margo device capabilities).

        Raises:
            TransportError: no usable answer came.
        """
        target = f"{self._prefix}{_ROOT}capabilities/{quote(device)}"
        return self._ask("PUT", target, _JSON, document, self._limits.problem_bytes, deadline)

    def path_of(self, url: str) -> str:
        """Return the target of a path from a manifest: on this server, below this prefix, wherever it points.

        Raises:
            SourceMisbehaved: it holds what no path of a request may hold.
        """
        if not url.isascii() or not url.isprintable() or " " in url or "#" in url or not url.startswith("/"):
            raise SourceMisbehaved("the manifest names a path that is none")
        # Some servers write their prefix into the manifest, most do not.
        inside = bool(self._prefix) and url.startswith(self._prefix + _ROOT)
        return url if inside else self._prefix + url

    def close(self) -> None:
        """Close the connection; the next request opens one."""
        self._connection.close()

    def _ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, limit: int, deadline: Deadline
    ) -> Reply:
        with self._connection.exchange(
            method, target, headers, body, max(limit, self._limits.problem_bytes), deadline
        ) as answer:
            bound = limit if answer.status == HTTPStatus.OK else self._limits.problem_bytes
            return Reply(answer.status, read_body(answer, bound), answer.response)
