"""The ASGI application: asks one contract after the other, and makes an answer of the result.

Starlette gives requests and responses their form. Its router is not used, because it matches decoded paths, where `%2F`
and `/` are one (see `routing`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from margo_gitops.server.access_log import AccessLog, CountedSend
from margo_gitops.server.identity.callers import seen
from margo_gitops.server.problems import DEFECT, ENDING, NOT_FOUND, RequestRefused
from margo_gitops.server.reports.commits import ReportCommits
from margo_gitops.values import dataclass, field

_LOG = logging.getLogger("margo_gitops.server")


Contract: TypeAlias = Callable[[Scope, Receive], Awaitable[Response | None]]
"""Answers a request; None where the path is not one of its own. Every refusal is a `RequestRefused`."""


@dataclass(frozen=True, slots=True)
class WorkloadManagementApi:
    """Margo's Workload Management API.

    Attributes:
        contracts: asked in this order; the first that knows the path answers.
        commits: puts reports into the state repo, to the last one.
        background: what runs while the server lives, and is cancelled at its end.
        log: of requests.
    """

    contracts: Sequence[Contract]
    commits: ReportCommits
    background: Sequence[Callable[[], Awaitable[None]]] = ()
    log: AccessLog = field(default_factory=AccessLog)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run through the server's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        said, began = seen(scope), time.monotonic()
        try:
            response = await self._answer(scope, receive)
        except RequestRefused as refusal:
            said.reason = said.reason or refusal.problem.reason
            response = refusal.problem.response()
        except asyncio.CancelledError:  # the server ends, and has waited for this one as long as it may
            response = ENDING.response()
        except Exception:  # noqa: BLE001  # every request gets an answer, and a time to come back
            _LOG.exception("a request ended with a defect")
            response = DEFECT.response()
        if scope["method"] == "HEAD" and response.body:
            response.body = b""  # its length stays in the header
        if scope.get("extensions", {}).get("tls", {}).get("ending"):
            response.headers["Connection"] = "close"
        counted = CountedSend(send)
        try:
            await response(scope, receive, counted)
        finally:
            self.log.answered(scope, response.status_code, counted.size, time.monotonic() - began)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        for contract in self.contracts:
            response = await contract(scope, receive)
            if response is not None:
                return response
        raise RequestRefused(NOT_FOUND)

    async def _live(self, receive: Receive, send: Send) -> None:
        message: Message = await receive()
        if message["type"] != "lifespan.startup":
            return
        async with self._working():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        committing = asyncio.create_task(self.commits.run())
        background = [asyncio.ensure_future(run()) for run in self.background]
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            self.commits.stop()
            await asyncio.gather(committing, *background, return_exceptions=True)
