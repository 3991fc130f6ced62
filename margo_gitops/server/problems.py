"""Errors as problem documents (RFC 9457) with Margo's members for retries (Margo API requirements, errors).

Refusals say nothing about what exists: one text for every request that is not authorized, and one for everything that
is not there for this device.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from margo_gitops.values import dataclass, replace

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
PROBLEM_TYPES: Final = "https://docs.margo.org/specification/margo-management-interface/problem-types"
"""Base of the registered types. OpenAPI rc.3 prints a shorter base; the registry's own page is right."""

RETRYABLE: Final = (429, 500, 503)


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field of a request's body."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document.

    Attributes:
        title: the same for every problem of this type.
        fragment: of Margo's registered type; empty for `about:blank`.
        detail: about this occurrence; empty where it would tell too much.
        errors: field by field.
        retry_after: seconds; None for a problem that a retry does not fix.
    """

    status: int
    title: str
    fragment: str = ""
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    retry_after: int | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def response(self) -> Response:
        """Return the problem as a response."""
        content: dict[str, object] = {
            "type": f"{PROBLEM_TYPES}#{self.fragment}" if self.fragment else "about:blank",
            "title": self.title,
            "status": self.status,
        }
        if self.detail:
            content["detail"] = self.detail
        if self.errors:
            content["errors"] = [{"field": each.field, "message": each.message} for each in self.errors]
        retryable = self.status in RETRYABLE
        content |= {"retryable": retryable, "backoffStrategy": "exponential" if retryable else "none"}
        headers = {"Cache-Control": "no-store", **dict(self.headers)}
        if retryable and self.retry_after is not None:
            content["retryAfterSeconds"] = self.retry_after
            headers["Retry-After"] = str(self.retry_after)
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        return Response(body, self.status, headers, PROBLEM_MEDIA_TYPE)

    @property
    def reason(self) -> str:
        """What the log says of it."""
        fields = "; ".join(f"{each.field} {each.message}" for each in self.errors)
        return ": ".join(part for part in (self.title, self.detail, fields) if part)

    def because(self, detail: str, errors: Sequence[FieldError] = ()) -> Problem:
        """Return this problem with what it is about this time."""
        return replace(self, detail=detail, errors=tuple(errors))

    def with_headers(self, headers: tuple[tuple[str, str], ...]) -> Problem:
        """Return this problem with further response headers."""
        return replace(self, headers=(*self.headers, *headers))

    def later(self, seconds: int) -> Problem:
        """Return this problem with a time to come back."""
        return replace(self, retry_after=seconds)


class RequestRefused(Exception):
    """Ends a request with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title)
        self.problem = problem


NOT_AUTHORIZED: Final = Problem(403, "Not authorized", "not-authorized")
NOT_FOUND: Final = Problem(404, "Not found")
DEPLOYMENT_NOT_FOUND: Final = Problem(404, "Deployment not found", "deployment-not-found")
BUNDLE_NOT_FOUND: Final = Problem(404, "Bundle not found", "invalid-bundle")
COMMIT_NOT_FOUND: Final = Problem(404, "No commit of such a manifest")
FRESHNESS_NOT_FOUND: Final = Problem(404, "No statement of freshness")
TRUST_NOT_FOUND: Final = Problem(404, "No such trust document")
DEVICE_NOT_FOUND: Final = Problem(404, "Device not found", "device-not-found")
GATEWAY_NOT_FOUND: Final = Problem(404, "Gateway not found", "gateway-not-found")
INVALID_REQUEST: Final = Problem(400, "Invalid request", "invalid-request")
SEMANTIC_ERROR: Final = Problem(422, "Semantic error", "semantic-error")
NOT_ACCEPTABLE: Final = Problem(406, "Server cannot generate the response", "server-cannot-generate-response")
TOO_SLOW: Final = Problem(408, "Request timeout", headers=(("Connection", "close"),))
TOO_LARGE: Final = Problem(413, "Content too large", headers=(("Connection", "close"),))
ENCODED_BODY: Final = Problem(415, "Unsupported content coding", headers=(("Accept-Encoding", "identity"),))
TOO_MANY: Final = Problem(429, "Too many requests", retry_after=5)
DEFECT: Final = Problem(500, "Internal server error", retry_after=30)
ENDING: Final = Problem(503, "The server ends", detail="It starts again, or another one answers.", retry_after=5)
OVERLOADED: Final = Problem(503, "Overloaded", retry_after=5)
NOT_STORED: Final = Problem(503, "Reports cannot be stored", retry_after=30)
NO_STATE: Final = Problem(
    503, "No state yet", detail="No state was rendered for this client yet; remove nothing.", retry_after=60
)
STATE_UNUSABLE: Final = Problem(
    503, "State unusable", detail="The state of this client cannot be served; keep what runs.", retry_after=60
)


def not_allowed(methods: Sequence[str]) -> Problem:
    """Return the problem of a resource that does not know the method."""
    return Problem(405, "Method not allowed", headers=(("Allow", ", ".join(methods)),))
