"""The log of requests: one line for each, with who asked for what, how it went, and why it was refused.

    request client=press-07 method=GET route=/api/v1/deployments status=200 ms=3 bytes=512
    request client=- method=GET route=/api/v1/deployments status=403 ms=0 bytes=151 peer="10.0.0.9" reason="no token"

ACCESS-1  What a client sent is JSON text: it ends no line and moves no cursor.
ACCESS-2  Refusals of one client, and of all unknown callers together, have a rate: no caller can fill a disk with them.
          The next line says how many are not shown.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Final, Literal, TypeAlias

from starlette.types import Message, Scope, Send

from margo_gitops.server.identity.callers import peer, seen
from margo_gitops.server.limits import RateLimit

_LOG = logging.getLogger("margo_gitops.server")
Logged: TypeAlias = Literal["off", "refusals", "all"]
_PER_MINUTE: Final = 60
_BURST: Final = 100
_REFUSED: Final = 400
_MAX_TEXT: Final = 300


class AccessLog:
    """Writes the lines that the configuration asks for."""

    def __init__(self, logged: Logged = "refusals") -> None:
        self._logged = logged
        self._rates = RateLimit(_PER_MINUTE, _BURST, time.monotonic)
        self._hidden = 0

    def answered(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        """Write the line of a request.

        Args:
            size: bytes of the body that were sent.
            seconds: from the request's head to the end of the answer; a poll may have waited.
        """
        refused = status >= _REFUSED
        if self._logged == "off" or (self._logged == "refusals" and not refused):
            return
        said = seen(scope)
        if (refused or not said.client) and self._rates.take(said.client) is not None:  # ACCESS-2
            self._hidden += 1
            return
        fields: dict[str, object] = {
            "client": said.client or "-",
            "method": scope["method"],
            "route": said.route or _text(scope["raw_path"].decode("latin-1")),
            "status": status,
            "ms": round(seconds * 1000),
            "bytes": size,
        }
        if not said.client:
            fields["peer"] = _text(peer(scope))
        if refused:
            fields["reason"] = _text(said.reason)
        if self._hidden:
            fields["hidden"], self._hidden = self._hidden, 0
        _LOG.info("request %s", " ".join(f"{name}={value}" for name, value in fields.items()))


class CountedSend:
    """Sends an answer, and counts the bytes of its body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.size = 0

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        self.size += len(message.get("body", b""))
        await self._send(message)


def _text(text: str) -> str:
    return json.dumps(text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…")
