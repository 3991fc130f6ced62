"""Checks of how a Margo server enrols devices (docs/http.md, H-S-27 to H-S-29); no device is enrolled by them."""

from __future__ import annotations

import secrets
from typing import Final

from margo_gitops.conformance.agents.states import make_signing_key
from margo_gitops.conformance.servers.checking import Check, CheckSkipped, NotApplicable, expect
from margo_gitops.conformance.servers.client import Reply
from margo_gitops.conformance.servers.http_session import HttpSession
from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.enrolment import ENROLMENT_NAMESPACE, ENROLMENT_PATH, EnrolmentRequest
from margo_gitops.errors import TrustDocumentInvalid
from margo_gitops.trust.enrolment import write_request
from margo_gitops.trust.ssh_signature import sign
from margo_gitops.trust.trust_document import read_envelope

_JSON: Final = {"Content-Type": "application/json"}
_NOTHING: Final = b"{}"
_ABSENT: Final = (401, 403, 404, 405)
"""How a server answers strangers that asks everyone for credentials, or does not have the resource."""
_NOWHERE: Final = Digest(f"sha256:{'5' * 64}")


def _request(trust: Digest, device: str | None = None, namespace: str = ENROLMENT_NAMESPACE) -> bytes:
    """Return a request by a new key, with a secret that no server made."""
    key = make_signing_key()
    token, secret = sha256(secrets.token_bytes(32)), secrets.token_urlsafe(32)
    said = EnrolmentRequest(str(key.public), token, trust, device, secret)
    return write_request(said, lambda text: sign(text, key, namespace))


def _ask(session: HttpSession, body: bytes) -> Reply:
    reply = session.client.ask("POST", f"{session.target.prefix}{ENROLMENT_PATH}", _JSON, body, token="")
    if reply.status in _ABSENT and (reply.status != 403 or body == _NOTHING):
        raise NotApplicable("the server enrols no devices")
    if reply.status == 429:
        raise CheckSkipped("the server had too many requests for enrolment: check again later")
    return reply


def _wrong_requests(session: HttpSession) -> None:
    for body in (_NOTHING, b"{no json", _request(_NOWHERE, namespace="git")):
        reply = _ask(session, body)
        expect(reply.status == 422, f"what is not a signed request is answered with {reply.status}")


def _other_root(session: HttpSession) -> None:
    _ask(session, _NOTHING)
    reply = _ask(session, _request(_NOWHERE))
    expect(reply.status == 409, f"a request with an unknown trust document is answered with {reply.status}")


def _refusals(session: HttpSession) -> None:
    _ask(session, _NOTHING)
    reply = session.get(session.trust_path(1))
    if reply.status != 200:
        raise NotApplicable("the fleet has no trust document")
    try:
        trust = sha256(read_envelope(reply.content()).text.encode())
    except (TrustDocumentInvalid, ValueError) as error:
        raise CheckSkipped("the trust document cannot be read: see H-S-25") from error
    answers = [_ask(session, _request(trust, device)) for device in (None, session.target.device, "conformance-0")]
    for each in answers:
        expect(each.status == 403, f"a secret that no server made is answered with {each.status}")
    expect(len({each.body for each in answers}) == 1, "the refusal tells which devices there are")


ENROLLING: Final[tuple[Check[HttpSession], ...]] = (
    Check("H-S-27", "what is not a signed request for enrolment is refused", _wrong_requests),
    Check("H-S-28", "a request with another trust document is refused", _other_root),
    Check("H-S-29", "a secret that was never made enrols no device, and tells nothing", _refusals),
)
"""Checks that ask to be enrolled, in vain."""
