"""Units for Podman's Quadlet, made from a Compose file: a network, volumes, and a container for each service. Pure.

QUADLET-1  A key that is not understood is refused with its line: nothing of a Compose file is left out silently.
QUADLET-2  Names of units of different components, and of services and volumes, never meet.
QUADLET-3  A value reaches the container as Compose would pass it: systemd expands neither `%` nor `$` in it.
QUADLET-4  Paths of the device are refused: containers get named volumes only.

Source: podman-systemd.unit(5) of Podman 5.4; the Compose specification.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from margo_gitops.appliers.applier import Workload
from margo_gitops.appliers.handover.forms import object_name, unsupported
from margo_gitops.documents.compose_variables import parameter_text, variable_name
from margo_gitops.documents.compose_yaml import ComposeText, Value, mapping, plain, read_compose
from margo_gitops.errors import WorkloadUnsupported

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_VARIABLE: Final = re.compile(
    r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}$]*))?\}|([A-Za-z_][A-Za-z0-9_]*)|(.?))", re.DOTALL
)
_RESTARTS: Final = {"no": "no", "always": "always", "unless-stopped": "always", "on-failure": "on-failure"}
_PORT: Final = re.compile(r"[0-9.:\[\]a-f-]+(/(tcp|udp))?")
_CONTENT_KEYS: Final = ("image", "command", "entrypoint", "environment", "ports", "volumes", "depends_on")
_CAPABILITY: Final = re.compile(r"[A-Za-z_]{1,40}")
_OTHER_KEYS: Final = ("restart", "user", "read_only", "healthcheck", "hostname", "network_mode", "cap_drop")
_SERVICE: Final = frozenset((*_CONTENT_KEYS, *_OTHER_KEYS))
_HEALTH: Final = {
    "interval": "HealthInterval",
    "timeout": "HealthTimeout",
    "retries": "HealthRetries",
    "start_period": "HealthStartPeriod",
}


def build(workload: Workload, file: str, content: bytes) -> dict[str, bytes]:
    """Return the units of a component, by file name.

    Args:
        file: the Compose file's name, for messages.
        content: its bytes.

    Raises:
        WorkloadUnsupported: the file has something that no unit has, or that is not translated (QUADLET-1).
        UnreadableDocument: it is not YAML as Compose reads it.
    """
    return {name: text.encode() for name, text in _Units(workload, read_compose(content, file)).units()}


class _Units:
    def __init__(self, workload: Workload, compose: ComposeText) -> None:
        self._workload, self._compose = workload, compose
        self._values = {variable_name(name): parameter_text(value) for name, value in workload.values.items()}
        self._name = object_name(workload.key)
        self._volumes = set(mapping(compose.value, "volumes"))

    def units(self) -> Iterator[tuple[str, str]]:
        self._only((), plain(self._compose.value), {"services", "volumes", "name", "version"})
        yield f"{self._name}.network", f"[Network]\nNetworkName={self._name}\n"
        for volume, settings in mapping(self._compose.value, "volumes").items():
            path = ("volumes", volume)
            self._named(path, volume)
            self._only(path, plain(settings), set())
            yield f"{self._name}.v.{volume}.volume", f"[Volume]\nVolumeName={self._name}.v.{volume}\n"
        for service, settings in mapping(self._compose.value, "services").items():
            self._named(("services", service), service)
            yield f"{self._name}.{service}.container", self._container(service, plain(settings))

    def _container(self, service: str, settings: Mapping[str, Value]) -> str:
        path = ("services", service)
        self._only(path, settings, _SERVICE)
        image = self._text((*path, "image"), settings.get("image"))
        unit = [f"Description={_plain(self._workload.key.component)} {service}"]
        for other in self._list((*path, "depends_on"), settings.get("depends_on")):
            unit += [f"Requires={self._name}.{other}.service", f"After={self._name}.{other}.service"]
        lines = [f"ContainerName={self._name}.{service}", f"Image={_plain(image)}"]
        mode = settings.get("network_mode")
        if mode not in (None, "none"):
            raise self._refused((*path, "network_mode"), f"network_mode: {mode}")
        lines += ["Network=none"] if mode else [f"Network={self._name}.network", f"NetworkAlias={service}"]
        lines += [f"Label={_quoted(f'{name}={value}')}" for name, value in self._labels().items()]
        for key, name in (
            ("entrypoint", "Entrypoint"),
            ("command", "Exec"),
            ("user", "User"),
            ("hostname", "HostName"),
        ):
            if settings.get(key) is not None:
                lines.append(f"{name}={self._words((*path, key), settings[key], name)}")
        lines += [f"Environment={_quoted(each)}" for each in self._environment((*path, "environment"), settings)]
        lines += [f"PublishPort={each}" for each in self._ports((*path, "ports"), settings.get("ports"))]
        lines += [f"Volume={each}" for each in self._mounts((*path, "volumes"), settings.get("volumes"))]
        lines += ["ReadOnly=true"] if settings.get("read_only") is True else []
        lines += self._health((*path, "healthcheck"), plain(settings.get("healthcheck")))
        for each in self._list((*path, "cap_drop"), settings.get("cap_drop")):
            if not _CAPABILITY.fullmatch(each):
                raise self._refused((*path, "cap_drop"), f"the capability {each}")
            lines.append(f"DropCapability={each}")
        restart = self._text((*path, "restart"), settings.get("restart", "no"))
        if restart not in _RESTARTS:
            raise self._refused((*path, "restart"), f"restart: {restart}")
        sections = {
            "Unit": unit,
            "Container": lines,
            "Service": [f"Restart={_RESTARTS[restart]}", f"TimeoutStartSec={self._workload.timeout_seconds}"],
            "Install": ["WantedBy=multi-user.target default.target"],
        }
        return "\n".join(f"[{title}]\n" + "".join(f"{line}\n" for line in each) for title, each in sections.items())

    def _labels(self) -> dict[str, str]:
        key = self._workload.key
        return {
            "org.margo-gitops.deployment-id": key.deployment_id,
            "org.margo-gitops.component": key.component,
            "org.margo-gitops.digest": self._workload.digest,
        }

    def _environment(self, path: tuple[str, ...], settings: Mapping[str, Value]) -> Iterator[str]:
        given = settings.get("environment")
        if isinstance(given, list):
            pairs = [self._text(path, each, raw=True).partition("=") for each in given]
            given = {name: value if sign else None for name, sign, value in pairs}
        for name, value in plain(given).items():
            if value is not None:
                yield f"{name}={self._text((*path, name), value)}"
            elif name in self._values:
                yield f"{name}={self._text((*path, name), self._values[name], raw=True)}"

    def _ports(self, path: tuple[str, ...], given: Value) -> Iterator[str]:
        for each in self._list(path, given):
            if not _PORT.fullmatch(each):
                raise self._refused(path, f"the port {each}")
            yield each

    def _mounts(self, path: tuple[str, ...], given: Value) -> Iterator[str]:
        for each in self._list(path, given):
            name, _, rest = each.partition(":")
            place, _, mode = rest.partition(":")
            if (
                name not in self._volumes
                or not re.fullmatch(r"/[A-Za-z0-9._/-]+", place)
                or mode not in ("", "ro", "rw")
            ):
                raise self._refused(path, f"the mount {each}, which is not a named volume")
            yield f"{self._name}.v.{name}.volume:{place}" + (":ro" if mode == "ro" else "")

    def _health(self, path: tuple[str, ...], given: Mapping[str, Value]) -> list[str]:
        if not given:
            return []
        self._only(path, given, {"test", *_HEALTH})
        test = given.get("test")
        words = self._list((*path, "test"), test) if isinstance(test, list) else ["CMD-SHELL", self._text(path, test)]
        if words[:1] == ["CMD"]:
            command = json.dumps(words[1:])
        elif words[:1] == ["CMD-SHELL"] and len(words) == 2:
            command = words[1]
        else:
            raise self._refused(path, "this test")
        times = [f"{name}={self._text((*path, key), given[key])}" for key, name in _HEALTH.items() if key in given]
        # The unit counts as started when the container is healthy.
        return [f"HealthCmd={_plain(command)}", *times, "Notify=healthy"]

    def _words(self, path: tuple[str, ...], given: Value, name: str) -> str:
        if isinstance(given, list):
            words = self._list(path, given)
            return _plain(json.dumps(words)) if name == "Entrypoint" else " ".join(map(_quoted, words))
        return _plain(self._text(path, given))

    def _list(self, path: tuple[str, ...], given: Value) -> list[str]:
        if given is not None and not isinstance(given, list):
            raise self._refused(path, f"{path[-1]} in this form")
        return [self._text((*path, str(at)), each) for at, each in enumerate(given or [])]

    def _text(self, path: tuple[str, ...], given: Value, *, raw: bool = False) -> str:
        if isinstance(given, (dict, list)) or given is None:
            raise self._refused(path, f"{path[-1]} in this form")
        text = str(given).lower() if isinstance(given, bool) else str(given)
        text = text if raw else _VARIABLE.sub(lambda found: self._variable(path, found), text)
        if not text.isprintable():  # a line more would be a setting more
            raise self._refused(path, "a line end or another character that cannot be printed")
        return text

    def _variable(self, path: tuple[str, ...], found: re.Match[str]) -> str:
        escaped, braced, default, bare, other = found.groups()
        if escaped:
            return "$"
        if other is not None:
            raise self._refused(path, f"the variable {found[0]}")
        return self._values.get(braced or bare) or default or ""

    def _named(self, path: tuple[str, ...], name: str) -> None:
        if not _NAME.fullmatch(name):
            raise self._refused(path, f"the name {name}")

    def _only(self, path: tuple[str, ...], given: Mapping[str, Value], known: set[str] | frozenset[str]) -> None:
        for key in given:
            if key not in known and not key.startswith("x-"):
                raise self._refused((*path, key), key)

    def _refused(self, path: tuple[str, ...], what: str) -> WorkloadUnsupported:
        error = unsupported(self._workload, f"no unit is made for {what}", "take it out, or use the applier compose")
        error.where = self._compose.at(path)
        return error


def _plain(text: str) -> str:
    return text.replace("%", "%%").replace("$", "$$")


def _quoted(text: str) -> str:
    return '"' + _plain(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
