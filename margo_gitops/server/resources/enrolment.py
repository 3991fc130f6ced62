"""The resource at which a device is enrolled (docs/enrolment.md, D-37).

A device has no identity yet, so the resource is public. Who has neither a secret nor a key that is known is answered
only so often, all of them together; who has one is not held up by them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from starlette.responses import Response
from starlette.types import Scope

from margo_gitops.digests import Digest
from margo_gitops.documents.enrolment import EnrolmentAnswer, EnrolmentRequest, SourceKind
from margo_gitops.documents.freshness import format_moment
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.errors import EnrolmentInvalid, MargoGitopsError, TrustRefused
from margo_gitops.server.identity.boots import BootWatch
from margo_gitops.server.identity.callers import Caller
from margo_gitops.server.limits import RateLimit
from margo_gitops.server.problems import NOT_AUTHORIZED, SEMANTIC_ERROR, TOO_MANY, Problem, RequestRefused
from margo_gitops.server.reports.journal import Report, ReportJournal
from margo_gitops.server.requests import read_body
from margo_gitops.server.resources.desired_state import manifest_version
from margo_gitops.server.resources.enrolment_registry import Approval, EnrolmentRegistry
from margo_gitops.server.routing import Call
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.state_repo.report_branch import ReportKey
from margo_gitops.trust.enrolment import read_request, trust_digest
from margo_gitops.trust.trust_document import read_envelope
from margo_gitops.values import dataclass, field

_LOG = logging.getLogger("margo_gitops.server")
_AGAIN_SECONDS: Final = 10
_NO_STORE: Final = {"Cache-Control": "no-store"}
_STRANGERS: Final = "strangers"
OTHER_ROOT: Final = Problem(
    409, "Other trust document", detail="This server does not have the trust document that the device begins with."
)
NOT_KEPT: Final = Problem(503, "Enrolments cannot be stored", retry_after=30)


@dataclass(frozen=True, slots=True)
class EnrolmentResource:
    """Answers devices that are not known yet.

    Attributes:
        source: how they pull from this server.
        approval: what becomes of a key that is not known and has no secret.
        most_pending: how many keys wait at once.
        strangers: how often a request of a key is judged; all together, if neither it nor the secret is known.
        refuse_copies: whether a device that has a copy is refused.
        clock: the time, seconds since the epoch.
        refresh_seconds: time between two looks at what other servers, and commands, changed.
    """

    registry: EnrolmentRegistry
    watch: StateWatch
    journal: ReportJournal
    source: SourceKind
    approval: Approval
    most_pending: int
    strangers: RateLimit
    refuse_copies: bool = False
    clock: Callable[[], float] = time.time
    refresh_seconds: float = 1.0
    boots: BootWatch = field(default_factory=BootWatch)

    async def enrol(self, call: Call) -> Response:
        """Answer with what a device needs to know (200), or that its key waits (202)."""
        body = await read_body(call.scope, call.receive)
        try:
            request, key = await asyncio.to_thread(read_request, body)
        except EnrolmentInvalid as error:
            raise RequestRefused(SEMANTIC_ERROR.because(error.what)) from error
        try:
            return await self._judged(request, key.fingerprint)
        except MargoGitopsError as error:
            _LOG.error("no device can be enrolled: %s", error)
            raise RequestRefused(NOT_KEPT) from error

    async def _judged(self, request: EnrolmentRequest, fingerprint: str) -> Response:
        # A key that waits is known, and a new token of it is a new row: each key has a limit of its own.
        expected = await asyncio.to_thread(self.registry.expects, request)
        wait = self.strangers.take(fingerprint if expected else _STRANGERS)
        if wait is not None:
            raise RequestRefused(TOO_MANY.later(wait))
        # Before anything is used up: a secret is good for one answer.
        document = self._document(Digest(request.trust))
        if document is None:
            raise RequestRefused(OTHER_ROOT)
        outcome = await asyncio.to_thread(self.registry.enrol, request, self.approval, self.most_pending)
        if outcome.waits:
            _LOG.info("the key %s waits for approval", fingerprint)
            return Response(b"", 202, {**_NO_STORE, "Retry-After": str(_AGAIN_SECONDS)})
        if not outcome.device:
            _LOG.warning("the key %s was not enrolled: %s", fingerprint, outcome.reason)
            raise RequestRefused(NOT_AUTHORIZED)
        copied = ReportKey(outcome.device, "identity", "copied")
        if await self.journal.has(copied):
            await self.journal.forget([copied])
        _LOG.info("%s is enrolled with the key %s", outcome.device, fingerprint)
        answer = EnrolmentAnswer(outcome.device, self.source, document.decode(), self._reported(outcome.device))
        return Response(write_json(write(answer)), 200, _NO_STORE, "application/json")

    def _document(self, trust: Digest) -> bytes | None:
        """Return the trust document whose text has a digest."""
        view, version = self.watch.look(), 1
        while (content := view.trust_document(version)) is not None:
            if _text_digest(content) == trust:
                return content
            version += 1
        return None

    def _reported(self, device: str) -> int | None:
        """Return the version that the device reported; None where it is above what this server has."""
        adopted = self.journal.adopted(device)
        manifest = self.watch.look().manifest(device) if adopted else None
        return adopted if manifest is not None and adopted <= manifest_version(manifest) else None

    async def admits(self, caller: Caller, scope: Scope) -> bool:
        """Return whether a device is served: notice a copy of it, and say so where `status` reads it (CLONE-1)."""
        if not self.boots.sees_copy(caller.client, scope):
            return True
        try:
            news = await asyncio.to_thread(self.registry.note_copy, caller.client)
            if news:
                _LOG.error("there are two of %s: a copy of it uses its token", caller.client)
                moment = int(self.clock())
                noticed = format_moment(datetime.fromtimestamp(moment, UTC))
                key, content = ReportKey(caller.client, "identity", "copied"), write_json({"noticed": noticed})
                await self.journal.keep(Report(key, content, "noticed by the server", moment))
        except MargoGitopsError as error:
            _LOG.error("that there are two of %s cannot be kept: %s", caller.client, error)
        return not self.refuse_copies

    async def keep_up(self) -> None:
        """Take over what other servers, and commands, change; until cancelled."""
        complaint = ""
        while True:
            await asyncio.sleep(self.refresh_seconds)
            try:
                await asyncio.to_thread(self.registry.refresh)
                complaint = ""
            except MargoGitopsError as error:
                if str(error) != complaint:
                    _LOG.error("who is enrolled is not known newly: %s", error)
                complaint = str(error)


@lru_cache(maxsize=64)
def _text_digest(content: bytes) -> str:
    try:
        return trust_digest(read_envelope(content))
    except TrustRefused:
        return ""
