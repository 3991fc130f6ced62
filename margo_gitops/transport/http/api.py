"""The resources of the Margo Workload Management API, as requests and replies (Margo desired state, endpoints).

An answer without success becomes an error here: its problem document says why, and when to come back (RFC 9457; Margo
errors and retry). A body is decoded, and never longer than was asked for (Margo desired state, exact bytes).
"""

from __future__ import annotations

import http.client
import time
import zlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from margo_gitops.disk.stamps import boot_id
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.nodes import Bounds, Node
from margo_gitops.documents.state_layout import BOOT_HEADER, RECEIPTS_PATH
from margo_gitops.errors import SourceBusy, SourceMisbehaved, SourceRefused, TransportError, UnreadableDocument
from margo_gitops.transport.http.contract import MANIFEST, Contract, Submission
from margo_gitops.transport.http.source import HttpLimits, HttpSource
from margo_gitops.values import dataclass, field
from margo_gitops.web.connection import Seal, WebAnswer, WebConnection
from margo_gitops.web.metering import Deadline
from margo_gitops.web.refusal import LONGEST_RETRY_AFTER, Read, Wording, refusal, retry_after, shown
from margo_gitops.web.source import WebSource

_JSON: Final = {"Content-Type": "application/json"}
_NOT_THIS_METHOD: Final = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.CONFLICT})
_BOUNDS: Final = Bounds(size=64 * 1024, depth=8, nodes=2_000)
_WORDING: Final = Wording("desired state", "server", ("/api/v1/deployments",))
_NOT_SIGNED: Final = (
    "check the device's clock, that the server knows itself by the URL of the source, "
    "and that it accepts the certificate"
)
_RETRYABLE: Final = frozenset(
    {HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
)
_PIECE: Final = 64 * 1024
_GZIP: Final = 31  # zlib's window bits: gzip, and nothing else
_MEMBERS: Final = 256  # each costs a copy of what follows it; programs that write many put 64 KiB into each


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, all of it.

    Attributes:
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
    """Asks one server on one kept connection, as one version of the contract wants it.

    An answer with any status is returned; `TransportError` where no usable one came.
    """

    def __init__(self, contract: Contract, limits: HttpLimits, connection: WebConnection) -> None:
        self._contract = contract
        self._limits = limits
        self._connection = connection

    @property
    def manifest_target(self) -> str:
        """Where the manifest is, once the server knows this device."""
        return self._contract.path(MANIFEST)

    def prepare(self, deadline: Deadline) -> bool:
        """Make the server know this device, as far as that is its own doing; return whether that was news."""

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
            limit: bytes that it may have, decoded.
        """
        sent = {"Accept": accept, "Accept-Encoding": "gzip"} | dict(headers or {})
        return self._ask("GET", target, sent, b"", limit, deadline)

    def post_status(self, deployment_id: str, document: bytes, deadline: Deadline) -> Reply:
        """Send what became of a deployment (Margo deployment status)."""
        self.prepare(deadline)
        return self._submit(self._contract.status(deployment_id, document), deadline)

    def put_capabilities(self, device: str, document: bytes, deadline: Deadline) -> Reply:
        """Send what a device is and offers (Margo device capabilities)."""
        self.prepare(deadline)
        return self._submit(self._contract.capabilities(device, document), deadline)

    def post_receipts(self, content: bytes, deadline: Deadline) -> Reply:
        """Send receipts of what ran, as one file of them (docs/receipts.md)."""
        self.prepare(deadline)
        return self._submit(Submission(("POST",), self.path_of(RECEIPTS_PATH), content), deadline)

    def path_of(self, url: str) -> str:
        """Return the target of a path from a manifest: always on this server and below this prefix."""
        return self._contract.path_of(url)

    def close(self) -> None:
        """Close the connection; the next request opens one."""
        self._connection.close()

    def _submit(self, submission: Submission, deadline: Deadline) -> Reply:
        target, document, limit = submission.target, submission.document, self._limits.problem_bytes
        *others, last = submission.methods
        for method in others:
            reply = self._ask(method, target, _JSON, document, limit, deadline)
            if reply.status not in _NOT_THIS_METHOD:
                return reply
        return self._ask(last, target, _JSON, document, limit, deadline)

    def _ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, limit: int, deadline: Deadline
    ) -> Reply:
        with self._connection.exchange(
            method, target, headers, body, max(limit, self._limits.problem_bytes), deadline
        ) as answer:
            self._contract.answered(answer.status)
            bound = limit if answer.status == HTTPStatus.OK else self._limits.problem_bytes
            return Reply(answer.status, read_body(answer, bound), answer.response)


def error_of(reply: Reply, source: WebSource) -> TransportError:
    """Return the error that an answer without success is: refused, busy, or a redirect that is not followed.

    The `Retry-After` header counts more than the member `retryAfterSeconds` of the problem document.
    """
    problem = _problem(reply)
    detail = problem.text("detail") or problem.text("title") or ""
    error = refusal(reply.response, source, _WORDING, shown(detail.encode()))
    if reply.status == HTTPStatus.UNAUTHORIZED and isinstance(source, HttpSource) and source.contract == "g1":
        return SourceRefused(error.what, remedy=_NOT_SIGNED)
    pause = retry_after(reply.header("Retry-After"), reply.header("Date"))
    if pause is None:
        pause = _seconds(problem.get("retryAfterSeconds"))
    if pause is not None and reply.status in _RETRYABLE:
        return SourceBusy(error.what, retry_after=pause, remedy=error.remedy)
    return error


def _problem(reply: Reply) -> Node:
    """Return the problem document; an empty one where it cannot be read."""
    if "json" not in (reply.header("Content-Type") or ""):
        return Node({})
    try:
        return read_json(reply.body, "problem", _BOUNDS).root
    except UnreadableDocument:
        return Node({})


def _seconds(node: Node | None) -> float | None:
    value = node.value if node is not None else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None
    return min(float(value), LONGEST_RETRY_AFTER)


def read_body(answer: WebAnswer, limit: int) -> bytes:
    """Return the body of an answer, after undoing its Content-Encoding.

    Args:
        answer: of which nothing was read yet.
        limit: the most bytes it may have, decoded.

    Raises:
        SourceMisbehaved: it is longer, cut off, or in an encoding that the request did not allow.
    """
    encoding = (answer.header("Content-Encoding") or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise SourceMisbehaved(f"the answer is encoded as {shown(encoding.encode())}, which the request did not allow")
    packed = _read(answer.read, limit + _PIECE)
    promised = answer.response.length
    if promised:
        raise SourceMisbehaved(f"the answer ends {promised} bytes early")
    if encoding == "identity":
        if len(packed) > limit:
            raise SourceMisbehaved(f"the answer is longer than the {limit} bytes it may have")
        return packed
    try:
        return gunzip(packed, limit)
    except ValueError as error:
        raise SourceMisbehaved(f"the answer cannot be unpacked: {error}") from error


def gunzip(packed: bytes, limit: int) -> bytes:
    """Return the content of a gzip file of one or more members (RFC 1952).

    Raises:
        ValueError: it is damaged, cut off, holds more than `limit` bytes, or has more members than any program writes.
    """
    parts: list[bytes] = []
    size = members = 0
    while packed:
        members += 1
        if members > _MEMBERS:
            raise ValueError(f"it has more than {_MEMBERS} members")
        unpacking = zlib.decompressobj(wbits=_GZIP)
        try:
            part = unpacking.decompress(packed, limit - size + 1)
        except zlib.error as error:
            raise ValueError(f"it is not valid gzip ({error})") from error
        size += len(part)
        if size > limit:
            raise ValueError(f"it holds more than {limit} bytes")
        if not unpacking.eof:
            raise ValueError("it is cut off")
        parts.append(part)
        packed = unpacking.unused_data
    return b"".join(parts)


def _read(read: Read, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := read(_PIECE):
        size += len(part)
        if size > limit:
            raise SourceMisbehaved("the answer is longer than an answer of this kind may be")
        parts.append(part)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Spoken:
    """One version of the contract.

    Attributes:
        seal: what signs each request; None for nothing.
    """

    contract: Contract
    seal: Seal | None = None


def speak(source: HttpSource) -> Spoken:
    """Return the version that a source is set to; nothing is read or sent yet."""
    if source.contract == "g2" or not (source.signing_certificate and source.signing_key and source.device):
        boot = {BOOT_HEADER: boot_id()} if source.send_boot else {}
        return Spoken(Contract(source.prefix), (lambda *_: boot) if boot else None)
    # A device that speaks the current version does not load what the older one needs.
    from margo_gitops.transport.http.older_contract import ClientIdFile, SignedContract
    from margo_gitops.transport.http.signing import DeviceKeyFiles, RequestSigner

    key = DeviceKeyFiles(source.signing_certificate, source.signing_key, source.signature_algorithm)
    ids = ClientIdFile(source.client_id_file, source.url)
    contract = SignedContract(source.prefix, source.device, key, ids, source.client_id)
    return Spoken(contract, RequestSigner(key, source.url, time.time).headers)
