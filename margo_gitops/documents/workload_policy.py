"""What a workload may do to a device: a policy, and the lines that are missing in it. Pure.

    workloads:
      capabilities: [NET_ADMIN]
      devices: ["/dev/ttyUSB*"]
      hostPaths: ["/etc/localtime:ro"]

The same declaration is a part of the agent's configuration, where it decides, and of a Device of the fleet repo, where
it says beforehand what that agent will refuse (docs/workload-policy.md). Names are those of Kubernetes' pod security.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Annotated, Final

from margo_gitops.documents.content_places import below, place_of
from margo_gitops.documents.declarations import About, Problem, Text
from margo_gitops.values import dataclass, fields

_ENGINE_CAPABILITIES: Final = re.compile(
    "AUDIT_WRITE|CHOWN|DAC_OVERRIDE|FOWNER|FSETID|KILL|MKNOD|NET_BIND_SERVICE|NET_RAW|SETFCAP|SETGID|SETPCAP|SETUID|"
    "SYS_CHROOT"
)
"""What Docker gives each container anyway (moby, default capabilities)."""

_ALL_PORTS: Final = "1-65535"
_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")

_Capability = Annotated[str, Text(pattern=r"^(CAP_)?[A-Z][A-Z0-9_]{1,40}$", what="a capability such as NET_ADMIN")]
_Device = Annotated[
    str,
    Text(
        pattern=r"^(gpu|/dev(/[A-Za-z0-9._*?/-]+)?|[A-Za-z0-9._-]+/[A-Za-z0-9._-]+=[A-Za-z0-9._:*-]+)$",
        what="a path below /dev, gpu, or the CDI name of a device",
    ),
]
_HostPath = Annotated[str, Text(pattern=r"^/[^:*?\x00]*(:ro)?$", what="an absolute path, with :ro at its end or not")]
_Ports = Annotated[
    str, Text(pattern=r"^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$", what="a port or a range of ports, in quotes: 8000-8999")
]
_Registry = Annotated[
    str,
    Text(
        pattern=r"^([A-Za-z0-9][A-Za-z0-9.:_-]*|\[[0-9A-Fa-f:]+\](:[0-9]+)?)(/[A-Za-z0-9._-]+)*$",
        what="a registry, or a path in one",
    ),
]
_Setting = Annotated[
    str, Text(pattern=r"^[a-z][a-zA-Z0-9_.-]*(=.+)?$", what="a key of Compose, or KEY=VALUE", max_length=300)
]


@dataclass(frozen=True, slots=True)
class WorkloadPolicy:
    """What a workload may do to a device, more than to run in containers of its own."""

    privileged: Annotated[bool, About("Containers and hooks may be privileged: they own the device.")] = False
    host_network: Annotated[bool, About("Services may use the device's own network.")] = False
    host_pid: Annotated[bool, About("Services may see the device's processes.")] = False
    host_ipc: Annotated[bool, About("Services may share memory with the device's processes.")] = False
    engine_socket: Annotated[bool, About("Services may talk to the engine: they own the device.")] = False
    capabilities: Annotated[
        tuple[_Capability, ...],
        About("Linux capabilities that the engine does not give by itself; ALL: each.", (["NET_ADMIN", "SYS_NICE"],)),
    ] = ()
    devices: Annotated[
        tuple[_Device, ...],
        About("Devices: paths, in which * and ? match no slash; CDI names; gpu.", (["/dev/ttyUSB*", "gpu"],)),
    ] = ()
    host_paths: Annotated[
        tuple[_HostPath, ...],
        About(
            "Files and folders of the device that may be mounted. With :ro read-only, and all below it too.",
            (["/etc/localtime:ro", "/srv/recipes"],),
        ),
    ] = ()
    host_ports: Annotated[tuple[_Ports, ...], About("Ports that may be published.", (["1024-65535"],))] = (_ALL_PORTS,)
    registries: Annotated[
        tuple[_Registry, ...],
        About("Where images may come from: registries, or paths in them; empty: everywhere.", (["ghcr.io/acme"],)),
    ] = ()
    require_digest: Annotated[bool, About("Each image must be named with its digest.")] = False
    compose_keys: Annotated[
        tuple[_Setting, ...],
        About("Other keys of Compose that may be used, with any value or with one.", (["runtime=nvidia"],)),
    ] = ()
    unrestricted: Annotated[
        bool | None, About("true: allow everything. Who can change the desired state then owns the device.")
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield lines that contradict each other or mean nothing."""
        if self.unrestricted is False:
            yield Problem(("unrestricted",), "unrestricted can only be true", "remove it")
        named = [item.name for item in fields(self) if item.name != "unrestricted"]
        if self.unrestricted and any(getattr(self, name) != getattr(_DEFAULT, name) for name in named):
            yield Problem(
                ("unrestricted",), "allows everything, and the other lines less", "remove the one or the others"
            )
        for ports in self.host_ports:
            first, last = port_range(ports) or (1, 0)
            if not first <= last <= 65535:
                yield Problem(("hostPorts",), f"{ports} is not a range of ports", "write 8080 or 8000-8999")

    def allows_capability(self, name: str) -> bool:
        """Return whether a container may have a capability, with or without `CAP_`."""
        wanted = name.upper().removeprefix("CAP_")
        allowed = {each.removeprefix("CAP_") for each in self.capabilities}
        return bool(_ENGINE_CAPABILITIES.fullmatch(wanted)) or wanted in allowed or "ALL" in allowed

    def allows_device(self, name: str) -> bool:
        """Return whether a container may use a device; a path is compared after `..` is taken out of it."""
        place = posixpath.normpath(name) if name.startswith("/") else name
        return any(re.fullmatch(_glob(each), place) for each in self.devices)

    def allows_path(self, path: str, *, writable: bool) -> bool:
        """Return whether a path of the device may be mounted: by the nearest line that names it or a folder around it.

        What is below a writable folder is not allowed with it: a workload could have made a link there.
        """
        lines = {posixpath.normpath(each.removesuffix(":ro")): each.endswith(":ro") for each in self.host_paths}
        around = [each for each in lines if path == each or path.startswith(f"{each.rstrip('/')}/")]
        if not around:
            return False
        nearest = max(around, key=len)
        return not writable if lines[nearest] else path == nearest

    def allows_port(self, published: str) -> bool:
        """Return whether a port or a range of ports may be published."""
        wanted = port_range(published)
        ranges = [found for each in self.host_ports if (found := port_range(each))]
        return wanted is not None and any(first <= wanted[0] <= wanted[1] <= last for first, last in ranges)

    def allows_place(self, image: str) -> bool:
        """Return whether an image may come from where its name says."""
        return not self.registries or any(below(place_of(image), each) for each in self.registries)

    def allows_name(self, image: str) -> bool:
        """Return whether an image is named as it must be."""
        return not self.require_digest or _DIGEST.fullmatch(image) is not None

    def allows_key(self, key: str, value: str) -> bool:
        """Return whether another key of Compose may have a value."""
        return key in self.compose_keys or f"{key}={value}" in self.compose_keys


_DEFAULT = WorkloadPolicy()


def port_range(text: str) -> tuple[int, int] | None:
    """Return the first and the last of some ports, "80" or "8000-8010"; None for another text."""
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text, re.ASCII)
    return (int(match[1]), int(match[2] or match[1])) if match else None


def _glob(pattern: str) -> str:
    """Return a pattern as a regular expression, in which no wildcard matches a slash."""
    parts = {"*": "[^/]*", "?": "[^/]"}
    return "".join(parts.get(letter, re.escape(letter)) for letter in pattern)
