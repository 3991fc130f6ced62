"""The contract between the agent and what makes workloads run.

An applier serves deployment profiles of some types with one engine. The agent decides what happens in which order;
an applier does one step for one component and keeps these promises:

APPLIER-1  `prepare` touches nothing that runs: it fetches and verifies everything that `install` will need.
APPLIER-2  `install` is idempotent, updates in place, and leaves a component that already runs as asked for untouched.
APPLIER-3  When `install` fails, what ran before runs again, and the error says whether it does.
APPLIER-4  `remove` is idempotent and removes only what this agent installed.
APPLIER-5  Any step may be cut off at any moment; the same step started again ends in the same state.
APPLIER-6  `observe` reads the engine, never the applier's memory.
APPLIER-7  One that has `delivers_secrets = True` gives a workload its secrets, and shows their values to no one else.
APPLIER-8  One that can stop (`CanStop`) keeps all that belongs to what it stops, and starts it as it was.
APPLIER-9  One that has `delivers_artifacts = True` gives a workload its large artifacts, and lets it only read them.
           The agent has brought them to the device before it calls `prepare`.

Plug-ins register a factory under the entry point group `margo_gitops.appliers`; see `docs/appliers.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from margo_gitops.digests import Digest
from margo_gitops.disk.files import disk_errors, read_bounded
from margo_gitops.documents.capabilities import parse_timeout
from margo_gitops.documents.components import Component, ParameterValue
from margo_gitops.documents.deployment import ApplicationDeployment, Artifact
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.large_artifacts import LargeArtifact
from margo_gitops.documents.nodes import Bounds, Json
from margo_gitops.documents.records import find
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.errors import SecretUnavailable, StorageFailed, UnreadableDocument, WorkloadUnsupported
from margo_gitops.registry.settings import RegistrySettings
from margo_gitops.values import dataclass, field
from margo_gitops.web.metering import Deadline

if TYPE_CHECKING:  # loaded where a deployment has a health of its own
    from margo_gitops.appliers.readiness import Readiness

T = TypeVar("T")

ENTRY_POINT_GROUP = "margo_gitops.appliers"

DEFAULT_TIMEOUT_SECONDS = 600
"""For a component that names no time-out; Margo leaves it open."""

LONGEST_TIMEOUT_SECONDS = 900
"""A document's time-out counts up to here, unless the device's configuration says otherwise."""


@dataclass(frozen=True, slots=True)
class HeldArtifact:
    """A large artifact of a workload, and where it is on this device: a file that never changes.

    Attributes:
        wanted: name, digest and size.
    """

    wanted: LargeArtifact
    path: Path

    @property
    def digest(self) -> Digest:
        """The file's digest."""
        return self.wanted.digest


@dataclass(frozen=True, slots=True)
class Workload:
    """One component of one deployment, with everything an applier needs to make it run.

    Attributes:
        deployment: the trusted deployment document.
        component: the component, one of the deployment's.
        artifact: where its content is, by digest; None where the deployment has no content for it.
        values: parameter values by pointer, only those whose targets name this component, in the document's order.
        secrets: what it also gets, by pointer, without the values; `ApplierContext.secrets` opens them.
        digest: over component, artifact digest and values: equal digests mean that nothing needs to change.
        longest_seconds: the longest time of one step on this device, also where the document wants more.
        keeps: the digest of the content that the device may go back to: what it needs stays on the device; None where
            there is no way back.
        ready: what must hold before the installation counts; None: nothing. `install` waits for it, and lets run again
            what ran before where it does not hold. An applier may leave that out.
        artifacts: large files that it gets (APPLIER-9).
    """

    deployment: ApplicationDeployment
    component: Component
    artifact: Artifact | None
    values: Mapping[str, ParameterValue]
    digest: Digest
    longest_seconds: int = LONGEST_TIMEOUT_SECONDS
    secrets: Mapping[str, WantedSecret] = field(default_factory=dict)
    keeps: Digest | None = None
    ready: Readiness | None = None
    artifacts: tuple[HeldArtifact, ...] = ()

    @property
    def key(self) -> WorkloadKey:
        """The identity that stays the same when the content changes."""
        return WorkloadKey(self.deployment.id.lower(), self.component.name)

    @property
    def timeout_seconds(self) -> int:
        """How long a step may take: what the document says, as far as this device lets it."""
        timeout = self.component.properties.timeout
        if not timeout:
            return min(DEFAULT_TIMEOUT_SECONDS, self.longest_seconds)
        try:
            return min(parse_timeout(timeout), self.longest_seconds)
        except ValueError:  # more digits than any clock has
            return self.longest_seconds


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
        by_hand: what a person did to it, where the engine shows that: paused it, edited a file; empty else. It is
            degraded then.
    """

    key: WorkloadKey
    digest: Digest | None
    condition: Literal["running", "starting", "degraded", "unknown"]
    detail: str = ""
    by_hand: str = ""


Told: TypeAlias = Literal["changed", "loaded", "pulled"]
"""What an engine tells by itself: something of this agent may have changed, or an image came; an agent pulls too."""

OpenSecrets: TypeAlias = Callable[[Mapping[str, WantedSecret]], Mapping[str, bytes]]
"""Returns the values of secrets, by pointer (SecretUnavailable: one has none)."""


def no_secrets(wanted: Mapping[str, WantedSecret]) -> Mapping[str, bytes]:
    """Return nothing, for an agent without secrets (SecretUnavailable: one is wanted)."""
    for secret in wanted.values():
        raise SecretUnavailable(
            f"there is no value for the secret {secret.name}",
            why=["the agent's configuration has no `secrets`"],
            remedy="add `secrets` with its source: docs/secrets.md",
        )
    return {}


def never() -> bool:
    """Return False: for an applier that is never interrupted."""
    return False


Carried: TypeAlias = Callable[[Digest, Deadline], AbstractContextManager[Callable[[int], bytes] | None]]
"""Yields what reads a content, not verified yet; None if it was not brought (TransportError: it cannot be read)."""


@dataclass(frozen=True, slots=True)
class ApplierContext:
    """What an applier's factory gets.

    Attributes:
        device: this device's id.
        folder: a folder of this applier's own, inside the agent's state folder; it exists.
        settings: the applier's part of the agent configuration, as plain values; the factory checks it.
        interrupted: whether the agent was asked to stop; asked in loops that wait, which then raise `StepInterrupted`
            and leave everything as it is: the step is started again later (APPLIER-5).
        proxy_from_environment: whether downloads may use the proxy that the environment names (https_proxy, no_proxy).
        registries: how OCI registries are reached.
        base: what relative paths in the settings are relative to: the folder of the configuration file.
        workloads: what a workload may do to this device; the applier refuses the rest with `WorkloadForbidden`, before
            anything is touched.
        secrets: opens secrets. The values belong into no log, no error, no argument of a program, and no file that
            others can read.
        carried: opens content by digest that a person brought; None: no one brings any. It is asked before any address.
    """

    device: str
    folder: Path
    settings: Mapping[str, Json]
    interrupted: Callable[[], bool] = never
    proxy_from_environment: bool = False
    registries: RegistrySettings = field(default_factory=RegistrySettings)
    base: Path = Path()
    workloads: WorkloadPolicy = field(default_factory=WorkloadPolicy)
    secrets: OpenSecrets = no_secrets
    carried: Carried | None = None


class Applier(Protocol):
    """Makes components run with one engine. See the module's promises APPLIER-1 to APPLIER-6.

    Attributes:
        profile_types: what it serves: profile types, and `custom/FORMAT` for custom components whose content has that
            format. The first applier of the configuration that serves a format has it, then the first for the type.
    """

    profile_types: Sequence[str]

    def prepare(self, workload: Workload) -> None:
        """Fetch and verify everything that `install` needs.

        Raises:
            ApplyError: it cannot be had; nothing that runs was touched.
        """

    def install(self, workload: Workload) -> None:
        """Make the workload run as asked for; with `wait`, return only when it runs and is healthy.

        Raises:
            ApplyError: it does not run as asked for; what ran before does.
        """

    def remove(self, key: WorkloadKey) -> None:
        """Stop and delete a workload and what belongs to it; do nothing if it does not exist.

        Raises:
            ApplyError: it is still there, or partly.
        """

    def observe(self) -> Sequence[Observed]:
        """Return everything of this agent that the engine holds, sorted by key.

        Raises:
            ApplyError: the engine does not answer.
        """


def check_secrets(name: str, applier: Applier, workload: Workload) -> None:
    """Refuse a workload with secrets where the applier does not say `delivers_secrets` (WorkloadUnsupported)."""
    if workload.secrets and not getattr(applier, "delivers_secrets", False):
        raise WorkloadUnsupported(
            f"the applier {name} delivers no secrets, and {workload.deployment.metadata.name} has some",
            remedy="use another applier for it, or take spec.secretRefs out of the deployment",
        )


@dataclass(frozen=True, slots=True)
class RunningImage:
    """An image that a container of a workload runs, in the engine's words.

    Attributes:
        part: of the workload, the service of a compose file.
        name: what the container was started with.
        id: the engine's id of the image, a digest of its content.
        digest: its digest in the registry; None where the engine knows none.
    """

    part: str
    name: str
    id: Digest
    digest: Digest | None = None


@runtime_checkable
class TellsImages(Protocol):
    """An applier that also tells which images run; one that cannot is without this method."""

    def images(self) -> Mapping[WorkloadKey, Sequence[RunningImage]]:
        """Return the images of everything of this agent that runs, sorted by part.

        Raises:
            ApplyError: the engine does not answer.
        """


@runtime_checkable
class TellsStops(Protocol):
    """An applier that also tells a person's stop from a crash; one that cannot is without this method."""

    def stopped_by_hand(self, key: WorkloadKey) -> str:
        """Return what a person stopped of a workload that is degraded; empty where it, or its engine, ended by itself.

        Raises:
            ApplyError: the engine does not answer.
        """


@runtime_checkable
class CanStop(Protocol):
    """An applier that also stops a workload for a while, and starts it again; one that cannot is without both methods.

    Both are idempotent, and may be cut off at any moment (APPLIER-5). A stopped workload is observed as degraded, or as
    running where the engine takes it for one that has ended by itself and is done.
    """

    def stop(self, key: WorkloadKey) -> None:
        """Stop a workload, and keep all that belongs to it; do nothing if it does not exist.

        Raises:
            ApplyError: it runs still, or partly.
        """

    def start(self, key: WorkloadKey) -> None:
        """Start what was stopped again, as it was; return without waiting until it is healthy.

        Raises:
            ApplyError: it does not start.
        """


@runtime_checkable
class TellsFacts(Protocol):
    """An applier that also tells what its engine is and offers; one that cannot is without this method."""

    def facts(self) -> Mapping[str, Json]:
        """Return a part of a Margo capabilities document: some of `properties`, and `labels`.

        It holds only what stays the same while nothing is changed: amounts in all, not what is free.

        Raises:
            ApplyError: the engine does not answer.
        """


class EngineEvents(Protocol):
    """A connection over which an engine tells what changes."""

    def fileno(self) -> int:
        """Return what becomes readable when it tells something."""

    def take(self) -> set[Told]:
        """Return what it told since the last call, without waiting; raise any error where it has ended."""

    def close(self) -> None:
        """Listen no longer."""


@runtime_checkable
class TellsEvents(Protocol):
    """An applier whose engine also tells by itself what changes; one that cannot is without this method."""

    def events(self) -> EngineEvents | None:
        """Connect, without waiting long; None where this engine tells nothing, and OSError where it does not answer."""


def read_record(record: type[T], path: Path, most: int) -> T | None:
    """Return what an applier recorded in a JSON file of at most `most` bytes; None where it is missing or damaged."""
    try:
        return find(record, read_json(read_bounded(path, most), path.name, Bounds(size=most)))[0]
    except (OSError, UnreadableDocument):
        return None


def storing(folder: Path) -> AbstractContextManager[None]:
    """Turn every `OSError` inside into `StorageFailed`."""
    return disk_errors(
        folder,
        what="the applier's folder cannot be used",
        error=StorageFailed,
        remedy="free space on its disk, or correct its permissions",
    )
