"""Enrolment: does a request come from the key that it names, and does the answer begin at the right root (D-37). Pure.

ENROL-1  A request is signed by the key that it names. So it can be sent again by anyone, and changes nothing.
ENROL-2  Neither request nor answer has the token: the device makes it, and the server learns its sha256.
ENROL-3  The device knows the sha256 of its first trust document, or has the document, before it asks. An answer with
         another document is refused, and so is one with another device id than the device knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.enrolment import (
    ENROLMENT_NAMESPACE,
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    EnrolmentAnswer,
    EnrolmentEnvelope,
    EnrolmentRequest,
    StickRequest,
)
from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.records import read, write
from margo_gitops.errors import (
    EnrolmentInvalid,
    InvalidDocument,
    SignatureInvalid,
    TrustDocumentForeign,
    UnreadableDocument,
)
from margo_gitops.trust.ssh_key import SshPublicKey, read_public_key
from margo_gitops.trust.ssh_signature import parse_signature
from margo_gitops.trust.trust_document import FleetTrust, first

T = TypeVar("T")
R = TypeVar("R", EnrolmentRequest, StickRequest)


def write_request(request: EnrolmentRequest | StickRequest, sign: Callable[[bytes], str]) -> bytes:
    """Return the bytes of a request that is signed (RFC 8785).

    Args:
        sign: returns an armored SSH signature for `margo-gitops-enrolment`, by the key that the request names.
    """
    text = write_json(write(request))
    return write_json(write(EnrolmentEnvelope(text.decode(), sign(text))))


def read_request(content: bytes) -> tuple[EnrolmentRequest, SshPublicKey]:
    """Return a request and the key that signed it (ENROL-1; EnrolmentInvalid: it is malformed, or not signed by it)."""
    return _signed(EnrolmentRequest, content)


def read_stick_request(content: bytes) -> tuple[StickRequest, SshPublicKey]:
    """Return a request from a stick and the key that signed it (ENROL-1; EnrolmentInvalid, as for the others)."""
    return _signed(StickRequest, content)


def _signed(kind: type[R], content: bytes) -> tuple[R, SshPublicKey]:
    envelope = _read(EnrolmentEnvelope, content, "request", MAX_REQUEST_BYTES)
    request = _read(kind, envelope.request.encode(), "request", MAX_REQUEST_BYTES)
    try:
        key = read_public_key(*request.public_key.split(" "))
        parse_signature(envelope.signature).verify(envelope.request.encode(), key, ENROLMENT_NAMESPACE)
    except (ValueError, SignatureInvalid) as error:
        raise EnrolmentInvalid("the request is not signed by the key that it names", why=[str(error)]) from None
    return request, key


def read_answer(content: bytes, trust: Digest, device: str | None) -> tuple[EnrolmentAnswer, FleetTrust]:
    """Return an answer and the trust document to begin with (ENROL-3).

    Args:
        trust: sha256 of the document's text.
        device: the device's id; None where the server says it.

    Raises:
        EnrolmentInvalid: it is malformed, or for another device.
        TrustRefused: its trust document is another one, or does not count.
    """
    answer = _read(EnrolmentAnswer, content, "answer", MAX_ANSWER_BYTES)
    if device is not None and answer.device != device:
        raise EnrolmentInvalid(
            f"the server says that this is {answer.device}, but it is {device}",
            remedy="find out what the server is; make a new secret for this device",
        )
    return answer, begin(answer.trust_document.encode(), trust)


def begin(content: bytes, trust: Digest | None) -> FleetTrust:
    """Return the trust document that a device begins with (TrustRefused: it is another one, or does not count).

    Args:
        content: its envelope.
        trust: sha256 of its text; None where the document itself was given.
    """
    found = first(content)
    if trust is not None and trust_digest(found) != trust:
        raise TrustDocumentForeign(
            f"{found.name} is not the trust document that this device must begin with",
            remedy="find out what the server is; it may be one that deceives",
        )
    return found


def trust_digest(trust: FleetTrust) -> Digest:
    """Return what names a trust document: sha256 of its text, which does not change when it gets more signatures."""
    return sha256(trust.text.encode())


def _read(kind: type[T], content: bytes, name: str, size: int) -> T:
    try:
        return read(kind, read_json(content, name, Bounds(size=size, depth=4, nodes=50)))
    except (UnreadableDocument, InvalidDocument) as error:
        raise EnrolmentInvalid(f"the {name} cannot be read: {error.what}", why=error.why) from error
