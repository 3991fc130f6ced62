"""What the device remembers of deployments, components and events, and what that says to others; pure.

A row of the journal that no agent wrote is a `ValueError`.

DEPLOYED-1  A component has one of Margo's six states; a deployment has that of its most severe component.
DEPLOYED-2  `adoptedManifestVersion` is that of the latest manifest with a revision that the device has begun to apply.
DEPLOYED-3  An error has a code, a source (component, or `metadata.name` for the deployment) and a message.
DEPLOYED-4  `deviceId` is there only where the deployment is for a child device.
DEPLOYED-5  While a person has suspended changes, each deployment that has no other error says so in the place of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.digests import Digest
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION
from margo_gitops.documents.status import (
    SEVERITY,
    ComponentStatus,
    DeploymentStatus,
    OverallStatus,
    State,
    StatusError,
    most_severe,
)
from margo_gitops.errors import MargoGitopsError
from margo_gitops.values import dataclass
from margo_gitops.wording import abridged

LONGEST_RETRY_PAUSE: Final = 3600.0
"""The most seconds between two tries of what fails."""

_LONGEST_MESSAGE: Final = 1000
_MOST_ATTEMPTS: Final = 2**31
_TIMES: Final = (-62_135_596_800.0, 253_402_300_799.0)
"""Seconds since the epoch, of the years 1 to 9999."""

Failure: TypeAlias = Literal["", "preparing", "installing", "quarantined", "removing"]
"""How the last try ended: well or not at all; which step failed; or an update that failed and is not tried again."""

FAILURES: Final[tuple[Failure, ...]] = get_args(Failure)


@dataclass(frozen=True, slots=True)
class RecordedDeployment:
    """What the journal says of a deployment.

    Attributes:
        id: its id, lower case.
        name: `metadata.name`, the source of its errors.
        device: `metadata.deviceId`.
        adopted: the version of the latest manifest with a revision of it that was begun to be applied.
        position: its place in the state it came with, from 0.
    """

    id: str
    name: str
    device: str
    adopted: int
    position: int = 0


@dataclass(frozen=True, slots=True)
class RecordedWorkload:
    """What the journal says of a component.

    Attributes:
        applier: name of the applier that serves it.
        wanted: the digest that was last asked for; None once it must be gone.
        installed: the digest that was last installed with success.
        state: in Margo's words.
        code, message: of the error, where the last step failed; empty else.
        attempts: how often a step towards the wanted digest failed, or installing it was begun, in a row.
        changed_at: when the state last changed or a step last failed, seconds since the epoch.
        position: its place among the components of its deployment, from 0.
        failure: how the last try ended.
    """

    key: WorkloadKey
    applier: str
    wanted: Digest | None
    installed: Digest | None
    state: State
    code: str = ""
    message: str = ""
    attempts: int = 0
    changed_at: float = 0.0
    position: int = 0
    failure: Failure = ""


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as kept; equal ones in a row are one, with a count.

    Attributes:
        reason: of which kind it is; perhaps one that only a newer agent knows.
        text, code, subject: as of `Event`.
        first_at, last_at: when it came first and last, seconds since the epoch.
    """

    reason: str
    text: str
    code: str
    subject: str
    first_at: float
    last_at: float
    count: int


def read_deployment(row: tuple[Any, ...]) -> RecordedDeployment:
    """Return the deployment that columns of the right types say."""
    identity, name, device, adopted, position = row
    return RecordedDeployment(identity, name, device, int(_between(int(adopted), 1, MAX_MANIFEST_VERSION)), position)


def read_workload(row: tuple[Any, ...]) -> RecordedWorkload:
    """Return the component that columns of the right types say."""
    recorded = RecordedWorkload(WorkloadKey(*row[:2]), *row[2:])
    if recorded.state not in SEVERITY or recorded.failure not in FAILURES:
        raise ValueError(f"state {recorded.state!r:.40}, failure {recorded.failure!r:.40}")
    _between(recorded.attempts, 0, _MOST_ATTEMPTS)
    _between(recorded.changed_at, *_TIMES)
    return recorded


def read_event(row: tuple[Any, ...]) -> RecordedEvent:
    """Return the event that columns of the right types say."""
    recorded = RecordedEvent(*row)
    _between(recorded.first_at, *_TIMES)
    _between(recorded.last_at, *_TIMES)
    return recorded


def _between(value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise ValueError(f"{value} is not between {least} and {most}")
    return value


def recorded_number(text: str | None) -> float | None:
    """Return what a fact says as a number; None where it says none."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def retry_pause(attempts: int) -> float:
    """Return how many seconds to wait before content that failed `attempts` times is installed again."""
    doublings = min(max(attempts, 1) - 1, 32)
    return min(60.0 * float(1 << doublings), LONGEST_RETRY_PAUSE)


def deployment_status(
    deployment: RecordedDeployment, workloads: Sequence[RecordedWorkload], suspension: MargoGitopsError | None = None
) -> DeploymentStatus:
    """Return the status of a deployment (DEPLOYED-1 to DEPLOYED-5).

    Args:
        workloads: what is recorded of its components, in order.
        suspension: why nothing changes on the device for now, if a person ordered so.
    """
    components = tuple(
        ComponentStatus(item.key.component, item.state, _error(item, item.key.component)) for item in workloads
    )
    state = most_severe(item.state for item in workloads)
    suspended = None
    if suspension is not None and state != "removed":  # what is gone has its last status
        suspended = StatusError(suspension.code, deployment.name, suspension.what)
    worst = next((item for item in workloads if item.state == state), None)
    return DeploymentStatus(
        deployment_id=deployment.id,
        status=OverallStatus(state, (_error(worst, deployment.name) if worst else None) or suspended),
        components=components,
        adopted_manifest_version=deployment.adopted,
        device_id=deployment.device if client_of(deployment.device) != deployment.device else None,
    )


def _error(workload: RecordedWorkload, source: str) -> StatusError | None:
    if not workload.message:
        return None
    return StatusError(workload.code, source, abridged(workload.message, _LONGEST_MESSAGE))
