"""Answers git's requests of an identified client: its own branch, and nothing else (docs/git-subset.md)."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import parse_qs

from starlette.responses import Response
from starlette.types import Receive, Scope

from margo_gitops.documents.state_layout import device_ref
from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.identity.callers import Caller, header
from margo_gitops.server.limits import spread
from margo_gitops.server.problems import INVALID_REQUEST, NOT_FOUND, STATE_UNUSABLE, TOO_LARGE, Problem, RequestRefused
from margo_gitops.server.reports.reading import MAX_BODY
from margo_gitops.server.reports.resources import read_body
from margo_gitops.server.requests import holds, wait_seconds
from margo_gitops.server.resources.desired_state import DesiredStateResources
from margo_gitops.server.resources.git_answers import (
    CAPABILITIES,
    acknowledgments,
    error_answer,
    old_acknowledgments,
    old_advertisement,
    pack_sections,
    refs_answer,
    shallow_lines,
    side_band,
)
from margo_gitops.server.resources.git_packs import Packs, Plan, plan_fetch
from margo_gitops.server.resources.git_requests import (
    Fetch,
    LsRefs,
    NotGitError,
    RefusedError,
    read_old_request,
    read_request,
)
from margo_gitops.server.resources.git_visibility import Visible, visible
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.state_repo.served_objects import ServedObjects
from margo_gitops.state_repo.served_state import EARLIER_COMMITS, StateView
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH

_LOG = logging.getLogger("margo_gitops.server")

_ADVERTISEMENT: Final = "application/x-git-upload-pack-advertisement"
_RESULT: Final = "application/x-git-upload-pack-result"
_NO_CACHE: Final = {"Cache-Control": "no-store"}
_NOT_SERVED: Final = Problem(403, "Service not enabled", detail="Nobody pushes here.")
_BACK_SECONDS: Final = 60
_HISTORIES_AT_ONCE: Final = 2


class GitResources:
    """The repository as each device sees it."""

    def __init__(
        self, watch: StateWatch, reading: DesiredStateResources, objects: ServedObjects, *, longest_wait: float
    ) -> None:
        """Serve the state that a watch sees.

        Args:
            watch: sees the state.
            reading: decides whether a device's state may be served.
            objects: what is fetched.
            longest_wait: seconds that `ls-refs` may wait for a change; 0: it never does.
        """
        self._watch = watch
        self._reading = reading
        self._objects = objects
        self._longest_wait = longest_wait
        self.packs = Packs(objects)
        self._histories = asyncio.Semaphore(_HISTORIES_AT_ONCE)

    async def refs(self, scope: Scope, caller: Caller) -> Response:
        """Answer `info/refs`: the capabilities in version 2, the refs in version 0.

        Raises:
            RequestRefused: 403 or 404 for another service, 503 where the state may not be served.
        """
        services = parse_qs(scope["query_string"].decode("latin-1")).get("service", [])
        if services != ["git-upload-pack"]:
            raise RequestRefused(_NOT_SERVED if services == ["git-receive-pack"] else NOT_FOUND)
        if _speaks_v2(scope):
            return _answer(CAPABILITIES, _ADVERTISEMENT)
        seen = self._seen(self._watch.look(), caller)
        return _answer(old_advertisement(seen.refs, seen.head), _ADVERTISEMENT)

    async def upload_pack(self, scope: Scope, receive: Receive, caller: Caller) -> Response:
        """Answer `ls-refs` and `fetch`.

        Raises:
            RequestRefused: 400 for what is no request of git, 413, 503.
        """
        body = await _body(scope, receive)
        try:
            if not _speaks_v2(scope):
                return await self._old_fetch(body, caller)
            request = read_request(body)
            if request is None:
                return _answer(b"", _RESULT)
            if isinstance(request, LsRefs):
                return await self._ls_refs(request, scope, receive, caller)
            return await self._fetch(request, caller)
        except NotGitError as error:
            raise RequestRefused(INVALID_REQUEST.because(f"This is no request of git: {error}.")) from None
        except RefusedError as error:
            return _answer(error_answer(str(error)), _RESULT)
        except MargoGitopsError as error:
            _LOG.error("the branch of %s cannot be served: %s", caller.client, error)
            raise RequestRefused(STATE_UNUSABLE.later(spread(caller.client, _BACK_SECONDS))) from error

    async def _ls_refs(self, request: LsRefs, scope: Scope, receive: Receive, caller: Caller) -> Response:
        seen = self._seen(self._watch.look(), caller)
        prefer = header(scope, b"prefer")
        if prefer is not None and seen.head is not None:
            held, wait = header(scope, b"if-none-match"), wait_seconds(prefer, self._longest_wait) or 0
            deadline = time.monotonic() + wait
            while held is not None and holds(held, seen.refs[branch(caller)]):
                left = deadline - time.monotonic()
                if left <= 0 or not await self._watch.wait(caller.client, left, receive):
                    break
                seen = self._seen(self._watch.look(), caller)
                if seen.head is None:
                    break
        return _answer(refs_answer(request, seen.refs, seen.head), _RESULT)

    async def _fetch(self, request: Fetch, caller: Caller) -> Response:
        async with self._turn(request):
            plan = await self._plan(request, caller)
            head = b""
            if not request.done:
                if not plan.common:
                    return _answer(acknowledgments((), ready=False) + FLUSH, _RESULT)
                head = acknowledgments(plan.common, ready=True) + DELIMITER
            lines = shallow_lines(plan.shallow, plan.unshallow) if request.depth is not None else b""
            return _answer(head + pack_sections(await self._pack(plan), lines), _RESULT)

    @asynccontextmanager
    async def _turn(self, request: Fetch) -> AsyncIterator[None]:
        """Let few histories be built at once: what devices ask for never waits for threads that build them."""
        if request.depth == 1 and not request.relative and len(request.wants) == 1 and len(request.haves) <= 1:
            yield
            return
        async with self._histories:
            yield

    async def _old_fetch(self, body: bytes, caller: Caller) -> Response:
        read = read_old_request(body)
        if read is None:
            return _answer(b"", _RESULT)
        request, spoken = read
        async with self._turn(request):
            plan = await self._plan(request, caller)
            head = shallow_lines(plan.shallow, plan.unshallow) + FLUSH if request.depth is not None else b""
            head += old_acknowledgments(request, spoken, plan.common)
            if not request.done:
                return _answer(head, _RESULT)
            pack = await self._pack(plan)
        return _answer(head + (side_band(pack) if request.side_band else pack), _RESULT)

    async def _plan(self, request: Fetch, caller: Caller) -> Plan:
        seen = self._seen(self._watch.look(), caller)
        return await asyncio.to_thread(self._planned, request, seen)

    def _planned(self, request: Fetch, seen: Visible) -> Plan:
        tips = {tip for name, tip in seen.refs.items() if name != seen.head}
        if seen.head is not None:
            # A device between its two requests may still want what the ref pointed to (G-S-10).
            tips |= self._objects.history([seen.refs[seen.head]], EARLIER_COMMITS + 1).keys()
        for name in request.wants:
            if name not in tips:
                raise RefusedError(f"upload-pack: not our ref {name}")
        return plan_fetch(self._objects, request)

    async def _pack(self, plan: Plan) -> bytes:
        kept = self.packs.kept(plan)
        return kept if kept is not None else await asyncio.to_thread(self.packs.build, plan)

    def _seen(self, view: StateView, caller: Caller) -> Visible:
        """Return what a client sees.

        Raises:
            RequestRefused: 503 where its state may not be served.
        """
        seen = visible(caller.client, branch(caller), view.refs)
        if seen.head is not None:
            self._reading.check(view, caller)
        return seen


def branch(caller: Caller) -> str:
    """Return the branch that a caller reads."""
    return device_ref(caller.client)


def _speaks_v2(scope: Scope) -> bool:
    value = header(scope, b"git-protocol") or ""
    return "version=2" in value.split(":")


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Return the body of a request; git compresses large ones.

    Raises:
        RequestRefused: it is too large, too slow, or no gzip.
    """
    if header(scope, b"content-encoding") not in {"gzip", "x-gzip"}:
        return await read_body(scope, receive)
    plain = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"content-encoding"]}
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        body = inflater.decompress(await read_body(plain, receive), MAX_BODY + 1)
    except zlib.error:
        raise RequestRefused(INVALID_REQUEST.because("The body is no gzip.")) from None
    if len(body) > MAX_BODY:
        raise RequestRefused(TOO_LARGE)
    if not inflater.eof:
        raise RequestRefused(INVALID_REQUEST.because("The body ends early."))
    return body


def _answer(content: bytes, media_type: str) -> Response:
    return Response(content, 200, _NO_CACHE, media_type)
