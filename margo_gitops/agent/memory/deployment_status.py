"""What the device says of its deployments: Margo's DeploymentStatus documents; pure (Margo deployment status).

M-1  A component has one of Margo's six states; a deployment has that of its most severe component.
M-2  `adoptedManifestVersion` is that of the latest manifest whose revision the device holds and has begun to apply.
M-3  An error has a code, a source (component, or `metadata.name` for the deployment) and a message.
M-4  `deviceId` stands only where the deployment is for a child device.
"""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.agent.memory.journal import RecordedDeployment, RecordedWorkload
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.status import (
    ComponentStatus,
    DeploymentStatus,
    OverallStatus,
    StatusError,
    most_severe,
)

_LONGEST_MESSAGE = 1000


def deployment_status(deployment: RecordedDeployment, workloads: Sequence[RecordedWorkload]) -> DeploymentStatus:
    """Return the status of a deployment (M-1 to M-4).

    Args:
        deployment: what is recorded of it.
        workloads: what is recorded of its components, in order.
    """
    components = tuple(
        ComponentStatus(item.key.component, item.state, _error(item, item.key.component)) for item in workloads
    )
    state = most_severe(item.state for item in workloads)
    worst = next((item for item in workloads if item.state == state), None)
    return DeploymentStatus(
        deployment_id=deployment.id,
        status=OverallStatus(state, _error(worst, deployment.name) if worst else None),
        components=components,
        adopted_manifest_version=deployment.adopted,
        device_id=deployment.device if client_of(deployment.device) != deployment.device else None,
    )


def _error(workload: RecordedWorkload, source: str) -> StatusError | None:
    if not workload.message:
        return None
    return StatusError(workload.code, source, workload.message[:_LONGEST_MESSAGE])
