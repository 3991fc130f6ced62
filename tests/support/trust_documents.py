"""Trust documents as a fleet's root keys sign them, and as an attacker might."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from margo_gitops.documents.state_layout import TRUST_REF
from margo_gitops.documents.trust_document import (
    KeyRole,
    Roles,
    RootRole,
    TrustDocument,
    TrustKey,
    write_document,
    write_envelope,
)
from margo_gitops.trust.ssh_key import SigningKey, parse_signing_key
from margo_gitops.trust.ssh_signature import sign
from margo_gitops.trust.trust_document import ROOT_NAMESPACE
from support.git_cli import Git

ISSUED, EXPIRES = "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"


def key(seed: int) -> SigningKey:
    """Return a key, the same for the same seed; as `device_states.signing_key` of the tests of trust."""
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return parse_signing_key(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


ROOTS = (key(101), key(102), key(103))
RENDERER, FRESHNESS, PERSON, STRANGER = key(1), key(4), key(5), key(2)


def listed(*keys: SigningKey, name: str = "key") -> tuple[TrustKey, ...]:
    return tuple(TrustKey(f"{name}-{at}", str(each.public)) for at, each in enumerate(keys, start=1))


def document(
    version: int = 1,
    *,
    roots: tuple[SigningKey, ...] = ROOTS,
    threshold: int = 2,
    render: tuple[SigningKey, ...] = (RENDERER,),
    fleet: str = "plant",
    **changes: object,
) -> TrustDocument:
    """Return a document that lists these keys; `changes` are other fields of it."""
    roles = Roles(
        RootRole(threshold, listed(*roots, name="root")),
        KeyRole(listed(*render, name="renderer")),
        KeyRole(listed(FRESHNESS, name="freshness")),
    )
    made = TrustDocument(fleet, version, ISSUED, EXPIRES, roles)
    return replace(made, **changes)  # type: ignore[arg-type]  # the caller knows the fields


def signed(said: TrustDocument, *keys: SigningKey, namespace: str = ROOT_NAMESPACE) -> bytes:
    """Return the envelope of a document, signed by these keys."""
    text = write_document(said)
    return write_envelope(text, tuple(sign(text.encode(), each, namespace) for each in keys))


def carry(git: Git, documents: Mapping[int | str, bytes]) -> None:
    """Let the branch `trust` of a state repo hold these versions, all others gone."""
    lines = ""
    for name, content in sorted((f"{version}.json", content) for version, content in documents.items()):
        lines += f"100644 blob {git.run('hash-object', '-w', '--stdin', content=content)}\t{name}\n"
    commit = git.run("commit-tree", git.run("mktree", content=lines), "-m", "trust")
    git.run("update-ref", TRUST_REF, commit)
