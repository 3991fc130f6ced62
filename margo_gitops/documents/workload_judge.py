"""How a part of a compose file is held against a policy. Pure; what is known of each key is in `compose_policy`."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from margo_gitops.documents.nodes import Json
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import shortened

Path: TypeAlias = tuple[str | int, ...]

ENGINE_SOCKETS: Final = (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/var/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/var/run/containerd/containerd.sock",
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A part of a compose file that a policy does not allow.

    Attributes:
        path: where it is in the file.
        line: the line of the policy that would allow it.
    """

    path: Path
    value: str
    line: str

    @property
    def what(self) -> str:
        """What is refused, for people."""
        kind, *rest = map(str, self.path)
        owner = [f"{kind.removesuffix('s')} {rest[0]}"] if rest else [kind]
        parts = [*owner, ".".join(rest[1:]), self.value]
        return ": ".join(part for part in parts if part)

    def __str__(self) -> str:
        return f"{self.what} (allowed by `{self.line}`)"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a compose file is judged.

    Attributes:
        content: folder of the workload's content, absolute; empty: relative paths are in it.
        project: the Compose project, by which its own volumes and networks are known; empty: not known.
        real: returns where a path leads to after links.
        sockets: where engines listen.
    """

    content: str = ""
    project: str = ""
    real: Callable[[str], str] = posixpath.normpath
    sockets: tuple[str, ...] = ENGINE_SOCKETS


@dataclass(frozen=True, slots=True)
class Judge:
    """Yields what a policy refuses."""

    policy: WorkloadPolicy
    around: Surroundings

    def key(self, path: Path, value: Json, named: str = "") -> Iterator[Refused]:
        """Refuse a value that only `composeKeys` allows; `x-` keys mean nothing to Compose."""
        key = str(path[-1])
        if not value or (key.startswith("x-") and not key.startswith("x-podman")):
            return
        known = named or ".".join(str(part) for part in path[2 if path[0] == "services" else 0 :])
        text = "" if isinstance(value, (dict, list)) else text_of(value)
        if not self.policy.allows_key(known, text):
            yield refused(path, value, f"composeKeys: [{json.dumps(f'{known}={text}' if text else known)}]")

    def only(self, path: Path, value: Json, allowed: frozenset[str], named: str) -> Iterator[Refused]:
        """Refuse the keys of a mapping that are not allowed, and every other value."""
        if not isinstance(value, dict):
            yield from self.key(path, value, named)
        for key, each in items(value):
            if key not in allowed:
                yield from self.key((*path, key), each, f"{named}.{key}")

    def switch(self, path: Path, value: Json, line: str) -> Iterator[Refused]:
        """Refuse what a switch of the policy allows, where it is off."""
        switches = {
            "privileged": self.policy.privileged,
            "hostNetwork": self.policy.host_network,
            "hostPid": self.policy.host_pid,
            "hostIpc": self.policy.host_ipc,
            "engineSocket": self.policy.engine_socket,
        }
        if value not in (False, "false") and not switches[line]:
            yield refused(path, value, f"{line}: true")

    def host_path(self, path: Path, source: str, *, writable: bool) -> Iterator[Refused]:
        """Judge a file or folder that a workload sees: of its content, or of the device (GUARD-3)."""
        content = self.around.content
        relative = bool(source) and not source.startswith(("/", "~", "\\"))
        if not content and relative and posixpath.normpath(source).partition("/")[0] != "..":
            return
        places = {posixpath.normpath(source), self.around.real(source)}
        inside = (content, self.around.real(content)) if content else ()
        if inside and all(place.startswith(tuple(f"{each}/" for each in inside)) for place in places):
            return
        sockets = {*self.around.sockets, *map(self.around.real, self.around.sockets)}
        if any(
            socket == place or place == "/" or socket.startswith(f"{place}/") for socket in sockets for place in places
        ):
            yield from self.switch(path, source, "engineSocket")
            if places & sockets:
                return
        lines = (
            self.around.real(each.removesuffix(":ro")) + (":ro" if each.endswith(":ro") else "")
            for each in self.policy.host_paths
        )
        policies = [self.policy, replace(self.policy, host_paths=tuple(lines))]
        if not self.policy.allows_path(posixpath.normpath(source), writable=writable) or not any(
            policy.allows_path(self.around.real(source), writable=writable) for policy in policies
        ):
            line = json.dumps(f"{source}{'' if writable else ':ro'}")
            yield refused(path, source if writable else f"{source} (read-only)", f"hostPaths: [{line}]")


def refused(path: Path, value: Json, line: str) -> Refused:
    """Return what a line of `workloads:` would allow."""
    return Refused(path, shortened(text_of(value), 120), f"workloads.{line}")


def settings_for(refused: Iterable[Refused]) -> str:
    """Return the lines that allow all of these as one line of the agent's configuration."""
    lines: dict[str, list[str]] = {}
    for each in refused:
        key, _, value = each.line.removeprefix("workloads.").partition(": ")
        known = lines.setdefault(key, [])
        if value not in known:
            known.append(value)
    parts = [
        f"{key}: [{', '.join(value[1:-1] for value in values)}]" if values[0].startswith("[") else f"{key}: {values[0]}"
        for key, values in lines.items()
    ]
    return f"workloads: {{{', '.join(parts)}}}"


def items(value: Json) -> list[tuple[str, Json]]:
    """Return the entries of a mapping; nothing for another value."""
    return list(value.items()) if isinstance(value, dict) else []


def listed(path: Path, value: Json) -> list[tuple[Path, Json]]:
    """Return the items of a list with their paths; another value counts as its one item, so that it is judged."""
    if isinstance(value, list):
        return [((*path, at), each) for at, each in enumerate(value)]
    return [(path, value)] if value else []


def text_of(value: Json) -> str:
    """Return a text as it is, nothing for null, and every other value as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, sort_keys=True)
