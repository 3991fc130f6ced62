"""What a server says with an error: problem documents, and when to come back (RFC 9457; Margo errors and retry)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from margo_gitops.documents.json_reader import read_json
from margo_gitops.documents.nodes import Bounds, Node
from margo_gitops.errors import SourceBusy, SourceRefused, TransportError, UnreadableDocument
from margo_gitops.transport.http.api import Reply
from margo_gitops.transport.http.source import HttpSource
from margo_gitops.transport.incoming import shown
from margo_gitops.transport.web.refusal import LONGEST_RETRY_AFTER, Wording, refusal, retry_after
from margo_gitops.transport.web.source import WebSource

_BOUNDS: Final = Bounds(size=64 * 1024, depth=8, nodes=2_000)
_WORDING: Final = Wording("desired state", "server", ("/api/v1/deployments",))
_NOT_SIGNED: Final = (
    "check the device's clock, that the server knows itself by the URL of the source, "
    "and that it accepts the certificate"
)
_RETRYABLE: Final = frozenset(
    {HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
)


def error_of(reply: Reply, source: WebSource) -> TransportError:
    """Return the error that an answer without success is: refused, busy, or a redirect that is not followed.

    The `Retry-After` header counts more than the member `retryAfterSeconds` of the problem document.

    Args:
        reply: the answer.
        source: where it comes from.
    """
    problem = _problem(reply)
    detail = problem.text("detail") or problem.text("title") or ""
    error = refusal(reply.response, source, _WORDING, shown(detail.encode()))
    if reply.status == HTTPStatus.UNAUTHORIZED and isinstance(source, HttpSource) and source.contract == "g1":
        return SourceRefused(error.what, remedy=_NOT_SIGNED)
    pause = retry_after(reply.header("Retry-After"))
    if pause is None:
        pause = _seconds(problem.get("retryAfterSeconds"))
    if pause is not None and reply.status in _RETRYABLE:
        return SourceBusy(error.what, retry_after=pause, remedy=error.remedy)
    return error


def _problem(reply: Reply) -> Node:
    """Return the problem document; an empty one where there is none that can be read."""
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
