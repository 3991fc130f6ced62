"""The trust documents of a fleet repo, `keys/<version>.json`: which one counts, and what it allows a render.

KEYS-1  The files are `1.json`, `2.json` and so on, without a gap. Each follows the one before (trust_document, ROOT-1
        to ROOT-6), but the last may lack signatures: then it does not count yet, and the one before does.
KEYS-2  Version 1 names the fleet of `margo-gitops.yaml`.
KEYS-3  A render signs with a key that has the role `render` and is not revoked, and statements of freshness with one
        that has the role `freshness`, by the version that counts. That one has not expired.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from margo_gitops.catalog.file_tree import RootTree, TreeFile
from margo_gitops.documents.trust_document import MAX_ENVELOPE_BYTES, FloorChange, Role
from margo_gitops.errors import (
    Location,
    MargoGitopsError,
    SigningKeyNotListed,
    TrustDocumentGap,
    TrustDocumentUnsigned,
    TrustRefused,
    UnreadableDocument,
)
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.ssh_key import SshPublicKey
from margo_gitops.trust.trust_document import FleetTrust, first, follow, read_envelope
from margo_gitops.values import dataclass

KEYS_FOLDER: Final = "keys"
_NAME: Final = re.compile(rf"{KEYS_FOLDER}/([1-9][0-9]{{0,9}})\.json")


@dataclass(frozen=True, slots=True)
class TrustChain:
    """The trust documents of a fleet.

    Attributes:
        versions: those that count, from version 1.
        pending: the one after them, which lacks signatures; None where all count.
        missing: why it does not count.
    """

    versions: tuple[FleetTrust, ...]
    pending: FleetTrust | None = None
    missing: TrustDocumentUnsigned | None = None

    @property
    def newest(self) -> FleetTrust | None:
        """The one that counts; None before version 1 is signed."""
        return self.versions[-1] if self.versions else None

    def required(self) -> FleetTrust:
        """Return the one that counts (TrustDocumentUnsigned: version 1 is not signed yet)."""
        if not self.versions and self.missing is not None:
            raise self.missing
        return self.versions[-1]


def trust_path(version: int) -> str:
    """Return the path of a version in the fleet repo."""
    return f"{KEYS_FOLDER}/{version}.json"


def read_chain(tree: RootTree, fleet: str) -> TrustChain | None:
    """Return the trust documents of a fleet repo's files; None for a fleet that has none (KEYS-1, KEYS-2).

    Args:
        tree: its files.
        fleet: the fleet's name.

    Raises:
        TrustDocumentInvalid, TrustDocumentForeign, TrustDocumentGap, TrustDocumentRollback: a file does not follow;
            its place is in the error.
        TrustDocumentUnsigned: one that is not the last lacks signatures.
        UnreadableDocument: a file is too large.
    """
    if KEYS_FOLDER not in tree.names():
        return None
    found = {int(match[1]): file for file in tree.files(KEYS_FOLDER) if (match := _NAME.fullmatch(file.path))}
    chain: list[FleetTrust] = []
    for expected, version in enumerate(sorted(found), start=1):
        path = trust_path(version)
        if version != expected:
            raise TrustDocumentGap(f"{trust_path(expected)} is missing", where=Location(path), remedy="put it back")
        with _placed(path):
            offered = _read_version(found[version], version)
            try:
                judged = follow(chain[-1], offered.content) if chain else first(offered.content, fleet)
            except TrustDocumentUnsigned as error:
                if version == max(found):
                    error.where = Location(path)
                    return TrustChain(tuple(chain), offered, error)
                raise
        chain.append(judged)
    return TrustChain(tuple(chain)) if chain else None


def chosen_floors(tree: RootTree, fleet: str) -> tuple[FloorChange, ...]:
    """Return the changes of floors that a render goes by; documents that cannot be read are refused elsewhere."""
    try:
        chain = read_chain(tree, fleet)
    except (TrustRefused, UnreadableDocument):
        return ()
    return chain.newest.document.floors if chain and chain.newest else ()


def state_signers(tree: RootTree, fleet: str) -> AllowedSigners | None:
    """Return who may sign state by the document that counts; None for a fleet without one (as `read_chain`)."""
    chain = read_chain(tree, fleet)
    return chain.required().signers("render") if chain else None


@contextmanager
def _placed(path: str) -> Iterator[None]:
    try:
        yield
    except MargoGitopsError as error:
        error.where = error.where or Location(path)
        raise


def _read_version(file: TreeFile, version: int) -> FleetTrust:
    offered = read_envelope(file.read(MAX_ENVELOPE_BYTES), file.path)
    if offered.version != version:
        raise TrustDocumentGap(f"it is version {offered.version}", remedy=f"name it {offered.version}.json")
    return offered


def allowed_key(trust: FleetTrust, key: SshPublicKey, role: Role) -> None:
    """Refuse a key that may not sign for this role now (KEYS-3).

    Raises:
        SigningKeyNotListed: devices would refuse what it signs.
    """
    listed = {each.key: each.name for each in trust.document.keys_of(role)}
    revoked = trust.revocation(key.fingerprint)
    if str(key) in listed and revoked is None:
        return
    why = f"it is {revoked.reason} since {revoked.since}" if revoked else f"its role {role} lists {_names(listed)}"
    gone = {each.key for each in trust.document.revoked}
    able = _names({key: name for key, name in listed.items() if key not in gone})
    more = "" if revoked else f"; or list this one: margo-gitops keys add {role} FILE.pub, then keys sign"
    raise SigningKeyNotListed(
        f"{trust.name} does not allow the key {key.fingerprint} for {role}: devices would refuse what it signs",
        why=[why],
        remedy=f"sign with one of: {able}{more}",
    )


def _names(listed: dict[str, str]) -> str:
    return ", ".join(listed.values()) or "no key"


def refuse_untrusted(
    chain: TrustChain | None, signs: SshPublicKey | None, freshness: SshPublicKey | None, now: datetime
) -> FleetTrust | None:
    """Return the document that a render goes by, and refuse keys that it does not allow (KEYS-3).

    Args:
        chain: the fleet's documents; None: it has none.
        signs: the key of the render.
        freshness: the key of its statement.

    Raises:
        SigningKeyNotListed: devices would refuse what one of them signs.
        TrustDocumentExpired: devices would refuse it, by any key.
        TrustDocumentUnsigned: there are documents, but none counts.
    """
    if chain is None:
        return None
    trust = chain.required().required(now)
    if signs is None:
        raise SigningKeyNotListed(
            f"{trust.name} asks for signed state, and no signing key was given",
            remedy="pass --signing-key FILE, or set MARGO_GITOPS_SIGNING_KEY to the file's path",
        )
    allowed_key(trust, signs, "render")
    if freshness is not None:
        allowed_key(trust, freshness, "freshness")
    return trust
