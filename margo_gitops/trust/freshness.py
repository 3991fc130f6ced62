"""Is what this device holds still the newest? Judged from a signed statement with an expiry: pure, the clock handed in.

Without it, an attacker between device and state repo can hide every new state (freeze attack), and the
device cannot tell that from a quiet week. The rules, in their order:

FRESH-1  A proof has at most 1 MiB, is JSON that follows its contract, and so is the statement in it. A statement is
         valid for at most 366 days: a stolen key cannot say for years that nothing is newer. [FreshnessInvalid]
FRESH-2  The statement's exact bytes are signed, for the namespace `margo-gitops-freshness`, by a key that is allowed
         that use at the statement's own time. [SignerUnknown or SignatureInvalid]
FRESH-3  It speaks of the device's fleet, where the device knows which one that is. [FreshnessForeign]
FRESH-4  The proof is of the device's shard; its leaves are in order, each once, all of that shard. [FreshnessForeign
         or FreshnessInvalid]
FRESH-5  Leaves and path lead to the statement's root (freshness_tree, MERKLE-1 to MERKLE-4). [FreshnessInvalid]
FRESH-6  It was not issued before the one that is held, unless that one is from the future by this device's clock, as a
         statement made with a wrong clock is. A signed time that the clock has reached once is never the future.
         [FreshnessRollback]
FRESH-7  A state with the version of the device's leaf has that leaf's manifest digest. [FreshnessContradicted]

What passes yields a verdict on the state that is held:

fresh           the statement lists it, or an older one while the state is signed itself, and has not expired
expiring        the same, in the last eighth of the statement's life: renewal is overdue
expired         the statement has expired: the device may be shown old state
behind          the statement lists a newer state than the device is given
not-yet-known   there is no statement, or it does not list the device, or lists an older state than an unsigned one
clock-suspect   the device's clock is before the statement was issued: it cannot tell whether it has expired
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from margo_gitops.digests import Digest
from margo_gitops.documents.freshness import (
    MAX_PROOF_BYTES,
    FreshnessLeaf,
    FreshnessProof,
    FreshnessStatement,
    parse_moment,
)
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.records import read_ours
from margo_gitops.documents.state_layout import FRESHNESS_FILE
from margo_gitops.errors import (
    FreshnessContradicted,
    FreshnessForeign,
    FreshnessInvalid,
    FreshnessRollback,
    InvalidDocument,
    TrustRefused,
    UnreadableDocument,
)
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.freshness_tree import (
    FRESHNESS_NAMESPACE,
    device_key,
    possible_shards,
    proven_root,
    shard_depth,
    shard_prefix,
)
from margo_gitops.trust.signer import Use, who_signed
from margo_gitops.values import dataclass

Verdict: TypeAlias = Literal["fresh", "expiring", "expired", "behind", "not-yet-known", "clock-suspect"]

CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""How far the issuer's clock may be ahead of the device's before one of them counts as wrong."""

_STATEMENT: Final = Use(
    FRESHNESS_NAMESPACE,
    "statements of freshness",
    f'if it is the fleet\'s, list it in {{file}} with namespaces="{FRESHNESS_NAMESPACE}"',
)
_BOUNDS: Final = Bounds(size=MAX_PROOF_BYTES, depth=6, nodes=40_000)
_TAMPERED: Final = "fetch it again; if it stays, renew it: margo-gitops freshness renew"


@dataclass(frozen=True, slots=True)
class FreshnessPolicy:
    """What a device demands of a proof.

    Attributes:
        device: its id.
        signers: who may sign statements.
        fleet: the fleet's name; None where the device does not know it yet.
    """

    device: str
    signers: AllowedSigners
    fleet: str | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """A proof that passed the rules FRESH-1 to FRESH-5.

    Attributes:
        content: its exact bytes.
        statement: what was signed.
        issued, expires: its times.
        leaf: what it says of this device; None where it does not list it.
        signer: principals and fingerprint of the key.
    """

    content: bytes
    statement: FreshnessStatement
    issued: datetime
    expires: datetime
    leaf: FreshnessLeaf | None
    signer: str

    def renewal(self, device: str) -> datetime:
        """Return when a device asks for the next one: between half and three quarters of its life, by its id."""
        share = int(device_key(device)[-12:], 16) / 16**12
        return self.issued + (self.expires - self.issued) * (0.5 + share / 4)

    @property
    def overdue(self) -> datetime:
        """When the last eighth of its life begins."""
        return self.expires - (self.expires - self.issued) / 8


@dataclass(frozen=True, slots=True)
class HeldVersion:
    """The state that a verdict is about.

    Attributes:
        version: its manifest version.
        manifest: digest of its manifest.
        signed: whether it is signed itself.
    """

    version: int
    manifest: Digest
    signed: bool


@dataclass(frozen=True, slots=True)
class Assessment:
    """A verdict, and why, for people."""

    verdict: Verdict
    text: str

    @property
    def proven(self) -> bool:
        """Whether the state is the newest, as far as anybody can know."""
        return self.verdict in ("fresh", "expiring")


def read_freshness(content: bytes, policy: FreshnessPolicy, file: str = FRESHNESS_FILE) -> Freshness:
    """Return what a proof says to a device (FRESH-1 to FRESH-5).

    Args:
        content: exact bytes of the proof.

    Raises:
        TrustRefused: of the class that the broken rule names, with the device in it.
    """
    try:
        return _read(content, policy, file)
    except TrustRefused as refusal:
        refusal.device = policy.device
        raise


def read_statement(content: bytes, file: str = FRESHNESS_FILE) -> tuple[FreshnessProof, FreshnessStatement]:
    """Return a proof and the statement in it, as they are there: only their form is verified (FRESH-1).

    Raises:
        FreshnessInvalid: FRESH-1 is broken.
    """
    try:
        proof = read_ours(FreshnessProof, content, file, _BOUNDS)
        statement = read_ours(FreshnessStatement, proof.statement.encode(), f"{file}: statement", _BOUNDS)
    except (UnreadableDocument, InvalidDocument) as error:
        raise FreshnessInvalid(
            f"the proof of freshness cannot be read: {error.what}", where=error.where, why=error.why, remedy=_TAMPERED
        ) from error
    return proof, statement


def _read(content: bytes, policy: FreshnessPolicy, file: str) -> Freshness:
    proof, statement = read_statement(content, file)
    issued = parse_moment(statement.issued)
    signer = verify_statement(proof, issued, policy.signers)
    if policy.fleet not in (None, statement.fleet):
        raise FreshnessForeign(
            f"the statement is the fleet {statement.fleet}'s, this device belongs to {policy.fleet}",
            remedy="correct the source in this device's configuration, or find out who serves another fleet here",
        )
    if proof.shard not in possible_shards(policy.device):
        raise FreshnessForeign(
            f"the proof is of the shard {proof.shard}, in which this device is not",
            remedy=f"export the one of this device: margo-gitops freshness export {policy.device}",
        )
    check_tree(proof, statement)
    key = device_key(policy.device)
    leaf = next((leaf for leaf in proof.leaves if leaf.device == key), None)
    return Freshness(content, statement, issued, parse_moment(statement.expires), leaf, signer)


def verify_statement(proof: FreshnessProof, issued: datetime, signers: AllowedSigners) -> str:
    """Return principals and fingerprint of the key that signed a proof's statement (FRESH-2).

    Raises:
        SignerUnknown: the key may not sign statements.
        SignatureInvalid: it did not sign this one.
    """
    return who_signed(proof.signature, proof.statement.encode(), issued, signers, _STATEMENT).required()


def check_tree(proof: FreshnessProof, statement: FreshnessStatement) -> None:
    """Check that a proof's leaves are what its statement was signed over (FRESH-4, FRESH-5).

    Raises:
        FreshnessInvalid: they are not.
    """
    prefix = shard_prefix(proof.shard)
    keys = [leaf.device for leaf in proof.leaves]
    if keys != sorted(set(keys)) or not all(key.startswith(prefix) for key in keys):
        raise FreshnessInvalid(f"the devices of the shard {proof.shard} are out of order, or not its own")
    try:
        root = proven_root(proof.shard, proof.leaves, proof.path)
    except ValueError as error:
        raise FreshnessInvalid(f"the proof has {error}", remedy=_TAMPERED) from None
    if root != statement.root or statement.shards != 16 ** shard_depth(proof.shard):
        raise FreshnessInvalid(
            "the proof's devices are not the ones that the statement was signed over",
            why=[f"they lead to {root} in {16 ** shard_depth(proof.shard)} shards",
                 f"signed is {statement.root} in {statement.shards}"],
            remedy=_TAMPERED,
        )  # fmt: skip


def refuse_older(offered: Freshness, held: Freshness | None, now: datetime) -> None:
    """Refuse a proof that is older than the one that is held (FRESH-6).

    Args:
        held: the newest one so far.

    Raises:
        FreshnessRollback: it is.
    """
    if held is None or offered.issued >= held.issued or held.issued > now + CLOCK_TOLERANCE >= offered.issued:
        return
    raise FreshnessRollback(
        f"the statement was issued {offered.statement.issued}, the one that is held {held.statement.issued}",
        remedy="renew it: margo-gitops freshness renew; if it stays, find out what the source serves",
    )


def assess(
    freshness: Freshness | None, state: HeldVersion | None, now: datetime, earliest: datetime | None = None
) -> Assessment:
    """Return the verdict on a state.

    Args:
        freshness: the newest proof; None: there is no proof.
        state: the state; None: no state is held.
        now: the time as the device's clock shows it.
        earliest: a time that has passed already, also where the clock shows an earlier one; None where nothing says so.

    Raises:
        FreshnessContradicted: FRESH-7 is broken.
    """
    if freshness is None:
        return Assessment("not-yet-known", "no statement of freshness has come yet")
    leaf = freshness.leaf
    if leaf and state and leaf.version == state.version and leaf.manifest != state.manifest:
        raise FreshnessContradicted(
            f"version {state.version} is not the fleet's version {leaf.version}",
            why=[f"it has {state.manifest}, the statement of {freshness.statement.issued} says {leaf.manifest}"],
            remedy="find out who wrote two states of one version; then render again",
        )
    if max(now, earliest or now) >= freshness.expires:
        return Assessment("expired", f"the statement expired {freshness.statement.expires}")
    if now + CLOCK_TOLERANCE < freshness.issued:
        # Without the time itself: a message that repeats must stay the same.
        text = f"this device's clock is before {freshness.statement.issued}, when the statement was issued"
        return Assessment("clock-suspect", text)
    return _on_version(freshness, state, now)


def _on_version(freshness: Freshness, state: HeldVersion | None, now: datetime) -> Assessment:
    leaf = freshness.leaf
    of = f"the statement of {freshness.statement.issued}"
    if leaf is None:
        return Assessment("not-yet-known", f"{of} does not list this device")
    if state is None or leaf.version > state.version:
        given = f"version {state.version}" if state else "none"
        return Assessment("behind", f"{of} lists version {leaf.version}, this device is given {given}")
    if leaf.version < state.version and not state.signed:
        return Assessment("not-yet-known", f"{of} lists version {leaf.version}, not yet version {state.version}")
    if now >= freshness.overdue:
        return Assessment("expiring", f"{of} expires {freshness.statement.expires}; its renewal is overdue")
    return Assessment("fresh", f"{of} lists version {leaf.version}; it expires {freshness.statement.expires}")
