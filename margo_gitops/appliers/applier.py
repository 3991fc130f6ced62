"""The contract between the agent and what makes workloads run.

An applier serves deployment profiles of some types with one engine. The agent decides what happens in which order;
an applier does one step for one component and keeps these promises:

    A-1  `prepare` touches nothing that runs: it fetches and verifies everything that `install` will need.
    A-2  `install` is idempotent, updates in place, and leaves a component that already runs as asked for untouched.
    A-3  When `install` fails, what ran before runs again, and the error says whether it does.
    A-4  `remove` is idempotent and removes only what this agent installed.
    A-5  Any step may be cut off at any moment; the same step started again ends in the same state.
    A-6  `observe` reads the engine, never the applier's memory.

Plug-ins register a factory under the entry point group `margo_gitops.appliers`; see `docs/appliers.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from margo_gitops.digests import Digest
from margo_gitops.documents.application import Component, ParameterValue
from margo_gitops.documents.deployment import ApplicationDeployment, Artifact
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.quantities import parse_timeout

ENTRY_POINT_GROUP = "margo_gitops.appliers"

DEFAULT_TIMEOUT_SECONDS = 600
"""For a component that names no time-out; Margo leaves it open."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One component of one deployment, with everything an applier needs to make it run.

    Attributes:
        deployment: the trusted deployment document.
        component: the component, one of the deployment's.
        artifact: where its content lies, by digest; None where the deployment names none.
        values: parameter values by pointer, only those whose targets name this component, in the document's order.
        digest: over component, artifact digest and values: equal digests mean that nothing needs to change.
    """

    deployment: ApplicationDeployment
    component: Component
    artifact: Artifact | None
    values: Mapping[str, ParameterValue]
    digest: Digest

    @property
    def key(self) -> WorkloadKey:
        """The identity that stays the same when the content changes."""
        return WorkloadKey(self.deployment.id.lower(), self.component.name)

    @property
    def timeout_seconds(self) -> int:
        """How long an installation may take."""
        timeout = self.component.properties.timeout
        return parse_timeout(timeout) if timeout else DEFAULT_TIMEOUT_SECONDS


@dataclass(frozen=True, slots=True, order=True)
class WorkloadKey:
    """Names a component of a deployment on this device."""

    deployment_id: str
    component: str

    def __str__(self) -> str:
        return f"{self.deployment_id}/{self.component}"


@dataclass(frozen=True, slots=True)
class Observed:
    """What the engine says of a workload.

    Attributes:
        key: which workload.
        digest: the digest it was installed with; None where the engine cannot tell.
        condition: "running", "starting" (not healthy yet), "degraded" (some part has stopped or is unhealthy) or
            "unknown" (for engines that only hold files).
        detail: for people, one line.
    """

    key: WorkloadKey
    digest: Digest | None
    condition: Literal["running", "starting", "degraded", "unknown"]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ApplierContext:
    """What an applier's factory gets.

    Attributes:
        device: this device's id.
        folder: a folder of this applier's own, inside the agent's state folder; it exists.
        settings: the applier's part of the agent configuration, as plain values; the factory checks it.
    """

    device: str
    folder: Path
    settings: Mapping[str, Json]


class Applier(Protocol):
    """Makes components run with one engine. See the module's promises A-1 to A-6."""

    profile_types: Sequence[str]

    def prepare(self, workload: Workload) -> None:
        """Fetch and verify everything that `install` needs.

        Raises:
            ApplyError: it cannot be had; nothing that runs was touched.
        """
        ...

    def install(self, workload: Workload) -> None:
        """Make the workload run as asked for; with `wait`, return only when it runs and is healthy.

        Raises:
            ApplyError: it does not run as asked for; what ran before does.
        """
        ...

    def remove(self, key: WorkloadKey) -> None:
        """Stop and delete a workload and what belongs to it; do nothing where there is none.

        Raises:
            ApplyError: it is still there, or partly.
        """
        ...

    def observe(self) -> Sequence[Observed]:
        """Return everything of this agent that the engine holds, sorted by key.

        Raises:
            ApplyError: the engine does not answer.
        """
        ...
