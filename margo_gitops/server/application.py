"""The ASGI application: path, caller, limits, resource, in this order; every refusal is a problem document.

Starlette gives requests and responses their form. Its router is not used, because it matches decoded paths, where `%2F`
and `/` are one (see `paths`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from margo_gitops.server.contracts.older import SignedContract
from margo_gitops.server.identity.callers import Caller, Identify
from margo_gitops.server.identity.git_credentials import ASK_FOR_TOKEN, with_bearer
from margo_gitops.server.limits import InFlight, RateLimit, spread
from margo_gitops.server.paths import METHODS, Resource, find_resource
from margo_gitops.server.problems import (
    DEFECT,
    NOT_AUTHORIZED,
    NOT_FOUND,
    OVERLOADED,
    TOO_MANY,
    RequestRefused,
    not_allowed,
)
from margo_gitops.server.reports.commits import ReportCommits
from margo_gitops.server.reports.resources import ReportResources
from margo_gitops.server.resources.desired_state import DesiredStateResources
from margo_gitops.server.resources.git import GitResources
from margo_gitops.server.resources.renewal import FreshnessRenewal
from margo_gitops.server.resources.trust_discovery import TrustDiscovery
from margo_gitops.server.state_watch import StateWatch

_LOG = logging.getLogger("margo_gitops.server")
_OVERLOADED_SECONDS = 5
_PUBLIC = frozenset({"healthz", "readyz", "discovery", "trust-bundle"})
_OF_GIT = frozenset({"git-refs", "git-upload-pack"})


class WorkloadManagementApi:
    """Margo's Workload Management API."""

    def __init__(
        self,
        *,
        identify: Identify,
        watch: StateWatch,
        reading: DesiredStateResources,
        git: GitResources,
        writing: ReportResources,
        commits: ReportCommits,
        rates: RateLimit,
        in_flight: InFlight,
        discovery: TrustDiscovery | None,
        base: str,
        look_every: float,
        signed: SignedContract | None = None,
        renewal: FreshnessRenewal | None = None,
    ) -> None:
        """Take the parts.

        Args:
            identify: tells who calls.
            watch: sees the state.
            reading: answers what devices read.
            git: answers the same by git.
            writing: answers what devices write.
            commits: puts reports into the state repo.
            rates: how often a device may call.
            in_flight: how many requests may be worked on at once.
            discovery: tells where the trust bundle is; None: nobody does.
            base: a prefix of all paths; empty for none.
            look_every: seconds between two looks at the state repo.
            signed: answers the older contract's requests; None: nobody does.
            renewal: renews the statement of freshness; None: somebody else does.
        """
        self._identify = identify
        self._watch = watch
        self._reading = reading
        self._git = git
        self._writing = writing
        self._commits = commits
        self._rates = rates
        self._in_flight = in_flight
        self._discovery = discovery
        self._base = base
        self._look_every = look_every
        self._signed = signed
        self._renewal = renewal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run through the server's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            response = await self._answer(scope, receive)
        except RequestRefused as refusal:
            response = refusal.problem.response()
        except Exception:  # noqa: BLE001  # whoever asked gets an answer, and a time to come back
            _LOG.exception("a request ended with a defect")
            response = DEFECT.response()
        if scope["method"] == "HEAD" and response.body:
            response.body = b""  # its length stays in the header
        if scope.get("extensions", {}).get("tls", {}).get("ending"):
            response.headers["Connection"] = "close"
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        resource = find_resource(scope["raw_path"], self._base)
        if resource is not None and resource.name in _PUBLIC:
            if scope["method"] not in METHODS[resource.name]:
                raise RequestRefused(not_allowed(METHODS[resource.name]))
            return self._public(scope, resource)
        if self._signed is not None:
            response = await self._signed.answer(scope, receive, self._admit)
            if response is not None:
                return response
        by_git = resource is not None and resource.name in _OF_GIT
        caller = self._identify(with_bearer(scope) if by_git else scope)
        if caller is None and self._signed is not None:
            caller = self._signed.caller_of_link(scope, resource)
        if caller is None and by_git and self._identify.challenge:
            raise RequestRefused(ASK_FOR_TOKEN)
        if caller is None:
            # Before the path is looked at: who is nobody learns not even which paths there are.
            raise RequestRefused(NOT_AUTHORIZED.with_headers(self._identify.challenge))
        return await self._admit(caller, lambda: self._dispatch(scope, receive, caller, resource))

    async def _admit(self, caller: Caller, work: Callable[[], Awaitable[Response]]) -> Response:
        """Do a caller's work within its limits, and those of all."""
        wait = self._rates.take(caller.client)
        if wait is not None:
            raise RequestRefused(TOO_MANY.later(wait))
        if not self._in_flight.enter(caller.client):
            busy = OVERLOADED if self._in_flight.full else TOO_MANY
            raise RequestRefused(busy.later(spread(caller.client, _OVERLOADED_SECONDS)))
        try:
            return await work()
        finally:
            self._in_flight.leave(caller.client)

    async def _dispatch(self, scope: Scope, receive: Receive, caller: Caller, resource: Resource | None) -> Response:
        if resource is None:
            raise RequestRefused(NOT_FOUND)
        if scope["method"] not in METHODS[resource.name]:
            raise RequestRefused(not_allowed(METHODS[resource.name]))
        match resource.name, scope["method"]:
            case "git-refs", _:
                return await self._git.refs(scope, caller)
            case "git-upload-pack", _:
                return await self._git.upload_pack(scope, receive, caller)
            case "manifest", _:
                return await self._reading.manifest(scope, receive, caller)
            case "deployment", _:
                return await self._reading.deployment(scope, caller, resource)
            case "freshness", _:
                return await self._reading.freshness(scope, caller)
            case "bundle", _:
                return await self._reading.bundle(scope, caller, resource)
            case "status", _:
                return await self._writing.post_status(scope, receive, caller, resource)
            case "capabilities", "PUT":
                return await self._writing.put_capabilities(scope, receive, caller, resource)
            case _:
                return await self._writing.delete_capabilities(caller, resource)

    def _public(self, scope: Scope, resource: Resource) -> Response:
        if resource.name in {"discovery", "trust-bundle"}:
            if self._discovery is None:
                raise RequestRefused(NOT_FOUND)
            return self._discovery.answer(scope, resource)
        ready = resource.name == "healthz" or self._watch.healthy
        headers = {"Cache-Control": "no-store"}
        return PlainTextResponse("ok\n" if ready else "the state repo cannot be read\n", 200 if ready else 503, headers)

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
        looking = asyncio.create_task(self._watch.run(self._look_every))
        committing = asyncio.create_task(self._commits.run())
        renewing = asyncio.create_task(self._renewal.run()) if self._renewal else None
        try:
            yield
        finally:
            looking.cancel()
            if renewing is not None:
                renewing.cancel()
            self._commits.stop()
            tasks = [task for task in (looking, committing, renewing) if task is not None]
            await asyncio.gather(*tasks, return_exceptions=True)
