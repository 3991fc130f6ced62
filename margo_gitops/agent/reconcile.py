"""Carry out a plan, step by step, with a record before and after each; kill it anywhere and start again.

The rules are those of `margo_gitops.agent.plan`; this module only calls appliers and writes the journal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from margo_gitops.agent.events import Event, Reason, Record
from margo_gitops.agent.journal import Journal, RecordedDeployment, RecordedWorkload
from margo_gitops.agent.plan import Change, Plan, make_plan
from margo_gitops.agent.status import deployment_status
from margo_gitops.agent.workloads import DesiredDeployment, desired_deployments
from margo_gitops.appliers.applier import Applier, Observed, Workload, WorkloadKey
from margo_gitops.documents.json_writer import write_json
from margo_gitops.documents.records import write
from margo_gitops.documents.status import State
from margo_gitops.errors import ApplierDefect, ApplyError, DependencyNotInstalled, MargoGitopsError
from margo_gitops.trust.trusted_state import TrustedState


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """How far a device came.

    Attributes:
        plan: what was to be done.
        failures: what did not work, in order.
        complete: whether the device now runs what its state asks for.
    """

    plan: Plan
    failures: tuple[ApplyError, ...]
    complete: bool


@dataclass(slots=True)
class _Progress:
    """What happened so far: failures in order, deployments that stopped, whether all was prepared."""

    failures: list[ApplyError] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    left: bool = False
    prepared: bool = True


class Reconciler:
    """Makes a device run what a trusted state asks for.

    Attributes:
        appliers: by name, most preferred first.
        journal: where every step is recorded.
        record: keeps events.
        clock: the time, seconds since the epoch.
        stopping: asked between steps; once true, the rest is left for the next start.
    """

    def __init__(
        self,
        appliers: Mapping[str, Applier],
        journal: Journal,
        record: Record,
        clock: Callable[[], float],
        stopping: Callable[[], bool],
    ) -> None:
        self.appliers = appliers
        self.journal = journal
        self.record = record
        self.clock = clock
        self.stopping = stopping

    def reconcile(self, state: TrustedState, *, patient: bool) -> Reconciliation:
        """Bring the device to a state, as far as it goes, and return how far that was.

        Args:
            state: what was trusted.
            patient: whether content that failed rests before it is tried again.

        Raises:
            StorageFull: a step could not be recorded, so it was not begun.
            StateFolderUnusable: the journal cannot be written.
        """
        desired = desired_deployments(state.deployments)
        self._adopt(desired, state.manifest.manifest_version)
        plan = self._plan(desired, patient=patient)
        progress = _Progress()
        for error in dict.fromkeys([*plan.silent.values(), *plan.refused.values()]):
            progress.failures.append(error)
            self.record(Event.of(Reason.WORKLOAD_FAILED, error))
        self._record_start(desired, plan)
        for change in plan.changes:
            self._prepare(change, progress)
        for change in plan.changes:
            self._install(change, plan, progress)
        self._remove(plan, progress)
        self._post_statuses()
        complete = not (progress.failures or progress.failed or progress.left)
        return Reconciliation(plan, tuple(progress.failures), complete)

    def _adopt(self, desired: Sequence[DesiredDeployment], version: int) -> None:
        """Record which manifest version is applied from now on; it also says which deployments shall be gone."""
        wanted = {item.id for item in desired}
        recorded = self.journal.deployments()
        leaving = [replace(item, adopted=version) for item in recorded if item.id not in wanted]
        adopted = [*(_recorded(item, version) for item in desired), *leaving]
        if adopted != recorded:
            self.journal.adopt(adopted)

    def _plan(self, desired: Sequence[DesiredDeployment], *, patient: bool) -> Plan:
        serving: dict[str, str] = {}
        observed: dict[str, Sequence[Observed]] = {}
        silent: dict[str, ApplyError] = {}
        for name, applier in self.appliers.items():
            for kind in applier.profile_types:
                serving.setdefault(kind, name)
            try:
                with _contract(name):
                    observed[name] = applier.observe()
            except ApplyError as error:
                silent[name] = error
        now = self.clock() if patient else None
        return make_plan(desired, observed, self.journal.workloads(), serving, silent=silent, now=now)

    def _record_start(self, desired: Iterable[DesiredDeployment], plan: Plan) -> None:
        """Record every component's part in the plan, in the order of its deployment."""
        memory = self._memory()
        changes = {change.workload.key: change for change in plan.changes}
        kept = {workload.key: (applier, workload) for applier, workload in plan.kept}
        for deployment in desired:
            refusal = plan.refused.get(deployment.id)
            rows = []
            for position, key in enumerate(deployment.keys):
                blank = RecordedWorkload(key, "", None, None, "pending", changed_at=self.clock())
                held = replace(memory.get(key) or blank, position=position)
                if refusal is not None:
                    rows.append(self._now(held, "failed", refusal))
                elif key in kept:
                    applier, workload = kept[key]
                    rows.append(self._as_installed(held, applier, workload))
                else:
                    rows.append(self._as_pending(held, changes[key]))
            self._save(rows, memory)
        for key in plan.gone:
            self._forget(key)
        self._post_statuses()

    def _prepare(self, change: Change, progress: _Progress) -> None:
        if self.stopping():
            progress.left, progress.prepared = True, False
            return
        try:
            with _contract(change.applier):
                self.appliers[change.applier].prepare(change.workload)
        except ApplyError as error:
            progress.prepared = False
            self._fail(change, error, progress, attempt=False)

    def _install(self, change: Change, plan: Plan, progress: _Progress) -> None:
        workload, deployment_id = change.workload, change.workload.key.deployment_id
        if self.stopping():
            progress.left = True
            return
        obstacle = plan.obstacle(deployment_id, progress.failed)
        if obstacle is not None:
            self._wait(change, obstacle, progress)
            return
        if change.rests:
            progress.failed.add(deployment_id)
            return
        held = self._memory()[workload.key]
        # From here on nobody knows what lies there, until the installation ends well.
        begun = replace(
            self._now(held, "installing"), applier=change.applier, installed=None, attempts=held.attempts + 1
        )
        self.journal.record([begun])
        self._post_statuses([deployment_id])
        try:
            with _contract(change.applier):
                self.appliers[change.applier].install(workload)
        except ApplyError as error:
            self._fail(change, error, progress, attempt=True)
            return
        self.journal.record([self._as_installed(begun, change.applier, workload)])
        self.record(Event(Reason.WORKLOAD_INSTALLED, f"{_name(workload)} ({change.reason})", "", str(workload.key)))
        self._post_statuses([deployment_id])

    def _wait(self, change: Change, obstacle: str, progress: _Progress) -> None:
        """Leave a component because something before it failed (L-4)."""
        key = change.workload.key
        progress.failed.add(key.deployment_id)
        held = self._memory()[key]
        if obstacle == key.deployment_id:
            if held.state != "failed":
                self.journal.record([self._now(held, "pending", message="a component before it failed")])
            return
        error = DependencyNotInstalled(
            f"{_name(change.workload)} waits for the deployment {obstacle}, which is not installed"
        )
        self.journal.record([self._now(held, "pending", error)])
        self.record(Event.of(Reason.DEPLOYMENT_WAITS, error, key.deployment_id))

    def _remove(self, plan: Plan, progress: _Progress) -> None:
        """Remove what is gone, if everything new was prepared (L-3)."""
        moved = {change.workload.key for change in plan.changes} | {workload.key for _, workload in plan.kept}
        for removal in plan.removals:
            if not progress.prepared or self.stopping():
                progress.left = True
                return
            if removal.key in moved and removal.key.deployment_id in progress.failed:
                progress.left = True  # it does not run at its new applier yet
                continue
            held = self._memory().get(removal.key) or RecordedWorkload(
                removal.key, removal.applier, None, None, "removing"
            )
            if removal.key not in moved:
                self.journal.record([replace(self._now(held, "removing"), wanted=None)])
                self._post_statuses([removal.key.deployment_id])
            try:
                with _contract(removal.applier):
                    self.appliers[removal.applier].remove(removal.key)
            except ApplyError as error:
                progress.failures.append(error)
                self.record(Event.of(Reason.WORKLOAD_FAILED, error, str(removal.key)))
                if removal.key not in moved:
                    self.journal.record([replace(self._now(held, "removing", error), wanted=None)])
                continue
            self.record(Event(Reason.WORKLOAD_REMOVED, f"{removal.key} from {removal.applier}", "", str(removal.key)))
            if removal.key not in moved:
                self._forget(removal.key)

    def _fail(self, change: Change, error: ApplyError, progress: _Progress, *, attempt: bool) -> None:
        key = change.workload.key
        progress.failures.append(error)
        progress.failed.add(key.deployment_id)
        held = self._memory()[key]
        # A failed preparation is no attempt: what was prepared at last is installed at once.
        attempts = held.attempts if attempt else 0
        self.journal.record([replace(self._now(held, "failed", error), applier=change.applier, attempts=attempts)])
        self.record(Event.of(Reason.WORKLOAD_FAILED, error, str(key)))
        self._post_statuses([key.deployment_id])

    def _forget(self, key: WorkloadKey) -> None:
        """Tell that a component is removed, then forget it."""
        held = self._memory().get(key) or RecordedWorkload(key, "", None, None, "removed")
        self.journal.record([replace(self._now(held, "removed"), wanted=None, installed=None)])
        self._post_statuses([key.deployment_id])
        rest = [item for item in self.journal.workloads() if item.key.deployment_id == key.deployment_id]
        # The status names all components, so those that are removed stay until the last one is.
        if all(item.state == "removed" for item in rest) or key.deployment_id in self._wanted():
            for item in rest:
                if item.state == "removed":
                    self.journal.forget(item.key)

    def _wanted(self) -> set[str]:
        return {item.key.deployment_id for item in self.journal.workloads() if item.wanted is not None}

    def _memory(self) -> dict[WorkloadKey, RecordedWorkload]:
        return {item.key: item for item in self.journal.workloads()}

    def _as_installed(self, held: RecordedWorkload, applier: str, workload: Workload) -> RecordedWorkload:
        done = self._now(held, "installed")
        return replace(done, applier=applier, wanted=workload.digest, installed=workload.digest, attempts=0)

    def _as_pending(self, held: RecordedWorkload, change: Change) -> RecordedWorkload:
        """Return the record of a component that is about to change; what failed before stays known."""
        if held.wanted == change.workload.digest and held.state in ("failed", "installing", "pending"):
            return held
        return replace(self._now(held, "pending"), applier=change.applier, wanted=change.workload.digest, attempts=0)

    def _now(
        self, held: RecordedWorkload, state: State, error: MargoGitopsError | None = None, *, message: str = ""
    ) -> RecordedWorkload:
        code, text = (error.code, str(error)) if error is not None else ("", message)
        if (held.state, held.code, held.message) == (state, code, text):
            return held
        return replace(held, state=state, code=code, message=text, changed_at=self.clock())

    def _save(self, rows: Sequence[RecordedWorkload], memory: Mapping[WorkloadKey, RecordedWorkload]) -> None:
        """Record rows, unless the journal already says all of it: an idle cycle writes nothing."""
        if any(memory.get(row.key) != row for row in rows):
            self.journal.record(rows)

    def _post_statuses(self, only: Sequence[str] | None = None) -> None:
        """Put the current status of these deployments, or of all, into the outbox."""
        components: dict[str, list[RecordedWorkload]] = {}
        for item in self.journal.workloads():
            components.setdefault(item.key.deployment_id, []).append(item)
        for deployment in self.journal.deployments():
            if only is None or deployment.id in only:
                status = deployment_status(deployment, components.get(deployment.id, []))
                self.journal.post(deployment.id, write_json(write(status)), self.clock())


@contextlib.contextmanager
def _contract(applier: str) -> Iterator[None]:
    """Turn what an applier may not raise into an error of its deployments: a plug-in must not stop all others."""
    try:
        yield
    except ApplyError:
        raise
    except Exception as error:
        raise ApplierDefect(
            f"the applier {applier} ended with {type(error).__name__}: {error}", remedy="report it to its makers"
        ) from error


def _recorded(deployment: DesiredDeployment, version: int) -> RecordedDeployment:
    metadata = deployment.document.metadata
    return RecordedDeployment(deployment.id, metadata.name, metadata.device_id or "", version)


def _name(workload: Workload) -> str:
    return f"{workload.deployment.metadata.name}/{workload.component.name}"
