"""What has to be done so that a device runs what its state asks for; a value, made before anything is touched. Pure.

APPLIER-1..APPLIER-6 are the appliers' promises (margo_gitops/appliers/applier.py). The plan adds:

STEP-1  Everything that changes is prepared before anything is installed.
STEP-2  Workloads are installed in order: deployments as `desired_deployments` sorts them, components as listed.
STEP-3  What is gone from the state is removed last, and only when everything new was prepared (failure mode F1):
        nothing is refused, no engine that is needed is silent, nothing failed to be fetched. Of a deployment that is
        wanted still nothing is removed before all of it is installed: a renamed component goes when its successor runs.
STEP-4  After a failure the rest of that deployment, and the deployments that wait for it, are left as they are;
        independent deployments continue. What ran before keeps running (APPLIER-3), and what was installed well and
        stopped is started again.
STEP-5  Where wanted and observed agree, nothing is done. An installation that was begun, and of which the journal knows
        no good end, is done again (APPLIER-5).
STEP-6  A workload that moved to another applier is installed there first, then removed where it was.
STEP-7  Content that could not be prepared, installed or removed is not tried again before its pause is over; other
        content is, at once, and so is what has come to run by itself.
STEP-8  What an applier holds whose engine does not answer is left alone, and so is what runs of a refused deployment.
STEP-9  An update that failed, and after which what ran before runs again, is quarantined: each attempt would take a
        running line down. It is tried again when a person asks, its content changes, or what ran before stops and is
        not left so (STEP-12).
STEP-10 A deployment that may not change now (margo_gitops/agent/apply/windows.py) is prepared, and then waits: nothing
        of it is installed, updated or removed. What was begun is finished, and what ran and stopped is started again.
        The plan does not know its locks: they are asked right before the step (agent/apply/locks.py).
STEP-11 Of a deployment with `onFailure: continue`, a component that fails holds up no other one of it.
STEP-12 What was installed well and is not there as it was has drifted: it was removed, stopped, paused or edited, or it
        ended by itself. It is installed again. With `onDrift: report` it is left, and with `respect` where a person did
        it, until it runs again, its content changes, or a person asks. Where it is left, what waits for its deployment
        waits, and its other components continue.
STEP-13 What does not run while another deployment is updated (margo_gitops/agent/apply/stages.py) has not drifted. An
        update waits also until all that it stops may change (STEP-10), and is refused while the engine of that is
        silent.
STEP-14 After an hour no other step begins: the device polls, since a newer state may be what helps it. The next cycle
        takes up what is left.
STEP-15 What an update replaces, or a removal ends, runs until then. If it stops by itself while the change waits,
        rests or cannot be made, it is started again as it is, by appliers that can (`CanStop`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from margo_gitops.agent.apply.drift import drift_of, is_quarantined, left_as_is
from margo_gitops.agent.apply.workloads import DesiredDeployment, stopped_for
from margo_gitops.agent.memory.recorded import RecordedWorkload, retry_pause
from margo_gitops.appliers.applier import Observed, Workload, WorkloadKey
from margo_gitops.documents.deployment import served_kind
from margo_gitops.errors import (
    ApplyError,
    ChangeWaits,
    Drifted,
    HookFailed,
    LeftByPerson,
    RolledBack,
    WorkloadUnsupported,
)
from margo_gitops.values import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Change:
    """A workload to prepare and install.

    Attributes:
        reason: why, for people: "new", "changed", "degraded" ...
        rests: whether it failed and waits for its next try (STEP-7, STEP-9): it is neither prepared nor installed.
        unprepared: whether it rests because it could not be prepared.
        replaces: whether other content of the component is there now.
        drift: what became of it on the device, where it was installed well (STEP-12); empty else.
        waits: why it waits for a time at which it may change; None where it need not (STEP-10).
        is_switch: whether it begins something, and does not finish it or start again what stopped (STEP-10).
        updates: whether it brings other content than was installed well last; then its stages count (STEP-13).
        failed: code of the last try's failure; empty where it did not fail.
    """

    applier: str
    workload: Workload
    reason: str
    rests: bool = False
    unprepared: bool = False
    replaces: bool = False
    drift: str = ""
    waits: ChangeWaits | None = None
    is_switch: bool = False
    failed: str = ""
    updates: bool = False


@dataclass(frozen=True, slots=True)
class Removal:
    """A workload to remove, from the applier that holds it.

    Attributes:
        key: which.
        rests: whether removing it failed and its pause is not over (STEP-7).
        waits: why it waits for a time at which it may go; None where it need not (STEP-10).
        is_switch: whether it was not begun before.
    """

    applier: str
    key: WorkloadKey
    rests: bool = False
    waits: ChangeWaits | None = None
    is_switch: bool = False


@dataclass(frozen=True, slots=True)
class Left:
    """A workload that has drifted, and is left so (STEP-12).

    Attributes:
        error: what became of it.
    """

    applier: str
    workload: Workload
    error: Drifted | LeftByPerson


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps, in order: all `changes` are prepared, then installed, then `removals` are done.

    Attributes:
        kept: what already runs as asked for, with its applier.
        gone: what the journal remembers and no engine holds, and the state does not ask for: to be forgotten.
        refused: deployments that cannot be applied at all, by id.
        silent: appliers that hold something of this device, or should, and whose engine did not answer.
        after: which deployments each one waits for.
        there: deployments of which an engine holds something, by id.
        left: what has drifted and is left so.
        separate: deployments whose components continue alone (STEP-11).
        rolled_back: deployments that run what ran before, in place of what the state asks for, by id.
        stops: what does not run while a deployment is updated, with its applier, in the order of installation; by id.
        fallen: what has stopped and runs until it is changed (STEP-15).
    """

    changes: tuple[Change, ...]
    removals: tuple[Removal, ...]
    kept: tuple[tuple[str, Workload], ...]
    gone: tuple[WorkloadKey, ...]
    refused: Mapping[str, ApplyError]
    silent: Mapping[str, ApplyError]
    after: Mapping[str, Sequence[str]]
    there: frozenset[str] = frozenset()
    left: tuple[Left, ...] = ()
    separate: frozenset[str] = frozenset()
    rolled_back: Mapping[str, RolledBack] = field(default_factory=dict)
    stops: Mapping[str, Sequence[tuple[str, WorkloadKey]]] = field(default_factory=dict)
    fallen: frozenset[WorkloadKey] = frozenset()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.changes or self.removals or self.gone)

    @property
    def waits(self) -> bool:
        """Whether something may not change now (STEP-10), or waits for a person (STEP-12)."""
        return (
            any(change.waits for change in self.changes)
            or any(removal.waits for removal in self.removals)
            or any(isinstance(each.error, LeftByPerson) for each in self.left)
        )

    @property
    def obstacles(self) -> list[ApplyError]:
        """What keeps deployments from being applied at all, each once."""
        return list(dict.fromkeys([*self.silent.values(), *self.refused.values()]))

    @property
    def unprepared(self) -> set[str]:
        """The deployments of which something could not be prepared, and rests."""
        return {change.workload.key.deployment_id for change in self.changes if change.rests and change.unprepared}

    def obstacle(self, deployment_id: str, failed: Iterable[str]) -> str | None:
        """Return the deployment that keeps another from being installed, or None (STEP-4).

        Args:
            failed: ids of deployments of which a step failed, or that were left because of another.
        """
        stopped = {*failed, *self.refused}
        if deployment_id in stopped and deployment_id not in self.separate:
            return deployment_id
        stopped |= {*self.rolled_back, *(each.workload.key.deployment_id for each in self.left)}
        return next((name for name in self.after.get(deployment_id, ()) if name in stopped), None)


def make_plan(
    desired: Sequence[DesiredDeployment],
    observed: Mapping[str, Sequence[Observed]],
    recorded: Iterable[RecordedWorkload],
    serving: Mapping[str, str],
    *,
    silent: Mapping[str, ApplyError] | None = None,
    now: float | None = None,
    retry: bool = False,
    closed: Mapping[str, ChangeWaits] | None = None,
    back: Collection[str] = (),
    stopped: Callable[[str, WorkloadKey], str] = lambda _applier, _key: "",
    repair: Collection[str] = (),
    ours: Collection[WorkloadKey] = (),
) -> Plan:
    """Return what has to be done.

    Args:
        desired: the deployments, in the order of installation.
        observed: what each applier's engine holds, by the applier's name.
        serving: the applier for each profile type, and for `custom/FORMAT`.
        silent: appliers whose engine did not answer, with the reason (STEP-8).
        now: the time, where pauses after failures count (STEP-7); None to try everything that is not quarantined.
        retry: whether to try what is quarantined as well (STEP-9).
        closed: deployments that may not change now, by id (STEP-10).
        back: codes of failures whose cause is gone: what failed so need not rest.
        stopped: returns what a person stopped of a workload; empty where no person did.
        repair: deployments that are repaired now, also where they leave what has drifted, by id (STEP-12).
        ours: what this agent stopped for an update and has not started again (STEP-13).
    """
    silent = silent or {}
    rolled_back = {item.id: item.fallback for item in desired if item.fallback is not None}
    # Going back ends what a window that was open let begin.
    closed = {name: error for name, error in (closed or {}).items() if name not in rolled_back}
    left: list[Left] = []
    holdings = {(applier, item.key): item for applier, items in observed.items() for item in items}
    memory = {item.key: item for item in recorded}
    changes: list[Change] = []
    kept: list[tuple[str, Workload]] = []
    refused: dict[str, ApplyError] = {}
    wanted: dict[WorkloadKey, str] = {}
    serves = {item.id: _server(item, serving) for item in desired}
    there = frozenset(key.deployment_id for _, key in holdings)
    halted = {key.deployment_id for key in ours}
    for deployment in desired:
        applier = serves[deployment.id]
        needed = (applier, *(serves.get(name) for name in deployment.stops))
        refusal = deployment.refusal or next((silent[name] for name in needed if name and name in silent), None)
        if refusal or applier is None:
            refused[deployment.id] = refusal or _unserved(deployment, serving)
            continue
        for workload in deployment.workloads:
            wanted[workload.key] = applier
            holding = holdings.get((applier, workload.key))
            remembered = memory.get(workload.key)
            reason = _reason(workload, applier, holding, remembered)
            if workload.key in ours and reason in ("degraded", "starting"):
                reason = "stopped"
            drift = drift_of(workload, reason, holding, remembered) if reason else ""
            as_is = None
            if not (deployment.id in repair or (retry and is_quarantined(workload, remembered))):
                asks = partial(stopped, applier, workload.key)
                as_is = left_as_is(deployment, workload, drift, holding, remembered, asks)
            if as_is is not None:
                left.append(Left(applier, workload, as_is))
            elif reason:
                change = _change(applier, workload, reason, holding, remembered, now, retry=retry, back=back)
                switches = _is_switch(change, remembered)
                updates = reason == "changed" or remembered is None or remembered.installed != workload.digest
                changes.append(
                    replace(
                        change,
                        drift=drift,
                        waits=(closed.get(deployment.id) if switches else None)
                        or (deployment.others_wait(closed, there - halted) if updates else None),
                        is_switch=switches,
                        updates=updates,
                    )
                )
            else:
                kept.append((applier, workload))
    removals = [
        Removal(applier, key, _removal_rests(applier, memory.get(key), now, back))
        for applier, key in holdings
        if wanted.get(key) != applier and key.deployment_id not in refused
    ]
    removals += [
        Removal(item.applier, item.key, _removal_rests(item.applier, item, now, back))
        for item in memory.values()
        # Begun and not ended well: done again, although the engine shows nothing any more (APPLIER-4, APPLIER-5).
        if item.state == "removing"
        and item.applier in observed
        and item.key not in wanted
        and (item.applier, item.key) not in holdings
    ]
    removals = [_judged(each, memory.get(each.key), closed) for each in removals]
    held = {removal.key for removal in removals}
    gone = sorted(
        item.key
        for item in memory.values()
        if item.key not in wanted | dict.fromkeys(held)
        and item.key.deployment_id not in refused
        and item.applier not in silent
    )
    return Plan(
        tuple(changes),
        tuple(_backwards(removals, memory)),
        tuple(kept),
        tuple(gone),
        refused,
        {
            name: error
            for name, error in silent.items()
            if error in refused.values() or any(item.applier == name for item in memory.values())
        },
        {deployment.id: deployment.after for deployment in desired},
        there,
        tuple(left),
        frozenset(deployment.id for deployment in desired if deployment.on_failure == "continue"),
        rolled_back,
        stopped_for(desired, holdings, {each.workload.key for each in left}),
    )


def _backwards(removals: Sequence[Removal], memory: Mapping[WorkloadKey, RecordedWorkload]) -> list[Removal]:
    """Return the removals sorted, the components of one deployment from the last to the first."""

    def rank(item: Removal) -> tuple[str, str, int, str]:
        position = memory[item.key].position if item.key in memory else 0
        return item.applier, item.key.deployment_id, -position, item.key.component

    return sorted(removals, key=rank)


def _reason(workload: Workload, applier: str, holding: Observed | None, memory: RecordedWorkload | None) -> str | None:
    """Return why a workload must be installed, or None where it runs as asked for (STEP-5)."""
    if holding is None:
        return "new" if memory is None or memory.installed is None else "missing"
    # An engine that cannot tell what it runs is believed to run what was installed last.
    remembered = memory.installed if memory is not None and memory.applier == applier else None
    if (holding.digest or remembered) != workload.digest:
        return "changed"
    unconfirmed = memory is not None and memory.installed != workload.digest
    # A component that is not waited for may take its time once it was started.
    patient = not workload.component.properties.wait and memory is not None and not unconfirmed
    if holding.condition == "degraded" or (holding.condition == "starting" and not patient):
        return holding.condition
    # The engine shows the new digest as soon as an installation begins; only the journal knows that it ended.
    return "unconfirmed" if unconfirmed else None


def _change(
    applier: str,
    workload: Workload,
    reason: str,
    holding: Observed | None,
    memory: RecordedWorkload | None,
    now: float | None,
    *,
    retry: bool,
    back: Collection[str],
) -> Change:
    held = memory.installed if memory is not None and memory.applier == applier else None
    replaces = holding is not None and (holding.digest or held) != workload.digest
    failure = memory.failure if memory is not None and memory.wanted == workload.digest else ""
    if memory is None or not failure:
        return Change(applier, workload, reason, replaces=replaces)
    rests = memory.code not in back and _pauses(memory, now)
    runs = holding is not None and holding.digest == workload.digest and holding.condition == "running"
    if runs and memory.code != HookFailed.code:
        rests = False
    elif failure == "quarantined" and holding is not None and holding.condition != "degraded":
        rests = not retry
    return Change(applier, workload, reason, rests, failure == "preparing", replaces, failed=memory.code)


def _is_switch(change: Change, memory: RecordedWorkload | None) -> bool:
    """Return whether a change begins something, and does not finish it or start again what stopped (STEP-10)."""
    is_begun = memory is not None and memory.state == "installing" and memory.wanted == change.workload.digest
    return change.reason in ("new", "changed") and not is_begun


def _judged(removal: Removal, memory: RecordedWorkload | None, closed: Mapping[str, ChangeWaits]) -> Removal:
    switches = memory is None or memory.state != "removing"
    return replace(removal, waits=closed.get(removal.key.deployment_id) if switches else None, is_switch=switches)


def _removal_rests(applier: str, memory: RecordedWorkload | None, now: float | None, back: Collection[str]) -> bool:
    if memory is None or memory.applier != applier or memory.failure != "removing" or memory.code in back:
        return False
    return _pauses(memory, now)


def _pauses(memory: RecordedWorkload, now: float | None) -> bool:
    # A clock that went back must not make the pause longer.
    return now is not None and 0 <= now - memory.changed_at < retry_pause(memory.attempts)


def _server(deployment: DesiredDeployment, serving: Mapping[str, str]) -> str | None:
    """Return the applier of a deployment: one for the format of its content comes before one for the whole type."""
    kind = served_kind(deployment.document.spec.deployment_profile)
    return serving.get(kind) or serving.get(kind.partition("/")[0])


def _unserved(deployment: DesiredDeployment, serving: Mapping[str, str]) -> WorkloadUnsupported:
    kind = served_kind(deployment.document.spec.deployment_profile)
    return WorkloadUnsupported(
        f"the deployment {deployment.document.metadata.name} has a profile of type {kind}, which no applier serves",
        why=[f"served here: {', '.join(sorted(serving)) or 'nothing'}"],
        remedy="add an applier to the agent's configuration, or place the deployment elsewhere",
    )
