"""The resources of the Margo Workload Management API, as requests and replies (Margo desired state, endpoints)."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from margo_gitops.transport.http.body import read_body
from margo_gitops.transport.http.contract import MANIFEST, Contract, Submission
from margo_gitops.transport.http.limits import HttpLimits
from margo_gitops.transport.web.connection import WebConnection
from margo_gitops.transport.web.deadline import Deadline

_JSON: Final = {"Content-Type": "application/json"}
_NOT_THIS_METHOD: Final = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.CONFLICT})


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
    """Asks one server on one kept connection, as one version of the contract wants it."""

    def __init__(self, contract: Contract, limits: HttpLimits, connection: WebConnection) -> None:
        """Take the parts; nothing is sent yet."""
        self._contract = contract
        self._limits = limits
        self._connection = connection

    @property
    def manifest_target(self) -> str:
        """Where the manifest is, once the server knows this device."""
        return self._contract.path(MANIFEST)

    def prepare(self, deadline: Deadline) -> bool:
        """Make sure that the server knows this device, as far as that is its own doing; return whether that was news.

        Raises:
            TransportError: it does not, or no usable answer came.
        """

        def submit(submission: Submission) -> tuple[int, bytes]:
            reply = self._submit(submission, deadline)
            return reply.status, reply.body

        return self._contract.prepare(submit)

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
        self.prepare(deadline)
        return self._submit(self._contract.status(deployment_id, document), deadline)

    def put_capabilities(self, device: str, document: bytes, deadline: Deadline) -> Reply:
        """Send what a device is and offers (Margo device capabilities).

        Raises:
            TransportError: no usable answer came.
        """
        self.prepare(deadline)
        return self._submit(self._contract.capabilities(device, document), deadline)

    def path_of(self, url: str) -> str:
        """Return the target of a path from a manifest: on this server, below this prefix, wherever it points.

        Raises:
            SourceMisbehaved: it holds what no path of a request may hold.
        """
        return self._contract.path_of(url)

    def close(self) -> None:
        """Close the connection; the next request opens one."""
        self._connection.close()

    def _submit(self, submission: Submission, deadline: Deadline) -> Reply:
        *others, last = submission.methods
        for method in others:
            reply = self._ask(
                method, submission.target, _JSON, submission.document, self._limits.problem_bytes, deadline
            )
            if reply.status not in _NOT_THIS_METHOD:
                return reply
        return self._ask(last, submission.target, _JSON, submission.document, self._limits.problem_bytes, deadline)

    def _ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, limit: int, deadline: Deadline
    ) -> Reply:
        with self._connection.exchange(
            method, target, headers, body, max(limit, self._limits.problem_bytes), deadline
        ) as answer:
            self._contract.answered(answer.status)
            bound = limit if answer.status == HTTPStatus.OK else self._limits.problem_bytes
            return Reply(answer.status, read_body(answer, bound), answer.response)
