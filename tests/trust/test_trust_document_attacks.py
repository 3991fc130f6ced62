"""The trust document under attack, by bytes that no tool of the project writes (ROOT-1 to ROOT-11)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.trust_documents import RENDERER, ROOTS, STRANGER, document, key, listed, signed

from margo_gitops.documents.trust_document import (
    MAX_ENVELOPE_BYTES,
    KeyRole,
    RevokedKey,
    RootRole,
    TrustDocument,
    TrustKey,
    write_document,
    write_envelope,
)
from margo_gitops.errors import (
    TrustDocumentForeign,
    TrustDocumentGap,
    TrustDocumentInvalid,
    TrustDocumentRollback,
    TrustDocumentUnsigned,
    TrustRefused,
)
from margo_gitops.trust.ssh_key import SigningKey, SshPublicKey, WireReader, wire_string
from margo_gitops.trust.ssh_signature import sign
from margo_gitops.trust.trust_document import ROOT_NAMESPACE, FleetTrust, first, follow

FIRST = first(signed(document(), *ROOTS[:2]))
TEXT = write_document(document(2))
THEFT = "2026-05-01T00:00:00Z"


def armored(text: str, *keys: SigningKey, namespace: str = ROOT_NAMESPACE) -> tuple[str, ...]:
    return tuple(sign(text.encode(), each, namespace) for each in keys)


def by_roots(text: str) -> bytes:
    """Return an envelope around any text, signed by all root keys: a tool of the root's own may have gone wrong."""
    return write_envelope(text, armored(text, *ROOTS))


def altered(old: str, new: str) -> bytes:
    assert old in TEXT
    return by_roots(TEXT.replace(old, new))


NUMBERS = [
    "2.0",
    "2e0",
    "02",
    "+2",
    "-2",
    "0",
    "true",
    "null",
    '"2"',
    "\uff12",
    "1e400",
    "NaN",
    "0x2",
    str(2**31),
    str(2**64),
]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_version_is_a_whole_number_in_one_spelling(number: str) -> None:
    with pytest.raises(TrustDocumentInvalid):
        follow(FIRST, altered('"version":2', f'"version":{number}'))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"version":2', '"version":2,"version":3'),
        ('"version":2', '"version":2,"Version":3'),
        ('"version":2', '"version":2,"\\u0076ersion":3'),
        ('"fleet":"plant"', '"fleet":"pl\u0430nt"'),
        ('"fleet":"plant"', '"fleet":"plant\\u0000"'),
        ('"fleet":"plant"', '"fleet":"plant\u200b"'),
        ('"fleet":"plant"', '"fleet":"\\ud800"'),
        ('"fleet":"plant"', '"fleet":"PLANT"'),
        ('"threshold":2', '"threshold":0'),
        ('"threshold":2', '"threshold":-1'),
        ('"threshold":2', '"threshold":1e0'),
        ("ssh-ed25519 ", "ssh-ed25519  "),
        ("ssh-ed25519 ", "SSH-ED25519 "),
        ("ssh-ed25519 ", "ecdsa-sha2-nistp256 "),
        ('"name":"root-2"', '"name":"root-1"'),
        ('"name":"root-2"', '"name":"root\\u202e-2"'),
        ('"expires":"2027-01-01T00:00:00Z"', '"expires":"2027-01-01T00:00:00+00:00"'),
        ('"expires":"2027-01-01T00:00:00Z"', '"expires":"2027-02-30T00:00:00Z"'),
        ('"expires":"2027-01-01T00:00:00Z"', '"expires":"0000-01-01T00:00:00Z"'),
        ('{"apiVersion"', '\ufeff{"apiVersion"'),
        ('"kind":"TrustDocument"', '"kind":"TrustDocument"} {"kind":"TrustDocument"'),
    ],
)  # fmt: skip
def test_a_document_that_two_readers_might_read_differently_is_refused(old: str, new: str) -> None:
    with pytest.raises(TrustDocumentInvalid):
        follow(FIRST, altered(old, new))


def test_what_is_signed_is_the_text_itself_in_any_layout() -> None:
    spaced = json.dumps(json.loads(TEXT), indent=3)
    assert follow(FIRST, by_roots(spaced)).document == document(2)
    other_layout = write_envelope(spaced, armored(TEXT, *ROOTS))
    with pytest.raises(TrustDocumentUnsigned):
        follow(FIRST, other_layout)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * MAX_ENVELOPE_BYTES,
        b'{"document":' * 5000,
        b'{"document":"","signatures":[' + b'"",' * 20_000 + b'""]}',
        b"\xff" * 100,
        b'{"document":"\\ud800","signatures":[]}',
        b'{"document":"","document":"","signatures":[]}',
        b"null",
        b"9" * 60_000,
    ],
)
def test_an_envelope_of_hostile_form_is_refused_at_once(content: bytes) -> None:
    with pytest.raises(TrustDocumentInvalid):
        follow(FIRST, content)


def test_an_envelope_has_its_limit_to_the_byte() -> None:
    plain = signed(document(2), *ROOTS[:2])
    filled = plain + b" " * (MAX_ENVELOPE_BYTES - len(plain))
    assert follow(FIRST, filled).version == 2
    with pytest.raises(TrustDocumentInvalid):
        follow(FIRST, filled + b" ")


def test_of_two_signed_documents_of_one_version_the_first_stays() -> None:
    """A fork: who sees both knows that the root keys were used twice; the next version is for both sides."""
    left, right = (signed(document(2, render=(each,)), *ROOTS[:2]) for each in (key(21), key(22)))
    third = signed(document(3, render=(key(23),)), *ROOTS[1:])
    for mine, other in ((left, right), (right, left)):
        held = follow(FIRST, mine)
        with pytest.raises(TrustDocumentRollback, match="with other content"):
            follow(held, other)
        assert follow(held, third).version == 3


def test_nothing_but_the_next_version_is_followed() -> None:
    held = follow(FIRST, signed(document(2), *ROOTS))
    for version, refusal in ((1, TrustDocumentRollback), (4, TrustDocumentGap), (2**31 - 1, TrustDocumentGap)):
        with pytest.raises(refusal):
            follow(held, signed(document(version), *ROOTS))


def test_who_lowers_the_threshold_and_changes_the_keys_at_once_still_needs_the_old_threshold() -> None:
    takeover = document(2, roots=(STRANGER,), threshold=1)
    for signers in ((STRANGER,), (STRANGER, ROOTS[0]), (STRANGER, ROOTS[0], ROOTS[0])):
        with pytest.raises(TrustDocumentUnsigned, match="of version 1, it needs 2"):
            follow(FIRST, signed(takeover, *signers))
    assert follow(FIRST, signed(takeover, STRANGER, *ROOTS[1:])).version == 2
    with pytest.raises(TrustDocumentUnsigned, match="of version 2, it needs 1"):
        follow(FIRST, signed(takeover, *ROOTS))


def test_a_threshold_that_is_raised_counts_for_the_version_that_raises_it() -> None:
    with pytest.raises(TrustDocumentUnsigned, match="it needs 3"):
        follow(FIRST, signed(document(2, threshold=3), *ROOTS[:2]))


@pytest.mark.parametrize(
    "namespace", ["git", "file", "margo-gitops-freshness", "margo-gitops-root ", "", "MARGO-GITOPS-ROOT"]
)
def test_a_signature_for_another_use_does_not_count(namespace: str) -> None:
    with pytest.raises(TrustDocumentUnsigned, match="signed by 0"):
        follow(FIRST, signed(document(2), *ROOTS, namespace=namespace))


def test_a_key_of_another_role_is_no_root_key() -> None:
    with pytest.raises(TrustDocumentUnsigned):
        follow(FIRST, signed(document(2), ROOTS[0], RENDERER, key(4), key(5)))


def test_a_root_key_in_every_role_signs_only_what_each_role_says() -> None:
    said = document(render=(ROOTS[0],))
    trust = first(signed(said, *ROOTS[:2]))
    at = datetime(2026, 6, 1, tzinfo=UTC)
    assert trust.signers().find(ROOTS[0].public, "git", at) == "renderer-1"
    assert trust.signers().find(ROOTS[0].public, ROOT_NAMESPACE, at) is None
    with pytest.raises(TrustDocumentUnsigned):
        follow(trust, signed(replace(said, version=2), ROOTS[0], namespace="git"))


def test_a_key_under_two_names_is_one_key() -> None:
    roles = replace(document().roles, root=RootRole(2, (*listed(*ROOTS), TrustKey("again", str(ROOTS[0].public)))))
    with pytest.raises(TrustDocumentInvalid, match="appears 2 times"):
        first(signed(document(2, roles=roles), *ROOTS))


def curve_key() -> SshPublicKey:
    numbers = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    kind, encoded = numbers.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode().split(" ")
    return SshPublicKey(kind, base64.b64decode(encoded))


def test_a_key_has_one_spelling() -> None:
    """Base64 that ends in `=` has unused bits: a revoked key in another spelling would count on."""
    text = str(curve_key())
    other = f"{text[:-2]}{chr(ord(text[-2]) + 1)}="
    assert base64.b64decode(other.split(" ")[1]) == curve_key().blob
    roles = replace(document().roles, render=KeyRole((*listed(RENDERER), TrustKey("stolen", other))))
    with pytest.raises(TrustDocumentInvalid):
        first(signed(document(roles=roles, revoked=(RevokedKey(text, "compromised", THEFT),)), *ROOTS))


def test_revoked_root_keys_sign_nothing_more_also_together() -> None:
    later = document(2, revoked=tuple(RevokedKey(str(each.public), "retired", THEFT) for each in ROOTS[:1]))
    held = follow(FIRST, signed(later, *ROOTS))
    for signers in ((ROOTS[0], ROOTS[1]), (ROOTS[0], ROOTS[0], ROOTS[2])):
        with pytest.raises(TrustDocumentUnsigned):
            follow(held, signed(replace(later, version=3), *signers))
    assert follow(held, signed(replace(later, version=3), *ROOTS[1:])).version == 3


def test_a_document_of_another_fleet_is_refused_before_its_version_is_looked_at() -> None:
    for version in (1, 2, 9):
        with pytest.raises(TrustDocumentForeign):
            follow(FIRST, signed(document(version, fleet="other"), *ROOTS))
    with pytest.raises(TrustDocumentForeign):
        first(signed(document(fleet="other"), *ROOTS), "plant")


def test_a_chain_with_an_expired_document_in_its_middle_is_followed() -> None:
    times = [("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"), ("2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z")]
    held = FIRST
    for version, (issued, expires) in enumerate(times, start=2):
        held = follow(held, signed(document(version, issued=issued, expires=expires), *ROOTS))
    assert not held.expired(datetime(2029, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(("year", "expired"), [(1970, False), (2026, False), (2027, True), (2100, True)])
def test_only_the_clock_decides_whether_a_document_has_expired(year: int, expired: bool) -> None:
    assert FIRST.expired(datetime(year, 1, 1, tzinfo=UTC)) is expired


def counted(held: FleetTrust) -> tuple[FleetTrust, Callable[[], int]]:
    """Return a document whose cryptography is counted."""
    calls = 0

    def verify(which: SshPublicKey, signature: bytes, data: bytes) -> None:
        nonlocal calls
        calls += 1
        which.verify(signature, data)

    return replace(held, verify=verify), lambda: calls


def test_a_device_verifies_one_signature_of_each_key_however_many_there_are() -> None:
    """Each costs a small device a process: 200 forged ones in an envelope would keep it busy at every poll."""
    bad = armored("other", *ROOTS) * 60
    content = write_envelope(TEXT, bad)
    assert len(content) < MAX_ENVELOPE_BYTES
    held, calls = counted(FIRST)
    with pytest.raises(TrustDocumentUnsigned):
        follow(held, content)
    assert calls() <= len(ROOTS)


def token_key(seed: int) -> SshPublicKey:
    kind = "sk-ssh-ed25519@openssh.com"
    point = key(seed).public.blob[-32:]
    return SshPublicKey(kind, wire_string(kind) + wire_string(point) + wire_string(b"ssh:"))


def by_token(text: str, seed: int, flags: int) -> str:
    """Return what a security key signs: its flags say whether a person touched it."""
    public, kind = token_key(seed), "sk-ssh-ed25519@openssh.com"
    message = b"SSHSIG" + b"".join(
        map(wire_string, (ROOT_NAMESPACE.encode(), b"", b"sha512", hashlib.sha512(text.encode()).digest()))
    )
    counter = bytes([flags]) + (7).to_bytes(4, "big")
    wire = WireReader(key(seed).sign(hashlib.sha256(b"ssh:").digest() + counter + hashlib.sha256(message).digest()))
    wire.name()
    signature = wire_string(kind) + wire_string(wire.string()) + counter
    head = b"SSHSIG" + (1).to_bytes(4, "big") + wire_string(public.blob)
    blob = head + b"".join(map(wire_string, (ROOT_NAMESPACE.encode(), b"", b"sha512", signature)))
    body = base64.b64encode(blob).decode()
    return f"-----BEGIN SSH SIGNATURE-----\n{body}\n-----END SSH SIGNATURE-----\n"


def held_by_tokens() -> TrustDocument:
    keys = tuple(TrustKey(f"token-{seed}", str(token_key(seed))) for seed in (31, 32, 33))
    return document(roles=replace(document().roles, root=RootRole(2, keys)))


def test_tokens_sign_as_other_root_keys_do() -> None:
    text = write_document(held_by_tokens())
    content = write_envelope(text, (by_token(text, 31, 1), by_token(text, 32, 5)))
    assert first(content).signed_by(first(content)) == ("token-31", "token-32")
    for other in (STRANGER, ROOTS[0]):
        with pytest.raises(TrustDocumentUnsigned):
            first(write_envelope(text, (by_token(text, 31, 1), *armored(text, other))))


def test_a_token_that_nobody_touched_has_not_signed() -> None:
    """A program on the machine may ask a token for a signature without a touch."""
    text = write_document(held_by_tokens())
    with pytest.raises(TrustDocumentUnsigned, match="signed by 1"):
        first(write_envelope(text, (by_token(text, 31, 1), by_token(text, 32, 0))))


def test_65_versions_in_a_row() -> None:
    held = FIRST
    for version in range(2, 67):
        held = follow(held, signed(document(version), *ROOTS[version % 2 :][:2]))
    assert held.version == 66


@pytest.mark.parametrize("cut", [1, 100, 600, 1200])
def test_a_cut_document_is_refused(cut: int) -> None:
    with pytest.raises(TrustRefused):
        follow(FIRST, signed(document(2), *ROOTS).rstrip()[:-cut])
