"""The current contract: the table of its resources, git's too, and who may call each.

A new resource is a handler in one of the rooms and a row here; docs/http.md needs its row too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope

from margo_gitops.documents.enrolment import ENROLMENT_PATH
from margo_gitops.documents.freshness import FRESHNESS_MEDIA_TYPE
from margo_gitops.documents.manifest import BUNDLE_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from margo_gitops.documents.state_layout import (
    COMMIT_HEADER,
    COMMIT_MEDIA_TYPE,
    COMMITS_PATH,
    RECEIPTS_PATH,
    TRUST_PATH,
)
from margo_gitops.server.identity.callers import ANYBODY, Caller, Identify, seen
from margo_gitops.server.identity.tokens import ASK_FOR_TOKEN, with_bearer
from margo_gitops.server.limits import Admission
from margo_gitops.server.problems import NOT_AUTHORIZED, NOT_FOUND, PROBLEM_MEDIA_TYPE, Problem, RequestRefused
from margo_gitops.server.reports.receiving import ReportResources
from margo_gitops.server.resources.desired_state import (
    DEPLOYMENT_MEDIA_TYPE,
    POLL_INTERVAL_HEADER,
    DesiredStateResources,
)
from margo_gitops.server.resources.discovery import BUNDLE_PATH, TrustDiscovery
from margo_gitops.server.resources.enrolment import EnrolmentResource
from margo_gitops.server.resources.git import ADVERTISEMENT, GIT_FOLDER, RESULT, GitResources
from margo_gitops.server.resources.webhook import WEBHOOK_PATH, Webhook
from margo_gitops.server.routing import Answer, Audience, Call, Handler, Match, Operation, Route, RouteTable
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.values import dataclass, replace

Asked: TypeAlias = Callable[[Scope], Caller | None]
"""A way to identify a caller, without what a refusal says."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What has the handlers; `discovery`, `enrolment` and `webhook` are None where the configuration has none."""

    watch: StateWatch
    reading: DesiredStateResources
    writing: ReportResources
    git: GitResources
    discovery: TrustDiscovery | None
    enrolment: EnrolmentResource | None = None
    webhook: Webhook | None = None

    async def alive(self, _call: Call) -> Response:
        """Answer that the process lives."""
        return PlainTextResponse("ok\n", 200, {"Cache-Control": "no-store"})

    async def ready(self, call: Call) -> Response:
        """Answer whether the state repo can be read."""
        if self.watch.healthy:
            return await self.alive(call)
        return PlainTextResponse("the state repo cannot be read\n", 503, {"Cache-Control": "no-store"})

    def trust(self) -> TrustDiscovery:
        """Return what answers about the trust domain (RequestRefused: 404 without `discovery`)."""
        if self.discovery is None:
            raise RequestRefused(NOT_FOUND)
        return self.discovery

    async def enrol(self, call: Call) -> Response:
        """Enrol a device (RequestRefused: 404 without `enrolment`)."""
        if self.enrolment is None:
            raise RequestRefused(NOT_FOUND)
        return await self.enrolment.enrol(call)

    async def pushed(self, call: Call) -> Response:
        """Hear that the state repo moved (RequestRefused: 404 without a webhook)."""
        if self.webhook is None:
            raise RequestRefused(NOT_FOUND)
        return await self.webhook.told(call)


def _read(
    handle: Callable[[Parts], Handler],
    found: Answer,
    refusals: tuple[int, ...] = (403, 404, 406),
    more: tuple[Answer, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> dict[str, Operation[Parts]]:
    """Return what is read, also on condition (RFC 9110, 13.1.2)."""
    found = replace(found, headers={"ETag": "The digest, quoted.", "Cache-Control": "For how long.", **found.headers})
    current = Answer(304, "What the client holds is current.", headers=found.headers)
    asked = {**(headers or {}), "If-None-Match": "Entity tags of what the client holds."}
    return {"GET": Operation(handle, found.summary, (found, current, *more), refusals, asked)}


def _keep(handle: Callable[[Parts], Handler], body: str, summary: str) -> Operation[Parts]:
    kept = (Answer(200, "Kept, in place of what was there."), Answer(201, "Kept; the first one."))
    return Operation(handle, summary, kept, (400, 403, 404, 408, 413, 415, 422), body=body)


def _health(handle: Callable[[Parts], Handler], summary: str, *answers: tuple[int, str]) -> dict[str, Operation[Parts]]:
    texts = tuple(Answer(status, meaning, "text/plain") for status, meaning in answers)
    return {"GET": Operation(handle, summary, texts)}


_WAIT: Final = {"Prefer": "`wait=N` (RFC 7240): answer at the next change, at the latest after N seconds."}
_HINTS: Final = {
    "Preference-Applied": "The wait that was applied.",
    POLL_INTERVAL_HEADER: "Seconds: poll no more often.",
}
_SIGNED: Final = {**_HINTS, COMMIT_HEADER: "The commit that signs the manifest, in base64; only with a manifest."}
_MANIFEST: Final = Answer(200, "All that the client runs.", MANIFEST_MEDIA_TYPE, "StateManifest", _SIGNED)
_DOCUMENT: Final = Answer(200, "One deployment document, as it was rendered.", DEPLOYMENT_MEDIA_TYPE)
_BUNDLE: Final = Answer(200, "All deployment documents as one archive.", BUNDLE_MEDIA_TYPE)
_COMMIT: Final = Answer(200, "The commit that the renderer signed.", COMMIT_MEDIA_TYPE)
_PROOF: Final = Answer(200, "Proof that the manifest is the newest.", FRESHNESS_MEDIA_TYPE, "FreshnessProof")
_DOCUMENT_OF_TRUST: Final = Answer(200, "A version of the fleet's trust document.", "application/json")
_DOMAIN: Final = Answer(200, "The trust domain and its bundle's place.", "application/json")
_TRUST: Final = Answer(200, "The trust bundle (SPIFFE).", "application/json")
_READABLE: Final = "The state repo can be read."
_SAY_STATUS: Final = "Say what became of a deployment."
_SAY_RECEIPTS: Final = "Say what ran, signed by the device."
_SAY_DEVICE: Final = "Say what a device is and offers."
_FORGET: Final = "Forget a device and its children."
_FORGOTTEN: Final = (Answer(204, "Forgotten."),)
_NO_TRUST: Final = (Answer(404, "This server has none.", PROBLEM_MEDIA_TYPE, "Problem"),)
_ENROLLED: Final = (
    Answer(200, "The device is enrolled.", "application/json", "EnrolmentAnswer"),
    Answer(202, "Its key waits for approval.", headers={"Retry-After": "Seconds."}),
)
_ENROLMENT: Final[Operation[Parts]] = Operation(
    lambda parts: parts.enrol,
    "Enrol a device that is not known yet.",
    _ENROLLED,
    (400, 403, 404, 408, 409, 413, 415, 422),
    body="EnrolmentEnvelope",
)
_TOLD: Final[Operation[Parts]] = Operation(
    lambda parts: parts.pushed,
    "Say that the state repo moved: the git host, with the webhook's secret.",
    (Answer(204, "Heard."),),
    (403, 404, 408, 413, 415),
)
_REFS: Final = (Answer(200, media_type=ADVERTISEMENT),)
_PACK: Final = (Answer(200, media_type=RESULT),)

ROUTES: Final[tuple[Route[Parts], ...]] = (
    Route(
        "/api/v1/deployments",
        "device",
        _read(lambda parts: parts.reading.manifest, _MANIFEST, (403, 406), headers=_WAIT),
    ),
    Route(
        "/api/v1/deployments/{deploymentId}/{digest}",
        "linked",
        _read(lambda parts: parts.reading.deployment, _DOCUMENT),
    ),
    Route("/api/v1/bundles/{digest}", "linked", _read(lambda parts: parts.reading.bundle, _BUNDLE)),
    Route(f"{COMMITS_PATH}/{{digest}}", "device", _read(lambda parts: parts.reading.commit, _COMMIT)),
    Route(f"{TRUST_PATH}{{version}}.json", "device", _read(lambda parts: parts.reading.trust, _DOCUMENT_OF_TRUST)),
    Route("/api/v1/freshness", "device", _read(lambda parts: parts.reading.freshness, _PROOF)),
    Route(
        "/api/v1/deployments/{deploymentId}/status",
        "device",
        {"POST": _keep(lambda parts: parts.writing.post_status, "DeploymentStatus", _SAY_STATUS)},
    ),
    Route(
        RECEIPTS_PATH,
        "device",
        {"POST": _keep(lambda parts: parts.writing.post_receipts, "ReceiptFile", _SAY_RECEIPTS)},
    ),
    Route(
        "/api/v1/capabilities/{deviceId}",
        "device",
        {
            "PUT": _keep(lambda parts: parts.writing.put_capabilities, "DeviceCapabilities", _SAY_DEVICE),
            "DELETE": Operation(lambda parts: parts.writing.delete_capabilities, _FORGET, _FORGOTTEN, (403, 404)),
        },
    ),
    Route(ENROLMENT_PATH, "public", {"POST": _ENROLMENT}),
    Route(WEBHOOK_PATH, "public", {"POST": _TOLD}),
    Route(
        f"{GIT_FOLDER}/info/refs",
        "git",
        {"GET": Operation(lambda parts: parts.git.refs, "Refs.", _REFS, (401, 403, 404))},
    ),
    Route(
        f"{GIT_FOLDER}/git-upload-pack",
        "git",
        {"POST": Operation(lambda parts: parts.git.upload_pack, "Fetch.", _PACK, (400, 401, 403, 408, 413, 415))},
    ),
    Route(
        "/healthz",
        "public",
        _health(lambda parts: parts.alive, "Ask whether the process lives.", (200, "The process answers.")),
        at_root=True,
    ),
    Route(
        "/readyz",
        "public",
        _health(lambda parts: parts.ready, "Ask whether it can serve.", (200, _READABLE), (503, "It cannot.")),
        at_root=True,
    ),
    Route(
        "/.well-known/margo",
        "public",
        _read(lambda parts: parts.trust().document, _DOMAIN, (), _NO_TRUST),
        at_root=True,
    ),
    Route(BUNDLE_PATH, "public", _read(lambda parts: parts.trust().trust_bundle, _TRUST, (), _NO_TRUST), at_root=True),
)


@dataclass(frozen=True, slots=True)
class _Access:
    """How the callers of an audience are known, and what everybody else gets."""

    way: Asked
    refusal: Problem


class CurrentContract:
    """Answers the requests of the current contract, and every request that no other contract knows.

    CURRENT-1  Who calls is decided first, except for public resources: a caller that is not known gets one
               answer for every path, and learns not even which paths there are.
    CURRENT-2  What a known caller asks for is counted against its limits, whether it is there or not.
    """

    def __init__(self, parts: Parts, identify: Identify, admission: Admission, base: str) -> None:
        """Take the parts; `base` is a prefix of all paths that are not at the root, empty for none."""
        self._parts = parts
        self._table = RouteTable(ROUTES, base)
        self._admission = admission
        refusal = NOT_AUTHORIZED.with_headers(identify.challenge)
        git_refusal = ASK_FOR_TOKEN if identify.challenge else refusal
        self._access: Mapping[Audience, _Access] = {
            "device": _Access(identify, refusal),
            "linked": _Access(identify, refusal),
            "git": _Access(lambda scope: identify(with_bearer(scope)), git_refusal),
        }

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """Answer a request (RequestRefused: 401, 403, 404, 405, 429, 503, and what resources refuse)."""
        match = self._table.find(scope["raw_path"])
        said = seen(scope)
        said.route = match.route.template if match is not None else ""
        if match is not None and match.route.audience == "public":
            return await self._handle(match, scope, receive, ANYBODY)
        access = self._access[match.route.audience if match is not None else "device"]
        caller = access.way(scope)
        if caller is None:
            raise RequestRefused(access.refusal)
        said.client, said.reason = caller.client, ""
        if self._parts.enrolment is not None and not await self._parts.enrolment.admits(caller, scope):
            said.reason = "there are two of this device"
            raise RequestRefused(access.refusal)
        self._admission.enter(caller.client)
        try:
            if match is None:
                raise RequestRefused(self._table.missing(scope["raw_path"]))
            return await self._handle(match, scope, receive, caller)
        finally:
            self._admission.leave(caller.client)

    def _handle(self, match: Match[Parts], scope: Scope, receive: Receive, caller: Caller) -> Awaitable[Response]:
        operation = match.operation(scope["method"])
        return operation.handle(self._parts)(Call(scope, receive, caller, match.parameters))
