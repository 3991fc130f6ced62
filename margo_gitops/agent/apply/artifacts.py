"""Large artifacts of deployments: fetched before anything is installed, kept as long as something may need them.

KEEP-1  An artifact is pinned for its workload's content before its first byte is fetched.
KEEP-2  What runs, what is wanted, and what a deployment may go back to keep their artifacts. While an engine is silent
        it is not known what runs: nothing is deleted.
KEEP-3  Fetching ends after its share of a cycle, so that the device polls. It continues in the next cycle.
KEEP-4  An artifact is read once after it came or after a start of the agent, before it is given to a workload.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.apply.timetable import zone
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.settings.artifacts import ArtifactSettings
from margo_gitops.appliers.applier import Applier, Observed, Workload, WorkloadKey
from margo_gitops.digests import Digest
from margo_gitops.errors import WorkloadUnsupported
from margo_gitops.registry.settings import RegistrySettings
from margo_gitops.values import KW_ONLY, dataclass, field
from margo_gitops.wording import byte_count

if TYPE_CHECKING:  # loaded where a deployment has artifacts
    from margo_gitops.agent.settings.configuration import AgentConfiguration
    from margo_gitops.content.fetch import Fetcher
    from margo_gitops.content.store import ContentStore

CONTENT_FOLDER: Final = "content"
"""In the state folder: the content store."""
SLICE_SECONDS: Final = 60.0
"""A service fetches for so long in a cycle."""
_WHOLE: Final = 3600.0
_SETTLED: Final = 10.0
"""Seconds for which a limit of the time of day is not computed again."""


@dataclass(eq=False)
class Artifacts:
    """Brings artifacts to the device and keeps them.

    Attributes:
        folder: the content store.
        alive: called while something is fetched.
        registries: how OCI registries are reached.
        share: seconds of a cycle in which it fetches.
    """

    folder: Path
    record: Record
    settings: ArtifactSettings = field(default_factory=ArtifactSettings)
    _: KW_ONLY
    interrupted: Callable[[], bool] = lambda: False
    alive: Callable[[], None] = lambda: None
    proxy_from_environment: bool = False
    registries: RegistrySettings = field(default_factory=RegistrySettings)
    share: float = SLICE_SECONDS
    clock: Callable[[], float] = time.time
    timer: Callable[[], float] = time.monotonic
    _until: float = field(default=0.0, init=False)
    _seen: set[tuple[Digest, int, int]] = field(default_factory=set, init=False)
    _known: Fetcher | None = field(default=None, init=False)

    @classmethod
    def of(
        cls,
        configuration: AgentConfiguration,
        record: Record,
        interrupted: Callable[[], bool],
        alive: Callable[[], None],
        *,
        once: bool,
    ) -> Artifacts:
        """Return what brings artifacts to a device.

        Args:
            once: whether the agent does one cycle: then it fetches as long as that may take.
        """
        return cls(
            configuration.state_folder / CONTENT_FOLDER,
            record,
            configuration.artifacts,
            interrupted=interrupted,
            alive=alive,
            proxy_from_environment=configuration.uses_proxy,
            registries=configuration.registries.settings(proxy_from_environment=configuration.uses_proxy),
            share=_WHOLE if once else min(SLICE_SECONDS, configuration.poll.interval),
        )

    def begin(self) -> None:
        """Note that a cycle begins (KEEP-3)."""
        self._until = self.timer() + self.share

    def fetch(self, applier: Applier, name: str, workload: Workload) -> None:
        """Bring all artifacts of a workload to the device.

        Args:
            name: of the applier.

        Raises:
            WorkloadUnsupported: the applier delivers no artifacts.
            ApplyError: what `Fetcher.fetch` raises.
        """
        if not workload.artifacts:
            return
        if not getattr(applier, "delivers_artifacts", False):
            raise WorkloadUnsupported(
                f"the applier {name} delivers no artifacts, and {workload.deployment.metadata.name} has some",
                remedy="use another applier for it, or take spec.artifacts out of the deployment",
            )
        from margo_gitops.content.fetch import Wanted

        fetcher = self._fetcher()
        store = fetcher.store
        store.pin(_owner(workload.key, workload.digest), [each.digest for each in workload.artifacts])
        for each in workload.artifacts:
            if self._is_whole(store, each.digest):
                continue
            wanted = each.wanted
            index = (wanted.index.digest, wanted.index.size_bytes) if wanted.index else None
            before = fetcher.fetched
            path = fetcher.fetch(
                Wanted(wanted.name, wanted.digest, wanted.size_bytes, wanted.urls, index),
                seconds=max(self._until - self.timer(), 1.0),
            )
            self._note(each.digest, path)
            text = (
                f"{wanted.name}: {byte_count(wanted.size_bytes)} are here, {byte_count(fetcher.fetched - before)} came"
            )
            self.record(Event(Reason.ARTIFACT_FETCHED, text, "", str(workload.key)))

    def collect(
        self,
        wanted: Iterable[Workload],
        observed: Iterable[Observed],
        installed: Iterable[tuple[WorkloadKey, Digest | None]],
    ) -> None:
        """Delete what nothing needs any more (KEEP-2).

        Args:
            wanted: of all deployments of the state.
            observed: what engines hold, all of which answered.
            installed: what the journal says was installed well last.
        """
        if not self.folder.is_dir():
            return
        store = self._fetcher().store
        owners = set(store.pins())
        if not owners:
            return
        needed = {_owner(key, digest) for key, digest in installed if digest is not None}
        for workload in wanted:
            needed |= {_owner(workload.key, digest) for digest in (workload.digest, workload.keeps) if digest}
        for each in observed:
            if each.digest is not None:
                needed.add(_owner(each.key, each.digest))
            else:
                needed |= {owner for owner in owners if owner.startswith(f"{each.key}@")}
        gone = store.keep(needed & owners)
        if gone:
            self.record(Event(Reason.ARTIFACT_DELETED, f"nothing needs {', '.join(gone)} any more"))

    def _is_whole(self, store: ContentStore, digest: Digest) -> bool:
        path = store.place(digest)
        try:
            found = path.stat()
        except OSError:
            return False
        if (digest, found.st_size, found.st_mtime_ns) in self._seen:
            return True
        if not store.has(digest, verified=True):
            return False
        self._note(digest, path)
        return True

    def _note(self, digest: Digest, path: Path) -> None:
        found = path.stat()
        self._seen.add((digest, found.st_size, found.st_mtime_ns))

    def _fetcher(self) -> Fetcher:
        if self._known is None:
            from margo_gitops.content.fetch import Fetcher, Pace
            from margo_gitops.content.sources import Reach
            from margo_gitops.content.store import ContentStore

            reach = Reach(
                self.settings.mirrors,
                self.settings.ca_file,
                self.proxy_from_environment,
                registries=self.registries,
            )
            pace = Pace(Limit(self.settings, self.clock, self.timer), self.timer)
            self._known = Fetcher(
                ContentStore(self.folder, self.settings.keep_free_bytes),
                reach,
                pace=pace,
                interrupted=self.interrupted,
                alive=self.alive,
            )
        return self._known


@dataclass(eq=False)
class Limit:
    """How many bytes in a second may come now, by the device's own clock; None for any number."""

    settings: ArtifactSettings
    clock: Callable[[], float]
    timer: Callable[[], float]
    _until: float = field(default=float("-inf"), init=False)
    _rate: float | None = field(default=None, init=False)

    def __call__(self) -> float | None:
        """Return the limit, computed again after a few seconds."""
        if self.settings.limits and self.timer() >= self._until:
            self._rate = self._now()
            self._until = self.timer() + _SETTLED
        return self._rate

    def _now(self) -> float | None:
        for limit in self.settings.limits:
            if limit.hours is not None:
                from margo_gitops.documents.calendars import next_opening

                try:
                    opening = next_opening([limit.hours], self.clock(), zone)
                except (LookupError, ValueError, OSError):
                    opening = None  # a time zone that this device does not know: the limit never holds
                if opening is None or opening.start > self.clock():
                    continue
            return limit.kilobytes_per_second * 1000.0
        return None


def _owner(key: WorkloadKey, digest: Digest) -> str:
    return f"{key}@{digest}"
