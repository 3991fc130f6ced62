"""Which keys a fleet trusts now: the chain of its trust documents, from the first that a device was given (D-31). Pure.

ROOT-1  An envelope has at most 64 KiB, is JSON that follows its contract, and so is the document in it. Each signature
        is an SSH signature, each key one that can be used. [TrustDocumentInvalid]
ROOT-2  It is the device's fleet's, where the device knows which one that is. [TrustDocumentForeign]
ROOT-3  The first document is given by hand, of any version. As many of its own root keys as its threshold says signed
        its exact text, for the namespace `margo-gitops-root`. [TrustDocumentUnsigned]
ROOT-4  A later one has the version after the one that is held. [TrustDocumentGap, TrustDocumentRollback]
ROOT-5  As many root keys of the held document as that one's threshold says signed it, and as many of its own as its own
        says. [TrustDocumentUnsigned]
ROOT-6  A key counts once, by the first signature of it that is there. A key that its document revokes does not count.
        A signature by another key says nothing, nor does one that is not over these bytes, nor one of a token that a
        person did not touch.
ROOT-7  The version that is held comes again with the same text, or not at all; its signatures may be others.
        [TrustDocumentRollback]

What a document says:

ROOT-8  A key counts for what its role signs, and for nothing else.
ROOT-9  A retired key counts for what it signed until it was retired, by the time in what is signed. A compromised key
        counts for nothing.
ROOT-10 An expired document takes no new state; what runs keeps running, and the next document is followed. Its expiry
        is not asked when the next one is judged: a device that was off for years follows the whole chain.
        [TrustDocumentExpired]
ROOT-11 A floor counts once for its id, in the order of the list. `highest` forgets a floor above it, and from then on
        the lowest version is that one. `next` forgets a floor below it, in the same way.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from typing import Final

from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.freshness import parse_moment
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.records import read_ours
from margo_gitops.documents.trust_document import (
    MAX_ENVELOPE_BYTES,
    FloorChange,
    RevokedKey,
    Role,
    TrustDocument,
    TrustEnvelope,
)
from margo_gitops.errors import (
    InvalidDocument,
    SignatureInvalid,
    TrustDocumentExpired,
    TrustDocumentForeign,
    TrustDocumentGap,
    TrustDocumentInvalid,
    TrustDocumentRollback,
    TrustDocumentUnsigned,
    UnreadableDocument,
)
from margo_gitops.trust.allowed_signers import AllowedSigner, AllowedSigners
from margo_gitops.trust.floor import Floor
from margo_gitops.trust.freshness_tree import FRESHNESS_NAMESPACE
from margo_gitops.trust.ssh_key import SshPublicKey, Verify, read_public_key
from margo_gitops.trust.ssh_signature import GIT_NAMESPACE, SshSignature, parse_signature
from margo_gitops.values import dataclass, field

ROOT_NAMESPACE: Final = "margo-gitops-root"
NAMESPACES: Final[dict[Role, str]] = {
    "render": GIT_NAMESPACE,
    "freshness": FRESHNESS_NAMESPACE,
}
"""What the keys of a role sign."""

_BOUNDS: Final = Bounds(size=MAX_ENVELOPE_BYTES, depth=8, nodes=8000)
_AGAIN: Final = "fetch it again; if it stays, find out who or what changed it"


@dataclass(frozen=True, slots=True)
class FleetTrust:
    """A trust document with the bytes it came in (ROOT-1); `first` and `follow` say whether it counts.

    Attributes:
        content: the exact bytes of its envelope.
        document: what it says.
        text: its exact text, which is signed.
        signatures: the ones it carries, none of them verified.
        verify: checks a signature by a key of the document.
    """

    content: bytes = field(repr=False)
    document: TrustDocument
    text: str = field(repr=False)
    signatures: tuple[SshSignature, ...] = field(repr=False)
    verify: Verify = field(default=SshPublicKey.verify, repr=False, compare=False)

    @property
    def version(self) -> int:
        """1, 2, 3."""
        return self.document.version

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"trust document {self.version} of {self.document.fleet}"

    @property
    def root_keys(self) -> dict[SshPublicKey, str]:
        """The names of the root keys that are not revoked, by key."""
        revoked = {each.key for each in self.document.revoked}
        return {_key(each.key): each.name for each in self.document.roles.root.keys if each.key not in revoked}

    def signed_by(self, judge: FleetTrust) -> tuple[str, ...]:
        """Return the names of another document's root keys, or its own, that signed this one (ROOT-6)."""
        able, names = judge.root_keys, []
        for signature in self.signatures:
            # One of each key: two hundred forged ones would keep a small device busy.
            if name := able.pop(signature.key, None):
                with suppress(SignatureInvalid):
                    verify_root(signature, self.text, self.verify)
                    names.append(name)
        return tuple(names)

    def signers(self, *roles: Role) -> AllowedSigners:
        """Return whose signatures count (ROOT-8, ROOT-9) for these roles; without roles: for all."""
        revoked = {each.key: each for each in self.document.revoked}
        lines = [
            _line(each.name, each.key, NAMESPACES[role], revoked.get(each.key))
            for role in roles or NAMESPACES
            for each in self.document.keys_of(role)
        ]  # fmt: skip
        lines += [_line("revoked", each.key, None, each) for each in revoked.values() if each.reason == "compromised"]
        return AllowedSigners(tuple(lines), self.name, self.verify)

    def revocation(self, fingerprint: str) -> RevokedKey | None:
        """Return how the document revokes a key; None where it does not."""
        return next((each for each in self.document.revoked if _key(each.key).fingerprint == fingerprint), None)

    def still_counts(self, key: SshPublicKey) -> bool:
        """Return whether what a render key signed in its time counts: it is listed, also if it is retired (ROOT-9)."""
        return any(_key(each.key) == key for each in self.document.roles.render.keys)

    @property
    def losses(self) -> dict[str, str]:
        """The losses of the state repo that the root keys named: the reason, by the id of the floor for all devices."""
        floors = self.document.floors
        return {each.id: each.reason for each in floors if each.next is not None and each.devices is None}

    def expired(self, now: datetime) -> bool:
        """Return whether it takes new state no longer (ROOT-10)."""
        return now >= parse_moment(self.document.expires)

    def required(self, now: datetime) -> FleetTrust:
        """Return this document (TrustDocumentExpired: it has expired)."""
        if self.expired(now):
            raise TrustDocumentExpired(
                f"{self.name} expired {self.document.expires}",
                remedy="let the root keys sign the next version: margo-gitops keys renew; then render",
            )
        return self

    def floors_for(self, device: str, applied: Collection[str] = ()) -> tuple[FloorChange, ...]:
        """Return the changes of its floor that a device has still to make, in their order (ROOT-11).

        Args:
            device: its id.
            applied: ids of the changes that it has made.
        """
        concerned = (None, device, client_of(device))
        return tuple(
            each for each in self.document.floors
            if each.id not in applied and (each.devices is None or not {*concerned}.isdisjoint(each.devices))
        )  # fmt: skip


def change_floor(change: FloorChange, floor: Floor | None) -> tuple[Floor | None, int]:
    """Return a device's floor after a change, and the lowest version that it accepts from then on (ROOT-11).

    The lowest version is the change's own: 1 where it changed nothing.
    """
    lowest = 1
    if change.highest is not None and floor is not None and floor.version > change.highest:
        floor, lowest = None, change.highest
    if change.next is not None and (floor is None or floor.version < change.next):
        floor, lowest = None, max(lowest, change.next)
    return floor, lowest


def verify_root(signature: SshSignature, text: str, verify: Verify = SshPublicKey.verify) -> None:
    """Check a signature over a document's text (ROOT-6; SignatureInvalid: it says nothing)."""
    signature.verify(text.encode(), signature.key, ROOT_NAMESPACE, verify)
    if not signature.touched:
        raise SignatureInvalid("the token signed without a touch", remedy="sign again, and touch it")


def read_envelope(content: bytes, file: str = "trust document", verify: Verify = SshPublicKey.verify) -> FleetTrust:
    """Return a trust document as it is there: only its form is verified (ROOT-1).

    Args:
        content: exact bytes of the envelope.
        file: its name, for messages.
        verify: does the cryptography of what is asked of it later.

    Raises:
        TrustDocumentInvalid: ROOT-1 is broken.
    """
    try:
        envelope = read_ours(TrustEnvelope, content, file, _BOUNDS)
        document = read_ours(TrustDocument, envelope.document.encode(), f"{file}: document", _BOUNDS)
        signatures = tuple(parse_signature(armor) for armor in envelope.signatures)
        for each in (*_all_keys(document), *(revoked.key for revoked in document.revoked)):
            _key(each)
    except (UnreadableDocument, InvalidDocument, SignatureInvalid) as error:
        raise TrustDocumentInvalid(
            f"the trust document cannot be read: {error.what}", where=error.where, why=error.why, remedy=_AGAIN
        ) from error
    except ValueError as error:
        raise TrustDocumentInvalid(f"{file}: a key cannot be used: {error}", remedy=_AGAIN) from None
    return FleetTrust(content, document, envelope.document, signatures, verify)


def first(
    content: bytes, fleet: str | None = None, file: str = "trust document", verify: Verify = SshPublicKey.verify
) -> FleetTrust:
    """Return the document that a device is given by hand (ROOT-1 to ROOT-3).

    Args:
        content: exact bytes of its envelope.
        fleet: name of the fleet; None where it is not known.
        file: its name, for messages.
        verify: does the cryptography.

    Raises:
        TrustDocumentInvalid, TrustDocumentForeign, TrustDocumentUnsigned: it does not count.
    """
    offered = read_envelope(content, file, verify)
    _check_fleet(offered, fleet)
    _check_threshold(offered, offered)
    return offered


def follow(held: FleetTrust, content: bytes, file: str = "trust document") -> FleetTrust:
    """Return the document that comes after the one that is held, or the held one (ROOT-1 to ROOT-7).

    Args:
        held: the newest one so far.
        content: exact bytes of the envelope.
        file: its name, for messages.

    Raises:
        TrustDocumentInvalid, TrustDocumentForeign, TrustDocumentUnsigned, TrustDocumentGap, TrustDocumentRollback: it
            does not count.
    """
    offered = read_envelope(content, file, held.verify)
    _check_fleet(offered, held.document.fleet)
    if offered.version == held.version and offered.text == held.text:
        return held
    if offered.version <= held.version:
        other = " with other content" if offered.version == held.version else ""
        raise TrustDocumentRollback(
            f"{offered.name} is offered{other}, version {held.version} is held",
            remedy="find out what the source serves; a change of the keys takes the next version",
        )
    if offered.version > held.version + 1:
        raise TrustDocumentGap(
            f"{offered.name} is offered, version {held.version} is held",
            remedy=f"take version {held.version + 1} first: keys/{held.version + 1}.json of the fleet repo",
        )
    _check_threshold(offered, held)
    _check_threshold(offered, offered)
    return offered


def _check_fleet(offered: FleetTrust, fleet: str | None) -> None:
    """ROOT-2."""
    if fleet not in (None, offered.document.fleet):
        raise TrustDocumentForeign(
            f"the trust document is the fleet {offered.document.fleet}'s, not {fleet}'s",
            remedy="correct the source, or find out who serves another fleet here",
        )


def _check_threshold(offered: FleetTrust, judge: FleetTrust) -> None:
    """ROOT-3, ROOT-5, ROOT-6."""
    needed, signed = judge.document.roles.root.threshold, offered.signed_by(judge)
    if len(signed) < needed:
        missing = [name for name in judge.root_keys.values() if name not in signed]
        raise TrustDocumentUnsigned(
            f"{offered.name} is signed by {len(signed)} root keys of version {judge.version}, it needs {needed}",
            why=[f"signed by {', '.join(signed) or 'none of them'}", f"not by {', '.join(missing)}"],
            remedy="let a root key sign it: margo-gitops keys sign --key FILE",
        )


def _all_keys(document: TrustDocument) -> tuple[str, ...]:
    return tuple(each.key for role in ("root", *NAMESPACES) for each in document.keys_of(role))


def _key(text: str) -> SshPublicKey:
    return read_public_key(*text.split(" "))


def _line(name: str, key: str, namespaces: str | None, revoked: RevokedKey | None) -> AllowedSigner:
    """Return the line of a list of allowed signers that means the same (ROOT-8, ROOT-9)."""
    if revoked is None:
        return AllowedSigner(name, _key(key), namespaces)
    since = parse_moment(revoked.since)
    if revoked.reason == "retired":
        return AllowedSigner(name, _key(key), namespaces, valid_before=since)
    return AllowedSigner(
        name, _key(key), namespaces, revoked=f"the key is revoked as compromised, since {revoked.since}"
    )
