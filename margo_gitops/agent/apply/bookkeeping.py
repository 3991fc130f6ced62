"""What the journal says of each component while a plan is carried out, and the statuses that follow from it.

A step is recorded before it is begun and when it has ended; the status of its deployment is posted right after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from margo_gitops.agent.apply.steps import Change, Left, Plan, Removal
from margo_gitops.agent.apply.workloads import DesiredDeployment
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.outbox import weight_of
from margo_gitops.agent.memory.recorded import Failure, RecordedDeployment, RecordedWorkload, deployment_status
from margo_gitops.appliers.applier import Workload, WorkloadKey
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.documents.status import State
from margo_gitops.errors import (
    ApplyError,
    Drifted,
    InstallFailed,
    LeftByPerson,
    MargoGitopsError,
    RolledBack,
    Suspended,
)
from margo_gitops.values import dataclass, replace

_QUARANTINED: Final = (
    "\n  it is not tried again before its content changes, or you ask (SIGHUP, `agent once --retry`): what ran "
    "before runs"
)


@dataclass(frozen=True, slots=True)
class Bookkeeping:
    """Records what becomes of the components of one state.

    Attributes:
        journal: where it is recorded.
        version: of the manifest that is applied.
        clock: the time, seconds since the epoch.
        tell: called with each new status of a deployment, and its id; returns at once.
        rolled_back: deployments that run what ran before, by id: they are never installed (BACK-4).
        suspension: why nothing changes on this device for now; each status names it.

    All methods that record raise StorageFull and StateFolderUnusable: then the step must not be begun.
    """

    journal: Journal
    version: int
    clock: Callable[[], float]
    tell: Callable[[str, bytes], None]
    rolled_back: Mapping[str, RolledBack]
    suspension: Suspended | None = None

    def known(self) -> dict[WorkloadKey, RecordedWorkload]:
        """Return what is recorded of each component."""
        return {item.key: item for item in self.journal.workloads()}

    def start(self, desired: Iterable[DesiredDeployment], plan: Plan) -> None:
        """Record every component's part in the plan, in the order of its deployment, with the version they are of.

        Both at once: a status must never name a version and show the components of the one before.
        """
        known = self.known()
        deployments = {item.id: item for item in self.journal.deployments()}
        changes = {change.workload.key: change for change in plan.changes}
        kept = {workload.key: (applier, workload) for applier, workload in plan.kept}
        left = {each.workload.key: each for each in plan.left}
        for place, deployment in enumerate(desired):
            refusal = plan.refused.get(deployment.id)
            rows = []
            for position, key in enumerate(deployment.keys):
                blank = RecordedWorkload(key, "", None, None, "pending", changed_at=self.clock())
                held = replace(known.get(key) or blank, position=position)
                if deployment.refusal is not None:
                    rows.append(self._as_failed(held, deployment.refusal))
                elif refusal is not None:
                    # An engine that falls silent for a while must not hide what failed on it before, or was left.
                    known_well = held.failure or held.code in (Drifted.code, LeftByPerson.code)
                    rows.append(held if known_well else self._now(held, "failed", refusal))
                elif key in kept:
                    rows.append(self._as_installed(held, *kept[key]))
                elif key in left:
                    rows.append(self._as_left(held, left[key]))
                else:
                    rows.append(self._as_pending(held, changes[key]))
            metadata = deployment.document.metadata
            adopted = RecordedDeployment(deployment.id, metadata.name, metadata.device_id or "", self.version, place)
            # An idle cycle writes nothing.
            if adopted != deployments.get(deployment.id) or any(known.get(row.key) != row for row in rows):
                self.journal.record(rows, [adopted])
        for key in plan.gone:
            self.forget(key)
        self.post()

    def begin(self, change: Change) -> None:
        """Record that an installation begins: until it ends well, it is unknown what is there."""
        held = self.known()[change.workload.key]
        begun = replace(self._now(held, "installing"), applier=change.applier, installed=None)
        self.journal.record([replace(begun, attempts=held.attempts + 1, failure="")])
        self.post([held.key.deployment_id])

    def installed(self, change: Change) -> None:
        """Record that an installation ended well."""
        held = self.known()[change.workload.key]
        self.journal.record([self._as_installed(held, change.applier, change.workload)])
        self.post([held.key.deployment_id])

    def failed(self, change: Change, error: ApplyError, failure: Failure) -> str:
        """Record that a step of an installation failed; return the message."""
        held = self.known()[change.workload.key]
        message = f"{error}{_QUARANTINED if failure == 'quarantined' else ''}"
        failed = replace(
            self._now(held, "failed", error, message=message),
            applier=change.applier,
            # An installation was counted when it was begun. Other steps count when they fail, so that they rest too.
            attempts=held.attempts + (failure == "preparing" or held.state != "installing"),
            changed_at=self.clock(),
            failure=failure,
        )
        self.journal.record([failed])
        self.post([held.key.deployment_id])
        return message

    def waits(self, key: WorkloadKey, error: ApplyError | None = None, message: str = "") -> bool:
        """Record that a component is left for now; return whether that is new."""
        held = self.known().get(key)
        if held is None:
            return False
        waiting = self._now(held, "pending", error, message=message)
        if waiting == held:
            return False
        self.journal.record([waiting])
        return True

    def stopped(self, key: WorkloadKey, by: str) -> None:
        """Record that an installed component does not run while the deployment `by` is updated."""
        held = self.known().get(key)
        if held is not None and held.state == "installed":
            message = f"it is stopped while the deployment {by} is updated"
            self.journal.record([self._now(held, "pending", message=message)])
            self.post([key.deployment_id])

    def started(self, key: WorkloadKey, error: ApplyError | None) -> None:
        """Record that what was stopped for an update runs again, or why it does not start."""
        held = self.known().get(key)
        if (
            held is not None
            and held.state == "pending"
            and held.installed is not None
            and held.installed == held.wanted
        ):
            self.journal.record([self._now(held, "failed" if error else "installed", error)])
            self.post([key.deployment_id])

    def removing(self, removal: Removal) -> None:
        """Record that a removal begins: from this version on, the component must be gone, and is not known to run."""
        begun = replace(self._now(self._of(removal), "removing"), wanted=None, installed=None)
        self.journal.record([begun], self._adopted(removal.key.deployment_id))
        self.post([removal.key.deployment_id])

    def removal_failed(self, removal: Removal, error: ApplyError) -> None:
        """Record that a removal failed; one that was not begun stays so."""
        held = self._of(removal)
        attempts = held.attempts + 1 if held.failure == "removing" else 1
        failed = replace(
            self._now(held, "removing" if held.state == "removing" else "failed", error), changed_at=self.clock()
        )
        self.journal.record([replace(failed, attempts=attempts, failure="removing")])

    def forget(self, key: WorkloadKey) -> None:
        """Tell that a component is removed, then forget it."""
        held = self.known().get(key) or RecordedWorkload(key, "", None, None, "removed")
        removed = replace(self._now(held, "removed"), wanted=None, installed=None, failure="")
        adopted = self._adopted(key.deployment_id)
        if removed != held or any(item not in self.journal.deployments() for item in adopted):
            self.journal.record([removed], adopted)
        self.post([key.deployment_id])
        rest = [item for item in self.journal.workloads() if item.key.deployment_id == key.deployment_id]
        # The status names all components, so those that are removed stay until the last one is.
        if all(item.state == "removed" for item in rest) or any(item.wanted is not None for item in rest):
            for item in rest:
                if item.state == "removed":
                    self.journal.forget(item.key)

    def post(self, only: Sequence[str] | None = None) -> None:
        """Put the current status of these deployments, or of all, into the outbox."""
        components: dict[str, list[RecordedWorkload]] = {}
        for item in self.journal.workloads():
            components.setdefault(item.key.deployment_id, []).append(item)
        for deployment in self.journal.deployments():
            if only is None or deployment.id in only:
                status = deployment_status(deployment, components.get(deployment.id, []), self.suspension)
                document = write_json(write(status))
                if self.journal.post(deployment.id, document, self.clock(), weight_of(status)):
                    self.tell(deployment.id, document)

    def _of(self, removal: Removal) -> RecordedWorkload:
        return self.known().get(removal.key) or RecordedWorkload(removal.key, removal.applier, None, None, "removing")

    def _adopted(self, deployment_id: str) -> list[RecordedDeployment]:
        """Return what to record of a deployment whose components go: from this version on it must be gone."""
        return [replace(item, adopted=self.version) for item in self.journal.deployments() if item.id == deployment_id]

    def _as_installed(self, held: RecordedWorkload, applier: str, workload: Workload) -> RecordedWorkload:
        fallback = self.rolled_back.get(workload.key.deployment_id)
        done = self._now(held, "failed", fallback) if fallback else self._now(held, "installed")
        return replace(done, applier=applier, wanted=workload.digest, installed=workload.digest, attempts=0, failure="")

    def _as_left(self, held: RecordedWorkload, left: Left) -> RecordedWorkload:
        """Return the record of what has drifted; what was seen first stays: an engine's words hold a time."""
        if held.code == left.error.code:
            return held
        return self._as_failed(held, left.error)

    def _as_failed(self, held: RecordedWorkload, error: ApplyError) -> RecordedWorkload:
        """Return the record of what is not tried; content in quarantine stays there (STEP-9)."""
        failed = self._now(held, "failed", error)
        return failed if held.failure == "quarantined" else replace(failed, attempts=0, failure="")

    def _as_pending(self, held: RecordedWorkload, change: Change) -> RecordedWorkload:
        """Return the record of a component that is about to change; what failed before stays known."""
        if held.wanted == change.workload.digest:
            if held.failure == "quarantined" and held.code != InstallFailed.code:
                again = InstallFailed("this content did not come up when it was tried")
                return self._now(held, "failed", again, message=f"{again}{_QUARANTINED}")
            if held.failure or held.state in ("installing", "pending"):
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
