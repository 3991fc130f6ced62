"""An engine in memory that keeps the promises APPLIER-1 to APPLIER-6, and can fail or be killed between two steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from margo_gitops.appliers.applier import Observed, Workload, WorkloadKey
from margo_gitops.digests import Digest
from margo_gitops.errors import (
    ArtifactUnavailable,
    EngineUnavailable,
    InstallFailed,
    RemoveFailed,
    StepInterrupted,
    StopFailed,
)


class Killed(BaseException):
    """The process is gone: nothing of the agent runs after this."""


class PromiseBroken(BaseException):
    """The agent asked for what it must not ask for; no `Exception`, which the agent takes for the applier's defect."""


@dataclass
class Engine:
    """What survives the agent: what is prepared, what runs, whether each is whole.

    Attributes:
        running: digests by key; a digest in `half` was begun and not ended.
        log: every step that was ended, for tests of the order.
        tried: every step that was begun; "replace" is an installation over other content.
        conditions: of what does not run well, by key.
        by_hand: what a person did, by key; "stopped" is told only when asked for.
        content: digests whose content is on the device, by key.
        halted: what is stopped for a while.
    """

    prepared: set[Digest] = field(default_factory=set)
    running: dict[WorkloadKey, Digest] = field(default_factory=dict)
    half: set[WorkloadKey] = field(default_factory=set)
    log: list[tuple[str, str]] = field(default_factory=list)
    tried: list[tuple[str, str]] = field(default_factory=list)
    conditions: dict[WorkloadKey, Literal["starting", "degraded"]] = field(default_factory=dict)
    by_hand: dict[WorkloadKey, str] = field(default_factory=dict)
    content: dict[WorkloadKey, set[Digest | None]] = field(default_factory=dict)
    halted: set[WorkloadKey] = field(default_factory=set)


@dataclass
class EngineDouble:
    """An applier for an `Engine`.

    Attributes:
        broken: steps that fail: "prepare", "install", "remove", by deployment and component, or digest.
        alive: called before each effect; raises Killed where the process ends.
        answers: whether the engine answers at all.
        online: whether content that is not on the device can be fetched.
        tells_digest: whether observing shows digests.
        sees_stops: whether what was stopped looks degraded; else, it looks as if it had ended by itself.
    """

    engine: Engine
    profile_types: Sequence[str] = ("compose",)
    broken: set[tuple[str, str]] = field(default_factory=set)
    alive: Callable[[], None] = lambda: None
    answers: bool = True
    online: bool = True
    tells_digest: bool = True
    sees_stops: bool = True

    def prepare(self, workload: Workload) -> None:
        self.alive()
        self.engine.tried.append(("prepare", name(workload)))
        if ("crash", name(workload)) in self.broken:
            raise ZeroDivisionError("a defect of the applier")
        is_here = workload.digest in self.engine.content.get(workload.key, ())
        if ("prepare", name(workload)) in self.broken or not (self.online or is_here):
            raise ArtifactUnavailable(f"{name(workload)} cannot be fetched")
        self.engine.prepared.add(workload.digest)
        self.engine.log.append(("prepare", name(workload)))
        self.alive()

    def install(self, workload: Workload) -> None:
        self.alive()
        if workload.digest not in self.engine.prepared:
            raise PromiseBroken(f"{name(workload)} was installed before it was prepared")
        before = self.engine.running.get(workload.key)
        if before == workload.digest and workload.key not in self.engine.half and not self._degraded(workload.key):
            if workload.key in self.engine.conditions:
                self.engine.tried.append(("restart", name(workload)))
            return
        self.engine.tried.append(("replace" if before not in (None, workload.digest) else "install", name(workload)))
        self.engine.running[workload.key] = workload.digest
        self.engine.half.add(workload.key)
        self.alive()
        if ("interrupt", name(workload)) in self.broken:
            raise StepInterrupted(f"{name(workload)} was left")
        if not self.broken.isdisjoint({("install", name(workload)), ("install", workload.digest)}):
            self.engine.half.discard(workload.key)
            if before is None:
                del self.engine.running[workload.key]
            else:
                self.engine.running[workload.key] = before
                self.engine.halted.discard(workload.key)
            raise InstallFailed(f"{name(workload)} does not start")
        self.engine.half.discard(workload.key)
        self.engine.halted.discard(workload.key)
        self.engine.by_hand.pop(workload.key, None)
        self.engine.content[workload.key] = {workload.digest, workload.keeps}
        self.engine.log.append(("install", name(workload)))
        self.alive()

    def remove(self, key: WorkloadKey) -> None:
        self.alive()
        self.engine.tried.append(("remove", str(key)))
        if ("remove", str(key)) in self.broken:
            raise RemoveFailed(f"{key} does not go")
        self.engine.running.pop(key, None)
        self.engine.half.discard(key)
        self.engine.halted.discard(key)
        self.engine.log.append(("remove", str(key)))
        self.alive()

    def stop(self, key: WorkloadKey) -> None:
        self._turn("stop", key)

    def start(self, key: WorkloadKey) -> None:
        self._turn("start", key)

    def _turn(self, event: str, key: WorkloadKey) -> None:
        self.alive()
        if (event, str(key)) in self.broken:
            raise StopFailed(f"{key} does not {event}")
        if key in self.engine.running:
            (self.engine.halted.add if event == "stop" else self.engine.halted.discard)(key)
            if event == "start" and self.engine.conditions.get(key) == "degraded":
                del self.engine.conditions[key]
            self.engine.log.append((event, str(key)))
        self.alive()

    def observe(self) -> Sequence[Observed]:
        if not self.answers:
            raise EngineUnavailable("the engine does not answer")
        return [
            # A half-done installation looks whole: the worst that APPLIER-6 allows.
            Observed(
                key,
                digest if self.tells_digest else None,
                "degraded" if self._degraded(key) else self.engine.conditions.get(key, "running"),
                by_hand=self.engine.by_hand.get(key, "").replace("stopped", ""),
            )
            for key, digest in sorted(self.engine.running.items())
        ]

    def stopped_by_hand(self, key: WorkloadKey) -> str:
        # An engine knows only that a client stopped it.
        return self.engine.by_hand.get(key, "stopped" if key in self.engine.halted else "")

    def _degraded(self, key: WorkloadKey) -> bool:
        return key in self.engine.by_hand or (self.sees_stops and key in self.engine.halted)


def name(workload: Workload) -> str:
    return f"{workload.deployment.metadata.name}/{workload.component.name}"
