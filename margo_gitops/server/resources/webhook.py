"""The resource that a git host tells of a push, so that the mirror need not wait for its next look.

WEBHOOK-1  Only who knows the secret is heard. GitHub, Gitea and Forgejo sign the body with it (HMAC, SHA-256); GitLab
           sends the secret itself. Comparing takes the same time for every answer.
WEBHOOK-2  Nothing of the body is read: the host is asked what is there. So an old or untrue message costs one
           look, of which there are two in a second at most.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from starlette.responses import Response

from margo_gitops.server.identity.callers import header
from margo_gitops.server.problems import NOT_AUTHORIZED, RequestRefused
from margo_gitops.server.requests import read_body
from margo_gitops.server.routing import Call
from margo_gitops.values import dataclass

WEBHOOK_PATH: Final = "/api/v1/webhook"
_SIGNATURES: Final = ((b"x-hub-signature-256", "sha256="), (b"x-gitea-signature", ""), (b"x-forgejo-signature", ""))
_TOKEN: Final = b"x-gitlab-token"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Hears of pushes.

    Attributes:
        secret: what the git host knows too.
        ask: makes the mirror fetch soon.
    """

    secret: bytes
    ask: Callable[[], None]

    async def told(self, call: Call) -> Response:
        """Ask the git host for news (RequestRefused: 403, the message has no signature with the secret)."""
        body = await read_body(call.scope, call.receive)
        if not self._knows_secret(call, body):
            raise RequestRefused(NOT_AUTHORIZED)
        self.ask()
        return Response(status_code=204)

    def _knows_secret(self, call: Call, body: bytes) -> bool:
        expected = hmac.digest(self.secret, body, "sha256").hex()
        fits = hmac.compare_digest((header(call.scope, _TOKEN) or "").encode(), self.secret)
        for name, prefix in _SIGNATURES:
            given = (header(call.scope, name) or "").encode()
            fits |= hmac.compare_digest(given, f"{prefix}{expected}".encode())
        return fits
