"""One Compose project on the engine: start it, wait until it is healthy, take it down, tell what it said."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from margo_gitops.appliers.applier import WorkloadKey, never
from margo_gitops.appliers.compose.engine import ComposeEngine, History
from margo_gitops.appliers.compose.project import DEVICE, PROJECT, Container, observed, project_name
from margo_gitops.appliers.compose.revision import Revision
from margo_gitops.appliers.programs import Finished, redacted
from margo_gitops.errors import (
    ApplyError,
    RemoveFailed,
    StepInterrupted,
    StopFailed,
    WorkloadUnsupported,
)
from margo_gitops.values import dataclass
from margo_gitops.wording import abridged

if TYPE_CHECKING:
    from margo_gitops.appliers.readiness import Readiness

REMOVE_SECONDS = 120.0
_LAST_PATIENCE = "10"
"""Seconds that a container has to stop when it did not in the time it may say itself."""
# A container without a health check counts as started when it has run this long without a restart.
_SETTLE_SECONDS = 2.0
_POLL_SECONDS = 0.25
# How late a health check may be on a busy device.
_LATE_SECONDS = 20.0
# How a client says that it lost its engine; one too many of these words costs only another try.
_CUT_OFF = re.compile("EOF|connect|broken pipe|closed|cancell?ed|shutting down|unavailable", re.IGNORECASE)
_ALIVE = ("running", "restarting", "paused")
_LOG_LINES = "15"
_LONGEST_LOG = 2000


@dataclass(eq=False)
class RunningProject:
    """The project of a workload, as the engine has it.

    Attributes:
        device: this device's id; containers without it belong to someone else.
        folder: where the client runs; without a compose file of its own, which the client would take.
        interrupted: whether the agent was asked to stop.
    """

    engine: ComposeEngine
    device: str
    key: WorkloadKey
    folder: Path
    interrupted: Callable[[], bool] = never

    def __post_init__(self) -> None:
        self.name = project_name(self.key)

    def start(
        self,
        revision: Revision,
        deadline: float,
        lock: int,
        wait_beside: Sequence[Container] | None,
        ready: Readiness | None = None,
        *,
        recreate: bool = False,
    ) -> list[str]:
        """Start a revision, and return why it does not run; nothing if it does.

        Args:
            deadline: on the monotonic clock; starting ends then.
            lock: a descriptor that Compose holds while it lives.
            wait_beside: the containers there were before, to wait until all are healthy; None does not wait.
            ready: what must hold in addition, then.
            recreate: whether to make all containers again, also those that are as the revision wants them.

        Raises:
            StepInterrupted: the agent was asked to stop; what was started is left as it is.
        """
        counted = self.engine.histories(wait_beside) if wait_beside is not None else {}
        done = self._up(revision, deadline, lock, recreate)
        if done.status and _CUT_OFF.search(done.complaint):
            # With live-restore containers outlive their engine, and it has no other trace of its restart.
            done = self._up(revision, deadline, lock, recreate)
        if done.status is None:
            return ["it did not start in time"]
        if done.status != 0:
            return done.last_lines(revision.environment)
        problem = [] if wait_beside is None else self._wait(counted, deadline)
        return problem if problem or ready is None else self._ready(ready, revision.environment)

    def _ready(self, ready: Readiness, environment: Mapping[str, str]) -> list[str]:
        """Return why it is not ready; nothing if it is."""
        counted = self.engine.histories(self.containers())

        def failed() -> list[str]:
            containers = self.containers()
            states = [state.detail for state in observed(containers) if state.condition == "degraded"]
            return states or _restarted(containers, self.engine.histories(containers), counted)

        def inside(service: str, command: Sequence[str], seconds: float) -> list[str]:
            found = sorted(self.containers(), key=lambda each: (each.service, each.identity))
            place = next((each for each in found if service in ("", each.service)), None)
            if place is None:
                return [f"there is no service {service or 'in it'}"]
            done = self.engine.client("exec", place.identity, *command, seconds=seconds)
            if done.status == 0:
                return []
            return [f"{place.service}: {command[0]} did not end with 0", *done.last_lines(environment)]

        return ready.wait(failed, self.interrupted, inside)

    def _up(self, revision: Revision, deadline: float, lock: int, recreate: bool) -> Finished:
        self._repair()
        return self.engine.compose(
            "--project-name",
            self.name,
            *revision.files,
            "up",
            "--detach",
            "--remove-orphans",
            "--quiet-pull",
            *(["--force-recreate"] if recreate else []),
            parameters=revision.environment,
            seconds=max(deadline - time.monotonic(), 1.0),
            folder=revision.working_folder,
            keep_open=lock,
        )

    def _repair(self) -> None:
        """Clear what Compose fails because of, or does not know.

        These are containers that are paused, replacements that a killed one left, and those outside of the project.
        """
        found = self.containers()
        ours = self.engine.containers(DEVICE, self.device)
        for extra in [each for each in ours if each.key == self.key and each.labels.get(PROJECT) != self.name]:
            self.engine.client("rm", "--force", extra.identity, seconds=REMOVE_SECONDS)
        if paused := [container.identity for container in found if container.state == "paused"]:
            self.engine.client("unpause", *paused, seconds=REMOVE_SECONDS)
        for container in found:
            twins = [other for other in found if other.service == container.service]
            if container.state == "created" and len(twins) > 1:
                self.engine.client("rm", "--force", container.identity, seconds=REMOVE_SECONDS)

    def _wait(self, counted: Mapping[str, History], deadline: float) -> list[str]:
        settled: float | None = None
        checked: dict[str, tuple[str, float]] = {}
        while True:
            containers = self.containers()
            states = observed(containers)
            told = self.engine.histories(containers)
            self._check_again(told, checked)
            if again := _restarted(containers, told, counted):
                return again
            if any(state.condition == "degraded" for state in states):
                return [state.detail for state in states]
            if sick := [found for found in containers if told.get(found.identity, History()).health == "unhealthy"]:
                return [f"{found.service} is unhealthy" for found in sick]

            now = time.monotonic()
            healths = [told.get(found.identity, History()).health for found in containers]
            running = all(state.condition == "running" for state in states) and "starting" not in healths
            running = running and bool(states)
            settled = (settled or now) if running else None
            proven = all(health == "healthy" for health in healths)
            if running and settled is not None and (proven or now - settled >= _SETTLE_SECONDS):
                return []
            if now > deadline:
                return ["it did not become healthy in time", *(state.detail for state in states)]
            if self.interrupted():
                raise StepInterrupted(f"{self.key} was started; whether it becomes healthy was not awaited")
            time.sleep(_POLL_SECONDS)

    def _check_again(self, told: Mapping[str, History], checked: dict[str, tuple[str, float]]) -> None:
        """Restart containers whose health is no longer checked: with live-restore, a restarted engine may forget it.

        Args:
            checked: the checks of each container, and since when there was no other; updated.
        """
        now = time.monotonic()
        for identity, history in told.items():
            checks, since = checked.get(identity, ("", now))
            if history.health != "starting" or history.checks != checks:
                since = now
            elif now - since > history.check_seconds + _LATE_SECONDS:
                self.engine.client("restart", identity, seconds=REMOVE_SECONDS)
                since = math.inf  # once: an engine that checks no health at all is not helped by more
            checked[identity] = history.checks, since

    def down(self, revision: Revision | None, lock: int) -> list[str]:
        """Remove containers and networks; return why not."""
        problem: list[str] = []
        # With the compose file the order of services is known; without it, labels suffice.
        # The second time, a workload does not say how long it may take to stop: it could say years.
        for files, environment, folder, patience in [
            *([(revision.files, revision.environment, revision.working_folder, [])] if revision else []),
            ([], {}, self.folder, ["--timeout", _LAST_PATIENCE]),
        ]:
            done = self.engine.compose(
                "--project-name",
                self.name,
                *files,
                "down",
                "--remove-orphans",
                *patience,
                parameters=environment,
                seconds=REMOVE_SECONDS,
                folder=folder,
                keep_open=lock,
            )
            if done.status == 0:
                return []
            problem = done.last_lines(environment) or ["it took too long"]
        return problem

    def halt(self, lock: int) -> None:
        """Stop the project's containers, in the order that Compose noted in their labels (StopFailed: one runs)."""
        problem = self._turned("stop", lock)
        if running := sorted(each.service for each in self.containers() if each.state in _ALIVE):
            raise StopFailed(
                f"{self.key} does not stop: {', '.join(running)}", why=problem, remedy="stop its containers by hand"
            )

    def resume(self, lock: int) -> None:
        """Start the project's containers again (StopFailed: one does not start)."""
        if problem := self._turned("start", lock) if self.containers() else []:
            raise StopFailed(f"{self.key} does not start again", why=problem, remedy="start its containers by hand")

    def _turned(self, command: Literal["stop", "start"], lock: int) -> list[str]:
        """Return why a command on all containers failed; nothing if it did not."""
        done = self.engine.compose(
            "--project-name",
            self.name,
            command,
            parameters={},
            seconds=REMOVE_SECONDS,
            folder=self.folder,
            keep_open=lock,
        )
        return [] if done.status == 0 else done.last_lines() or ["it took too long"]

    def drop_volumes(self) -> None:
        """Delete the project's named volumes (RemoveFailed: one is still there)."""
        volumes = self.engine.query("volume", "ls", "--quiet", "--filter", f"label={PROJECT}={self.name}")
        if names := volumes.split():
            done = self.engine.client("volume", "rm", *names, seconds=REMOVE_SECONDS)
            if done.status != 0:
                raise RemoveFailed(
                    f"volumes of {self.key} are still there", why=done.last_lines(), remedy="remove them by hand"
                )

    def containers(self) -> list[Container]:
        """Return the project's containers, running or not.

        Raises:
            EngineUnavailable: the engine does not answer.
            WorkloadUnsupported: some of them are not this device's (APPLIER-4).
        """
        found = self.engine.containers(PROJECT, self.name)
        foreign = [container for container in found if container.labels.get(DEVICE) != self.device]
        if foreign:
            names = ", ".join(sorted(container.identity[:12] for container in foreign))
            raise WorkloadUnsupported(
                f"the Compose project {self.name} holds containers that are not this device's: {names}",
                remedy="remove them, or rename that project; this agent touches only what it installed",
            )
        return found

    def logs(self, environment: Mapping[str, str], *, of_all: bool = False) -> list[str]:
        """Return the last lines of the containers that do not run well, or of all, without parameter values."""
        until = time.monotonic() + _SETTLE_SECONDS
        lines: list[str] = []
        try:
            # The engine writes the last words of a container a moment after it says that it has stopped.
            while not (lines := self._last_words(environment, of_all=of_all)) and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
        except ApplyError:
            return lines
        return lines

    def _last_words(self, environment: Mapping[str, str], *, of_all: bool) -> list[str]:
        containers = self.containers()
        told = self.engine.histories(containers)
        lines: list[str] = []
        for container in containers:
            # Between two restarts a container looks as if it ran.
            if container.condition == "running" and not _restarts(told, container) and not of_all:
                continue
            done = self.engine.client("logs", "--tail", _LOG_LINES, container.identity, seconds=10.0)
            said = redacted((done.output + done.complaint).strip(), environment)[-_LONGEST_LOG:]
            lines += [f"{container.service}: {abridged(line, 300)}" for line in said.splitlines()]
        return lines


def _restarted(
    containers: Sequence[Container], told: Mapping[str, History], counted: Mapping[str, History]
) -> list[str]:
    again = [found for found in containers if _restarts(told, found) > _restarts(counted, found)]
    return [f"{found.service} stopped, and was restarted by the engine" for found in again]


def _restarts(told: Mapping[str, History], container: Container) -> int:
    return told.get(container.identity, History()).restarts
