"""The resources that devices read: manifest, single deployments, bundles (Margo desired state API, current contract).

READ-1  Stored bytes, and digests of them; another shape is a pure function of these, and its digests are of its bytes.
READ-2  An ETag is the quoted digest of the content before any content coding.
READ-3  A client gets the same answer for what it may not have and for what does not exist.
READ-4  A state older than what the device says it adopted is never served: the state repo went back (failure mode F26).
READ-5  Only states that `allowedSigners` allow are served, by the list as it is at this moment.
READ-6  A client that another server gave a newer state is answered when this server has it too.
READ-7  A manifest carries the commit that signs it, where that is short: who verifies it needs no further request, and
        an answer without a manifest carries none.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from starlette.responses import Response
from starlette.types import Scope

from margo_gitops.cache import SizedCache
from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.freshness import FRESHNESS_MEDIA_TYPE
from margo_gitops.documents.manifest import BUNDLE_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from margo_gitops.documents.state_layout import COMMIT_HEADER, COMMIT_MEDIA_TYPE
from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.identity.callers import Caller, header
from margo_gitops.server.limits import spread
from margo_gitops.server.mirror import CatchUp
from margo_gitops.server.problems import (
    BUNDLE_NOT_FOUND,
    COMMIT_NOT_FOUND,
    DEPLOYMENT_NOT_FOUND,
    FRESHNESS_NOT_FOUND,
    NO_STATE,
    NOT_ACCEPTABLE,
    STATE_UNUSABLE,
    TRUST_NOT_FOUND,
    Problem,
    RequestRefused,
)
from margo_gitops.server.reports.journal import ReportJournal
from margo_gitops.server.reports.reading import Profile
from margo_gitops.server.requests import accepts, holds, takes_gzip, wait_seconds
from margo_gitops.server.routing import Call
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.state_repo.objects import DeviceState
from margo_gitops.state_repo.served_state import Shape, StateView, as_stored
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.trusted_state import TrustPolicy, judge
from margo_gitops.values import dataclass

_LOG = logging.getLogger("margo_gitops.server")

POLL_INTERVAL_HEADER: Final = "X-Poll-Interval"
DEPLOYMENT_MEDIA_TYPE: Final = "application/yaml"
_MUTABLE: Final = "private, no-cache"
_IMMUTABLE: Final = "private, max-age=31536000, immutable"
_SMALLEST_COMPRESSED: Final = 256
_COMPRESSED_BYTES: Final = 16 * 1024 * 1024
_LARGE: Final = 256 * 1024
_LONGEST_COMMIT: Final = 2304  # 3 KiB in base64: proxies give all headers of an answer 4 KiB, many no more
_JUDGED: Final = 100_000
_BACK_SECONDS: Final = 60
_AGAIN_SECONDS: Final = 5


@dataclass(eq=False)
class DesiredStateResources:
    """Answers the reading requests of an identified client.

    Attributes:
        journal: knows what devices adopted; None where no reports are taken.
        longest_wait: seconds that a request may wait for a change; 0: none may.
        profile: strict refuses a wrong Accept on every resource, lenient on the manifest only.
        poll_seconds: how often devices should poll at most; None: they decide.
        signers: returns who may have signed what is served, the same object until that changes; None: not checked.
        shape: returns how the client that calls gets its states.
        catch_up: as `StateMirror.catch_up`; None: the state is always the newest.
    """

    watch: StateWatch
    journal: ReportJournal | None
    longest_wait: float
    profile: Profile
    poll_seconds: int | None = None
    signers: Callable[[], AllowedSigners] | None = None
    shape: Callable[[Call], Shape] = lambda _: as_stored
    catch_up: CatchUp | None = None

    def __post_init__(self) -> None:
        self._compressed: SizedCache[Digest, bytes] = SizedCache(_COMPRESSED_BYTES, len)
        self._judges: AllowedSigners | None = None
        self._judged: SizedCache[str, bool] = SizedCache(_JUDGED)
        self._versions: SizedCache[str, int] = SizedCache(_JUDGED)

    async def manifest(self, call: Call) -> Response:
        """Answer a request for the manifest; one that waits is answered at the next change."""
        scope, caller = call.scope, call.caller
        self._check_accept(scope, MANIFEST_MEDIA_TYPE)
        held = header(scope, b"if-none-match")
        wait = wait_seconds(header(scope, b"prefer"), self.longest_wait)
        began = time.monotonic()
        if held is not None and self.catch_up is not None and not self._knows(held, call):
            await self.caught_up(caller.client)
        hints = {POLL_INTERVAL_HEADER: str(self.poll_seconds)} if self.poll_seconds else {}
        state = await self.watch.change_of(
            caller.client,
            wait or 0,
            call.receive,
            read=lambda view: self.shape(call)(self._state(view, caller)),
            is_held=lambda state: holds(held, state.manifest_digest),
        )
        if self.watch.closed:
            # The end of this server cut the wait short. A device that hears how long it was asks again at once.
            wait = min(wait or 0, math.floor(time.monotonic() - began))
        applied = {"Preference-Applied": f"wait={wait:.0f}"} if wait else {}
        return await self._answer(
            scope,
            state.manifest,
            state.manifest_digest,
            MANIFEST_MEDIA_TYPE,
            {"Cache-Control": _MUTABLE, **hints, **applied},
            carried_commit(state.signed_commit),
        )

    async def deployment(self, call: Call) -> Response:
        """Answer a request for one deployment document."""
        deployment_id = call.parameters["deploymentId"]
        return await self._immutable(
            call,
            DEPLOYMENT_MEDIA_TYPE,
            lambda view, client, digest: view.deployment(client, deployment_id, digest, self.shape(call)),
            DEPLOYMENT_NOT_FOUND,
        )

    async def commit(self, call: Call) -> Response:
        """Answer a request for the commit of a manifest: the bytes that the renderer signed."""
        digest = call.parameters["digest"]
        self._check_accept(call.scope, COMMIT_MEDIA_TYPE)
        view = self.watch.look()
        content = self._found(lambda: view.commit(call.caller.client, digest), COMMIT_NOT_FOUND)
        return await self._answer(call.scope, content, sha256(content), COMMIT_MEDIA_TYPE, {"Cache-Control": _MUTABLE})

    async def freshness(self, call: Call) -> Response:
        """Answer a request for the proof of freshness (docs/freshness.md): the bytes that git has for this client."""
        self._check_accept(call.scope, FRESHNESS_MEDIA_TYPE)
        view = self.watch.look()
        content = self._found(lambda: view.proof(call.caller.client), FRESHNESS_NOT_FOUND)
        return await self._answer(
            call.scope, content, sha256(content), FRESHNESS_MEDIA_TYPE, {"Cache-Control": _MUTABLE}
        )

    async def trust(self, call: Call) -> Response:
        """Answer a request for a version of the trust document: the bytes that git has."""
        self._check_accept(call.scope, FRESHNESS_MEDIA_TYPE)
        version = int(call.parameters["version"])
        if self.watch.look().trust_document(version) is None:
            await self.caught_up(call.caller.client)
        content = self._found(lambda: self.watch.look().trust_document(version), TRUST_NOT_FOUND)
        return await self._answer(
            call.scope, content, sha256(content), FRESHNESS_MEDIA_TYPE, {"Cache-Control": _IMMUTABLE}
        )

    async def bundle(self, call: Call) -> Response:
        """Answer a request for a bundle."""
        return await self._immutable(
            call,
            BUNDLE_MEDIA_TYPE,
            lambda view, client, digest: view.bundle(client, digest, self.shape(call)),
            BUNDLE_NOT_FOUND,
        )

    async def _immutable(
        self, call: Call, media_type: str, find: Callable[[StateView, str, str], bytes | None], missing: Problem
    ) -> Response:
        """Answer with what a client has under the digest in the path."""
        self._check_accept(call.scope, media_type)
        digest = Digest(call.parameters["digest"])
        read = lambda: find(self.watch.look(), call.caller.client, digest)  # noqa: E731
        try:
            content = self._found(read, missing)
        except RequestRefused as refusal:
            if refusal.problem is not missing or self.catch_up is None:
                raise
            await self.caught_up(call.caller.client)
            content = self._found(read, missing)
        return await self._answer(call.scope, content, digest, media_type, {"Cache-Control": _IMMUTABLE})

    async def caught_up(self, client: str) -> None:
        """Return when nothing newer can be had (READ-6; RequestRefused: 503, it takes too long to know)."""
        if self.catch_up is not None and not await self.catch_up():
            raise RequestRefused(STATE_UNUSABLE.later(spread(client, _AGAIN_SECONDS)))

    def _knows(self, held: str, call: Call) -> bool:
        """Return whether what a client holds is a state that this server has, or had a few commits ago."""
        view, client, shape = self.watch.look(), call.caller.client, self.shape(call)
        try:
            current = view.state(client)
            if current is None or holds(held, shape(current).manifest_digest):
                return True
            return any(holds(held, shape(state).manifest_digest) for state in view.recent(client))
        except MargoGitopsError:
            return True  # the answer says why

    def _found(self, find: Callable[[], bytes | None], missing: Problem) -> bytes:
        try:
            content = find()
        except MargoGitopsError as error:
            _LOG.error("a state cannot be served: %s", error)
            raise RequestRefused(STATE_UNUSABLE) from error
        if content is None:
            raise RequestRefused(missing)
        return content

    def _check_accept(self, scope: Scope, media_type: str) -> None:
        if media_type != MANIFEST_MEDIA_TYPE and self.profile == "lenient":
            return  # the contract lists 406 for the manifest alone, and generated clients send odd headers
        # Several Accept lines are one list (RFC 9110 5.3).
        lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"]
        if not accepts(", ".join(lines) if lines else None, media_type):
            raise RequestRefused(NOT_ACCEPTABLE.because(f"This resource is {media_type}."))

    def check(self, view: StateView, caller: Caller) -> None:
        """Check that a client's state may be served; each commit is read once, and only its version is kept.

        Raises:
            RequestRefused: 503.
        """
        self._look_at_signers()
        commit = view.revision(caller.client) or ""
        version = self._versions.get(commit)
        if version is None:
            self._versions.put(commit, manifest_version(self._state(view, caller).manifest))
        elif self.journal is not None and version < self.journal.adopted(caller.client):
            self._state(view, caller)

    def _state(self, view: StateView, caller: Caller) -> DeviceState:
        client = caller.client
        try:
            state = view.state(client)
            if state is None:
                raise RequestRefused(NO_STATE.later(spread(client, _BACK_SECONDS)))
            signers = self._look_at_signers()
            if signers is not None and not self._is_signed(state, client, signers):
                raise RequestRefused(STATE_UNUSABLE.later(spread(client, _BACK_SECONDS)))
            version = manifest_version(state.manifest)
        except (MargoGitopsError, ValueError) as error:
            _LOG.error("the state of %s cannot be served: %s", client, error)
            raise RequestRefused(STATE_UNUSABLE.later(spread(client, _BACK_SECONDS))) from error
        adopted = self.journal.adopted(client) if self.journal else 0
        if version < adopted:
            _LOG.error("the state repo holds version %d of %s, which has adopted %d", version, client, adopted)
            raise RequestRefused(STATE_UNUSABLE.later(spread(client, _BACK_SECONDS)))
        return state

    def _look_at_signers(self) -> AllowedSigners | None:
        """Return who may have signed now; what was judged by an earlier list is forgotten (READ-5)."""
        signers = self.signers() if self.signers is not None else None
        if signers is not self._judges:
            self._judges = signers
            self._judged = SizedCache(_JUDGED)
            self._versions = SizedCache(_JUDGED)
        return signers

    def _is_signed(self, state: DeviceState, client: str, signers: AllowedSigners) -> bool:
        known = self._judged.get(state.commit)
        if known is None:
            try:
                judge(state.snapshot, TrustPolicy(client, signers), None)
                known = True
            except MargoGitopsError as error:
                _LOG.error("the state of %s is not served: %s", client, error)
                known = False
            self._judged.put(state.commit, known)
        return known

    async def _answer(
        self,
        scope: Scope,
        content: bytes,
        digest: Digest,
        media_type: str,
        headers: dict[str, str],
        carried: Mapping[str, str] = MappingProxyType({}),
    ) -> Response:
        headers = {"ETag": f'"{digest}"', "Vary": "Accept-Encoding", **headers}
        if holds(header(scope, b"if-none-match"), digest):
            return Response(status_code=304, headers=headers)
        headers.update(carried)
        if takes_gzip(header(scope, b"accept-encoding")) and len(content) >= _SMALLEST_COMPRESSED:
            content = await self._compress(digest, content)
            headers["Content-Encoding"] = "gzip"
        if scope["method"] == "HEAD":
            return Response(b"", 200, {**headers, "Content-Length": str(len(content))}, media_type)
        return Response(content, 200, headers, media_type)

    async def _compress(self, digest: Digest, content: bytes) -> bytes:
        found = self._compressed.get(digest)
        if found is None:
            # What takes long must not keep other devices waiting.
            large = len(content) > _LARGE
            found = await asyncio.to_thread(_gzip, content) if large else _gzip(content)
            if len(found) <= _COMPRESSED_BYTES // 4:
                self._compressed.put(digest, found)
        return found


def carried_commit(commit: bytes | None) -> dict[str, str]:
    """Return the header that carries a signed commit; none where there is no commit, or it is too long (READ-7)."""
    short = commit is not None and len(commit) <= _LONGEST_COMMIT
    return {COMMIT_HEADER: base64.b64encode(commit).decode()} if commit and short else {}


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, 6, mtime=0)


@lru_cache(maxsize=16_384)
def manifest_version(manifest: bytes) -> int:
    """Return the version of a manifest (ValueError: it is not a manifest)."""
    version = json.loads(manifest).get("manifestVersion")
    if not isinstance(version, int):
        raise ValueError("the manifest has no version")  # noqa: TRY004  # content that is wrong, not a caller's mistake
    return version
