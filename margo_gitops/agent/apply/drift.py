"""What became of a workload that was installed well, and whether it is left so (STEP-12 of the plan). Pure.

HAND-1  Only a person removes, pauses or edits. Of what has stopped, the applier says whether a person did it
        (`TellsStops`); where it cannot tell, it counts as a crash.
HAND-2  What a person did once is known from the journal, also after a restart of engine or device, until it runs again.
"""

from __future__ import annotations

from collections.abc import Callable

from margo_gitops.agent.apply.workloads import DesiredDeployment
from margo_gitops.agent.memory.recorded import RecordedWorkload
from margo_gitops.appliers.applier import Observed, Workload
from margo_gitops.errors import Drifted, LeftByPerson


def drift_of(workload: Workload, reason: str, holding: Observed | None, memory: RecordedWorkload | None) -> str:
    """Return what became of a workload on the device; empty where it was not installed well, or is only starting.

    Args:
        reason: why the plan would install it.
    """
    if memory is None or memory.installed != workload.digest or reason in ("starting", "unconfirmed", "stopped"):
        return ""
    if holding is None:
        return "it was removed"
    if reason == "changed":
        return "other content of it runs"
    return holding.by_hand or f"it does not run well ({holding.detail})"


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
    is_seen = holding is None or holding.by_hand or holding.digest not in (None, workload.digest)
    what = drift if is_known or is_seen else stopped()
    if not what:
        return None
    return LeftByPerson(f"the {name} is left as a person left it: {what}", remedy=f"start it again; or {ways}")
