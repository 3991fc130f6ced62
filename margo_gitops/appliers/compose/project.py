"""What a workload is to Compose: names, environment, labels, verdicts. Pure.

PROJECT-1  The project name holds the whole deployment id, so that no two deployments share a project.
PROJECT-2  Parameters reach Compose as environment variables; which service gets which is for the compose file to say.
PROJECT-3  Every container carries labels that say whose it is, so that the engine alone tells what runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from margo_gitops.appliers.applier import HeldArtifact, Observed, Workload, WorkloadKey
from margo_gitops.appliers.programs import Secret
from margo_gitops.digests import Digest, parse_digest
from margo_gitops.documents.compose_variables import parameter_text, pointer_problem, value_problem, variable_name
from margo_gitops.documents.large_artifacts import ARTIFACT_FOLDER
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import WorkloadUnsupported
from margo_gitops.values import dataclass

DEVICE = "org.margo-gitops.device"
DEPLOYMENT = "org.margo-gitops.deployment-id"
COMPONENT = "org.margo-gitops.component"
DIGEST = "org.margo-gitops.digest"
SERVICES = "org.margo-gitops.services"
ONCE = "org.margo-gitops.runs-once"
PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
ONE_OFF = "com.docker.compose.oneoff"
CONFIG = "com.docker.compose.config-hash"

_LONGEST_COMPONENT = 60
_MOST_BYTES = 1024 * 1024
"""Of all variables together; Linux gives a program 2 MiB for them and its arguments."""
_EXIT = re.compile(r"Exited \((\d+)\)", re.IGNORECASE)


def project_name(key: WorkloadKey) -> str:
    """Return the Compose project of a workload: `<component>-<deployment id>`, at most 97 characters.

    A long component name is shortened; the `_` before its hash keeps it apart from every name that is not, because no
    component name holds one (Margo application description, component name).
    """
    component = key.component
    if len(component) > _LONGEST_COMPONENT:
        tail = hashlib.sha256(component.encode()).hexdigest()[:24]
        component = f"{component[: _LONGEST_COMPONENT - 25]}_{tail}"
    return f"{component}-{key.deployment_id}"


def environment_of(workload: Workload) -> dict[str, str]:
    """Return the environment variables that the deployment's parameters are (Margo application description, pointer).

    Raises:
        WorkloadUnsupported: a pointer is not the name of a variable or steers Compose itself, a value is not text that
            a variable can hold, or all of them together are too long.
    """
    environment: dict[str, str] = {}
    for pointer in workload.secrets:
        if problem := pointer_problem(pointer):
            raise WorkloadUnsupported(
                f"the pointer {pointer} of component {workload.component.name} {problem}",
                remedy="choose another pointer in the application description",
            )
    for pointer, value in workload.values.items():
        for problem, remedy in (
            (pointer_problem(pointer), "choose another pointer in the application description"),
            (value_problem(pointer, value), "put long content into a file of the component, and name the file"),
        ):
            if problem:
                raise WorkloadUnsupported(
                    f"the pointer {pointer} of component {workload.component.name} {problem}", remedy=remedy
                )
        environment[variable_name(pointer)] = parameter_text(value)
    if sum(len(f"{name}={text}".encode(errors="replace")) for name, text in environment.items()) > _MOST_BYTES:
        raise WorkloadUnsupported(
            f"the parameters of component {workload.component.name} have more than {_MOST_BYTES} bytes together",
            remedy="put long content into a file of the component, and name the file",
        )
    return environment


def secret_variable(variable: str, value: bytes) -> str:
    """Return a secret as the text of a variable, without the line end at its end.

    Raises:
        WorkloadUnsupported: no variable can hold it.
    """
    try:
        text = value.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise WorkloadUnsupported(
            f"the secret for {variable} is not text, and an environment variable holds nothing else",
            remedy="keep it as text, such as base64",
        )
    return Secret(text)


def override_file(workload: Workload, device: str, services: Mapping[str, Json]) -> bytes:
    """Return the compose file that is laid over the component's own: labels, and no pulls during `up` (APPLIER-1)."""
    names = ",".join(sorted(name for name, service in services.items() if _has_containers(service)))
    additions: dict[str, Json] = {}
    for name, service in sorted(services.items()):
        settings = service if isinstance(service, dict) else {}
        labels: dict[str, Json] = {
            DEVICE: device,
            DEPLOYMENT: workload.key.deployment_id,
            COMPONENT: workload.key.component,
            DIGEST: workload.digest,
            SERVICES: names,
            ONCE: "true" if _may_end(settings) else "false",
        }
        additions[name] = {"labels": labels}
        if "build" not in settings:
            additions[name] = {"labels": labels, "pull_policy": "missing"}
    return json.dumps({"services": additions}, indent=2).encode()


def artifacts_file(artifacts: Sequence[HeldArtifact], services: Mapping[str, Json]) -> bytes:
    """Return the compose file that gives each container the artifacts, read-only, and their paths (APPLIER-9)."""
    paths = {each.wanted.variable: f"{ARTIFACT_FOLDER}/{each.wanted.name}" for each in artifacts}
    mounts: list[Json] = [
        {
            "type": "bind",
            "source": _unquoted(str(each.path)),
            "target": f"{ARTIFACT_FOLDER}/{each.wanted.name}",
            "read_only": True,
            "bind": {"create_host_path": False},
        }
        for each in artifacts
    ]
    added: Json = {"environment": {**paths}, "volumes": mounts}
    given = {
        name: added for name, each in sorted(services.items()) if isinstance(each, dict) and "provider" not in each
    }
    return json.dumps({"services": given}, indent=2).encode()


def _unquoted(path: str) -> str:
    return path.replace("$", "$$")


def _has_containers(service: Json) -> bool:
    """Return whether a service runs in containers: not where it is scaled to 0, or a provider runs it."""
    settings = service if isinstance(service, dict) else {}
    deploy = settings.get("deploy")
    replicas = deploy.get("replicas") if isinstance(deploy, dict) else None
    return "provider" not in settings and settings.get("scale") != 0 and replicas != 0


def _may_end(service: Mapping[str, Json]) -> bool:
    """Return whether a container that ended with 0 did what it should: the engine does not start it again."""
    restart, deploy = service.get("restart"), service.get("deploy")
    if restart is None and isinstance(deploy, dict):
        policy = deploy.get("restart_policy")
        restart = policy.get("condition") if isinstance(policy, dict) else None
    return restart in (None, "no", "none") or (isinstance(restart, str) and restart.startswith("on-failure"))


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine lists it.

    Attributes:
        identity: the engine's id.
        state: created, running, restarting, paused, exited, dead, ...
        status: the engine's words, with exit code and health.
        labels: those of ours and of Compose that it carries.
        image: the engine's id of its image; empty where only the client was asked.
    """

    identity: str
    state: str
    status: str
    labels: Mapping[str, str]
    image: str = ""

    @property
    def service(self) -> str:
        """The service of the compose file, or the id where it has no service."""
        return self.labels.get(SERVICE) or self.identity[:12]

    @property
    def key(self) -> WorkloadKey | None:
        """The workload it belongs to, None for a container that is not ours."""
        deployment, component = self.labels.get(DEPLOYMENT, ""), self.labels.get(COMPONENT, "")
        return WorkloadKey(deployment, component) if deployment and component else None

    @property
    def condition(self) -> Literal["running", "starting", "degraded"]:
        """What it is doing; one that ran to its end as it should counts as running."""
        status = self.status.lower()
        if self.state == "running":
            if "unhealthy" in status:
                return "degraded"
            return "starting" if "starting" in status else "running"
        if self.state in ("created", "initialized", "configured"):
            return "starting"
        exited = _EXIT.match(self.status)
        done = self.state == "exited" and exited and exited.group(1) == "0" and self.labels.get(ONCE) == "true"
        return "running" if done else "degraded"


def observed(containers: Iterable[Container]) -> list[Observed]:
    """Return what the engine says of each workload, sorted by key."""
    groups: dict[WorkloadKey, list[Container]] = {}
    for container in containers:
        if container.key:
            groups.setdefault(container.key, []).append(container)
    return [_observed(key, groups[key]) for key in sorted(groups)]


def _observed(key: WorkloadKey, containers: Sequence[Container]) -> Observed:
    parts = sorted(f"{container.service}: {container.status or container.state}" for container in containers)
    conditions = {container.condition for container in containers}
    expected = {name for container in containers for name in container.labels.get(SERVICES, "").split(",") if name}
    missing = sorted(expected - {container.service for container in containers})
    parts += [f"{name}: missing" for name in missing]
    condition: Literal["running", "starting", "degraded"] = "running"
    if "degraded" in conditions or missing:
        condition = "degraded"
    elif "starting" in conditions:
        condition = "starting"
    return Observed(key, _digest(containers), condition, "; ".join(parts)[:500])


def _digest(containers: Sequence[Container]) -> Digest | None:
    digests = {container.labels.get(DIGEST, "") for container in containers}
    try:
        return parse_digest(digests.pop()) if len(digests) == 1 else None
    except ValueError:
        return None
