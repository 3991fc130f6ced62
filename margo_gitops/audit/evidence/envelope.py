"""The outer forms of evidence: an in-toto statement (v1) in a DSSE envelope, signed with an ed25519 key of OpenSSH's.

Both by the libraries of their makers. An evidence file is the one spelling of its envelope, so that no byte of the file
can change without notice.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.json_format import ParseDict, ParseError
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import Signature, SSlibKey

from margo_gitops.audit.evidence.predicate import PAYLOAD_TYPE, PREDICATE_TYPE, Subject
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.ssh_key import SigningKey, SshPublicKey, WireReader

_ED25519: Final = "ssh-ed25519"


def statement_payload(subjects: tuple[Subject, ...], predicate: dict[str, Json]) -> bytes:
    """Return the bytes of an in-toto statement (ValueError: it is not valid)."""
    written = [write(each) for each in subjects]
    descriptors = [
        ResourceDescriptor(name=cast("str", each["name"]), digest=cast("dict[str, str]", each["digest"])).pb
        for each in written
    ]
    statement = Statement(descriptors, PREDICATE_TYPE, predicate)
    statement.validate()
    document: dict[str, Json] = {
        "_type": cast("str", statement.pb.type),
        "subject": [cast("Json", each) for each in written],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return write_json(document)


def check_statement(payload: bytes) -> None:
    """Check that a payload is an in-toto statement, by in-toto's own reader (ValueError: it is something else)."""
    try:
        message = ParseDict(json.loads(payload), StatementMessage())
        Statement.copy_from_pb(message).validate()
    except (ParseError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the payload is not an in-toto statement: {error}") from error


def sealed(payload: bytes, key: SigningKey) -> bytes:
    """Return an evidence file: the payload in an envelope that the key signed."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    name = key.public.fingerprint
    envelope.signatures[name] = Signature(name, _raw(key.sign(envelope.pae())).hex())
    return _spelled(envelope)


def opened(content: bytes, signers: AllowedSigners) -> tuple[bytes, SshPublicKey]:
    """Return the payload of an evidence file, and the listed key that signed it; whether it may is for the caller.

    Raises:
        ValueError: it is not an envelope of ours, or no listed key signed it.
    """
    try:
        envelope = Envelope.from_dict(json.loads(content))
        spelled = _spelled(envelope)
    except (FormatError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"it is not a DSSE envelope ({str(error).strip(chr(39)) or type(error).__name__})") from error
    if spelled != content:
        raise ValueError("the envelope is spelled in another way than `audit export` writes it")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ValueError(f"the payload is {envelope.payload_type!r}, not {PAYLOAD_TYPE!r}")
    keys = {each.key.fingerprint: each.key for each in signers.signers if each.key.type == _ED25519}
    try:
        public = ((name, Ed25519PublicKey.from_public_bytes(_raw(key.blob))) for name, key in keys.items())
        accepted = envelope.verify([SSlibKey.from_crypto(key, keyid=name) for name, key in public], 1)
    except (VerificationError, ValueError) as error:
        named = ", ".join(envelope.signatures) or "nobody"
        raise ValueError(f"no key that {signers.file} lists signed it; it says that {named} did") from error
    if len(accepted) != len(envelope.signatures):
        raise ValueError("it bears more signatures than the one that counts")
    return envelope.payload, keys[next(iter(accepted))]


def _raw(wire: bytes) -> bytes:
    """Return the 32 or 64 bytes of an ed25519 key or signature, without the name of the algorithm (RFC 8709)."""
    reader = WireReader(wire)
    reader.name()
    return reader.string()


def _spelled(envelope: Envelope) -> bytes:
    document: dict[str, Any] = envelope.to_dict()
    return write_json(document) + b"\n"
