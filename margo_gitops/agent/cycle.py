"""One cycle of the agent: pull, judge, store, apply, report. The order is what keeps a device safe.

CYCLE-1  One cycle at a time: the caller holds the state folder's lock (failure mode F5).
CYCLE-2  Nothing is stored before it is trusted, nothing is applied before it is stored.
CYCLE-3  The floor is raised as soon as a state is stored, before anything of it is applied; a device that dies in
         between raises it at its next start. So the trusted version never goes down, not even during an update (F13).
CYCLE-4  The source learns that a state is held only after all of it is on disk, verified (F2).
CYCLE-5  The held state is applied even if the pull fails: what a person stopped comes back, what was cut off is
         finished, without a network.
CYCLE-6  What is damaged on disk counts as nothing held and is fetched again (F14). It is never applied.
CYCLE-7  A refused snapshot changes nothing but the journal: a security event.
CYCLE-8  While the list of signers cannot be read, nothing is fetched: its signer could not be checked. What is held is
         applied: it was trusted when it was stored (TRUST-17). A security event says so. The same holds where the list
         no longer has its key.
CYCLE-9  A fetched state is taken only if freshness does not refuse it; the held state is applied in any case
         (agent/pull/proof_keeper.py, PROOF-1 to PROOF-6).
CYCLE-10 A fetched state is judged by the trust document that it names, or a newer one (agent/pull/trust_keeper.py,
         ROTATE-1 to ROTATE-7). What is held runs on until a new state comes, also where the document lowers its floor.
CYCLE-11 Outside its hours of contact a device asks nothing, sends nothing and misses nothing, unless a person asks
         (agent/apply/timetable.py, TIME-4).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, TypeAlias

from margo_gitops.agent.apply.reconciler import Reconciler, Reconciliation
from margo_gitops.agent.apply.timetable import Timetable
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.poll_record import PollRecord, PollResult
from margo_gitops.agent.pull.floor_files import FloorFiles, Remembered
from margo_gitops.agent.pull.trusted_store import TrustedStore
from margo_gitops.errors import (
    AgentMisconfigured,
    AllowedSignersInvalid,
    ExitCode,
    MargoGitopsError,
    SourceMisbehaved,
    StateFolderUnusable,
    StorageFull,
    StoredStateDamaged,
    TransportError,
    TrustRefused,
    VersionRollback,
)
from margo_gitops.transport.transport import Answer, PollHints, Transport
from margo_gitops.trust.floor import Floor
from margo_gitops.trust.git_commit import parse_commit
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.trust.trusted_state import TrustedState, TrustPolicy, judge, judge_held, judge_stored
from margo_gitops.values import dataclass, field, replace

if TYPE_CHECKING:  # loaded where they are asked for
    from margo_gitops.agent.pull.proof_keeper import FreshnessKeeper
    from margo_gitops.agent.pull.trust_keeper import TrustKeeper
    from margo_gitops.documents.calendars import Opening

_WORST_FIRST: Final = (ExitCode.TRUST, ExitCode.USAGE, ExitCode.APPLY, ExitCode.TRANSPORT, ExitCode.TRY_LATER)

_POLL_FAILURES: Final = (
    (TransportError, Reason.POLL_FAILED),
    ((AgentMisconfigured, AllowedSignersInvalid), Reason.SIGNERS_UNREADABLE),
    ((StorageFull, StateFolderUnusable), Reason.STORAGE_FAILED),
)

_LONGEST_NUMBER: Final = 11

_Judge: TypeAlias = Callable[[Snapshot, TrustPolicy, Floor | None], TrustedState]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a cycle ended.

    Attributes:
        poll: what the source had; "none" where it was not asked.
        version: the manifest version that is held now; None where nothing is.
        poll_error: why there is no new state, where the poll failed or was refused.
        reconciliation: how far the held state was applied; None where nothing is held.
        hints: what the source said about the next poll.
        contact: the hours in which the device may poll, these or the next; None for any.
        quiet: whether this is not one of them, and no one asked for a poll: nothing is sent (CYCLE-11).
    """

    poll: PollResult
    version: int | None
    poll_error: MargoGitopsError | None
    reconciliation: Reconciliation | None
    hints: PollHints = field(default_factory=PollHints)
    contact: Opening | None = None
    quiet: bool = False

    @property
    def answered(self) -> bool:
        """Whether the source was asked, and did not fail to answer."""
        return self.poll != "none" and not isinstance(self.poll_error, TransportError)

    @property
    def errors(self) -> tuple[MargoGitopsError, ...]:
        """Everything that did not work."""
        failures = self.reconciliation.failures if self.reconciliation else ()
        return (*((self.poll_error,) if self.poll_error else ()), *failures)

    @property
    def exit_code(self) -> ExitCode:
        """What `agent once` ends with: the worst of what happened."""
        codes = {error.exit_code for error in self.errors}
        if self.reconciliation and not self.reconciliation.complete:
            codes.add(ExitCode.TRY_LATER if self.reconciliation.only_waits else ExitCode.APPLY)
        return next((code for code in _WORST_FIRST if code in codes), ExitCode.OK)


@dataclass(frozen=True, slots=True)
class _Poll:
    """How a poll ended, and the state that is held now."""

    result: PollResult
    held: TrustedState | None
    error: MargoGitopsError | None = None
    hints: PollHints = field(default_factory=PollHints)


@dataclass(eq=False, kw_only=True)
class Cycle:
    """Runs cycles of one device.

    Attributes:
        begin: called first.
        policy: asked at the start of each cycle, so that a changed list of signers counts at once.
        fallback: what the held state must obey while the list of signers cannot be read (CYCLE-8).
        abortable: a signal to stop may cut off what is done inside.
        greet: called before the source is asked; the first time, it may take a few seconds.
        witness: called with what is held, after it was applied as far as it goes.
        quiet: whether nothing may be sent now (CYCLE-11).
    """

    policy: Callable[[], TrustPolicy]
    fallback: TrustPolicy
    transport: Transport
    store: TrustedStore
    floors: FloorFiles
    polls: PollRecord
    reconciler: Reconciler
    record: Record
    freshness: FreshnessKeeper | None = None
    trust: TrustKeeper | None = None
    abortable: Callable[[], AbstractContextManager[None]] = nullcontext
    begin: Callable[[], None] = lambda: None
    greet: Callable[[], None] = lambda: None
    witness: Callable[[TrustedState], None] = lambda _held: None
    timetable: Timetable = field(default_factory=lambda: Timetable(time.time))
    quiet: bool = field(default=False, init=False)
    _judged: tuple[_Judge, Snapshot, TrustPolicy, Floor | None, TrustedState] | None = field(default=None, init=False)
    _told: set[Event] = field(default_factory=set, init=False)
    _telling: set[Event] = field(default_factory=set, init=False)

    def run(
        self,
        *,
        poll: bool = True,
        wait: int = 0,
        patient: bool = False,
        retry: bool = False,
        at_once: bool = False,
    ) -> Outcome:
        """Do one cycle.

        Args:
            poll: whether to ask the source; without, only what is held is applied.
            wait: how many seconds the source may wait for a change before it answers.
            patient: whether what failed rests before it is tried again.
            retry: whether to try quarantined updates again.
            at_once: whether to change what its calendars do not let change now.

        Raises:
            StateFolderUnusable: the floor, the held state or the journal cannot be read or written.
            StorageFull: the journal cannot be written; what runs keeps running.
        """
        self.begin()
        self._told, self._telling = self._telling, set()
        memory = self._read_floor()
        if self.trust is not None:
            self.trust.begin()
        try:
            policy = self.policy()
        except (AgentMisconfigured, AllowedSignersInvalid) as unreadable:
            ended = _Poll("none", self._load_unjudged(unreadable, memory), unreadable)
            self._listen(ended.held, asked=retry or at_once)
        else:
            memory = self._change_floor(memory)
            ended = _Poll("none", self._load_held(policy, memory))
            self._listen(ended.held, asked=retry or at_once)
            if poll and not self.quiet:
                ended = self._poll(policy, memory, ended.held, wait)
            if self.trust is not None and (expired := self.trust.expired()):
                self._tell(expired)
            if self.freshness is not None and not self.quiet:
                self.freshness.look(ended.held, polled=ended.result in ("new", "unchanged"))
        held = ended.held
        self.timetable.take(held)
        reconciliation = None
        if held:
            reconciliation = self.reconciler.reconcile(held, patient=patient, retry=retry, at_once=at_once)
            self.witness(held)
        version = held.manifest.manifest_version if held else None
        return Outcome(
            ended.result, version, ended.error, reconciliation, ended.hints, self.timetable.contact(), self.quiet
        )

    def _listen(self, held: TrustedState | None, *, asked: bool) -> None:
        """Follow what the held state says about contact (CYCLE-11)."""
        self.timetable.take(held)
        contact = self.timetable.contact()
        self.quiet = contact is not None and contact.start > self.timetable.clock() and not asked

    def _read_floor(self) -> Remembered:
        reading = self.floors.repair()
        for path in reading.damaged:
            self._tell(Event(Reason.FLOOR_DAMAGED, f"a copy of the trust floor is damaged: {path}"))
        for path in reading.repaired:
            self.record(Event(Reason.FLOOR_MENDED, f"a copy of the trust floor was written again: {path}"))
        return reading.remembered

    def _change_floor(self, memory: Remembered) -> Remembered:
        """Return what is remembered after the changes that the trust document makes, stored before they count."""
        changed = self.trust.change(memory) if self.trust is not None else memory
        if changed is not memory:
            self._keep(self.floors.remember(changed))
        return changed

    def held(self) -> TrustedState | None:
        """Return what is held, as a cycle verifies it, before the first one.

        Raises:
            MargoGitopsError: it is damaged or not trusted now, or it cannot be read who may sign.
        """
        return self._verified(self.policy(), self.floors.read().remembered)

    def _verified(self, policy: TrustPolicy, memory: Remembered) -> TrustedState | None:
        snapshot = self.store.load()
        if snapshot is None:
            return None
        floor = memory.left if memory.is_left(snapshot.manifest) else memory.floor
        return self._judge(judge_held, snapshot, policy, floor)

    def _load_held(self, policy: TrustPolicy, memory: Remembered) -> TrustedState | None:
        """Return what is held, verified again from the first byte (CYCLE-6), with the floor raised to it (CYCLE-3)."""
        try:
            held = self._verified(policy, memory)
        except (StoredStateDamaged, TrustRefused) as error:
            self._tell(Event.of(Reason.STATE_DAMAGED, error))
            return None
        if held is None:
            return None
        is_left = memory.is_left(held.snapshot.manifest)
        if memory.floor is None and memory.left is None:
            text = f"the trust floor was gone; it starts again at the held version {held.floor.version}"
            self.record(Event(Reason.FIRST_CONTACT, text))
        if held.objection:
            text = f"what is held is applied, nothing new of its key is taken: {held.objection}"
            self._tell(Event(Reason.SIGNER_DROPPED, text))
        if not is_left:
            self._keep(self.floors.raise_to(held.floor))
        return held

    def _load_unjudged(self, unreadable: MargoGitopsError, memory: Remembered) -> TrustedState | None:
        """Return what is held while the list of signers cannot be read (CYCLE-8)."""
        try:
            snapshot = self.store.load()
            held = None
            if snapshot is not None:
                floor = memory.left if memory.is_left(snapshot.manifest) else memory.floor
                held = self._judge(judge_stored, snapshot, self.fallback, floor)
        except (StoredStateDamaged, TrustRefused) as error:
            self._tell(Event.of(Reason.STATE_DAMAGED, error))
            held = None
        then = "what is held is applied, its signer unseen" if held else "what is held is not applied"
        text = f"{unreadable}\n  nothing is fetched meanwhile; {then}"
        self._tell(Event(Reason.SIGNERS_UNREADABLE, text, unreadable.code))
        return held

    def _poll(self, policy: TrustPolicy, memory: Remembered, held: TrustedState | None, wait: int) -> _Poll:
        """Ask the source, and take what it has where it can be trusted."""
        ended = self._ask(policy, memory, held, wait)
        if ended.result == "refused" and self._follow():
            ended = self._ask(self.policy(), self._change_floor(self._read_floor()), held, 0)
        if ended.result == "refused" and ended.error is not None:
            self.record(Event.of(Reason.STATE_REFUSED, ended.error))
        if self.polls.ended(ended.result, ended.error):
            self.record(Event(Reason.POLL_RECOVERED, "the source answers again"))
            self.reconciler.causes.reached()
        return ended

    def _ask(self, policy: TrustPolicy, memory: Remembered, held: TrustedState | None, wait: int) -> _Poll:
        hints = PollHints()
        try:
            left = held is not None and memory.is_left(held.snapshot.manifest)
            # A source that is told of a state above the new floor would be asked for nothing below it.
            told = None if held is None or (left and held.floor.version >= memory.lowest) else held
            answer = self._pull(told, wait)
            hints = answer.hints
            if answer.snapshot is None:
                if told is None:
                    raise SourceMisbehaved("the source says that nothing changed, but this device holds nothing")
                return _Poll("unchanged", held, None, hints)
            if self._reach(answer.snapshot):
                policy, memory = self.policy(), self._change_floor(memory)
            state = self._judge_new(answer.snapshot, policy, memory, held)
            if self.trust is not None:
                self.trust.admit()
            if self.freshness is not None:
                self.freshness.admit(state)
            self.store.save(state)
        except TrustRefused as error:
            return _Poll("refused", held, error, hints)
        except MargoGitopsError as error:
            reason = next((reason for kinds, reason in _POLL_FAILURES if isinstance(error, kinds)), None)
            if reason is None:
                raise
            self.record(Event.of(reason, error))
            return _Poll("failed", held, error, hints)
        if held is None and memory.floor is None:
            text = f"first contact: version {state.floor.version} is trusted without an older one to compare with"
            self.record(Event(Reason.FIRST_CONTACT, text))
        self._keep(self.floors.raise_to(state.floor))
        by = f", signed by {state.signer}" if state.signer else ", unsigned"
        if self.trust is not None:
            by += f", trusted by {self.trust.current().name}"
        self.record(Event(Reason.STATE_TRUSTED, f"{state.title}{by}"))
        return _Poll("new", state, None, hints)

    def _judge_new(
        self, snapshot: Snapshot, policy: TrustPolicy, memory: Remembered, held: TrustedState | None
    ) -> TrustedState:
        """Return a fetched state that may take the place of the held one."""
        if memory.is_left(snapshot.manifest):
            raise VersionRollback(
                "this state is the one whose version the trust document took back",
                why=[f"changes of the trust floor: {', '.join(memory.applied)}"],
                device=policy.device,
                remedy="render again: the next state has a version that counts",
            )
        if policy.fleet is None and held is not None:
            policy = replace(policy, fleet=held.fleet)  # a device stays in the fleet that it first trusted
        policy = replace(policy, minimum_version=max(policy.minimum_version, memory.lowest))
        forgotten = held is None or memory.is_left(held.snapshot.manifest)
        return self._judge(judge, snapshot, policy, memory.floor if forgotten or held is None else held.floor)

    def _reach(self, snapshot: Snapshot) -> bool:
        """Follow the trust document that a fetched state names; return whether there was a newer one (ROTATE-3)."""
        if self.trust is None or snapshot.commit is None:
            return False
        try:
            named = StateCommit.of(parse_commit(snapshot.commit)).trust_version
        except ValueError:
            return False  # refused when it is judged
        is_number = named is not None and named.isascii() and named.isdecimal() and len(named) < _LONGEST_NUMBER
        return named is not None and is_number and self.trust.reach(int(named))

    def _follow(self) -> bool:
        """Ask whether the fleet's keys changed, after a state was refused (ROTATE-4)."""
        if self.trust is None:
            return False
        try:
            return self.trust.follow()
        except TrustRefused as error:
            self.record(Event.of(Reason.TRUST_REFUSED, error))
        except TransportError as error:
            self.record(Event.of(Reason.POLL_FAILED, error))
        return False

    def _pull(self, held: TrustedState | None, wait: int) -> Answer:
        self.greet()
        before = self.transport.cost
        try:
            with self.abortable():
                return self.transport.pull(held.snapshot if held else None, wait)
        finally:
            self.polls.spent(self.transport.cost - before)

    def _judge(self, how: _Judge, snapshot: Snapshot, policy: TrustPolicy, floor: Floor | None) -> TrustedState:
        """Return the verdict on a snapshot; the last one is kept, for a device that polls and polls."""
        if self._judged is None or self._judged[:4] != (how, snapshot, policy, floor):
            self._judged = (how, snapshot, policy, floor, how(snapshot, policy, floor))
        return self._judged[4]

    def _keep(self, errors: list[MargoGitopsError]) -> None:
        """Tell what went wrong with the second copy of the floor."""
        for error in errors:
            self._tell(Event.of(Reason.FLOOR_COPY_FAILED, error))

    def _tell(self, event: Event) -> None:
        """Record what is wrong, unless the cycle before recorded it: an idle cycle writes nothing."""
        if event not in self._told | self._telling:
            self.record(event)
        self._telling.add(event)
