"""Deployment status: what a device says of one deployment (Margo deployment status, current shape)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias

from margo_gitops.documents.declarations import About, OtherKeys, Problem, Range, Text
from margo_gitops.documents.device_id import DEVICE_ID_PATTERN
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION
from margo_gitops.values import dataclass, field

State: TypeAlias = Literal["pending", "installing", "installed", "failed", "removing", "removed"]

SEVERITY: tuple[State, ...] = ("failed", "removing", "installing", "pending", "removed", "installed")
"""Most severe first. The page prints `removing` a second time in fifth place, which is a misprint for `removed`."""


@dataclass(frozen=True, slots=True)
class StatusError:
    """Why something failed."""

    code: Annotated[str | None, About("For programs; 101 to 103 are reserved for gateways.")] = None
    source: Annotated[str | None, About("metadata.name of the deployment, or the component's name.")] = None
    message: Annotated[str | None, About("For people.")] = None


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """The state of one component."""

    name: Annotated[str, Text(min_length=1), About("Name of the component.")]
    state: Annotated[State, About("Its state.")]
    error: StatusError | None = None


@dataclass(frozen=True, slots=True)
class OverallStatus:
    """The state of the deployment: that of its most severe component."""

    state: Annotated[State, About("State of the most severe component.")]
    error: StatusError | None = None


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """What a device says of one deployment."""

    CURRENT_REQUIRES: ClassVar[tuple[str, ...]] = ("adoptedManifestVersion",)

    deployment_id: Annotated[str, Text(min_length=1), About("The `id` of the deployment.")]
    status: OverallStatus
    components: Annotated[tuple[ComponentStatus, ...], About("One entry for each component.")]
    adopted_manifest_version: Annotated[
        int | None,
        About("Version of the latest manifest whose revision of this deployment the device has begun to apply."),
        Range(minimum=1, maximum=MAX_MANIFEST_VERSION),
    ] = None
    device_id: Annotated[
        str | None,
        Text(pattern=DEVICE_ID_PATTERN, what="a device id"),
        About("The device, where it is a child of a gateway."),
    ] = None
    others: OtherKeys = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        """Yield an overall state that is not the most severe of the components'."""
        if self.components:
            worst = most_severe(component.state for component in self.components)
            if worst != self.status.state:
                message = f"the overall state is {self.status.state}, but a component is {worst}"
                yield Problem(("status", "state"), message, severity="warning")


def most_severe(states: Iterable[State]) -> State:
    """Return the most severe of the states; "installed" for none."""
    return min(states, key=SEVERITY.index, default="installed")
