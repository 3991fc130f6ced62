"""The engine and its Compose client: what to ask them, and what their answers mean."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from margo_gitops.appliers.applier import RunningImage
from margo_gitops.appliers.compose_project import (
    COMPONENT,
    DEPLOYMENT,
    DEVICE,
    DIGEST,
    ONCE,
    ONE_OFF,
    PROJECT,
    SERVICE,
    SERVICES,
    Container,
)
from margo_gitops.appliers.programs import Finished, run_program
from margo_gitops.digests import Digest, parse_digest
from margo_gitops.errors import EngineUnavailable, StorageFailed, WorkloadUnsupported

_LABELS = (DEVICE, DEPLOYMENT, COMPONENT, DIGEST, SERVICES, ONCE, PROJECT, SERVICE, ONE_OFF)
_LIST_FORMAT = "\t".join(
    ["{{.ID}}", "{{.State}}", "{{json .Status}}", *(f'{{{{json (.Label "{label}")}}}}' for label in _LABELS)]
)
# The health of a container that has ended says only how it was stopped.
_HISTORY_FORMAT = (
    "{{.Id}}\t{{.RestartCount}}\t{{if .State.Running}}{{if .State.Health}}{{.State.Health.Status}}"
    "\t{{range .State.Health.Log}}{{.End}};{{end}}\t{{json .Config.Healthcheck}}{{end}}{{end}}"
)
_IMAGE_FORMAT = "{{.Id}}\t{{.Image}}\t{{json .Config.Image}}"
_DIGESTS_FORMAT = "{{.Id}}\t{{json .RepoDigests}}"
_CHECK_SECONDS = 30.0
"""Interval of a health check, and how long it may take, where nothing is said."""
_QUERY_SECONDS = 20.0
_KILLED = 255
"""What Docker ends with when a signal ended its plugin."""
_NO_CLIENT = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class History:
    """What only a look at one container tells.

    Attributes:
        restarts: how often the engine has restarted it.
        health: starting, healthy, unhealthy; empty or none without a health check, or after the container has ended.
            Podman lists no health.
        checks: when the last health checks ended, as the engine writes it.
        check_seconds: after which the next one has ended.
    """

    restarts: int = 0
    health: str = ""
    checks: str = ""
    check_seconds: float = 0.0


class ComposeEngine:
    """An engine and its Compose client; `EngineUnavailable` where it does not answer, or there is no such program.

    Args:
        command: the Compose client, `docker compose` or the like; its program answers the engine's own commands too.
        environment: the whole environment of every call.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._compose = tuple(command)
        self._client = command[0]
        self._environment = dict(environment)

    def compose(
        self,
        *arguments: str,
        parameters: Mapping[str, str],
        seconds: float,
        folder: Path | None = None,
        keep_open: int | None = None,
    ) -> Finished:
        """Run a Compose command.

        Args:
            arguments: what follows `docker compose`.
            parameters: variables for interpolation, in addition to the client's own environment.
            seconds: after which the client and all it started is stopped.
            keep_open: a descriptor that the client holds while it lives.
        """
        environment = {**parameters, **self._environment}
        return self._run([*self._compose, *arguments], environment, seconds, folder, keep_open)

    def containers(self, label: str, value: str) -> list[Container]:
        """Return all containers with this label, running or not, but no one-off of `docker compose run`."""
        arguments = ["ps", "--all", "--no-trunc", "--filter", f"label={label}={value}", "--format", _LIST_FORMAT]
        found = []
        for line in self.query(*arguments).splitlines():
            fields = line.split("\t")
            if len(fields) == len(_LABELS) + 3:
                status, *labels = [_text(field) for field in fields[2:]]
                named = dict(zip(_LABELS, labels, strict=True))
                if named[ONE_OFF].lower() != "true":
                    found.append(Container(fields[0], fields[1].lower(), status, named))
        return found

    def histories(self, containers: Sequence[Container]) -> dict[str, History]:
        """Return how often the engine has restarted each container, and its health, by id."""
        if not containers:
            return {}
        identities = [container.identity for container in containers]
        done = self.client("inspect", "--format", _HISTORY_FORMAT, *identities, seconds=_QUERY_SECONDS)
        histories = {}
        # A container may vanish between listing and asking; the others are still answered.
        for line in done.output.splitlines():
            identity, count, health, checks, check = [*line.split("\t"), *[""] * 4][:5]
            histories[identity] = History(int(count) if count.isdigit() else 0, health, checks, _check_seconds(check))
        return histories

    def images(self, containers: Sequence[Container]) -> dict[str, RunningImage]:
        """Return the image of each container, by the container's id; what vanished meanwhile is left out."""
        if not containers:
            return {}
        identities = [container.identity for container in containers]
        done = self.client("inspect", "--format", _IMAGE_FORMAT, *identities, seconds=_QUERY_SECONDS)
        lines = [line.split("\t") for line in done.output.splitlines() if line.count("\t") == 2]
        images = sorted({image for _, image, _ in lines})
        known: dict[str, Digest] = {}
        if images:
            done = self.client("image", "inspect", "--format", _DIGESTS_FORMAT, *images, seconds=_QUERY_SECONDS)
            for image, _, names in (line.partition("\t") for line in done.output.splitlines()):
                # The same content has the same digest in every registry that has it in this form.
                known.update((_hex(image), each) for each in sorted(filter(None, map(_digest, _names(names))))[:1])
        return {
            container: RunningImage("", _text(name), digest, known.get(_hex(image)))
            for container, image, name in lines
            if (digest := _digest(f"@sha256:{_hex(image)}")) is not None
        }

    def query(self, *arguments: str) -> str:
        """Return what a quick question to the engine answers."""
        done = self.client(*arguments, seconds=_QUERY_SECONDS)
        if done.status == 0:
            return done.output
        if done.status is None:
            raise _unavailable(self._client, [f"no answer within {_QUERY_SECONDS:.0f} s"])
        raise _unavailable(self._client, done.last_lines())

    def run_name(self) -> str:
        """Return what changes when the engine is restarted: the id of its default network. Podman has none: empty."""
        return self.query("network", "ls", "--quiet", "--no-trunc", "--filter", "name=^bridge$").strip()

    def check_run(self, name: str, why: Sequence[str]) -> None:
        """Raise `EngineUnavailable` where the engine does not answer, or was restarted since it had this `run_name`."""
        if self.run_name() != name:
            raise EngineUnavailable(
                f"the {Path(self._client).name} engine was restarted during this step",
                why=why,
                remedy="wait: the agent tries again after a pause",
            )

    def client(self, *arguments: str, seconds: float) -> Finished:
        """Run one of the engine's own commands."""
        return self._run([self._client, *arguments], self._environment, seconds, None, None)

    def _run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        seconds: float,
        folder: Path | None,
        keep_open: int | None,
    ) -> Finished:
        try:
            done = run_program(arguments, environment, seconds=seconds, folder=folder, keep_open=keep_open)
        except OSError as error:
            why = [f"{arguments[0]}: {error.strerror or error}"]
            if error.errno in _NO_CLIENT:
                raise _unavailable(self._client, why) from error
            if error.errno == errno.E2BIG:
                raise WorkloadUnsupported(
                    "the parameters are too long for the engine's client",
                    why=why,
                    remedy="put long content into a file of the component, and name the file",
                ) from error
            raise StorageFailed(
                "the engine's client cannot be started on this device",
                why=why,
                remedy="check the device's memory, its disk and its limits (ulimit)",
            ) from error
        if done.status is not None and (done.status < 0 or done.status == _KILLED):
            raise EngineUnavailable(
                f"the {Path(self._client).name} client was ended during this step",
                why=done.last_lines(environment),
                remedy="check the device's memory; the agent tries again after a pause",
            )
        return done


def _check_seconds(check: str) -> float:
    """Return how long a health check and the pause before it may take, from its settings in nanoseconds."""
    try:
        settings = json.loads(check)
        pause, length = (settings.get(name, 0) / 1e9 or _CHECK_SECONDS for name in ("Interval", "Timeout"))
    except (ValueError, AttributeError, TypeError):
        return 0.0
    return float(pause + length)


def _text(field: str) -> str:
    try:
        value = json.loads(field)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def _names(field: str) -> list[str]:
    try:
        value = json.loads(field)
    except ValueError:
        return []
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _digest(name: str) -> Digest | None:
    """Return the digest in a name such as `registry.example.com/app@sha256:…`; None where it has none."""
    try:
        return parse_digest(name.partition("@")[2])
    except ValueError:
        return None


def _hex(image: str) -> str:
    return image.removeprefix("sha256:")


def _unavailable(client: str, why: Sequence[str]) -> EngineUnavailable:
    return EngineUnavailable(
        f"the {Path(client).name} engine does not answer",
        why=why,
        remedy=f"start it, and let this user reach it; `{client} version` shows whether it answers",
    )
