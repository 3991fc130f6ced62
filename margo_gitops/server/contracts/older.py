"""The older contract as a whole: its paths and its identity, in front of the resources that the current one has.

O-1  A client is known by the key of its certificate: it signs each request, and the path names its id.
O-2  First the digest of a body (400), then the signature (401), then whether the certificate is accepted (403): what a
     stranger can learn from an answer is what it knew before.
O-3  A signature holds once: for what changes something, and where it has a nonce; in the strict profile, always.
O-4  The bytes served are those of the current contract, links included. So documents and bundles are also found at the
     current paths, by whoever signs for it with a `keyid` that is known here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final, TypeAlias

from starlette.responses import Response
from starlette.types import Message, Receive, Scope

from margo_gitops.digests import Digest
from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.contracts.algorithms import PublicKey
from margo_gitops.server.contracts.capabilities import device_of, of_device
from margo_gitops.server.contracts.older_paths import (
    CLIENT_METHODS,
    ONBOARDING_METHODS,
    ClientPath,
    find_client_path,
    find_onboarding,
)
from margo_gitops.server.contracts.onboarding import BAD_DIGEST, NOT_SIGNED, Onboarding
from margo_gitops.server.contracts.registry import ClientRegistry, RegisteredClient
from margo_gitops.server.contracts.replays import SeenSignatures
from margo_gitops.server.contracts.verification import SignatureProfile, SignatureVerifier, Verified, digest_fits
from margo_gitops.server.identity.callers import Caller, header
from margo_gitops.server.paths import Resource
from margo_gitops.server.problems import (
    INVALID_REQUEST,
    NOT_AUTHORIZED,
    NOT_FOUND,
    OVERLOADED,
    TOO_MANY,
    RequestRefused,
    not_allowed,
)
from margo_gitops.server.reports.resources import ReportResources, read_body
from margo_gitops.server.resources.desired_state import DesiredStateResources
from margo_gitops.server.watched_file import WatchedFile

Admit: TypeAlias = Callable[[Caller, Callable[[], Awaitable[Response]]], Awaitable[Response]]
"""Does a caller's work within the limits that all callers have."""

_READING: Final = frozenset({"GET", "HEAD"})
_BODIES: Final = frozenset({"POST", "PUT"})
_LINKED: Final = frozenset({"deployment", "bundle"})
_SEEN_SECONDS: Final = 60
_LOG = logging.getLogger("margo_gitops.server")


class SignedContract:
    """Answers the requests of the older contract."""

    def __init__(
        self,
        *,
        registry: ClientRegistry,
        accepted: WatchedFile[Mapping[Digest, str]],
        verifier: SignatureVerifier,
        onboarding: Onboarding,
        seen: SeenSignatures,
        reading: DesiredStateResources,
        writing: ReportResources,
        profile: SignatureProfile,
        base: str,
        clock: Callable[[], float],
    ) -> None:
        """Take the parts.

        Args:
            registry: knows the clients' ids.
            accepted: the device of each accepted certificate.
            verifier: holds requests against keys.
            onboarding: answers clients that have no id.
            seen: remembers signatures.
            reading: answers what devices read.
            writing: answers what devices write, in older shapes too.
            profile: of signatures.
            base: a prefix of all paths.
            clock: the time, seconds since the epoch.
        """
        self._registry = registry
        self._accepted = accepted
        self._verifier = verifier
        self._onboarding = onboarding
        self._seen = seen
        self._reading = reading
        self._writing = writing
        self._profile = profile
        self._base = base
        self._clock = clock

    async def answer(self, scope: Scope, receive: Receive, admit: Admit) -> Response | None:
        """Answer a request of the older contract; None for any other one.

        Args:
            scope: the request.
            receive: its body.
            admit: holds the caller to its limits.

        Raises:
            RequestRefused: 400, 401, 403, and what resources refuse.
        """
        onboarding = find_onboarding(scope["raw_path"], self._base)
        if onboarding is not None:
            if scope["method"] not in ONBOARDING_METHODS[onboarding]:
                raise RequestRefused(not_allowed(ONBOARDING_METHODS[onboarding]))
            if onboarding == "certificate":
                return self._onboarding.root_certificate()
            return await self._onboarding.onboard(scope, receive)
        path = find_client_path(scope["raw_path"], self._base)
        return await self._answer_client(scope, receive, path, admit) if path is not None else None

    def caller_of_link(self, scope: Scope, resource: Resource | None) -> Caller | None:
        """Return who follows a link of a manifest, known by the key that signs; None for nobody (O-4).

        Args:
            scope: the request.
            resource: what the current contract has at its path.

        Raises:
            RequestRefused: 503 where signatures cannot be checked.
        """
        if resource is None or resource.name not in _LINKED or scope["method"] not in _READING:
            return None
        if header(scope, b"signature-input") is None:
            return None
        try:
            return self._caller(scope, self._find_by_key, b"")[0]
        except RequestRefused as refusal:
            if refusal.problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            return None

    async def _answer_client(self, scope: Scope, receive: Receive, path: ClientPath, admit: Admit) -> Response:
        if scope["method"] in _READING:
            _refuse_body(scope)
            body = b""
        else:
            body = await read_body(scope, receive)
        caller, client_id = self._caller(scope, lambda _: self._find(path.client_id), body)
        if not path.name:
            raise RequestRefused(NOT_FOUND)
        if scope["method"] not in CLIENT_METHODS[path.name]:
            raise RequestRefused(not_allowed(CLIENT_METHODS[path.name]))
        resource = path.resource or Resource("capabilities", device=caller.client)
        if scope["method"] in _READING:
            return await admit(caller, lambda: self._read(scope, receive, caller, resource))
        return await admit(caller, lambda: self._write(scope, body, caller, client_id, path, resource))

    async def _read(self, scope: Scope, receive: Receive, caller: Caller, resource: Resource) -> Response:
        match resource.name:
            case "manifest":
                return await self._reading.manifest(scope, receive, caller)
            case "deployment":
                return await self._reading.deployment(scope, caller, resource)
            case "freshness":
                return await self._reading.freshness(scope, caller)
            case _:
                return await self._reading.bundle(scope, caller, resource)

    async def _write(
        self, scope: Scope, body: bytes, caller: Caller, client_id: str, path: ClientPath, resource: Resource
    ) -> Response:
        if resource.name == "status":
            response = await self._writing.post_status(scope, _replayed(body), caller, resource)
            response.status_code = 200  # the older contract has no other success here, and 201 for capabilities
            return response
        own = path.name == "own-capabilities"
        device = caller.client if own else device_of(resource.device, client_id, caller.client)
        resource = Resource("capabilities", device=device)
        if scope["method"] == "DELETE":
            return await self._writing.delete_capabilities(caller, resource)
        content = of_device(body, client_id, device, self._profile, own=own)
        response = await self._writing.put_capabilities(scope, _replayed(content), caller, resource)
        response.status_code = 201
        return response

    def _caller(self, scope: Scope, find: Callable[[str], list[RegisteredClient]], body: bytes) -> tuple[Caller, str]:
        """Return who signed a request, and its client id (O-2).

        Raises:
            RequestRefused: 400, 401, 403, 503.
        """
        has_body = bool(body) or scope["method"] in _BODIES
        if has_body and not digest_fits(scope, body):
            raise RequestRefused(BAD_DIGEST)
        found: list[RegisteredClient] = []

        def key_of(key_id: str) -> PublicKey | None:
            found[:] = find(key_id)
            return found[0].certificate.key if found else None

        try:
            verified = self._verifier.verify(scope, key_of, has_body=has_body)
        except MargoGitopsError as error:
            _LOG.error("a signature cannot be checked: %s", error)
            raise RequestRefused(OVERLOADED) from error
        if verified is None:
            raise RequestRefused(NOT_SIGNED)
        accepted, now = self._accepted.value(), self._clock()
        valid = [each for each in found if each.certificate.holds_at(now) and each.certificate.fingerprint in accepted]
        if not valid:
            raise RequestRefused(NOT_AUTHORIZED)
        client = valid[0]
        self._refuse_replays(scope, client, verified)
        return Caller(accepted[client.certificate.fingerprint], f"signature {client.id}"), client.id

    def _refuse_replays(self, scope: Scope, client: RegisteredClient, verified: Verified) -> None:
        """O-3."""
        if not verified.nonce and self._profile != "strict" and scope["method"] in _READING:
            return
        mark = verified.mark
        if verified.nonce:
            mark = hashlib.sha256(f"{client.id}\0{verified.nonce}".encode()).digest()
        if self._seen.is_full_of(client.id):
            raise RequestRefused(TOO_MANY.later(_SEEN_SECONDS))
        if self._seen.full:
            raise RequestRefused(OVERLOADED)
        if not self._seen.is_first(mark, client.id):
            _LOG.warning("a request of client %s came a second time and was refused", client.id)
            raise RequestRefused(NOT_SIGNED)

    def _find(self, client_id: str) -> list[RegisteredClient]:
        found = self._registry.find(client_id)
        return [found] if found else []

    def _find_by_key(self, key_id: str) -> list[RegisteredClient]:
        return self._find(key_id) or self._registry.find_by_key(key_id)


def _refuse_body(scope: Scope) -> None:
    """Refuse a body where none belongs, which no signature would cover.

    Raises:
        RequestRefused: 400.
    """
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise RequestRefused(INVALID_REQUEST)


def _replayed(body: bytes) -> Receive:
    """Return a body that was read as one that can be read."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
