"""Knows whether what the device holds is the newest: keeps a proof of freshness, renews it, and says what follows.

PROOF-1  A proof is asked for in the cycle of a poll that was answered, once the held one is past half of its life:
         between half and three quarters of it, each device at its own time; at once where the held one contradicts the
         held state. An idle poll costs nothing extra.
PROOF-2  A source that has no proof is asked again after a while, not at every poll.
PROOF-3  What is kept is the proof itself, in two places. It is signed, so it needs no floor. The later issued one
         counts; it is verified at each use, so removing a key from the list ends its proofs.
PROOF-4  `onExpiry: hold`: a new state is taken only if it is proven the newest. What was taken before is always
         applied: nothing that runs is stopped because its proof is missing.
PROOF-5  A state that contradicts the statement is refused with every value of `onExpiry`. Where the held statement does
         so, a newer one is asked for first.
PROOF-6  That a newer state exists counts once the source was polled after the statement: a render may come between.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.state_folder import TwoPlaces
from margo_gitops.agent.pull.device_clock import DeviceClock
from margo_gitops.errors import (
    AgentMisconfigured,
    AllowedSignersInvalid,
    FreshnessContradicted,
    StateFolderUnusable,
    StateNotFresh,
    StorageFull,
    TransportError,
    TrustRefused,
)
from margo_gitops.transport.transport import ProofSource
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.freshness import (
    Assessment,
    Freshness,
    FreshnessPolicy,
    HeldVersion,
    assess,
    read_freshness,
    read_statement,
    refuse_older,
)
from margo_gitops.trust.trusted_state import TrustedState
from margo_gitops.values import dataclass, field

if TYPE_CHECKING:
    from margo_gitops.agent.pull.trust_keeper import TrustKeeper

_SHORTEST_PAUSE: Final = timedelta(minutes=1)
_LONGEST_PAUSE: Final = timedelta(hours=1)
_REMEDY: Final = "renew it: margo-gitops freshness renew; if it was renewed, find out who keeps it from this device"


@dataclass(frozen=True, slots=True)
class FreshnessRules:
    """What a device does about freshness.

    Attributes:
        device: its id.
        required: whether a proof that never came counts like one that expired.
        hold: whether a new state is taken only with proof (PROOF-4).
    """

    device: str
    required: bool
    hold: bool


@dataclass(eq=False)
class FreshnessKeeper:
    """Fetches, keeps and judges the proofs of one device.

    A list of signers that cannot be used is `AgentMisconfigured` or `AllowedSignersInvalid`.

    Attributes:
        signers: asked at each use who may sign statements.
        clock: the time; a proof that has expired stays expired when it is set back.
        source: where proofs come from; None: nowhere but by hand.
        abortable: a signal to stop may cut off what is done inside.
        trust: follows the trust document that a statement names; None where the device has none.
    """

    rules: FreshnessRules
    store: TwoPlaces
    signers: Callable[[], AllowedSigners]
    record: Record
    clock: DeviceClock
    source: ProofSource | None = None
    abortable: Callable[[], AbstractContextManager[None]] = nullcontext
    trust: TrustKeeper | None = None
    _read: tuple[bytes, FreshnessPolicy, Freshness] | None = field(default=None, init=False)
    _asked_at: datetime | None = field(default=None, init=False)
    _told: Event | None = field(default=None, init=False)
    _unpolled: datetime | None = field(default=None, init=False)

    def admit(self, state: TrustedState) -> None:
        """Decide whether a state that was just fetched is taken (PROOF-4, PROOF-5).

        Raises:
            FreshnessContradicted: a signed statement says that this version has other content.
            StateNotFresh: the device takes no state without proof, and has no proof.
            TransportError: the source broke off while it was asked for proof.
        """
        version = _version(state)
        with suppress(FreshnessContradicted):
            if self._assess(self.held(state), version).proven or not self.rules.hold:
                return
        self._fetch(state)
        found = self._assess(self.held(state), version)
        if self.rules.hold and not found.proven:
            raise StateNotFresh(
                f"version {state.floor.version} is not taken: nothing proves that it is the newest",
                device=self.rules.device,
                why=[f"{found.verdict}: {found.text}"],
                remedy=_REMEDY,
            )

    def look(self, state: TrustedState | None, *, polled: bool) -> None:
        """Renew the proof where it is time (PROOF-1, PROOF-2), and tell where nothing proves the held state any more.

        Args:
            state: what is held; None for nothing.
            polled: whether the source was asked in this cycle, and answered.
        """
        try:
            if polled:
                self._unpolled = None
                if self._is_due(state):
                    self._try_fetch(state)
            held = self.held(state)
            if held is not None:
                self.clock.reach(held.issued)
                self.clock.reach(held.expires)
            found = self._assess(held, _version(state) if state else None)
        except FreshnessContradicted as error:
            self._tell(Event.of(Reason.FRESHNESS_LOST, error))
            return
        except (AgentMisconfigured, AllowedSignersInvalid) as error:
            self._tell(Event.of(Reason.SIGNERS_UNREADABLE, error))
            return
        if not found.proven and (self._unpolled is None or found.verdict != "behind"):
            missing = found.verdict == "not-yet-known" and not self.store.read()
            if self.rules.required or not missing:
                self._tell(Event(Reason.FRESHNESS_LOST, f"{found.verdict}: {found.text}\n  remedy: {_REMEDY}"))
        elif found.proven and self._told is not None:
            self._told = None
            self.record(Event(Reason.FRESHNESS_REGAINED, f"{found.verdict}: {found.text}"))

    def held(self, state: TrustedState | None) -> Freshness | None:
        """Return the proof that is held, verified again; None where no proof can be trusted (PROOF-3)."""
        found = [proof for content in self.store.read() if (proof := self._verified(content, state))]
        return max(found, key=lambda proof: proof.issued, default=None)

    def take(self, content: bytes, state: TrustedState | None) -> Freshness:
        """Keep a proof that came, from the source or by hand.

        Args:
            state: what is held; None for nothing.

        Raises:
            TrustRefused: it is not for this device, or older than the one that is held.
            StateFolderUnusable, StorageFull: it cannot be kept.
        """
        if self.trust is not None and (named := read_statement(content)[1].trust_version) is not None:
            self.trust.reach(named)
        held = self.held(state)
        offered = read_freshness(content, self._policy(state, held))
        refuse_older(offered, held, self.clock.now())
        self.store.write(content)
        return offered

    def assess(self, state: TrustedState | None) -> Assessment:
        """Return the verdict on what is held (FreshnessContradicted: the statement has other content for it)."""
        return self._assess(self.held(state), _version(state) if state else None)

    def _assess(self, held: Freshness | None, version: HeldVersion | None) -> Assessment:
        return assess(held, version, self.clock.shown(), self.clock.floor)

    def _try_fetch(self, state: TrustedState | None) -> None:
        """Fetch; a failure is recorded, and the verdict follows."""
        try:
            self._fetch(state)
        except TransportError as error:
            self.record(Event.of(Reason.POLL_FAILED, error))

    def _fetch(self, state: TrustedState | None) -> None:
        if self.source is None:
            return
        self._asked_at = self.clock.shown()
        held = self.held(state)
        with self.abortable():
            content = self.source.freshness(self.rules.device, held.content if held else None)
        if content is None:
            return
        try:
            self.take(content, state)
            self._unpolled = self._asked_at
        except TrustRefused as error:
            self.record(Event.of(Reason.FRESHNESS_REFUSED, error))
        except (StorageFull, StateFolderUnusable) as error:
            self.record(Event.of(Reason.STORAGE_FAILED, error))

    def _is_due(self, state: TrustedState | None) -> bool:
        now = self.clock.shown()
        held = self.held(state)
        pause = _LONGEST_PAUSE / 4
        if held is not None:
            pause = min(max((held.expires - held.issued) / 64, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        try:
            unproven = self._assess(held, _version(state) if state else None).verdict == "not-yet-known"
        except FreshnessContradicted:
            unproven, pause = True, _SHORTEST_PAUSE
        # A clock that went back makes it due as well.
        if self._asked_at is not None and timedelta() <= now - self._asked_at < pause:
            return False
        return unproven or held is None or now >= held.renewal(self.rules.device) or held.issued > now

    def _verified(self, content: bytes, state: TrustedState | None) -> Freshness | None:
        policy = self._policy(state, None)
        if self._read is None or self._read[:2] != (content, policy):
            try:
                self._read = content, policy, read_freshness(content, policy)
            except TrustRefused as error:
                self._tell(Event.of(Reason.FRESHNESS_REFUSED, error))
                return None
        return self._read[2]

    def _policy(self, state: TrustedState | None, held: Freshness | None) -> FreshnessPolicy:
        fleet = state.fleet if state else None
        if fleet is None and held is not None:
            fleet = held.statement.fleet
        return FreshnessPolicy(self.rules.device, self.signers(), fleet)

    def _tell(self, event: Event) -> None:
        """Record what is wrong, unless it was the last thing recorded: an idle cycle writes nothing."""
        if event != self._told:
            self.record(event)
        self._told = event


def _version(state: TrustedState) -> HeldVersion:
    return HeldVersion(state.floor.version, state.floor.manifest_digest, signed=state.signer is not None)
