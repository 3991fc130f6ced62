"""Which keys a fleet trusts, for what, and who may change that: signed by the fleet's root keys (docs/trust.md).

The envelope `keys/<version>.json` carries the document as its exact text, with the signatures over it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Final, Literal, TypeAlias

from margo_gitops.documents.constraints import DeviceName, Name
from margo_gitops.documents.declarations import About, Items, OwnKind, Problem, Range, Text
from margo_gitops.documents.freshness import Moment, moment_problems
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION
from margo_gitops.documents.records import write
from margo_gitops.values import dataclass, fields

MAX_ENVELOPE_BYTES: Final = 64 * 1024
MAX_TRUST_VERSION: Final = 2**31 - 1

Role: TypeAlias = Literal["render", "freshness"]
Reason: TypeAlias = Literal["retired", "compromised"]
KeyText = Annotated[
    str,
    About("The key as in its `.pub` file, without the comment."),
    Text(pattern=r"^[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}$", what="a public key, ssh-ed25519 AAAA…", max_length=4096),
]


@dataclass(frozen=True, slots=True)
class TrustKey:
    """A key and what people call it."""

    name: Annotated[
        str,
        About("Who or what has the key.", ("anna@example.com",)),
        Text(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._+-]{0,63}$", what="a name of letters, digits and @ . _ + -"),
    ]
    key: KeyText


Keys: TypeAlias = tuple[TrustKey, ...]


@dataclass(frozen=True, slots=True)
class RootRole:
    """Who signs the next version of the document."""

    threshold: Annotated[int, About("How many of them must sign."), Range(minimum=1, maximum=100)]
    keys: Annotated[Keys, Items(minimum=1, unique="name", noun="key")]


@dataclass(frozen=True, slots=True)
class KeyRole:
    """Keys with one use."""

    keys: Annotated[Keys, Items(unique="name", noun="key")] = ()


@dataclass(frozen=True, slots=True)
class Roles:
    """The keys, by what they are for."""

    root: RootRole
    render: Annotated[KeyRole, About("Sign state.")]
    freshness: Annotated[KeyRole, About("Sign statements of freshness.")] = KeyRole()


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """A key that counts no longer.

    A retired key is named in its role, too: what it signed before `since` counts. Nothing of a compromised key counts.
    """

    key: KeyText
    reason: Annotated[Reason, About("`retired`: it was replaced. `compromised`: another person may have it.")]
    since: Annotated[Moment, About("From then on.")]

    def problems(self) -> Iterator[Problem]:
        """Yield a time that cannot be read."""
        yield from moment_problems(since=self.since)


@dataclass(frozen=True, slots=True)
class FloorChange:
    """A change of what devices accept next, made once: each device remembers the id."""

    id: Annotated[Name, About("No two changes of a fleet have the same.", ("after-attack-2026-11",))]
    reason: Annotated[str, About("For people; devices report it."), Text(min_length=1, max_length=500)]
    devices: Annotated[tuple[DeviceName, ...] | None, About("Ids of the devices; absent: all.")] = None
    highest: Annotated[
        int | None,
        About("The highest manifest version that counts: what was trusted above it, did not come from the fleet."),
        Range(minimum=1, maximum=MAX_MANIFEST_VERSION - 1),
    ] = None
    next: Annotated[
        int | None,
        About("The lowest manifest version of the next state: the state repo was lost, and starts again there."),
        Range(minimum=1, maximum=MAX_MANIFEST_VERSION),
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a change that changes nothing, or contradicts itself."""
        if self.highest is None and self.next is None:
            yield Problem((), "it has neither highest nor next", "add one of them")
        if self.highest is not None and self.next is not None and self.next <= self.highest:
            yield Problem(("next",), "must be above highest")


@dataclass(frozen=True, slots=True)
class TrustDocument(OwnKind):
    """The keys of a fleet. Each version is signed by the root keys of the version before, and by its own."""

    fleet: Annotated[Name, About("Name of the fleet.")]
    version: Annotated[int, About("Counts from 1, without a gap."), Range(minimum=1, maximum=MAX_TRUST_VERSION)]
    issued: Annotated[Moment, About("When it was made.")]
    expires: Annotated[Moment, About("From then on devices take no new state by it; what runs keeps running.")]
    roles: Roles
    revoked: Annotated[tuple[RevokedKey, ...], Items(unique="key", noun="revoked key")] = ()
    floors: Annotated[tuple[FloorChange, ...], Items(unique="id", noun="floor")] = ()

    def keys_of(self, role: str) -> Keys:
        """Return the keys of a role, `root` too, as they are listed."""
        return getattr(self.roles, role).keys  # type: ignore[no-any-return]  # every role has keys

    def problems(self) -> Iterator[Problem]:
        """Yield bad times, a key twice in a role, a threshold out of reach, and a compromised key that has a role."""
        yield from moment_problems(issued=self.issued, expires=self.expires)
        compromised = {revoked.key for revoked in self.revoked if revoked.reason == "compromised"}
        for role in fields(Roles):
            for key, times in Counter(each.key for each in self.keys_of(role.name)).items():
                at = ("roles", role.name, "keys")
                if times > 1:
                    yield Problem(at, f"the key {key[:60]}… appears {times} times")
                if key in compromised:
                    yield Problem(at, f"the key {key[:60]}… is revoked as compromised", "remove it from the role")
        able = {each.key for each in self.roles.root.keys} - {each.key for each in self.revoked}
        if self.roles.root.threshold > len(able):
            what = f"{self.roles.root.threshold} root keys must sign, {len(able)} are there that are not revoked"
            yield Problem(("roles", "root", "threshold"), what)


@dataclass(frozen=True, slots=True)
class TrustEnvelope:
    """A trust document and its signatures; the same bytes in the fleet repo, the state repo and over HTTP."""

    document: Annotated[str, About("The exact text of the document.")]
    signatures: Annotated[
        tuple[Annotated[str, Text(max_length=16 * 1024)], ...],
        About("SSH signatures over that text, armored, for the namespace `margo-gitops-root`."),
    ]


def write_envelope(document: str, signatures: tuple[str, ...]) -> bytes:
    """Return the exact bytes of an envelope: RFC 8785, and a line end, because people keep it in git."""
    return write_json(write(TrustEnvelope(document, signatures))) + b"\n"


def write_document(document: TrustDocument) -> str:
    """Return the exact text of a document (RFC 8785)."""
    return write_json(write(document)).decode()
