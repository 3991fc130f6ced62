"""Answers git's requests of an identified client: its own branch, and nothing else (docs/git-subset.md)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import parse_qs

from starlette.responses import Response
from starlette.types import Scope

from margo_gitops.documents.state_layout import FRESHNESS_REFS, TRUST_REF, device_ref
from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.identity.callers import Caller, header
from margo_gitops.server.limits import spread
from margo_gitops.server.problems import INVALID_REQUEST, NOT_FOUND, STATE_UNUSABLE, Problem, RequestRefused
from margo_gitops.server.requests import holds, read_body, wait_seconds
from margo_gitops.server.resources.desired_state import DesiredStateResources
from margo_gitops.server.resources.git_packs import MAX_COMMITS, Packs, Plan, plan_fetch
from margo_gitops.server.resources.git_wire import (
    CAPABILITIES,
    Fetch,
    LsRefs,
    NotGitError,
    RefusedError,
    acknowledgments,
    error_answer,
    old_acknowledgments,
    old_advertisement,
    pack_sections,
    read_old_request,
    read_request,
    refs_answer,
    shallow_lines,
    side_band,
)
from margo_gitops.server.routing import Call
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.served_state import EARLIER_COMMITS, StateView
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH
from margo_gitops.trust.freshness_tree import possible_shards
from margo_gitops.values import dataclass, field

_LOG = logging.getLogger("margo_gitops.server")

GIT_FOLDER: Final = "/git/state.git"
ADVERTISEMENT: Final = "application/x-git-upload-pack-advertisement"
RESULT: Final = "application/x-git-upload-pack-result"
_NO_CACHE: Final = {"Cache-Control": "no-store"}
_NOT_SERVED: Final = Problem(403, "Service not enabled", detail="This server takes no pushes.")
_BACK_SECONDS: Final = 60
_HISTORIES_AT_ONCE: Final = 2


@dataclass(frozen=True, slots=True)
class Visible:
    """What one device sees.

    Attributes:
        head: its own branch; None where it has none.
        refs: its branch, the freshness ref that covers it, and the trust documents, with what they point to.
    """

    head: str | None
    refs: Mapping[str, str] = field(default_factory=dict)


def visible(client: str, branch: str, refs: Mapping[str, str]) -> Visible:
    """Return what a device sees of all refs.

    Args:
        branch: the full name of its branch.
    """
    names = [branch, TRUST_REF, *(FRESHNESS_REFS + shard for shard in possible_shards(client))]
    seen = {name: refs[name] for name in names if name in refs}
    return Visible(branch if branch in seen else None, seen)


@dataclass(eq=False)
class GitResources:
    """The repository as each device sees it.

    Attributes:
        reading: decides whether a device's state may be served.
        longest_wait: seconds that `ls-refs` may wait for a change; 0: it never does.
    """

    watch: StateWatch
    reading: DesiredStateResources
    objects: StateObjects
    longest_wait: float

    def __post_init__(self) -> None:
        self.packs = Packs(self.objects)
        self._histories = asyncio.Semaphore(_HISTORIES_AT_ONCE)

    async def refs(self, call: Call) -> Response:
        """Answer `info/refs`: the capabilities in version 2, the refs in version 0."""
        services = parse_qs(call.scope["query_string"].decode("latin-1")).get("service", [])
        if services != ["git-upload-pack"]:
            raise RequestRefused(_NOT_SERVED if services == ["git-receive-pack"] else NOT_FOUND)
        if _speaks_v2(call.scope):
            return _answer(CAPABILITIES, ADVERTISEMENT)
        seen = self._seen(self.watch.look(), call.caller)
        cut = self.objects.boundary()
        ends = self.objects.history(seen.refs.values(), MAX_COMMITS).keys() & cut.keys() if cut else ()
        return _answer(old_advertisement(seen.refs, seen.head, ends), ADVERTISEMENT)

    async def upload_pack(self, call: Call) -> Response:
        """Answer `ls-refs` and `fetch`."""
        caller, body = call.caller, await read_body(call.scope, call.receive, gzip=True)
        try:
            if not _speaks_v2(call.scope):
                return await self._old_fetch(body, caller)
            request = read_request(body)
            if request is None:
                return _answer(b"", RESULT)
            if isinstance(request, LsRefs):
                return await self._ls_refs(request, call)
            return await self._fetch(request, caller)
        except NotGitError as error:
            raise RequestRefused(INVALID_REQUEST.because(f"This is not a git request: {error}.")) from None
        except RefusedError as error:
            return _answer(error_answer(str(error)), RESULT)
        except MargoGitopsError as error:
            _LOG.error("the branch of %s cannot be served: %s", caller.client, error)
            raise RequestRefused(STATE_UNUSABLE.later(spread(caller.client, _BACK_SECONDS))) from error

    async def _ls_refs(self, request: LsRefs, call: Call) -> Response:
        caller, held = call.caller, header(call.scope, b"if-none-match")
        if held is not None and self.reading.catch_up is not None and not self._knows(held, caller):
            await self.reading.caught_up(caller.client)
        seen = await self.watch.change_of(
            caller.client,
            wait_seconds(header(call.scope, b"prefer"), self.longest_wait) or 0,
            call.receive,
            read=lambda view: self._seen(view, caller),
            is_held=lambda seen: seen.head is not None and holds(held, seen.refs[seen.head]),
        )
        return _answer(refs_answer(request, seen.refs, seen.head), RESULT)

    def _knows(self, held: str, caller: Caller) -> bool:
        seen = self._seen(self.watch.look(), caller)
        head = seen.refs[seen.head] if seen.head is not None else None
        if head is None or holds(held, head):
            return True
        return any(holds(held, name) for name in self.objects.history([head], EARLIER_COMMITS + 1))

    async def _fetch(self, request: Fetch, caller: Caller) -> Response:
        async with self._turn(request):
            plan = await self._plan(request, caller)
            head = b""
            if not request.done:
                if not plan.common:
                    return _answer(acknowledgments((), ready=False) + FLUSH, RESULT)
                head = acknowledgments(plan.common, ready=True) + DELIMITER
            lines = shallow_lines(plan.shallow, plan.unshallow)  # also of a whole history that ends at a checkpoint
            return _answer(head + pack_sections(await self._pack(plan), lines), RESULT)

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
            return _answer(b"", RESULT)
        request, spoken = read
        async with self._turn(request):
            plan = await self._plan(request, caller)
            head = shallow_lines(plan.shallow, plan.unshallow) + FLUSH if request.depth is not None else b""
            head += old_acknowledgments(request, spoken, plan.common)
            if not request.done:
                return _answer(head, RESULT)
            pack = await self._pack(plan)
        return _answer(head + (side_band(pack) if request.side_band else pack), RESULT)

    async def _plan(self, request: Fetch, caller: Caller) -> Plan:
        try:
            return await asyncio.to_thread(self._planned, request, self._seen(self.watch.look(), caller))
        except RefusedError:
            if self.reading.catch_up is None:
                raise
            await self.reading.caught_up(caller.client)  # another server may have named it (READ-6)
            return await asyncio.to_thread(self._planned, request, self._seen(self.watch.look(), caller))

    def _planned(self, request: Fetch, seen: Visible) -> Plan:
        tips = {tip for name, tip in seen.refs.items() if name != seen.head}
        if seen.head is not None:
            # A device between its two requests may still want what the ref pointed to (G-S-10).
            tips |= self.objects.history([seen.refs[seen.head]], EARLIER_COMMITS + 1).keys()
        for name in request.wants:
            if name not in tips:
                raise RefusedError(f"upload-pack: not our ref {name}")
        return plan_fetch(self.objects, request)

    async def _pack(self, plan: Plan) -> bytes:
        kept = self.packs.kept(plan)
        return kept if kept is not None else await asyncio.to_thread(self.packs.build, plan)

    def _seen(self, view: StateView, caller: Caller) -> Visible:
        """Return what a client sees."""
        seen = visible(caller.client, device_ref(caller.client), view.refs)
        if seen.head is not None:
            self.reading.check(view, caller)
        return seen


def _speaks_v2(scope: Scope) -> bool:
    value = header(scope, b"git-protocol") or ""
    return "version=2" in value.split(":")


def _answer(content: bytes, media_type: str) -> Response:
    return Response(content, 200, _NO_CACHE, media_type)
