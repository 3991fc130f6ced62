"""The stages of an update: what does not run while another deployment is updated (`spec.stop`).

STAGE-1  Right before the first component of a deployment is updated, all that its `stop` names is stopped, from the
         last to the first; also for its first installation and on its way back, and not when it is only repaired or
         removed. What stops counts as changed: its calendars must be open, its locks free, and its hooks run.
STAGE-2  What is about to be stopped is written down first. From then on it is the agent's stop, and never a person's or
         a crash. An agent that was killed meanwhile stops it once more if the update is still to be done.
STAGE-3  It starts again once nothing is left to do in this cycle for the deployments that stop it, whether they were
         updated, failed or wait. One that is updated in this cycle too starts with its own update. What is left when
         the journal cannot be written is started without a record. Only an update that was cut off leaves it stopped,
         until the agent starts again.
STAGE-4  What does not run because a person or a policy left it so is neither stopped nor started.
STAGE-5  If an applier cannot stop (`CanStop`), the update is refused before anything changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

from margo_gitops.agent.apply.bookkeeping import Bookkeeping
from margo_gitops.agent.apply.engines import contract_of
from margo_gitops.agent.apply.steps import Change, Plan
from margo_gitops.agent.memory.facts import Facts
from margo_gitops.appliers.applier import Applier, CanStop, WorkloadKey
from margo_gitops.errors import ApplyError, StepInterrupted, WorkloadUnsupported
from margo_gitops.values import dataclass, field


@dataclass(frozen=True, slots=True)
class Stopped:
    """A workload that is stopped, or about to be.

    Attributes:
        by: the id of the deployment that is updated.
    """

    applier: str
    deployment: str
    component: str
    by: str

    @property
    def key(self) -> WorkloadKey:
        """Which workload."""
        return WorkloadKey(self.deployment, self.component)


@dataclass(frozen=True, slots=True)
class _Memory:
    """What is stopped now, and by which update."""

    FACT: ClassVar[str] = "stopped"  # `Reconciler` loads this module where there is something under this name
    workloads: tuple[Stopped, ...] = ()


@dataclass(eq=False)
class Stages:
    """Stops what must not run in one cycle, and starts it again.

    Attributes:
        appliers: by name.
        facts: keeps records; raises StorageFull and StateFolderUnusable, as all methods here do.
        heartbeat: called before each step.
    """

    appliers: Mapping[str, Applier]
    facts: Facts
    heartbeat: Callable[[], None]
    _stopped: tuple[Stopped, ...] = field(default=(), init=False)
    _now: set[WorkloadKey] = field(default_factory=set, init=False)
    _tried: set[WorkloadKey] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._stopped = self.facts.get(_Memory).workloads

    @property
    def keys(self) -> frozenset[WorkloadKey]:
        """What is stopped, or about to be."""
        return frozenset(each.key for each in self._stopped)

    def others(self, change: Change, plan: Plan) -> Sequence[str]:
        """Return the deployments that a change stops and that are not stopped yet, from the last to the first."""
        known = {each.deployment for each in self._stopped}
        named = dict.fromkeys(key.deployment_id for _, key in reversed(_targets(change, plan)))
        return [each for each in named if each not in known]

    def check(self, change: Change, plan: Plan) -> None:
        """Refuse a change whose stages an applier cannot keep (WorkloadUnsupported; STAGE-5)."""
        for applier, _ in _targets(change, plan):
            if not isinstance(self.appliers[applier], CanStop):
                raise WorkloadUnsupported(
                    f"the applier {applier} cannot stop what the deployment {_name(change)} stops for its update",
                    remedy="use another applier for it, or remove it from spec.stop",
                )

    def stop(self, change: Change, plan: Plan, books: Bookkeeping) -> Sequence[WorkloadKey]:
        """Stop what must not run during a change; return what was stopped now.

        Raises:
            ApplyError: something runs still; what was stopped is started at its turn.
        """
        targets = _targets(change, plan)
        by, known = change.workload.key.deployment_id, self.keys
        new = [
            Stopped(applier, *(key.deployment_id, key.component), by) for applier, key in targets if key not in known
        ]
        if new:
            self._remember((*self._stopped, *new))
        stopped = [each for each in reversed(targets) if each[1] not in self._now]
        for applier, key in stopped:
            self.heartbeat()
            books.stopped(key, _name(change))
            engine = self.appliers[applier]
            with contract_of(applier):
                if isinstance(engine, CanStop):
                    engine.stop(key)
            self._now.add(key)
        return [key for _, key in stopped]

    def due(self, plan: Plan, updating: Collection[str], changing: Collection[WorkloadKey]) -> Sequence[Stopped]:
        """Return what starts again now, and was not tried in this cycle.

        Args:
            updating: ids of deployments with something to update in this cycle still.
            changing: components that are changed or removed in this cycle still.
        """
        busy = {key for name in updating for _, key in plan.stops.get(name, ())} | {*changing, *self._tried}
        return [each for each in self._stopped if each.by not in updating and each.key not in busy]

    def start(self, each: Stopped, books: Bookkeeping) -> ApplyError | None:
        """Start a workload again; return why it does not start: then it is tried again in the next cycle.

        Raises:
            StepInterrupted: the agent was asked to stop.
        """
        self.heartbeat()
        self._tried.add(each.key)
        error = self._started(each)
        if error is None:
            self.forget([each.key])
        books.started(each.key, error)
        return error

    def revive(self, change: Change) -> None:
        """Start what is stopped before the same content is installed: to an applier, it may look as if it were done."""
        for each in self._stopped:
            if each.key == change.workload.key and change.reason not in ("new", "changed"):
                self._started(each)  # what the installation says counts

    def forget(self, keys: Iterable[WorkloadKey]) -> None:
        """Note that workloads run again, or are gone."""
        gone = set(keys)
        self._now -= gone
        if not gone.isdisjoint(self.keys):
            self._remember(tuple(each for each in self._stopped if each.key not in gone))

    def release(self) -> None:
        """Start all that is stopped, although nothing can be written down: the next cycle notes it."""
        for each in self._stopped:
            with suppress(StepInterrupted):
                self._started(each)

    def _started(self, each: Stopped) -> ApplyError | None:
        engine = self.appliers.get(each.applier)
        if engine is None or not isinstance(engine, CanStop):
            return None  # the device's configuration has changed
        try:
            with contract_of(each.applier):
                engine.start(each.key)
        except StepInterrupted:
            raise
        except ApplyError as error:
            return error
        return None

    def _remember(self, stopped: tuple[Stopped, ...]) -> None:
        self.facts.put(_Memory(stopped))
        self._stopped = stopped


def _targets(change: Change, plan: Plan) -> Sequence[tuple[str, WorkloadKey]]:
    return plan.stops.get(change.workload.key.deployment_id, ()) if change.updates else ()


def _name(change: Change) -> str:
    return change.workload.deployment.metadata.name
