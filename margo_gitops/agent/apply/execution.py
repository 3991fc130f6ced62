"""Carry out the steps of one plan, with a record before and after each; kill it anywhere and start again.

The rules are those of `margo_gitops.agent.apply.steps`; this module only calls appliers and writes the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.apply.bookkeeping import Bookkeeping
from margo_gitops.agent.apply.causes import Causes
from margo_gitops.agent.apply.engines import contract_of, name_of
from margo_gitops.agent.apply.steps import Change, Plan, Removal
from margo_gitops.agent.apply.switches import Switching, check_installed
from margo_gitops.agent.apply.windows import Windows
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.recorded import Failure
from margo_gitops.appliers.applier import Applier, CanStop, Workload, WorkloadKey, check_secrets
from margo_gitops.errors import (
    ApplyError,
    ContentComing,
    DependencyNotInstalled,
    HookFailed,
    InstallFailed,
    LockHeld,
    RolledBack,
    StepInterrupted,
)
from margo_gitops.values import KW_ONLY, dataclass, field, replace

if TYPE_CHECKING:  # loaded where a deployment stops another
    from margo_gitops.agent.apply.artifacts import Artifacts
    from margo_gitops.agent.apply.stages import Stages

_AWAITED: Final = {
    DependencyNotInstalled: Reason.DEPLOYMENT_WAITS,
    LockHeld: Reason.LOCK_AWAITED,
    ContentComing: Reason.ARTIFACT_AWAITED,
}
"""The events of what keeps a deployment waiting, other than a window."""


@dataclass(eq=False, slots=True)
class Execution:
    """Carries out a plan: first `prepare` of all changes, then `install` of each, then `remove`.

    Attributes:
        windows: learn how long a switch took.
        causes: learn why a step failed.
        stages: stop what must not run meanwhile; None: nothing is stopped.
        artifacts: bring large artifacts; None: nothing does.
        leave: called with an installation that failed, and why, before that is recorded: writes down that its
            deployment goes back, and returns whether it does (BACK-2).
        stopping: asked between steps; once true, the rest is left for the next start.
        heartbeat: called before each step.
        timer: seconds since some moment; never jumps.
        until: when no other step begins, so that the device polls.
        failures: what went wrong, in order.
        failed: deployments of which a step failed or rests, or that wait for another.
        prepared: whether all that is wanted can be prepared, and was.
        left: whether something is still to be done.
        waits: whether something may not change now.
        unready: what could not be prepared.
        held: whether a lock keeps something from changing.
        cut: whether the work was cut off.
        coming: whether more of an artifact can be fetched at once.
        going_back: ids of deployments of which an update failed, and that go back to what ran before.
    """

    plan: Plan
    books: Bookkeeping
    switching: Switching
    appliers: Mapping[str, Applier]
    windows: Windows
    causes: Causes
    record: Record
    _: KW_ONLY
    stages: Stages | None
    artifacts: Artifacts | None
    leave: Callable[[Change, ApplyError], bool]
    stopping: Callable[[], bool]
    heartbeat: Callable[[], None]
    timer: Callable[[], float]
    until: float
    failures: list[ApplyError] = field(init=False)
    failed: set[str] = field(init=False)
    prepared: bool = field(init=False)
    left: bool = field(default=False, init=False)
    waits: bool = field(init=False)
    unready: set[WorkloadKey] = field(default_factory=set, init=False)
    held: bool = field(default=False, init=False)
    cut: bool = field(default=False, init=False)
    coming: bool = field(default=False, init=False)
    going_back: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.failures = self.plan.obstacles
        self.failed = self.plan.unprepared
        self.prepared = not (self.plan.refused or self.plan.unprepared)
        self.waits = self.plan.waits

    def prepare(self, change: Change) -> None:
        """Let an applier fetch what a component needs."""
        if self._is_over():
            self.prepared = False
            return
        deployment_id = change.workload.key.deployment_id
        is_left = deployment_id in self.plan.unprepared and deployment_id not in self.plan.separate
        if change.rests or (is_left and not change.drift):
            return
        self.heartbeat()
        try:
            with contract_of(change.applier):
                check_secrets(change.applier, self.appliers[change.applier], change.workload)
                if self.stages is not None:
                    self.stages.check(change, self.plan)
                if self.artifacts is not None:
                    self.artifacts.fetch(self.appliers[change.applier], change.applier, change.workload)
                self.appliers[change.applier].prepare(change.workload)
        except StepInterrupted:
            self.left, self.prepared = True, False
        except ContentComing as coming:
            self.prepared = False
            self.coming = self.coming or not coming.later
            self.unready.add(change.workload.key)
            self._wait(replace(change, waits=coming), None)
        except ApplyError as error:
            self.prepared = False
            self.unready.add(change.workload.key)
            self._fail(change, error, "preparing")

    def install(self, change: Change) -> None:
        """Install a component, if nothing keeps it waiting; otherwise, let run what it replaces (STEP-15)."""
        if self._is_over():
            return
        if change.rests or change.workload.key in self.unready:
            self.failed.add(change.workload.key.deployment_id)
        elif self._may_begin(change):
            self._install(change)
            return
        if change.workload.key in self.plan.fallen and not self.cut:
            self._start_again(change.applier, change.workload.key)

    def _start_again(self, applier: str, key: WorkloadKey) -> None:
        engine = self.appliers[applier]
        if not isinstance(engine, CanStop):
            return
        self.heartbeat()
        try:
            with contract_of(applier):
                engine.start(key)
                runs = any(each.key == key and each.condition != "degraded" for each in engine.observe())
        except StepInterrupted:
            self.left = self.cut = True
        except ApplyError as error:
            self._note(error, key)
        else:
            if runs:
                text = f"{key} had stopped, and runs again as it was: its change waits"
                self.record(Event(Reason.WORKLOAD_STARTED, text, "", str(key)))

    def _may_begin(self, change: Change) -> bool:
        """Return whether a component is installed now; record why not."""
        deployment_id = change.workload.key.deployment_id
        # What ran well is started again, also if an update next to it or before it waits or failed.
        obstacle = None if change.drift else self.plan.obstacle(deployment_id, self.failed)
        switching = self._switching_keys(deployment_id) if change.is_switch else []
        if obstacle is None and change.waits is None and switching:
            change = replace(change, waits=self.windows.too_short(deployment_id, switching))
        if obstacle is not None or change.waits is not None:
            self._wait(change, obstacle)
            return False
        try:
            held = self._before(change)
        except StepInterrupted:
            self._cut_off(deployment_id)
            return False
        except ApplyError as error:
            self._fail(change, error, "installing")
            return False  # nothing was changed
        if held is not None:
            self.held = True
            self._wait(replace(change, waits=held), None)
            return False
        if switching:
            self.windows.begins(deployment_id, switching)
        return True

    def _install(self, change: Change) -> None:
        deployment_id = change.workload.key.deployment_id
        workload = self.switching.prepared(change)
        self.books.begin(change)
        self.heartbeat()
        begin = self.timer()
        try:
            self._put(change, workload)
            self.switching.after(change)
        except StepInterrupted:
            self._cut_off(deployment_id)
            return
        except ApplyError as error:
            broken_update = isinstance(error, InstallFailed) and error.reinstated and change.replaces
            failure: Failure = "quarantined" if broken_update else "installing"
            goes_back = self.leave(change, error)
            self._fail(change, error, failure)
            if goes_back:
                self.going_back.add(deployment_id)
                text = f"{name_of(workload)} failed: the whole deployment goes back to what ran before"
                self.record(Event(Reason.ROLLED_BACK, text, RolledBack.code, deployment_id))
            return
        self.books.installed(change)
        if self.stages is not None:
            self._runs(workload.key, is_resumed=change.reason == "stopped")
        if change.is_switch:
            self.windows.took(workload.key, self.timer() - begin)
        self.record(Event(Reason.WORKLOAD_INSTALLED, f"{name_of(workload)} ({change.reason})", "", str(workload.key)))

    def resume(self, updating: Collection[str] = (), changing: Collection[WorkloadKey] = ()) -> None:
        """Start again what was stopped and waits for no update any more (STAGE-3).

        Args:
            updating: ids of deployments with something to update in this cycle still.
            changing: components that are changed or removed in this cycle still.
        """
        if self.stages is None or self.cut:
            return
        for each in self.stages.due(self.plan, updating, changing):
            try:
                error = self.stages.start(each, self.books)
            except StepInterrupted:
                self.left = self.cut = True
                return
            if error is None:
                self.record(Event(Reason.WORKLOAD_STARTED, f"{each.key} runs again", "", str(each.key)))
                self._runs(each.key, is_resumed=True)
            else:
                self._note(error, each.key)

    def _runs(self, key: WorkloadKey, *, is_resumed: bool) -> None:
        """Note that a component runs, and resume the line of its deployment if all of that was stopped and runs."""
        if self.stages is None:
            return
        self.stages.forget([key])
        if is_resumed and all(each.deployment_id != key.deployment_id for each in self.stages.keys):
            try:
                self.switching.resumed(key.deployment_id)
            except HookFailed as error:
                self._note(error, key)

    def _note(self, error: ApplyError, key: WorkloadKey) -> None:
        self.failures.append(error)
        self.record(Event.of(Reason.WORKLOAD_FAILED, error, str(key)))

    def _before(self, change: Change) -> LockHeld | None:
        """Ask locks, run hooks, and stop what must not run meanwhile; return why the change must wait."""
        if self.stages is None:
            return self.switching.before(change)
        held = self.switching.before(change, self.stages.others(change, self.plan))
        for key in self.stages.stop(change, self.plan, self.books) if held is None else ():
            text = f"{key} is stopped while {name_of(change.workload)} is updated"
            self.record(Event(Reason.WORKLOAD_STOPPED, text, "", str(key)))
        return held

    def _cut_off(self, deployment_id: str) -> None:
        self.left = self.cut = True
        self.failed.add(deployment_id)

    def _put(self, change: Change, workload: Workload) -> None:
        if self.stages is not None:
            self.stages.revive(change)
        with contract_of(change.applier):
            self.appliers[change.applier].install(workload)
            check_installed(self.appliers[change.applier], workload, change.reason, self.stopping)

    def _is_over(self) -> bool:
        """Whether no other step begins now; what is left then is cut off."""
        is_over = self.stopping() or self.timer() > self.until
        self.left, self.cut = self.left or is_over, self.cut or is_over
        return is_over

    def _switching_keys(self, deployment_id: str) -> list[WorkloadKey]:
        """Return the components of a deployment that begin something."""
        keys = [each.workload.key for each in self.plan.changes if each.is_switch]
        return [key for key in keys if key.deployment_id == deployment_id]

    def _fail(self, change: Change, error: ApplyError, failure: Failure) -> None:
        message = self.books.failed(change, error, failure)
        self.failures.append(error)
        self.causes.failed(error)
        self.failed.add(change.workload.key.deployment_id)
        self.record(Event(Reason.WORKLOAD_FAILED, message, error.code, str(change.workload.key)))

    def _wait(self, change: Change, obstacle: str | None) -> None:
        """Leave a component because something before it failed (STEP-4), or it may not change now (STEP-10)."""
        key = change.workload.key
        self.failed.add(key.deployment_id)
        self.waits = self.waits or change.waits is not None
        has_failed = self.books.known()[key].state == "failed"
        if obstacle in (None, key.deployment_id) and (has_failed or change.waits is None):
            if not has_failed:
                self.books.waits(key, message="a component before it failed")
            return
        error = change.waits or DependencyNotInstalled(
            f"{name_of(change.workload)} waits for the deployment {obstacle}, which is not installed"
        )
        self._await(key, error)

    def _await(self, key: WorkloadKey, error: ApplyError) -> None:
        if self.books.waits(key, error):
            self.record(Event.of(_AWAITED.get(type(error), Reason.WINDOW_AWAITED), error, key.deployment_id))

    def remove(self) -> None:
        """Remove what is gone, if everything new was prepared, and what it belongs to is installed (STEP-3)."""
        moved = {change.workload.key for change in self.plan.changes} | {workload.key for _, workload in self.plan.kept}
        for removal in self.plan.removals:
            if self._is_over() or not self.prepared:
                self.left = True
                return
            if removal.rests or removal.key.deployment_id in self.failed:
                self.left = True  # what follows it does not run yet
                continue
            # What moved to another applier goes on there: its record is of that one.
            is_gone = removal.key not in moved
            try:
                waits = removal.waits or self.switching.before(removal)
            except HookFailed as error:
                self._not_removed(removal, error, is_gone=is_gone)
                continue
            if waits is not None:
                self.left = self.waits = True
                self.held = self.held or removal.waits is None
                if is_gone:
                    self._await(removal.key, waits)
                if removal.key in self.plan.fallen:
                    self._start_again(removal.applier, removal.key)
                continue
            if is_gone:
                self.books.removing(removal)
            self.heartbeat()
            try:
                with contract_of(removal.applier):
                    self.appliers[removal.applier].remove(removal.key)
            except StepInterrupted:
                self.left = self.cut = True
                return
            except ApplyError as error:
                self._not_removed(removal, error, is_gone=is_gone)
                continue
            self._removed(removal, is_gone=is_gone)

    def _removed(self, removal: Removal, *, is_gone: bool) -> None:
        self.record(Event(Reason.WORKLOAD_REMOVED, f"{removal.key} from {removal.applier}", "", str(removal.key)))
        if self.stages is not None:
            self.stages.forget([removal.key])
        if is_gone:
            self.books.forget(removal.key)
        try:
            self.switching.after(removal)
        except HookFailed as error:
            self.record(Event.of(Reason.WORKLOAD_FAILED, error, str(removal.key)))

    def _not_removed(self, removal: Removal, error: ApplyError, *, is_gone: bool) -> None:
        self._note(error, removal.key)
        if is_gone:
            self.books.removal_failed(removal, error)
