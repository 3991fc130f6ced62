"""Write the next version of the fleet's trust document, and add signatures of root keys to it (docs/trust.md).

A version that lacks signatures is changed in place, and loses those it has; after one that counts comes the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from margo_gitops.catalog.fleet import read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.fleet_trust import KEYS_FOLDER, TrustChain, read_chain, trust_path
from margo_gitops.disk.files import read_small_file, replace_file
from margo_gitops.documents.freshness import format_moment, parse_moment
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.records import read
from margo_gitops.documents.trust_document import (
    FloorChange,
    Reason,
    RevokedKey,
    Roles,
    TrustDocument,
    TrustEnvelope,
    TrustKey,
    write_document,
    write_envelope,
)
from margo_gitops.errors import KeysRefused, Location, SignatureInvalid, TrustDocumentInvalid
from margo_gitops.trust.ssh_key import read_public_key
from margo_gitops.trust.ssh_signature import parse_signature
from margo_gitops.trust.trust_document import ROOT_NAMESPACE, FleetTrust, read_envelope, verify_root
from margo_gitops.values import dataclass, fields, replace
from margo_gitops.wording import did_you_mean, printable

ROLES: Final = ("root", "render", "freshness")

Change = Callable[[TrustDocument], TrustDocument]


@dataclass(frozen=True, slots=True)
class FleetKeys:
    """The trust documents of a fleet repo's files as they are now.

    Attributes:
        root: the fleet's folder.
        fleet: its name.
        chain: the documents; None: it has no documents yet.
    """

    root: Path
    fleet: str
    chain: TrustChain | None

    @classmethod
    def read(cls, folder: Path) -> FleetKeys:
        """Return what is there (NoFleetRepo, FleetInvalid, TrustRefused: it cannot be read)."""
        repo = FleetRepo.find(folder)
        tree = repo.working_tree()
        name = read_fleet_document(tree).value.metadata.name
        return cls(repo.root, name, read_chain(tree, name))

    @property
    def last(self) -> FleetTrust:
        """The last document, whether it counts or not (KeysRefused: it does not exist)."""
        found = (self.chain.pending or self.chain.newest) if self.chain else None
        if found is None:
            raise KeysRefused("this fleet has no trust document", remedy="make one: margo-gitops keys init")
        return found

    def to_sign(self) -> str:
        """Return the exact text of the last version (KeysRefused: a person who signs it would not see all of it)."""
        text = self.last.text
        if hidden := sorted({printable(each) for each in text if printable(each) != each}):
            raise KeysRefused(
                f"{trust_path(self.last.version)} has characters that a screen hides or obeys; do not sign it",
                why=[f"it has {', '.join(hidden[:10])}"],
                remedy="find out who wrote it; take the file back, and make the change again",
            )
        return text

    def judge(self, offered: FleetTrust) -> FleetTrust:
        """Return the document before one, whose root keys must sign it; for version 1 itself."""
        versions = self.chain.versions if self.chain else ()
        return versions[offered.version - 2] if offered.version > 1 else offered

    def write(self, version: int, text: str, signatures: Iterable[str] = ()) -> FleetTrust:
        """Write a version into the files (KeysRefused: it would not be a document that can count)."""
        content = write_envelope(text, tuple(signatures))
        path = trust_path(version)
        try:
            written = read_envelope(content, path)
        except TrustDocumentInvalid as error:
            raise KeysRefused("the change was not written", why=error.why) from error
        (self.root / KEYS_FOLDER).mkdir(exist_ok=True)
        replace_file(self.root / path, content, mode=0o644)
        return written


def read_key_file(path: Path, name: str | None = None) -> TrustKey:
    """Return the key in a `.pub` file; it is called as its comment, or else as the file.

    Raises:
        KeysRefused: there is no key in it that can be used.
    """
    content = read_small_file(path, 16 * 1024, what="the public key cannot be read", error=KeysRefused)
    parts = content.decode("utf-8", "replace").split(None, 2)
    try:
        key = read_public_key(parts[0], parts[1])
    except (IndexError, ValueError) as error:
        raise KeysRefused(
            "this is not a public key",
            where=Location(str(path)),
            why=[str(error)],
            remedy="name a file that ends in .pub",
        ) from error
    comment = parts[2].strip() if len(parts) > 2 else ""
    return TrustKey(name or comment or path.name.removesuffix(".pub"), str(key))


def start(keys: FleetKeys, roles: Roles, now: datetime, valid_for: timedelta) -> FleetTrust:
    """Write version 1 (KeysRefused: the fleet has documents that count already)."""
    if keys.chain is not None and keys.chain.newest is not None:
        raise KeysRefused("this fleet has a trust document", remedy="change it: margo-gitops keys add, retire, revoke")
    document = TrustDocument(keys.fleet, 1, format_moment(now), format_moment(now + valid_for), roles)
    return keys.write(1, write_document(document))


def change(keys: FleetKeys, made: Change, now: datetime, valid_for: timedelta | None = None) -> FleetTrust:
    """Write the next version, or the one that lacks signatures, with a change.

    Args:
        valid_for: until when it counts; None: as long as the one before.

    Raises:
        KeysRefused: the change cannot be made.
    """
    last = keys.last
    counts = keys.chain is not None and keys.chain.pending is None
    life = parse_moment(last.document.expires) - parse_moment(last.document.issued)
    dated = replace(
        last.document,
        version=last.version + 1 if counts else last.version,
        issued=format_moment(now),
        expires=format_moment(now + (valid_for or life)),
    )
    return keys.write(dated.version, write_document(made(dated)))


def with_key(role: str, key: TrustKey, threshold: int | None = None) -> Change:
    """Return the change that gives a key a role.

    Args:
        threshold: how many root keys must sign from then on; None: as many as before.
    """

    def made(document: TrustDocument) -> TrustDocument:
        if str(key.key) in {each.key for each in document.revoked}:
            raise KeysRefused(f"the key {key.name} is revoked", remedy="make a new key")
        held = getattr(document.roles, role)
        grown = replace(held, keys=(*held.keys, key))
        if threshold is not None:
            grown = replace(grown, threshold=threshold)
        return replace(document, roles=replace(document.roles, **{role: grown}))

    return made


def without_key(name: str, reason: Reason, now: datetime) -> Change:
    """Return the change that revokes a key by its name or fingerprint, in all its roles (ROOT-9)."""

    def made(document: TrustDocument) -> TrustDocument:
        found = find_key(document, name)
        revoked = tuple(each for each in document.revoked if each.key != found.key)
        roles = document.roles
        if reason == "compromised":
            held = {each.name: getattr(roles, each.name) for each in fields(Roles)}
            left = {role: tuple(each for each in of.keys if each.key != found.key) for role, of in held.items()}
            roles = Roles(**{role: replace(of, keys=left[role]) for role, of in held.items()})
        revoked = (*revoked, RevokedKey(found.key, reason, format_moment(now)))
        if {each.key for each in document.roles.render.keys} <= {each.key for each in revoked}:
            what = f"without {found.name} no key may render: devices would get nothing new"
            raise KeysRefused(what, remedy="add the new key first: margo-gitops keys add render FILE.pub")
        return replace(document, roles=roles, revoked=revoked)

    return made


def with_floor(floor: FloorChange) -> Change:
    """Return the change that adds a floor."""
    return lambda document: replace(document, floors=(*document.floors, floor))


def find_key(document: TrustDocument, name: str) -> TrustKey:
    """Return a key of any role by its name or fingerprint.

    Raises:
        KeysRefused: no key has the name, or two keys have the name.
    """
    listed = {each.key: each for role in fields(Roles) for each in document.keys_of(role.name)}
    found = [each for each in listed.values() if name in (each.name, fingerprint(each))]
    if len(found) != 1:
        names = [each.name for each in listed.values()]
        what = f"version {document.version} has {len(found) or 'no'} keys called {name}"
        raise KeysRefused(what, remedy="name it by its fingerprint" if found else did_you_mean(name, names))
    return found[0]


def fingerprint(key: TrustKey | RevokedKey) -> str:
    """Return a key's fingerprint."""
    return read_public_key(*key.key.split(" ")).fingerprint


def add_signature(keys: FleetKeys, armor: str) -> FleetTrust:
    """Add a root key's signature to the last version, and write it.

    Raises:
        SignatureInvalid: it is not over this version, or for another use.
        KeysRefused: it is by a key that is not a root key of this version, nor of the one before.
    """
    last = keys.last
    signature = parse_signature(armor)
    if signature.key not in {**last.root_keys, **keys.judge(last).root_keys}:
        raise KeysRefused(
            f"the key {signature.key.fingerprint} is not a root key of {last.name}, nor of the version before",
            remedy=f"sign with one of: {', '.join(last.root_keys.values())}",
        )
    try:
        verify_root(signature, last.text)
    except SignatureInvalid as error:
        if signature.touched:
            error.remedy = (
                f"sign what `margo-gitops keys show` prints: ssh-keygen -Y sign -n {ROOT_NAMESPACE} -f KEY TEXT"
            )
        raise
    kept = [each for each in armors(last) if parse_signature(each).key != signature.key]
    return keys.write(last.version, last.text, [*kept, armor])


def armors(trust: FleetTrust) -> tuple[str, ...]:
    """Return the signatures of a document as they are in its file."""
    return read(TrustEnvelope, read_json(trust.content, trust.name)).signatures
