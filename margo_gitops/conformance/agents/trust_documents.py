"""Versions of the trust document that the kit's fleet has: sound ones, or with one named flaw."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from margo_gitops.conformance.agents.offered_commits import ROOTS, WRITTEN_AT, Keys
from margo_gitops.conformance.agents.states import FLEET
from margo_gitops.documents.freshness import format_moment
from margo_gitops.documents.trust_document import (
    FloorChange,
    KeyRole,
    RevokedKey,
    Roles,
    RootRole,
    TrustDocument,
    TrustKey,
    write_document,
    write_envelope,
)
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import sign
from margo_gitops.trust.trust_document import ROOT_NAMESPACE

STRANGER: Final = "x"
"""The letter of the stranger's key, where it plays a root key."""
_WRITTEN: Final = datetime.fromtimestamp(WRITTEN_AT, UTC)
BEFORE: Final = _WRITTEN - timedelta(days=1)
"""The day before every state was written."""
AFTER: Final = _WRITTEN + timedelta(days=1)
"""The day after."""


def version(
    keys: Keys,
    number: int,
    *,
    roots: str = ROOTS[:3],
    signed: str = ROOTS[:2],
    threshold: int = 2,
    render: tuple[str, ...] = ("renderer", "successor"),
    retired: datetime | None = None,
    compromised: bool = False,
    fleet: str = FLEET,
    days: int = 365,
    namespace: str = ROOT_NAMESPACE,
    floor: FloorChange | None = None,
) -> bytes:
    """Return the envelope of a version of the trust document.

    Args:
        number: the version.
        roots: letters of the root keys that it lists.
        signed: letters of the root keys that signed it.
        threshold: how many must sign the next one.
        render: names of the keys that sign state.
        retired: when the renderer's key was retired; None: it was not.
        compromised: whether the renderer's key is revoked as compromised; it is not listed then.
        days: how long it counts from now.
        namespace: what its signatures are for.
        floor: a change of what devices accept next.
    """
    now = datetime.now(UTC) - timedelta(hours=1)
    able = [name for name in render if not (compromised and name == "renderer")]
    roles = Roles(
        RootRole(threshold, tuple(_listed(letter, _root(keys, letter)) for letter in roots)),
        KeyRole(tuple(_listed(name, getattr(keys, name)) for name in able)),
        KeyRole((_listed("freshness", keys.freshness),)),
    )
    renderer, since = str(keys.renderer.public), format_moment(retired or BEFORE)
    revoked = (RevokedKey(renderer, "compromised" if compromised else "retired", since),)
    document = TrustDocument(
        fleet,
        number,
        format_moment(now - timedelta(days=30)),
        format_moment(now + timedelta(days=days)),
        roles,
        revoked if compromised or retired else (),
        (floor,) if floor is not None else (),
    )
    text = write_document(document)
    return write_envelope(text, tuple(sign(text.encode(), _root(keys, letter), namespace) for letter in signed))


def _root(keys: Keys, letter: str) -> SigningKey:
    return keys.stranger if letter == STRANGER else keys.roots[letter]


def _listed(name: str, key: SigningKey) -> TrustKey:
    return TrustKey(name, str(key.public))
