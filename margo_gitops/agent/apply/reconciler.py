"""Carry out a plan, step by step, with a record before and after each; kill it anywhere and start again.

The rules are those of `margo_gitops.agent.apply.steps`; this module only calls appliers and writes the journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from margo_gitops.agent.apply.bookkeeping import Bookkeeping
from margo_gitops.agent.apply.causes import Causes
from margo_gitops.agent.apply.engines import Engines, contract_of, name_of
from margo_gitops.agent.apply.rollback import Rollbacks
from margo_gitops.agent.apply.steps import Change, Plan, Removal, make_plan
from margo_gitops.agent.apply.switches import Switches, Switching, check_installed
from margo_gitops.agent.apply.timetable import Timetable
from margo_gitops.agent.apply.windows import Windows
from margo_gitops.agent.apply.workloads import DesiredDeployment, DeviceLimits, desired_deployments
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.orders import Orders
from margo_gitops.agent.memory.recorded import Failure
from margo_gitops.appliers.applier import Applier, WorkloadKey, check_secrets
from margo_gitops.errors import (
    ApplyError,
    DependencyNotInstalled,
    Drifted,
    HookFailed,
    InstallFailed,
    LockHeld,
    RolledBack,
    StepInterrupted,
)
from margo_gitops.trust.trusted_state import TrustedState
from margo_gitops.values import KW_ONLY, dataclass, field, replace

_AWAITED: Final = {DependencyNotInstalled: Reason.DEPLOYMENT_WAITS, LockHeld: Reason.LOCK_AWAITED}
"""The events of what keeps a deployment waiting, other than a window."""


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
    """

    plan: Plan
    failures: tuple[ApplyError, ...]
    complete: bool
    waits: bool = False
    goes_back: bool = False
    held: bool = False
    cut: bool = False

    @property
    def only_waits(self) -> bool:
        """Whether all that is missing waits until it may change."""
        return self.waits and not self.failures and not any(change.rests for change in self.plan.changes)


@dataclass(slots=True)
class _Progress:
    """What happened so far.

    Attributes:
        failed: deployments of which a step failed or rests, or that wait for another.
        prepared: whether all that is wanted can be prepared, and was.
        left: whether something is still to be done.
        waits: whether something may not change now.
        unready: what could not be prepared.
        goes_back: whether an update failed whose deployment goes back.
        held: whether a lock keeps something from changing.
        cut: whether the work was cut off.
    """

    failures: list[ApplyError]
    failed: set[str]
    prepared: bool
    left: bool = False
    waits: bool = False
    unready: set[WorkloadKey] = field(default_factory=set)
    goes_back: bool = False
    held: bool = False
    cut: bool = False


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
    timer: Callable[[], float] = time.monotonic
    causes: Causes = field(default_factory=Causes)
    _told: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        timetable = self.timetable or Timetable(self.clock)
        self._engines = Engines(self.appliers)
        self._rollbacks = Rollbacks(self.journal.facts, self.journal.set_facts)
        self._windows = Windows(timetable, self.journal.facts, self.journal.set_facts, self.orders)

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
        asked = desired_deployments(state.deployments, self.limits)
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
        plan = self._plan(desired, patient=patient, retry=retry, at_once=at_once)
        obstacles = list(dict.fromkeys([*plan.silent.values(), *plan.refused.values()]))
        prepared = not (plan.refused or plan.unprepared)
        progress = _Progress(obstacles, plan.unprepared, prepared, waits=plan.waits)
        switches = self.switches or Switches(self.clock, self.journal.facts, self.journal.set_facts)
        switching = switches.begin(desired, plan, at_once=at_once)
        version = state.manifest.manifest_version
        suspension = self.orders.suspension if self.orders is not None else None
        books = Bookkeeping(self.journal, version, self.clock, self.tell, plan.rolled_back, suspension)
        self._tell(obstacles)
        self._tell_drift(plan, books)
        books.start(desired, plan)
        for change in plan.changes:
            self._prepare(change, plan, progress, books)
        for change in plan.changes:
            error = self._install(change, plan, progress, books, switching)
            if error is not None:
                self._go_back(desired, change, error, progress)
        self._remove(plan, progress, books, switching)
        if not self.stopping():
            for failed in switching.end():
                self.record(Event.of(Reason.WORKLOAD_FAILED, failed))
        self._rollbacks.ended(desired, books.known())
        books.post()
        drifted = [each.error for each in plan.left if isinstance(each.error, Drifted)]
        failures = (*progress.failures, *drifted, *plan.rolled_back.values())
        complete = not (failures or progress.failed or progress.left or plan.left)
        return Reconciliation(
            plan, failures, complete, progress.waits, progress.goes_back, held=progress.held, cut=progress.cut
        )

    def _go_back(
        self, desired: Iterable[DesiredDeployment], change: Change, error: ApplyError, progress: _Progress
    ) -> None:
        """Let a deployment go back, where a component of it failed and there is a way (BACK-2)."""
        item = next(item for item in desired if item.id == change.workload.key.deployment_id)
        if self._rollbacks.leave(item, error, change.workload):
            progress.goes_back = True
            text = f"{name_of(change.workload)} failed: the whole deployment goes back to what ran before"
            self.record(Event(Reason.ROLLED_BACK, text, RolledBack.code, item.id))

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

    def _plan(self, desired: Sequence[DesiredDeployment], *, patient: bool, retry: bool, at_once: bool) -> Plan:
        observed, silent = self._engines.observe()
        now = self.clock() if patient else None
        recorded = self.journal.workloads()
        names = {item.id: item.name for item in self.journal.deployments()}
        there = {each: names.get(each, each) for each in {item.key.deployment_id for item in recorded}}
        closed = self._windows.closed(desired, there, at_once=at_once)
        order = self.orders.applied if self.orders is not None else None
        covered = [at_once or (order is not None and order.covers(item.id, item.name)) for item in desired]
        ordered = {item.id for item, is_covered in zip(desired, covered, strict=True) if is_covered}
        return make_plan(
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
        )

    def _prepare(self, change: Change, plan: Plan, progress: _Progress, books: Bookkeeping) -> None:
        if self.stopping():
            progress.left, progress.prepared = True, False
            return
        deployment_id = change.workload.key.deployment_id
        if change.rests or (deployment_id in plan.unprepared and deployment_id not in plan.separate):
            return
        self.heartbeat()
        try:
            with contract_of(change.applier):
                check_secrets(change.applier, self.appliers[change.applier], change.workload)
                self.appliers[change.applier].prepare(change.workload)
        except StepInterrupted:
            progress.left, progress.prepared = True, False
        except ApplyError as error:
            progress.prepared = False
            progress.unready.add(change.workload.key)
            self._fail(change, error, progress, books.failed(change, error, "preparing"))

    def _install(
        self, change: Change, plan: Plan, progress: _Progress, books: Bookkeeping, switching: Switching
    ) -> ApplyError | None:
        """Install a component, and return why that failed; None where it did not, or was not tried."""
        workload, deployment_id = change.workload, change.workload.key.deployment_id
        if self.stopping():
            progress.left = True
            return None
        if change.rests or workload.key in progress.unready:
            progress.failed.add(deployment_id)
            return None
        obstacle = plan.obstacle(deployment_id, progress.failed)
        if obstacle is None and change.waits is None:
            change = self._begin(change, plan)
        if obstacle is not None or change.waits is not None:
            self._wait(change, obstacle, progress, books)
            return None
        try:
            held = switching.before(change)
        except HookFailed as error:
            self._fail(change, error, progress, books.failed(change, error, "installing"))
            return None  # nothing was changed
        if held is not None:
            progress.held = True
            self._wait(replace(change, waits=held), None, progress, books)
            return None
        workload = switching.prepared(change)
        books.begin(change)
        self.heartbeat()
        begin = self.timer()
        try:
            with contract_of(change.applier):
                self.appliers[change.applier].install(workload)
                check_installed(self.appliers[change.applier], workload, change.reason, self.stopping)
            switching.after(change)
        except StepInterrupted:
            progress.left = progress.cut = True
            progress.failed.add(deployment_id)
            return None
        except ApplyError as error:
            broken_update = isinstance(error, InstallFailed) and error.reinstated and change.replaces
            failure: Failure = "quarantined" if broken_update else "installing"
            self._fail(change, error, progress, books.failed(change, error, failure))
            return error
        books.installed(change)
        if change.is_switch:
            self._windows.took(workload.key, self.timer() - begin)
        self.record(Event(Reason.WORKLOAD_INSTALLED, f"{name_of(workload)} ({change.reason})", "", str(workload.key)))
        return None

    def _begin(self, change: Change, plan: Plan) -> Change:
        """Return a change with why it may not begin now, at its turn (OPEN-6)."""
        if not change.is_switch:
            return change
        name = change.workload.key.deployment_id
        keys = [
            each.workload.key for each in plan.changes if each.is_switch and each.workload.key.deployment_id == name
        ]
        return replace(change, waits=self._windows.begin(name, keys))

    def _fail(self, change: Change, error: ApplyError, progress: _Progress, message: str) -> None:
        progress.failures.append(error)
        self.causes.failed(error)
        progress.failed.add(change.workload.key.deployment_id)
        self.record(Event(Reason.WORKLOAD_FAILED, message, error.code, str(change.workload.key)))

    def _wait(self, change: Change, obstacle: str | None, progress: _Progress, books: Bookkeeping) -> None:
        """Leave a component because something before it failed (STEP-4), or it may not change now (STEP-10)."""
        key = change.workload.key
        progress.failed.add(key.deployment_id)
        progress.waits = progress.waits or change.waits is not None
        has_failed = books.known()[key].state == "failed"
        if obstacle in (None, key.deployment_id) and (has_failed or change.waits is None):
            if not has_failed:
                books.waits(key, message="a component before it failed")
            return
        error = change.waits or DependencyNotInstalled(
            f"{name_of(change.workload)} waits for the deployment {obstacle}, which is not installed"
        )
        self._await(key, error, books)

    def _await(self, key: WorkloadKey, error: ApplyError, books: Bookkeeping) -> None:
        if books.waits(key, error):
            self.record(Event.of(_AWAITED.get(type(error), Reason.WINDOW_AWAITED), error, key.deployment_id))

    def _remove(self, plan: Plan, progress: _Progress, books: Bookkeeping, switching: Switching) -> None:
        """Remove what is gone, if everything new was prepared, and what it belongs to is installed (STEP-3)."""
        moved = {change.workload.key for change in plan.changes} | {workload.key for _, workload in plan.kept}
        for removal in plan.removals:
            if not progress.prepared or self.stopping():
                progress.left = True
                return
            if removal.rests or removal.key.deployment_id in progress.failed:
                progress.left = True  # what follows it does not run yet
                continue
            # What moved to another applier goes on there: its record is of that one.
            is_gone = removal.key not in moved
            try:
                waits = removal.waits or switching.before(removal)
            except HookFailed as error:
                self._not_removed(removal, error, progress, books, is_gone=is_gone)
                continue
            if waits is not None:
                progress.left = progress.waits = True
                progress.held = progress.held or removal.waits is None
                if is_gone:
                    self._await(removal.key, waits, books)
                continue
            if is_gone:
                books.removing(removal)
            self.heartbeat()
            try:
                with contract_of(removal.applier):
                    self.appliers[removal.applier].remove(removal.key)
            except StepInterrupted:
                progress.left = True
                return
            except ApplyError as error:
                self._not_removed(removal, error, progress, books, is_gone=is_gone)
                continue
            self.record(Event(Reason.WORKLOAD_REMOVED, f"{removal.key} from {removal.applier}", "", str(removal.key)))
            if is_gone:
                books.forget(removal.key)
            try:
                switching.after(removal)
            except HookFailed as error:
                self.record(Event.of(Reason.WORKLOAD_FAILED, error, str(removal.key)))

    def _not_removed(
        self, removal: Removal, error: ApplyError, progress: _Progress, books: Bookkeeping, *, is_gone: bool
    ) -> None:
        progress.failures.append(error)
        self.record(Event.of(Reason.WORKLOAD_FAILED, error, str(removal.key)))
        if is_gone:
            books.removal_failed(removal, error)
