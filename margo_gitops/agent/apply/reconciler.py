"""Carry out a plan, step by step, with a record before and after each; kill it anywhere and start again.

The rules are those of `margo_gitops.agent.apply.steps`; this module only calls appliers and writes the journal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Final

from margo_gitops.agent.apply.steps import Change, Plan, make_plan
from margo_gitops.agent.apply.windows import Windows
from margo_gitops.agent.apply.workloads import DesiredDeployment, DeviceLimits, desired_deployments
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.recorded import Failure, RecordedDeployment, RecordedWorkload, deployment_status
from margo_gitops.appliers.applier import Applier, Observed, Workload, WorkloadKey
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.documents.status import State
from margo_gitops.errors import (
    ApplierDefect,
    ApplyError,
    DependencyNotInstalled,
    InstallFailed,
    MargoGitopsError,
    StepInterrupted,
)
from margo_gitops.trust.trusted_state import TrustedState

_QUARANTINED: Final = (
    "\n  it is not tried again before its content changes, or you ask (SIGHUP, `agent once --retry`): what ran "
    "before runs"
)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """How far a device came.

    Attributes:
        failures: what did not work, in order.
        complete: whether the device now runs what its state asks for.
    """

    plan: Plan
    failures: tuple[ApplyError, ...]
    complete: bool

    @property
    def only_waits(self) -> bool:
        """Whether all that is missing waits for a time at which it may change."""
        return self.plan.waits and not self.failures and not any(change.rests for change in self.plan.changes)


@dataclass(slots=True)
class _Progress:
    """What happened so far.

    Attributes:
        version: of the manifest that is applied.
        failed: deployments of which a step failed or rests, or that wait for another.
        prepared: whether all that is wanted can be prepared, and was.
        left: whether something is still to be done.
    """

    version: int
    failures: list[ApplyError]
    failed: set[str]
    prepared: bool
    left: bool = False


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
    _told: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._windows = Windows(self.clock, self.journal.facts, self.journal.set_facts)

    def reconcile(
        self, state: TrustedState, *, patient: bool, retry: bool = False, at_once: bool = False
    ) -> Reconciliation:
        """Bring the device to a state, as far as it goes, and return how far that was.

        Args:
            patient: whether what failed rests before it is tried again.
            retry: whether to try quarantined updates again.
            at_once: whether to change what its calendars do not let change now.

        Raises:
            StorageFull: a step could not be recorded, so it was not begun.
            StateFolderUnusable: the journal cannot be written.
        """
        desired = desired_deployments(state.deployments, self.limits)
        plan = self._plan(desired, patient=patient, retry=retry, at_once=at_once)
        obstacles = list(dict.fromkeys([*plan.silent.values(), *plan.refused.values()]))
        prepared = not (plan.refused or plan.unprepared)
        progress = _Progress(state.manifest.manifest_version, obstacles, plan.unprepared, prepared)
        self._tell(obstacles)
        self._record_start(desired, plan, progress)
        for change in plan.changes:
            self._prepare(change, plan, progress)
        for change in plan.changes:
            self._install(change, plan, progress)
        self._remove(plan, progress)
        self._post_statuses()
        complete = not (progress.failures or progress.failed or progress.left)
        return Reconciliation(plan, tuple(progress.failures), complete)

    def _tell(self, obstacles: Iterable[ApplyError]) -> None:
        """Record what blocks the whole cycle, unless it did so in the cycle before."""
        errors = {str(error): error for error in obstacles}
        for text, error in errors.items():
            if text not in self._told:
                self.record(Event.of(Reason.WORKLOAD_FAILED, error))
        self._told = set(errors)

    def _plan(self, desired: Sequence[DesiredDeployment], *, patient: bool, retry: bool, at_once: bool) -> Plan:
        serving: dict[str, str] = {}
        observed: dict[str, Sequence[Observed]] = {}
        silent: dict[str, ApplyError] = {}
        for name, applier in self.appliers.items():
            for kind in applier.profile_types:
                serving.setdefault(kind, name)
            try:
                with contract_of(name):
                    observed[name] = applier.observe()
            except ApplyError as error:
                silent[name] = error
        now = self.clock() if patient else None
        recorded = self.journal.workloads()
        closed = {} if at_once else self._windows.closed(desired, {item.key.deployment_id for item in recorded})
        return make_plan(desired, observed, recorded, serving, silent=silent, now=now, retry=retry, closed=closed)

    def _record_start(self, desired: Iterable[DesiredDeployment], plan: Plan, progress: _Progress) -> None:
        """Record every component's part in the plan, in the order of its deployment, with the version they are of.

        Both at once: a status must never name a version and show the components of the one before.
        """
        memory = self._memory()
        known = {item.id: item for item in self.journal.deployments()}
        changes = {change.workload.key: change for change in plan.changes}
        kept = {workload.key: (applier, workload) for applier, workload in plan.kept}
        for place, deployment in enumerate(desired):
            refusal = plan.refused.get(deployment.id)
            rows = []
            for position, key in enumerate(deployment.keys):
                blank = RecordedWorkload(key, "", None, None, "pending", changed_at=self.clock())
                held = replace(memory.get(key) or blank, position=position)
                if deployment.refusal is not None:
                    rows.append(replace(self._now(held, "failed", deployment.refusal), attempts=0, failure=""))
                elif refusal is not None:
                    # An engine that falls silent for a while must not hide what failed on it before.
                    rows.append(held if held.failure else self._now(held, "failed", refusal))
                elif key in kept:
                    applier, workload = kept[key]
                    rows.append(self._as_installed(held, applier, workload))
                else:
                    rows.append(self._as_pending(held, changes[key]))
            adopted = _recorded(deployment, progress.version, place)
            # An idle cycle writes nothing.
            if adopted != known.get(deployment.id) or any(memory.get(row.key) != row for row in rows):
                self.journal.record(rows, [adopted])
        for key in plan.gone:
            self._forget(key, progress)
        self._post_statuses()

    def _prepare(self, change: Change, plan: Plan, progress: _Progress) -> None:
        if self.stopping():
            progress.left, progress.prepared = True, False
            return
        if change.rests or change.workload.key.deployment_id in plan.unprepared:
            return
        self.heartbeat()
        try:
            with contract_of(change.applier):
                self.appliers[change.applier].prepare(change.workload)
        except StepInterrupted:
            progress.left, progress.prepared = True, False
        except ApplyError as error:
            progress.prepared = False
            self._fail(change, error, progress, "preparing")

    def _install(self, change: Change, plan: Plan, progress: _Progress) -> None:
        workload, deployment_id = change.workload, change.workload.key.deployment_id
        if self.stopping():
            progress.left = True
            return
        if change.rests:
            progress.failed.add(deployment_id)
            return
        obstacle = plan.obstacle(deployment_id, progress.failed)
        if obstacle is not None or change.closed is not None:
            self._wait(change, obstacle, progress)
            return
        held = self._memory()[workload.key]
        # From here on it is unknown what is there, until the installation ends well.
        begun = replace(
            self._now(held, "installing"),
            applier=change.applier,
            installed=None,
            attempts=held.attempts + 1,
            failure="",
        )
        self.journal.record([begun])
        self._post_statuses([deployment_id])
        self.heartbeat()
        try:
            with contract_of(change.applier):
                self.appliers[change.applier].install(workload)
                if change.reason == "degraded":
                    _check_repaired(self.appliers[change.applier], workload)
        except StepInterrupted:
            progress.left = True
            progress.failed.add(deployment_id)
            return
        except ApplyError as error:
            broken_update = isinstance(error, InstallFailed) and error.reinstated and change.replaces
            self._fail(change, error, progress, "quarantined" if broken_update else "installing")
            return
        self.journal.record([self._as_installed(begun, change.applier, workload)])
        self.record(Event(Reason.WORKLOAD_INSTALLED, f"{_name(workload)} ({change.reason})", "", str(workload.key)))
        self._post_statuses([deployment_id])

    def _wait(self, change: Change, obstacle: str | None, progress: _Progress) -> None:
        """Leave a component because something before it failed (STEP-4), or it may not change now (STEP-10)."""
        key = change.workload.key
        progress.failed.add(key.deployment_id)
        held = self._memory()[key]
        if obstacle in (None, key.deployment_id) and (held.state == "failed" or change.closed is None):
            if held.state != "failed":
                self.journal.record([self._now(held, "pending", message="a component before it failed")])
            return
        error = change.closed or DependencyNotInstalled(
            f"{_name(change.workload)} waits for the deployment {obstacle}, which is not installed"
        )
        waiting = self._now(held, "pending", error)
        if waiting != held:
            self.journal.record([waiting])
            reason = Reason.WINDOW_AWAITED if change.closed else Reason.DEPLOYMENT_WAITS
            self.record(Event.of(reason, error, key.deployment_id))

    def _remove(self, plan: Plan, progress: _Progress) -> None:
        """Remove what is gone, if everything new was prepared, and what it belongs to is installed (STEP-3)."""
        moved = {change.workload.key for change in plan.changes} | {workload.key for _, workload in plan.kept}
        for removal in plan.removals:
            if not progress.prepared or self.stopping():
                progress.left = True
                return
            if removal.rests or removal.closed or removal.key.deployment_id in progress.failed:
                progress.left = True  # what follows it does not run yet
                continue
            blank = RecordedWorkload(removal.key, removal.applier, None, None, "removing")
            held = self._memory().get(removal.key) or blank
            begun = replace(self._now(held, "removing"), wanted=None)
            if removal.key not in moved:
                self.journal.record([begun], self._adopted(removal.key.deployment_id, progress.version))
                self._post_statuses([removal.key.deployment_id])
            self.heartbeat()
            try:
                with contract_of(removal.applier):
                    self.appliers[removal.applier].remove(removal.key)
            except StepInterrupted:
                progress.left = True
                return
            except ApplyError as error:
                progress.failures.append(error)
                self.record(Event.of(Reason.WORKLOAD_FAILED, error, str(removal.key)))
                if removal.key not in moved:
                    attempts = held.attempts + 1 if held.failure == "removing" else 1
                    failed = replace(self._now(begun, "removing", error), changed_at=self.clock())
                    self.journal.record([replace(failed, attempts=attempts, failure="removing")])
                continue
            self.record(Event(Reason.WORKLOAD_REMOVED, f"{removal.key} from {removal.applier}", "", str(removal.key)))
            if removal.key not in moved:
                self._forget(removal.key, progress)

    def _fail(self, change: Change, error: ApplyError, progress: _Progress, failure: Failure) -> None:
        key = change.workload.key
        progress.failures.append(error)
        progress.failed.add(key.deployment_id)
        held = self._memory()[key]
        message = f"{error}{_QUARANTINED if failure == 'quarantined' else ''}"
        failed = replace(
            self._now(held, "failed", error, message=message),
            applier=change.applier,
            # An installation was counted when it was begun. Other steps count when they fail, so that they rest too.
            attempts=held.attempts + 1 if failure == "preparing" else held.attempts,
            changed_at=self.clock(),
            failure=failure,
        )
        self.journal.record([failed])
        self.record(Event(Reason.WORKLOAD_FAILED, message, error.code, str(key)))
        self._post_statuses([key.deployment_id])

    def _adopted(self, deployment_id: str, version: int) -> list[RecordedDeployment]:
        """Return what to record of a deployment whose components go: from this version on it must be gone."""
        return [replace(item, adopted=version) for item in self.journal.deployments() if item.id == deployment_id]

    def _forget(self, key: WorkloadKey, progress: _Progress) -> None:
        """Tell that a component is removed, then forget it."""
        held = self._memory().get(key) or RecordedWorkload(key, "", None, None, "removed")
        removed = replace(self._now(held, "removed"), wanted=None, installed=None, failure="")
        self.journal.record([removed], self._adopted(key.deployment_id, progress.version))
        self._post_statuses([key.deployment_id])
        rest = [item for item in self.journal.workloads() if item.key.deployment_id == key.deployment_id]
        # The status names all components, so those that are removed stay until the last one is.
        if all(item.state == "removed" for item in rest) or any(item.wanted is not None for item in rest):
            for item in rest:
                if item.state == "removed":
                    self.journal.forget(item.key)

    def _memory(self) -> dict[WorkloadKey, RecordedWorkload]:
        return {item.key: item for item in self.journal.workloads()}

    def _as_installed(self, held: RecordedWorkload, applier: str, workload: Workload) -> RecordedWorkload:
        done = self._now(held, "installed")
        return replace(done, applier=applier, wanted=workload.digest, installed=workload.digest, attempts=0, failure="")

    def _as_pending(self, held: RecordedWorkload, change: Change) -> RecordedWorkload:
        """Return the record of a component that is about to change; what failed before stays known."""
        if held.wanted == change.workload.digest and held.state in ("failed", "installing", "pending"):
            return held
        fresh = replace(self._now(held, "pending"), applier=change.applier, wanted=change.workload.digest)
        return replace(fresh, attempts=0, failure="")

    def _now(
        self, held: RecordedWorkload, state: State, error: MargoGitopsError | None = None, *, message: str = ""
    ) -> RecordedWorkload:
        code, text = (error.code, message or str(error)) if error is not None else ("", message)
        if (held.state, held.code, held.message) == (state, code, text):
            return held
        return replace(held, state=state, code=code, message=text, changed_at=self.clock())

    def _post_statuses(self, only: Sequence[str] | None = None) -> None:
        """Put the current status of these deployments, or of all, into the outbox."""
        components: dict[str, list[RecordedWorkload]] = {}
        for item in self.journal.workloads():
            components.setdefault(item.key.deployment_id, []).append(item)
        for deployment in self.journal.deployments():
            if only is None or deployment.id in only:
                status = write_json(write(deployment_status(deployment, components.get(deployment.id, []))))
                if self.journal.post(deployment.id, status, self.clock()):
                    self.tell(deployment.id, status)


@contextlib.contextmanager
def contract_of(applier: str) -> Iterator[None]:
    """Turn what an applier may not raise into an error of its deployments: a plug-in must not stop all others."""
    try:
        yield
    except ApplyError:
        raise
    except Exception as error:
        raise ApplierDefect(
            f"the applier {applier} ended with {type(error).__name__}: {error}", remedy="report it to its makers"
        ) from error


def _check_repaired(applier: Applier, workload: Workload) -> None:
    """Raise `InstallFailed` where a component is still degraded: with `wait: false` nothing else looks."""
    for found in applier.observe():
        if found.key == workload.key and found.condition == "degraded":
            raise InstallFailed(f"{_name(workload)} was started again and does not stay up", why=[found.detail])


def _recorded(deployment: DesiredDeployment, version: int, position: int) -> RecordedDeployment:
    metadata = deployment.document.metadata
    return RecordedDeployment(deployment.id, metadata.name, metadata.device_id or "", version, position)


def _name(workload: Workload) -> str:
    return f"{workload.deployment.metadata.name}/{workload.component.name}"
