"""The older contract as a whole: its paths and its identity, in front of the resources that the current one has.

OLDER-1  A client is known by the key of its certificate: it signs each request, and the path names its id.
OLDER-2  First the digest of a body (400), then the signature (401), then whether the certificate is accepted (403):
         what a stranger can learn from an answer is what it knew before.
OLDER-3  A signature holds once: for what changes something, and where it has a nonce; in the strict profile, always.
OLDER-4  Documents, bundle and manifest have the older shape, made of the stored bytes (DOWNGRADE-1 to DOWNGRADE-3 in
         documents/upgrade.py). A signature of the renderer covers the stored bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from starlette.responses import Response
from starlette.types import Message, Receive, Scope

from margo_gitops.cache import SizedCache
from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.nodes import Bounds, Node
from margo_gitops.documents.upgrade import older_deployment, older_state
from margo_gitops.errors import MargoGitopsError, UnreadableDocument
from margo_gitops.server.contracts.onboarding import BAD_DIGEST, NOT_SIGNED, Onboarding
from margo_gitops.server.contracts.registry import ClientRegistry, RegisteredClient, SeenSignatures
from margo_gitops.server.contracts.signatures import (
    SignatureProfile,
    SignatureVerifier,
    Verified,
    digest_fits,
)
from margo_gitops.server.identity.callers import ANYBODY, Caller, seen, unknown
from margo_gitops.server.limits import Admission
from margo_gitops.server.problems import (
    INVALID_REQUEST,
    NOT_AUTHORIZED,
    OVERLOADED,
    SEMANTIC_ERROR,
    TOO_MANY,
    FieldError,
    RequestRefused,
)
from margo_gitops.server.reports.receiving import ReportResources
from margo_gitops.server.requests import MAX_BODY, read_body
from margo_gitops.server.resources.desired_state import DesiredStateResources, manifest_version
from margo_gitops.server.routing import (
    MAX_PATH,
    PARAMETERS,
    READING,
    Answer,
    Audience,
    Call,
    Handler,
    Operation,
    Route,
    RouteTable,
)
from margo_gitops.server.watched_file import WatchedFile
from margo_gitops.state_repo.objects import DeviceState
from margo_gitops.state_repo.served_state import Shape
from margo_gitops.values import dataclass, replace

_BODIES: Final = frozenset({"POST", "PUT"})
_BOUNDS: Final = Bounds(size=MAX_BODY, depth=16, nodes=5_000)
_SEEN_SECONDS: Final = 60
_KEPT_BYTES: Final = 16 * 1024 * 1024
_LOG = logging.getLogger("margo_gitops.server")


@dataclass(frozen=True, slots=True)
class OlderReports:
    """Takes reports as the older contract has them: its statuses, and its names of devices.

    A client of the older contract calls itself by its client id, or another name; the fleet by its device id.

    Attributes:
        writing: takes reports, in older shapes too.
        profile: strict demands that a client calls itself by its client id.
    """

    writing: ReportResources
    profile: SignatureProfile

    async def post_status(self, call: Call) -> Response:
        """Keep the status of a deployment: 200, as the older contract has no other success here."""
        response = await self.writing.post_status(call)
        response.status_code = 200
        return response

    async def put_capabilities(self, call: Call) -> Response:
        """Keep the capabilities of a client, or of a device behind it: 201, always."""
        device = self._device(call)
        own = "deviceId" not in call.parameters
        body = await read_body(call.scope, call.receive)
        body = of_device(body, call.parameters["clientId"], device, self.profile, own=own)
        call = replace(call, receive=_replayed(body), parameters={"deviceId": device})
        response = await self.writing.put_capabilities(call)
        response.status_code = 201
        return response

    async def delete_capabilities(self, call: Call) -> Response:
        """Forget the capabilities of a device behind a client."""
        return await self.writing.delete_capabilities(replace(call, parameters={"deviceId": self._device(call)}))

    def _device(self, call: Call) -> str:
        name = call.parameters.get("deviceId")
        return device_of(name, call.parameters["clientId"], call.caller.client) if name else call.caller.client


@dataclass(frozen=True, slots=True)
class _Converted(Mapping[str, bytes]):
    """Documents that are converted when they are asked for."""

    stored: Mapping[str, bytes]
    convert: Callable[[bytes], bytes]

    def __getitem__(self, name: str) -> bytes:
        return self.convert(self.stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


class OlderShapes:
    """Makes states of the older shape, and keeps what was asked for last: an idle poll costs a look-up."""

    def __init__(self) -> None:
        self._documents: SizedCache[Digest, bytes] = SizedCache(_KEPT_BYTES, len)
        self._manifests: SizedCache[tuple[str, str], bytes] = SizedCache(_KEPT_BYTES, len)

    def of(self, call: Call) -> Shape:
        """Return what makes the states of the client in the path (OLDER-4)."""
        return lambda state: self._state(state, call.parameters["clientId"])

    def _state(self, state: DeviceState, client_id: str) -> DeviceState:
        manifest = self._manifests.get((state.commit, client_id))
        if manifest is None:
            version = manifest_version(state.manifest)
            manifest, _ = older_state(version, state.deployments, client_id, self._document)
            self._manifests.put((state.commit, client_id), manifest)
        deployments = _Converted(state.deployments, self._document)
        return replace(state, manifest=manifest, manifest_digest=sha256(manifest), deployments=deployments)

    def _document(self, content: bytes) -> bytes:
        digest = sha256(content)
        found = self._documents.get(digest)
        if found is None:
            found = older_deployment(content)
            self._documents.put(digest, found)
        return found


@dataclass(frozen=True, slots=True)
class Parts:
    """What has the handlers."""

    onboarding: Onboarding
    reading: DesiredStateResources
    writing: OlderReports


def _read(path: str, handle: Callable[[Parts], Handler], *refusals: int, audience: Audience = "device") -> Route[Parts]:
    get = Operation(handle, "Read.", (Answer(200), Answer(304)), (400, 401, 403, 406, *refusals))
    return Route(f"{_CLIENT}{path}", audience, {"GET": get})


_CLIENTS: Final = "/api/v1/clients/"
_CLIENT: Final = f"{_CLIENTS}{{clientId}}"
_MADE: Final = (Answer(201),)
_BAD_BODY: Final = (400, 401, 403, 404, 422)
_KEEP: Final[Operation[Parts]] = Operation(lambda parts: parts.writing.put_capabilities, "Keep.", _MADE, _BAD_BODY)

ROUTES: Final[tuple[Route[Parts], ...]] = (
    Route(
        "/api/v1/onboarding/certificate",
        "public",
        {"GET": Operation(lambda parts: parts.onboarding.root_certificate, "The authority.", (Answer(200),), (404,))},
    ),
    Route(
        "/api/v1/onboarding",
        "public",
        {"POST": Operation(lambda parts: parts.onboarding.onboard, "Get an id.", _MADE, (400, 401, 403, 409, 503))},
    ),
    _read("/deployments", lambda parts: parts.reading.manifest),
    _read("/deployments/{deploymentId}/{digest}", lambda parts: parts.reading.deployment, 404, audience="linked"),
    _read("/bundles/{digest}", lambda parts: parts.reading.bundle, 404, audience="linked"),
    _read("/commits/{digest}", lambda parts: parts.reading.commit, 404),
    _read("/trust/{version}.json", lambda parts: parts.reading.trust, 404),
    _read("/freshness", lambda parts: parts.reading.freshness, 404),
    Route(
        f"{_CLIENT}/deployments/{{deploymentId}}/status",
        "device",
        {"POST": Operation(lambda parts: parts.writing.post_status, "Keep.", (Answer(200),), _BAD_BODY)},
    ),
    Route(f"{_CLIENT}/capabilities", "device", {"POST": _KEEP, "PUT": _KEEP}),
    Route(
        f"{_CLIENT}/capabilities/{{deviceId}}",
        "device",
        {
            "POST": _KEEP,
            "PUT": _KEEP,
            "DELETE": Operation(
                lambda parts: parts.writing.delete_capabilities, "Forget.", (Answer(204),), (400, 401, 403, 404)
            ),
        },
    ),
)


@dataclass(eq=False)
class SignedContract:
    """Answers the requests of the older contract.

    Attributes:
        accepted: the device of each accepted certificate.
        clock: the time, seconds since the epoch.
    """

    parts: Parts
    admission: Admission
    registry: ClientRegistry
    accepted: WatchedFile[Mapping[Digest, str]]
    verifier: SignatureVerifier
    seen: SeenSignatures
    profile: SignatureProfile
    base: str
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._table = RouteTable(ROUTES, self.base)

    async def answer(self, scope: Scope, receive: Receive) -> Response | None:
        """Answer a request of the older contract; None for any other one.

        Raises:
            RequestRefused: 400, 401, 403, and what resources refuse.
        """
        match = self._table.find(scope["raw_path"])
        said = seen(scope)
        said.route = match.route.template if match is not None else ""
        if match is not None and match.route.audience == "public":
            handle = match.operation(scope["method"]).handle(self.parts)
            return await handle(Call(scope, receive, ANYBODY))
        client_id = client_of_path(scope["raw_path"], self.base)
        if client_id is None:
            return None
        if scope["method"] in READING:
            _refuse_body(scope)
            body = b""
        else:
            body = await read_body(scope, receive)
            receive = _replayed(body)
        caller = self._caller(scope, client_id, body)
        if match is None:
            raise RequestRefused(self._table.missing(scope["raw_path"]))
        handle = match.operation(scope["method"]).handle(self.parts)
        said.client = caller.client
        self.admission.enter(caller.client)
        try:
            return await handle(Call(scope, receive, caller, match.parameters))
        finally:
            self.admission.leave(caller.client)

    def _caller(self, scope: Scope, client_id: str, body: bytes) -> Caller:
        """Return who signed a request (OLDER-2)."""
        has_body = bool(body) or scope["method"] in _BODIES
        if has_body and not digest_fits(scope, body):
            raise RequestRefused(BAD_DIGEST)
        try:
            client = self.registry.find(client_id)
            key = client.certificate.key if client else None
            verified = self.verifier.verify(scope, lambda _: key, has_body=has_body)
        except MargoGitopsError as error:
            _LOG.error("a signature cannot be checked: %s", error)
            raise RequestRefused(OVERLOADED) from error
        if verified is None or client is None:
            unknown(scope, "no signature of a registered client that holds")
            raise RequestRefused(NOT_SIGNED)
        accepted, certificate = self.accepted.value(), client.certificate
        if not certificate.holds_at(self.clock()) or certificate.fingerprint not in accepted:
            unknown(scope, f"the certificate of client {client.id} is not accepted, or expired")
            raise RequestRefused(NOT_AUTHORIZED)
        self._refuse_replays(scope, client, verified)
        return Caller(accepted[certificate.fingerprint], f"signature {client.id}")

    def _refuse_replays(self, scope: Scope, client: RegisteredClient, verified: Verified) -> None:
        """Refuse a signature, or a nonce, that was seen before (OLDER-3)."""
        if not verified.nonce and self.profile != "strict" and scope["method"] in READING:
            return
        mark = verified.mark
        if verified.nonce:
            mark = hashlib.sha256(f"{client.id}\0{verified.nonce}".encode()).digest()
        if self.seen.is_full_of(client.id):
            raise RequestRefused(TOO_MANY.later(_SEEN_SECONDS))
        if self.seen.full:
            raise RequestRefused(OVERLOADED)
        if not self.seen.is_first(mark, client.id):
            _LOG.warning("a request of client %s came a second time and was refused", client.id)
            raise RequestRefused(NOT_SIGNED)


def _refuse_body(scope: Scope) -> None:
    """Refuse a body where none belongs, which no signature would cover."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise RequestRefused(INVALID_REQUEST)


def _replayed(body: bytes) -> Receive:
    """Return a body that was read as one that can be read."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def client_of_path(raw_path: bytes, base: str) -> str | None:
    """Return the client id in a path, empty if it is not valid; None for a path that is not below a client.

    Args:
        raw_path: the path as sent, without query.
        base: a prefix that all paths of the API have.
    """
    below = rf"(?:{re.escape(base)})?{_CLIENTS}"
    found = re.match(rf"{below}(?:({PARAMETERS['clientId'].raw})(?=/|\Z))?", raw_path.decode("latin-1"))
    return (found[1] or "" if len(raw_path) <= MAX_PATH else "") if found else None


def device_of(name: str, client_id: str, device: str) -> str:
    """Return the device id that a client means.

    Args:
        name: what it says: its client id, that and a child's name, or a device id.
    """
    first, slash, child = name.partition("/")
    return f"{device}{slash}{child}" if first == client_id else name


def of_device(body: bytes, client_id: str, device: str, profile: SignatureProfile, *, own: bool) -> bytes:
    """Return capabilities with the device's id in place of the client's own name for itself.

    An unreadable document passes unchanged: the reader of reports says what is wrong with it.

    Args:
        profile: strict demands that a client calls itself by its client id.
        own: whether they are the client's own, and not those of a device in the path.

    Raises:
        RequestRefused: 422 for another name where the profile is strict.
    """
    try:
        root = read_json(body, "body", _BOUNDS).root
    except UnreadableDocument:
        return body
    properties = root.get("properties")
    name = root.text("properties", "id")
    if properties is None or not isinstance(properties.value, dict) or name is None:
        return body
    if own and profile == "strict" and name != client_id:
        wrong = FieldError("properties.id", "must be the client id")
        raise RequestRefused(SEMANTIC_ERROR.because("These capabilities are not valid for this client.", [wrong]))
    properties.value["id"] = Node(device if own else device_of(name, client_id, device.partition("/")[0]))
    return json.dumps(root.plain(), ensure_ascii=False).encode()
