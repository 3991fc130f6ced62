"""The engine and its Compose client: what to ask them, and what their answers mean."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from margo_gitops.appliers.applier import RunningImage, WorkloadKey
from margo_gitops.appliers.compose.engine_socket import EngineEvents, EngineSocket
from margo_gitops.appliers.compose.project import (
    COMPONENT,
    CONFIG,
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
from margo_gitops.appliers.compose.source import plain, text
from margo_gitops.appliers.programs import Finished, run_program
from margo_gitops.digests import Digest, parse_digest
from margo_gitops.documents.capabilities import FOUND_LABELS
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import EngineUnavailable, StorageFailed, WorkloadUnsupported
from margo_gitops.values import dataclass, replace

_LABELS = (DEVICE, DEPLOYMENT, COMPONENT, DIGEST, SERVICES, ONCE, PROJECT, SERVICE, ONE_OFF, CONFIG)
_LIST_FORMAT = "\t".join(
    ["{{.ID}}", "{{.State}}", "{{json .Status}}", *(f'{{{{json (.Label "{label}")}}}}' for label in _LABELS)]
)
_IMAGE_FORMAT = "{{.Id}}\t{{.Image}}\t{{json .Config.Image}}"
_DIGESTS_FORMAT = "{{.Id}}\t{{json .RepoDigests}}"
_CHECK_SECONDS = 30.0
"""Interval of a health check, and how long it may take, where nothing is said."""
_QUERY_SECONDS = 20.0
_ENDING = ("kill 2", "kill 3", "kill 9", "kill 15")
"""Events of signals that end a program; others are messages to it."""
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
        api: where the engine can be asked without a program; None: nowhere.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], api: EngineSocket | None = None) -> None:
        self._compose = tuple(command)
        self._client = command[0]
        self._environment = dict(environment)
        self._api = api

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
        wanted = {"label": [f"{label}={value}"]}
        listed = self._api.ask("/containers/json?all=true", wanted) if self._api else None
        if listed is not None:
            found = [_container(plain(each)) for each in _entries(listed)]
        else:
            arguments = ["ps", "--all", "--no-trunc", "--filter", f"label={label}={value}", "--format", _LIST_FORMAT]
            lines = [line.split("\t") for line in self.query(*arguments).splitlines()]
            found = [_listed(fields) for fields in lines if len(fields) == len(_LABELS) + 3]
        return [each for each in found if each.labels[ONE_OFF].lower() != "true"]

    def histories(self, containers: Sequence[Container]) -> dict[str, History]:
        """Return how often the engine has restarted each container, and its health, by id."""
        if not containers:
            return {}
        identities = [container.identity for container in containers]
        answers = [self._api.ask(f"/containers/{each}/json") for each in identities] if self._api else []
        # A container may vanish between listing and asking; the others are still answered.
        if not any(answers):
            answers = _entries(_read(self.client("inspect", *identities, seconds=_QUERY_SECONDS).output))
        return {text(each, "Id"): _history(plain(each)) for each in answers if text(each, "Id")}

    def was_stopped(self, container: Container) -> bool:
        """Return whether a person ended a container that has exited, and not it itself, or its engine.

        Raises:
            EngineUnavailable: the engine does not answer.
        """
        answer = plain(self._api.ask(f"/containers/{container.identity}/json") if self._api else None)
        if not answer:
            answer = plain(next(iter(_entries(_read(self.query("inspect", container.identity)))), None))
        state = plain(answer.get("State"))
        policy = plain(plain(answer.get("HostConfig")).get("RestartPolicy"))
        if text(state, "Status") != "exited" or text(state, "Error"):
            return False
        name, is_failed = text(policy, "Name"), state.get("ExitCode") != 0
        if name in ("always", "unless-stopped") or (
            name == "on-failure" and is_failed and not policy.get("MaximumRetryCount")
        ):
            return True
        asked = ["--filter", f"container={container.identity}", "--filter", "event=stop", "--filter", "event=kill"]
        span = ["--since", text(state, "StartedAt"), "--until", f"{time.time():.3f}"]
        form = '{{.Action}} {{index .Actor.Attributes "signal"}}'
        told = self.query("events", *span, *asked, "--format", form).splitlines()
        return any(line.split()[:1] == ["stop"] or line in _ENDING for line in told)

    def running_images(self, containers: Sequence[Container]) -> dict[WorkloadKey, list[RunningImage]]:
        """Return the images of each workload, sorted by service."""
        images = self.images(containers)
        found: dict[WorkloadKey, list[RunningImage]] = {}
        for each in sorted(containers, key=lambda container: (container.service, container.identity)):
            if each.key is not None and (image := images.get(each.identity)) is not None:
                found.setdefault(each.key, []).append(replace(image, part=each.service))
        return found

    def has_image(self, name: str) -> bool:
        """Return whether the engine has an image of this name."""
        answer = plain(self._api.ask(f"/images/{quote(name, safe='/:@')}/json") if self._api else None)
        # A missing image and an engine that does not answer look alike here: then its client is asked.
        return bool(text(answer, "Id")) or self.client("image", "inspect", name, seconds=_QUERY_SECONDS).status == 0

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

    def events(self, label: str, value: str) -> EngineEvents | None:
        """Connect to what the engine tells; None where only its client can be asked (OSError: it does not answer)."""
        return self._api.events(label, value) if self._api else None

    def facts(self) -> dict[str, Json]:
        """Return what the engine is and offers, as a part of a Margo capabilities document.

        Raises:
            EngineUnavailable: the engine does not answer.
        """
        from margo_gitops.appliers.machine import amount, cpu, disk_size, gpus  # loaded where facts are asked for

        told = plain(self._api.ask("/info") if self._api else None)
        told = told or plain(_read(self.query("info", "--format", "{{json .}}")))
        if not text(told, "ServerVersion"):
            raise _unavailable(self._client, ["it does not tell its version"])
        cores, memory = told.get("NCPU"), told.get("MemTotal")
        properties: dict[str, Json] = {"supportedRuntimes": ["oci"]}
        if isinstance(cores, int) and cores > 0:
            properties["cpus"] = [cpu(cores, text(told, "Architecture"))]
        if isinstance(memory, int) and memory > 0:
            properties["memory"] = amount(memory)
        if size := disk_size(Path(text(told, "DockerRootDir") or "/")):
            properties["storage"] = size
        if "nvidia" in plain(told.get("Runtimes")) and not gpus():
            properties["peripherals"] = [{"type": "gpu", "manufacturer": "NVIDIA"}]
        done = self._run([*self._compose, "version", "--short"], self._environment, _QUERY_SECONDS, None, None)
        labels = {
            "engine": Path(self._client).name,
            "engine-version": text(told, "ServerVersion"),
            "compose-version": done.output.strip() if done.status == 0 else "",
        }
        return {
            "properties": properties,
            "labels": {f"{FOUND_LABELS}{name}": each for name, each in labels.items() if each},
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
        networks = self._api.ask("/networks", {"name": ["^bridge$"]}) if self._api else None
        if networks is not None:
            return "".join(text(each, "Id") for each in _entries(networks))
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
                raise EngineUnavailable(
                    f"there is no {Path(self._client).name} client that this user may start",
                    why=why,
                    remedy="install Docker's client with Compose v2; docs/appliers.md names the packages",
                ) from error
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


def _container(answer: Mapping[str, Json]) -> Container:
    """Return a container as the API lists it."""
    labels = plain(answer.get("Labels"))
    named = {label: text(labels, label) for label in _LABELS}
    return Container(
        text(answer, "Id"), text(answer, "State").lower(), text(answer, "Status"), named, text(answer, "ImageID")
    )


def _listed(fields: Sequence[str]) -> Container:
    """Return a container as the client lists it."""
    status, *labels = [_text(field) for field in fields[2:]]
    return Container(fields[0], fields[1].lower(), status, dict(zip(_LABELS, labels, strict=True)))


def _history(answer: Mapping[str, Json]) -> History:
    """Return what the engine tells of one container; the health of one that has ended says only how it was stopped."""
    state = plain(answer.get("State"))
    count = answer.get("RestartCount")
    restarts = count if isinstance(count, int) else 0
    health = plain(state.get("Health"))
    if state.get("Running") is not True or not health:
        return History(restarts)
    checks = "".join(f"{text(each, 'End')};" for each in _entries(health.get("Log")))
    check = plain(plain(answer.get("Config")).get("Healthcheck"))
    return History(restarts, text(health, "Status"), checks, _check_seconds(check))


def _check_seconds(settings: Mapping[str, Json]) -> float:
    """Return how long a health check and the pause before it may take, from its settings in nanoseconds."""
    seconds = 0.0
    for name in ("Interval", "Timeout") if settings else ():
        value = settings.get(name)
        seconds += (value / 1e9 if isinstance(value, (int, float)) else 0.0) or _CHECK_SECONDS
    return seconds


def _read(field: str) -> Json:
    try:
        value: Json = json.loads(field)
    except ValueError:
        return None
    return value


def _entries(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _text(field: str) -> str:
    value = _read(field)
    return value if isinstance(value, str) else ""


def _names(field: str) -> list[str]:
    return [each for each in _entries(_read(field)) if isinstance(each, str)]


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
