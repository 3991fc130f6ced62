"""Bring a device to a state: observe what is there, plan, let the plan be carried out, and say how far it came.

The rules are those of `margo_gitops.agent.apply.steps`; `execution` carries out what this module plans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.apply.bookkeeping import Bookkeeping
from margo_gitops.agent.apply.causes import Causes
from margo_gitops.agent.apply.drift import fallen
from margo_gitops.agent.apply.engines import Engines, name_of
from margo_gitops.agent.apply.execution import Execution
from margo_gitops.agent.apply.rollback import Rollbacks
from margo_gitops.agent.apply.steps import Change, Plan, make_plan
from margo_gitops.agent.apply.switches import Switches, Switching
from margo_gitops.agent.apply.timetable import Timetable
from margo_gitops.agent.apply.windows import Windows
from margo_gitops.agent.apply.workloads import DesiredDeployment, DeviceLimits, desired_deployments
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.facts import Facts
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.orders import Orders
from margo_gitops.appliers.applier import Applier, Observed, WorkloadKey
from margo_gitops.errors import ApplyError, Drifted, StateFolderUnusable, StorageFull
from margo_gitops.trust.git_commit import parse_commit
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.trust.trusted_state import TrustedState
from margo_gitops.values import KW_ONLY, dataclass, field, replace

if TYPE_CHECKING:
    from margo_gitops.agent.apply.artifacts import Artifacts
    from margo_gitops.agent.apply.stages import Stages

_STOPPED: Final = "stopped"
"""The fact of `Stages`, which is loaded where there is one, or a deployment stops another."""
LONGEST_PASS: Final = 3600.0
"""Seconds after which a cycle begins no other step (STEP-14)."""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """How far a device came.

    Attributes:
        failures: what did not work, in order.
        complete: whether the device now runs what its state asks for.
        waits: whether something may not change now.
        goes_back: whether an update failed whose deployment goes back to what ran before.
        held: whether a lock keeps something from changing.
        cut: whether the work was cut off.
        coming: whether more of an artifact can be fetched at once.
    """

    plan: Plan
    failures: tuple[ApplyError, ...]
    complete: bool
    waits: bool = False
    goes_back: bool = False
    held: bool = False
    cut: bool = False
    coming: bool = False

    @property
    def only_waits(self) -> bool:
        """Whether all that is missing waits until it may change."""
        return self.waits and not self.failures and not any(change.rests for change in self.plan.changes)


@dataclass(eq=False)
class Reconciler:
    """Makes a device run what a trusted state asks for.

    Attributes:
        appliers: by name, most preferred first.
        journal: where every step is recorded.
        clock: the time, seconds since the epoch.
        stopping: asked between steps; once true, the rest is left for the next start.
        heartbeat: called before each step.
        tell: called with each new status of a deployment, and its id; returns at once.
        timetable: what the clock says of calendars; None: the clock is trusted once it is set.
        switches: what happens around the switch of a deployment; None: as on a device without locks and hooks.
        orders: what a person at the device orders; None: nothing.
        artifacts: bring and keep large artifacts; None: nothing does.
        timer: seconds since some moment; never jumps.
    """

    appliers: Mapping[str, Applier]
    journal: Journal
    record: Record
    clock: Callable[[], float]
    stopping: Callable[[], bool]
    _: KW_ONLY
    limits: DeviceLimits = field(default_factory=DeviceLimits)
    heartbeat: Callable[[], None] = lambda: None
    tell: Callable[[str, bytes], None] = lambda _id, _status: None
    timetable: Timetable | None = None
    switches: Switches | None = None
    orders: Orders | None = None
    artifacts: Artifacts | None = None
    timer: Callable[[], float] = time.monotonic
    causes: Causes = field(default_factory=Causes)
    _told: set[str] = field(default_factory=set, init=False)
    _until: float = field(default=0.0, init=False)
    _observed: Sequence[Observed] = field(default=(), init=False)

    def __post_init__(self) -> None:
        timetable = self.timetable or Timetable(self.clock)
        self._engines = Engines(self.appliers)
        self._facts = Facts(self.journal.facts, self.journal.set_facts)
        self._rollbacks = Rollbacks(self._facts)
        self._windows = Windows(timetable, self._facts, self.orders)

    def reconcile(
        self, state: TrustedState, *, patient: bool, retry: bool = False, at_once: bool = False
    ) -> Reconciliation:
        """Bring the device to a state, as far as it goes, and return how far that was.

        Args:
            patient: whether what failed rests before it is tried again.
            retry: whether to try quarantined updates again.
            at_once: whether to change what its calendars do not let change now, and to repair all that has drifted.

        Raises:
            StorageFull: a step could not be recorded, so it was not begun.
            StateFolderUnusable: the journal cannot be written.
        """
        self._until = self.timer() + LONGEST_PASS
        asked = desired_deployments(state.deployments, self.limits, lambda: _rendered_by(state))
        self._windows.started()
        if self.artifacts is not None:
            self.artifacts.begin()
        done = self._pass(state, asked, patient=patient, retry=retry, at_once=at_once)
        if done.goes_back:
            # What failed a moment ago rests: only the way back is gone now.
            again = self._pass(state, asked, patient=True, retry=False, at_once=at_once)
            done = replace(again, failures=(*done.failures, *again.failures))
        if not (done.cut or self.stopping()):
            self._windows.ended(held=done.held)
        return done

    def _pass(
        self, state: TrustedState, asked: Sequence[DesiredDeployment], *, patient: bool, retry: bool, at_once: bool
    ) -> Reconciliation:
        desired = self._rollbacks.wanted(asked, self.limits, retry=retry)
        stages = self._stages(desired)
        ours = stages.keys if stages is not None else frozenset()
        plan = self._plan(desired, ours, patient=patient, retry=retry, at_once=at_once)
        switches = self.switches or Switches(self.clock, self._facts)
        switching = switches.begin(desired, plan, at_once=at_once, stopped=ours)
        version = state.manifest.manifest_version
        suspension = self.orders.suspension if self.orders is not None else None
        books = Bookkeeping(self.journal, version, self.clock, self.tell, plan.rolled_back, suspension)
        items = {item.id: item for item in desired}

        def leave(change: Change, error: ApplyError) -> bool:
            return self._rollbacks.leave(items[change.workload.key.deployment_id], error, change.workload)

        done = self._execution(plan, books, switching, stages, leave)
        self._tell(plan.obstacles)
        try:
            self._carry_out(desired, done)
        except (StorageFull, StateFolderUnusable):
            if stages is not None:
                stages.release()
            raise
        drifted = [each.error for each in plan.left if isinstance(each.error, Drifted)]
        failures = (*done.failures, *drifted, *plan.rolled_back.values())
        complete = not (failures or done.failed or done.left or plan.left)
        return Reconciliation(
            plan,
            failures,
            complete,
            done.waits,
            bool(done.going_back),
            held=done.held,
            cut=done.cut,
            coming=done.coming,
        )

    def _carry_out(self, desired: Sequence[DesiredDeployment], done: Execution) -> None:
        """Let a plan be carried out."""
        plan, books = done.plan, done.books
        self._tell_drift(plan, books)
        books.start(desired, plan)
        for change in plan.changes:
            done.prepare(change)
        for place, change in enumerate(plan.changes, start=1):
            done.install(change)
            later = [each.workload.key for each in plan.changes[place:]] if done.stages is not None else []
            updating = {*done.going_back, *(key.deployment_id for key in later)}
            done.resume(updating, {*later, *(each.key for each in plan.removals)})
        done.remove()
        done.resume(done.going_back)
        if not self.stopping():
            for failed in done.switching.end():
                self.record(Event.of(Reason.WORKLOAD_FAILED, failed))
        self._rollbacks.ended(desired, books.known())
        books.post()
        if self.artifacts is not None and not plan.silent and not done.cut:
            installed = [(row.key, row.installed) for row in books.known().values()]
            self.artifacts.collect((each for item in desired for each in item.workloads), self._observed, installed)

    def _stages(self, desired: Iterable[DesiredDeployment]) -> Stages | None:
        """Return what stops and starts deployments in a cycle; None where there is nothing for it."""
        if not (any(item.stops for item in desired) or self.journal.facts().get(_STOPPED)):
            return None
        from margo_gitops.agent.apply.stages import Stages

        return Stages(self.appliers, self._facts, self.heartbeat)

    def _execution(
        self,
        plan: Plan,
        books: Bookkeeping,
        switching: Switching,
        stages: Stages | None,
        leave: Callable[[Change, ApplyError], bool],
    ) -> Execution:
        return Execution(
            plan,
            books,
            switching,
            self.appliers,
            self._windows,
            self.causes,
            self.record,
            stages=stages,
            artifacts=self.artifacts,
            leave=leave,
            stopping=self.stopping,
            heartbeat=self.heartbeat,
            timer=self.timer,
            until=self._until,
        )

    def _tell(self, obstacles: Iterable[ApplyError]) -> None:
        """Record what blocks the whole cycle, unless it did so in the cycle before."""
        errors = {str(error): error for error in obstacles}
        for text, error in errors.items():
            if text not in self._told:
                self.record(Event.of(Reason.WORKLOAD_FAILED, error))
        self._told = set(errors)

    def _tell_drift(self, plan: Plan, books: Bookkeeping) -> None:
        """Record what was changed on the device, when it is found or about to be repaired."""
        known = books.known()
        for each in plan.left:
            if known[each.workload.key].code != each.error.code:
                self.record(Event.of(Reason.DRIFT_FOUND, each.error, str(each.workload.key)))
        for change in plan.changes:
            if change.drift and not change.rests:
                text = f"{name_of(change.workload)}: {change.drift}; it is installed again"
                self.record(Event(Reason.DRIFT_FOUND, text, "", str(change.workload.key)))

    def _plan(
        self,
        desired: Sequence[DesiredDeployment],
        ours: frozenset[WorkloadKey],
        *,
        patient: bool,
        retry: bool,
        at_once: bool,
    ) -> Plan:
        observed, silent = self._engines.observe()
        self._observed = [each for held in observed.values() for each in held]
        now = self.clock() if patient else None
        recorded = self.journal.workloads()
        names = {item.id: item.name for item in self.journal.deployments()}
        there = {each: names.get(each, each) for each in {item.key.deployment_id for item in recorded}}
        closed = self._windows.closed(desired, there, at_once=at_once)
        order = self.orders.applied if self.orders is not None else None
        covered = [at_once or (order is not None and order.covers(item.id, item.name)) for item in desired]
        ordered = {item.id for item, is_covered in zip(desired, covered, strict=True) if is_covered}
        plan = make_plan(
            desired,
            observed,
            recorded,
            self._engines.serving(),
            silent=silent,
            now=now,
            retry=retry,
            closed=closed,
            stopped=self._engines.stopped,
            back=self.causes.gone(silent=bool(silent)),
            repair=ordered,
            ours=ours,
        )
        return replace(plan, fallen=fallen(desired, observed, recorded, ours, self._engines.stopped))


def _rendered_by(state: TrustedState) -> str:
    """Return the renderer and its version, as the commit names them; empty where there is no commit."""
    commit = state.snapshot.commit
    return (StateCommit.of(parse_commit(commit)).rendered_by or "") if commit else ""
