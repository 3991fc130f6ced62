"""What became of a workload that was installed well, and whether it is left so (STEP-12, STEP-15 of the plan). Pure.

HAND-1  Only a person removes, pauses or edits. Of what has stopped, the applier says whether a person did it
        (`TellsStops`); where it cannot tell, it counts as a crash.
HAND-2  What a person did once is known from the journal, also after a restart of engine or device, until it runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from margo_gitops.agent.apply.workloads import DesiredDeployment
from margo_gitops.agent.memory.recorded import RecordedWorkload
from margo_gitops.appliers.applier import Observed, Workload, WorkloadKey
from margo_gitops.errors import Drifted, LeftByPerson

_OTHER_CONTENT: Final = "other content of it runs"


def drift_of(workload: Workload, reason: str, holding: Observed | None, memory: RecordedWorkload | None) -> str:
    """Return what became of a workload on the device; empty where it was not installed well, or is only starting.

    Of an update in quarantine it is what became of what ran before.

    Args:
        reason: why the plan would install it.
    """
    if memory is None or reason in ("starting", "unconfirmed", "stopped"):
        return ""
    is_replaced = is_quarantined(workload, memory)
    if memory.installed != workload.digest and not is_replaced:
        return ""
    if holding is None:
        return "it was removed"
    if is_replaced and holding.condition != "degraded":
        return ""  # what ran before runs
    if reason == "changed" and not is_replaced:
        return _OTHER_CONTENT
    return holding.by_hand or f"it does not run well ({holding.detail})"


def is_quarantined(workload: Workload, memory: RecordedWorkload | None) -> bool:
    """Return whether an update failed, so that what ran before is what should run (STEP-9)."""
    return memory is not None and memory.failure == "quarantined" and memory.wanted == workload.digest


def fallen(
    desired: Iterable[DesiredDeployment],
    observed: Mapping[str, Sequence[Observed]],
    recorded: Iterable[RecordedWorkload],
    ours: Collection[WorkloadKey],
    stopped: Callable[[str, WorkloadKey], str],
) -> frozenset[WorkloadKey]:
    """Return what was installed well and must go, or get other content, but has stopped, and no person wants that.

    Args:
        observed: what each applier's engine holds, by the applier's name.
        ours: what this agent stopped for an update and has not started again.
        stopped: returns what a person stopped of a workload; empty where no person did.
    """
    wanted = {workload.key: (workload.digest, item.on_drift) for item in desired for workload in item.workloads}
    installed = {(item.applier, item.key): item.installed for item in recorded if item.key not in ours}
    found = set()
    for applier, holding in ((applier, each) for applier, items in observed.items() for each in items):
        digest, on_drift = wanted.get(holding.key, (None, "respect"))
        before = installed.get((applier, holding.key))
        is_whole = before not in (None, digest) and holding.digest in (None, before)
        if holding.condition != "degraded" or holding.by_hand or not is_whole:
            continue
        if on_drift == "repair" or (on_drift == "respect" and not stopped(applier, holding.key)):
            found.add(holding.key)
    return frozenset(found)


def left_as_is(
    deployment: DesiredDeployment,
    workload: Workload,
    drift: str,
    holding: Observed | None,
    memory: RecordedWorkload | None,
    stopped: Callable[[], str],
) -> Drifted | LeftByPerson | None:
    """Return why what has drifted is left as it is; None where it is repaired.

    Args:
        stopped: returns what a person stopped of it; empty where no person did.
    """
    if not drift or deployment.on_drift == "repair":
        return None
    name = f"component {workload.component.name} of {deployment.name}"
    order = f"`margo-gitops agent apply-now {deployment.name}`"
    ways = f"change its content in the fleet repo, or run {order} on the device"
    if deployment.on_drift == "report":
        return Drifted(f"the {name} is not as it was installed: {drift}", remedy=f"put it right; or {ways}")
    is_known = memory is not None and memory.code == LeftByPerson.code
    is_seen = holding is None or holding.by_hand or drift == _OTHER_CONTENT
    what = drift if is_known or is_seen else stopped()
    if not what:
        return None
    return LeftByPerson(f"the {name} is left as a person left it: {what}", remedy=f"undo it; or {ways}")
