"""What the steps of every engine share: one at a time, and the errors of what is refused or has failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from margo_gitops.appliers.applier import Workload, storing
from margo_gitops.appliers.programs import redacted
from margo_gitops.disk.locks import HeldLock, LockTaken, take_lock
from margo_gitops.documents.workload_judge import Refused, settings_for
from margo_gitops.errors import EngineUnavailable, InstallFailed, StepInterrupted, WorkloadForbidden
from margo_gitops.errors.base import listed

_POLL_SECONDS: Final = 0.25


def locked(folder: Path, deadline: float, interrupted: Callable[[], bool], program: str) -> HeldLock:
    """Return an applier's lock, which its programs hold too: one that an earlier agent left behind may still run.

    Args:
        folder: of the applier; made if it is missing.
        deadline: on the monotonic clock, for waiting.
        interrupted: whether the agent was asked to stop.
        program: that may hold it, for people.

    Raises:
        EngineUnavailable: an earlier step still runs.
        StepInterrupted: the agent was asked to stop.
        StorageFailed: the folder cannot be used.
    """
    while True:
        try:
            with storing(folder):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                return take_lock(folder / "lock")
        except LockTaken:
            if time.monotonic() > deadline:
                raise EngineUnavailable(
                    "an earlier step still runs", remedy=f"wait for it, or stop its {program} process"
                ) from None
            if interrupted():
                raise StepInterrupted("an earlier step still runs") from None
            time.sleep(_POLL_SECONDS)


def install_failed(workload: Workload, why: Sequence[str], *, reinstated: bool, first: bool) -> InstallFailed:
    """Return the error of an installation that failed.

    Args:
        reinstated: whether what ran before runs again.
        first: whether nothing ran before.
    """
    after = "what ran before runs again" if reinstated else "what ran before does not run"
    if first and reinstated:
        after = "nothing ran before, and nothing does now"
    name = f"component {workload.component.name} of {workload.deployment.metadata.name}"
    error = InstallFailed(
        f"{name} does not run as asked for; {after}",
        why=why,
        remedy="correct the application or its parameters, and deploy again",
    )
    error.reinstated = reinstated
    return error


def refuse(workload: Workload, refused: Iterable[Refused], hidden: Mapping[str, str], source: str) -> None:
    """Refuse what this device does not allow, if there is anything (WorkloadForbidden: each reason).

    Args:
        hidden: values that are not shown, by name.
        source: what to change, for people.
    """
    if found := list(refused):
        reasons = [redacted(str(each), hidden) for each in found]
        raise WorkloadForbidden(
            f"this device does not allow what component {workload.component.name} of "
            f"{workload.deployment.metadata.name} asks for",
            why=listed(reasons),
            remedy=f"change {source}, or allow it in the agent's configuration, next to what is there already: "
            + redacted(settings_for(found), hidden),
        )
