"""What of a compose file a device's policy refuses. Pure.

The file is as Compose resolved it (`docker compose config --format json`), or as it is written: both of Compose's
spellings are understood.

GUARD-1  Only what is known to be harmless passes: a key, a type or a value that is not listed here is refused, unless
         the policy has a line for it.
GUARD-2  What is refused names the service, the key, the value, and the line of the policy that would allow it.
GUARD-3  A path is judged as it is written and as it really is, after links (`Surroundings.real`).
GUARD-4  What belongs to others on the device, containers, volumes and networks, is not the workload's to use.

Source: the Compose specification, and what Docker Engine makes of it.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from margo_gitops.documents.content_places import place_of
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.workload_judge import Judge, Path, Refused, Surroundings, items, listed, refused, text_of
from margo_gitops.documents.workload_policy import WorkloadPolicy


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


HARMLESS: Final = _names("""
    attach blkio_config cap_drop command configs container_name cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period
    cpu_rt_runtime cpu_shares cpus cpuset depends_on develop dns dns_opt dns_search domainname entrypoint env_file
    environment expose extends extra_hosts group_add healthcheck hostname init label_file labels links mac_address
    mem_limit mem_reservation mem_swappiness memswap_limit pids_limit platform profiles pull_policy pull_refresh_after
    read_only restart scale secrets shm_size stdin_open stop_grace_period stop_signal tmpfs tty ulimits user working_dir
""")
"""Keys of a service that give it nothing of the device; `compose_reads` judges the files that they name."""

_SYSCTLS: Final = ("net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm")
"""Those that belong to a container alone (runc, isolated sysctls)."""
_BUFFERED: Final = "mode max-buffer-size"
_LOGGING: Final = {
    "json-file": _names(f"{_BUFFERED} max-size max-file labels labels-regex env env-regex compress tag"),
    "local": _names(f"{_BUFFERED} max-size max-file compress"),
    "journald": _names(f"{_BUFFERED} labels labels-regex env env-regex tag"),
    "none": _names(""),
}
_NETWORK_OPTIONS: Final = _names("""
    com.docker.network.driver.mtu com.docker.network.bridge.enable_icc com.docker.network.bridge.enable_ip_masquerade
""")
_SUBNETS: Final = (ipaddress.ip_network("172.16.0.0/12"), 16), (ipaddress.ip_network("fd00::/8"), 48)
"""Where Docker puts networks by itself, and the shortest prefix: a wider one would take the plant's addresses."""
_ATTACHMENT: Final = _names("""
    aliases gw_priority interface_name ipv4_address ipv6_address link_local_ips mac_address priority
""")
_DEPLOY: Final = _names("endpoint_mode labels mode placement replicas restart_policy rollback_config update_config")
_MOUNT: Final = {
    "": _names("type source target read_only consistency bind volume tmpfs image"),
    "bind": _names("create_host_path propagation selinux recursive"),
    "volume": _names("nocopy subpath labels"),
    "tmpfs": _names("size mode"),
    "image": _names("subpath"),
}
_PROPAGATION: Final = ("", "private", "rprivate", "slave", "rslave")
_TMPFS_OPTION = re.compile(r"(size|mode|uid|gid|nr_inodes)=[0-9]+[kmgKMG%]?|no(exec|suid|dev|atime)|r[ow]|")
_NO_IMAGE = re.compile(r"-|(dir|oci|oci-archive|docker-archive|docker-daemon|containers-storage|sif|tarball|ostree):")
"""An option of the engine's client, or a file of the device (containers-transports(5)), instead of an image."""
_BIND_OPTION = re.compile(r"r?bind|r[ow]|no(exec|suid|dev|atime)")


def refused_by(policy: WorkloadPolicy, model: Json, surroundings: Surroundings | None = None) -> Iterator[Refused]:
    """Yield each part of a compose file that a policy refuses; nothing where it allows the file."""
    if not policy.unrestricted:
        yield from _Judge(policy, surroundings or Surroundings()).file(model)


class _Judge(Judge):
    """Has a method for each kind of thing that a compose file may ask for."""

    def file(self, model: Json) -> Iterator[Refused]:
        parts = {"services": self.service, "networks": self.network, "volumes": self.volume}
        for key, value in items(model):
            if key in parts:
                for name, entry in items(value):
                    yield from parts[key]((key, name), entry)
            elif key in ("configs", "secrets"):
                for name, entry in items(value):
                    yield from self.file_content((key, name), entry)
            elif key not in ("name", "version", "include"):
                yield from self.key((key,), value)

    def service(self, path: Path, service: Json) -> Iterator[Refused]:
        for key, value in items(service):
            at = (*path, key)
            if key in HARMLESS or not value:
                continue
            if key in _RULES:
                yield from _RULES[key](self, at, value)
            else:
                yield from self.key(at, value)

    # services

    def mode(self, path: Path, value: Json) -> Iterator[Refused]:
        """Judge whose namespace a service lives in: its own, that of another service, or the device's."""
        key, text = str(path[-1]), text_of(value)
        switches = {"network_mode": "hostNetwork", "pid": "hostPid", "ipc": "hostIpc"}
        harmless = ("none", "bridge", "default", "private", "shareable")
        if text in harmless or text.startswith("service:"):
            return
        if text == "host" and key in switches:
            yield from self.switch(path, value, switches[key])
        else:
            yield from self.key(path, value)

    def capabilities(self, path: Path, value: Json) -> Iterator[Refused]:
        for at, each in listed(path, value):
            if not self.policy.allows_capability(text_of(each)):
                yield refused(at, each, f"capabilities: [{text_of(each).upper().removeprefix('CAP_')}]")

    def devices(self, path: Path, value: Json) -> Iterator[Refused]:
        for at, each in listed(path, value):
            source = text_of(each["source"] if isinstance(each, dict) and "source" in each else each)
            name = source.partition(":")[0] if isinstance(each, str) else source
            yield from self._device(at, each, name)

    def _device(self, path: Path, value: Json, name: str) -> Iterator[Refused]:
        if not self.policy.allows_device(name):
            yield refused(path, value, f"devices: [{json.dumps(name)}]")

    def requests(self, path: Path, value: Json) -> Iterator[Refused]:
        """Judge requests for devices by what they are, as for a GPU."""
        for at, each in listed(path, value):
            request = dict(items(each))
            kinds = [text_of(kind) for _, kind in listed((), request.get("capabilities"))]
            names = ["gpu" if not kinds or "gpu" in kinds else text_of(request.get("driver")) or kinds[0]]
            if request.get("driver") == "cdi":
                names = [text_of(name) for _, name in listed((), request.get("device_ids"))] or [""]
            for name in names:
                yield from self._device(at, each, name)

    def volumes(self, path: Path, value: Json) -> Iterator[Refused]:
        for at, each in listed(path, value):
            if isinstance(each, str):
                yield from self._short_volume(at, each)
                continue
            mount = dict(items(each))
            kind = text_of(mount.get("type"))
            yield from self.only(at, each, _MOUNT[""], "volumes")
            for name in ("bind", "volume", "tmpfs", "image"):
                if mount.get(name):
                    yield from self.only((*at, name), mount[name], _MOUNT[name], f"volumes.{name}")
            if kind == "bind":
                bind = {key: text_of(value) for key, value in items(mount.get("bind"))}
                # A label is written into the file; what is mounted below the folder stays writable.
                writes = bool(bind.get("selinux")) or bind.get("recursive") == "writable"
                writable = writes or mount.get("read_only") is not True
                yield from self._bind(at, text_of(mount.get("source")), writable, bind.get("propagation", ""))
            elif kind == "volume" and "/" in text_of(mount.get("source")):  # the engine takes it for a path
                yield from self.host_path(at, text_of(mount.get("source")), writable=True)
            elif kind == "image":
                yield from self.image((*at, "source"), mount.get("source"))
            elif kind not in ("volume", "tmpfs"):
                yield from self.key((*at, "type"), kind or "none", "volumes.type")

    def _short_volume(self, path: Path, text: str) -> Iterator[Refused]:
        source, colon, rest = text.partition(":")
        options = rest.partition(":")[2].split(",")
        if colon and source.startswith((".", "/", "~", "\\")):
            propagation = [each for each in options if each in ("shared", "rshared")]
            writable = "ro" not in options or not {"z", "Z"}.isdisjoint(options)
            yield from self._bind(path, source, writable, "".join(propagation))

    def _bind(self, path: Path, source: str, writable: bool, propagation: str) -> Iterator[Refused]:
        yield from self.host_path(path, source, writable=writable)
        if propagation not in _PROPAGATION:
            yield from self.key((*path, "bind", "propagation"), propagation, "volumes.bind.propagation")

    def volumes_from(self, path: Path, value: Json) -> Iterator[Refused]:
        for at, each in listed(path, value):
            if text_of(each).startswith("container:"):
                yield from self.key(at, each, "volumes_from")

    def ports(self, path: Path, value: Json) -> Iterator[Refused]:
        for at, each in listed(path, value):
            if isinstance(each, dict):
                published = text_of(each.get("published"))
            else:
                parts = text_of(each).partition("/")[0].rsplit(":", 2)
                published = parts[-2] if len(parts) > 1 else ""
            if published not in ("", "0") and not self.policy.allows_port(published):
                yield refused(at, published, f"hostPorts: [{json.dumps(published)}]")

    def security(self, path: Path, value: Json) -> Iterator[Refused]:
        for at, each in listed(path, value):
            if not re.fullmatch(r"no-new-privileges([:=]true)?", text_of(each)):
                yield from self.key(at, each, "security_opt")

    def sysctls(self, path: Path, value: Json) -> Iterator[Refused]:
        entries = [(at, text_of(each).partition("=")[0]) for at, each in listed(path, value)]
        if isinstance(value, dict):
            entries = [((*path, name), name) for name in value]
        for at, name in entries:
            if not (name.startswith(_SYSCTLS) and re.fullmatch(r"[\w.-]+", name)):
                yield from self.key(at, name, "sysctls")

    def logging(self, path: Path, value: Json) -> Iterator[Refused]:
        settings = dict(items(value))
        driver = text_of(settings.get("driver")) or "json-file"
        if driver not in _LOGGING:
            yield from self.key((*path, "driver"), driver, "logging.driver")
        elif settings.get("options"):
            yield from self.only((*path, "options"), settings["options"], _LOGGING[driver], "logging.options")
        yield from self.only(path, value, _names("driver options"), "logging")

    def attachments(self, path: Path, value: Json) -> Iterator[Refused]:
        for name, each in items(value):
            if each:
                yield from self.only((*path, name), each, _ATTACHMENT, "networks.attachment")

    def hooks(self, path: Path, value: Json) -> Iterator[Refused]:
        for at, each in listed(path, value):
            hook = dict(items(each))
            if hook.pop("privileged", False):
                yield from self.switch((*at, "privileged"), dict(items(each))["privileged"], "privileged")
            yield from self.only(at, hook, _names("command user working_dir environment"), str(path[-1]))

    def image(self, path: Path, value: Json) -> Iterator[Refused]:
        name = text_of(value)
        if _NO_IMAGE.match(name.strip()):
            yield from self.key(path, name, "image")
        if not self.policy.allows_place(name):
            yield refused(path, value, f"registries: [{json.dumps(place_of(name))}]")
        if not self.policy.allows_name(name):
            yield refused(path, value, "requireDigest: false")

    def deploy(self, path: Path, value: Json) -> Iterator[Refused]:
        yield from self.only(path, value, _DEPLOY | {"resources"}, "deploy")
        resources = dict(items(value)).get("resources")
        if resources:
            kinds = _names("limits reservations")
            yield from self.only((*path, "resources"), resources, kinds, "deploy.resources")
        for kind, each in items(resources):
            at, amounts = (*path, "resources", kind), dict(items(each))
            yield from self.requests((*at, "devices"), amounts.pop("devices", None) or [])
            yield from self.only(at, amounts, _names("cpus memory pids generic_resources"), "deploy.resources")

    def score(self, path: Path, value: Json) -> Iterator[Refused]:
        """Judge who dies first when memory is short: a workload may only offer itself."""
        if not re.fullmatch(r"[0-9]+", text_of(value)):
            yield from self.key(path, value)

    # networks, volumes, configs and secrets

    def network(self, path: Path, entry: Json) -> Iterator[Refused]:
        network = dict(items(entry))
        driver = text_of(network.pop("driver", ""))
        name = self._foreign_name(path, network)
        if "host" in (driver, name):
            yield from self.switch(path, "host", "hostNetwork")
        else:
            yield from self.key(
                (*path, "driver"), driver if driver not in ("bridge", "default") else "", "networks.driver"
            )
            yield from self.key((*path, "name"), name, "networks.name")
        if options := network.pop("driver_opts", None):
            yield from self.only((*path, "driver_opts"), options, _NETWORK_OPTIONS, "networks.driver_opts")
        if ipam := network.pop("ipam", None):
            if dict(items(ipam)).get("driver") in ("default", ""):
                ipam = {key: value for key, value in items(ipam) if key != "driver"}
            yield from self.only((*path, "ipam"), ipam, _names("config"), "networks.ipam")
            for at, each in listed((*path, "ipam", "config"), dict(items(ipam)).get("config")):
                subnet = text_of(dict(items(each)).get("subnet"))
                if subnet and not _is_own(subnet):
                    yield from self.key((*at, "subnet"), subnet, "networks.ipam.config.subnet")
        simple = _names("attachable enable_ipv4 enable_ipv6 external internal labels name")
        yield from self.only(path, network, simple, "networks")

    def volume(self, path: Path, entry: Json) -> Iterator[Refused]:
        volume = dict(items(entry))
        driver = text_of(volume.pop("driver", ""))
        yield from self.key((*path, "driver"), driver if driver != "local" else "", "volumes.driver")
        name = self._foreign_name(path, volume)
        if "/" in name:  # the engine takes it for a path
            yield from self.host_path((*path, "name"), name, writable=True)
        else:
            yield from self.key((*path, "name"), name, "volumes.name")
        if options := volume.pop("driver_opts", None):
            yield from self._volume_options((*path, "driver_opts"), options)
        yield from self.only(path, volume, _names("external labels name"), "volumes")

    def _volume_options(self, path: Path, value: Json) -> Iterator[Refused]:
        """Judge what the local driver mounts: a file system of any kind, with any option."""
        options = {key: text_of(each) for key, each in items(value)}
        kind, device = options.get("type", ""), options.get("device", "")
        words = options.get("o", "").split(",")
        plain = options.keys() <= {"type", "device", "o"}
        if plain and kind == "tmpfs" and device in ("", "tmpfs") and all(map(_TMPFS_OPTION.fullmatch, words)):
            return
        binds = {"bind", "rbind"} & set(words)
        if plain and kind in ("", "none", "bind") and binds and all(map(_BIND_OPTION.fullmatch, words)):
            yield from self.host_path((*path, "device"), device, writable="ro" not in words or "rw" in words)
        else:
            yield from self.key(path, kind or device or value, "volumes.driver_opts")

    def file_content(self, path: Path, entry: Json) -> Iterator[Refused]:
        """Judge a config or a secret: it may be a file of the device."""
        content = dict(items(entry))
        if file := content.pop("file", None):
            yield from self.host_path((*path, "file"), text_of(file), writable=False)
        allowed = _names("name content environment labels")
        yield from self.only(path, content, allowed, str(path[0]))

    def _foreign_name(self, path: Path, entry: Mapping[str, Json]) -> str:
        """Return the name of a network or volume that others have, or could have, too; empty for the project's own."""
        external = entry.get("external")
        older = external.get("name") if isinstance(external, dict) else None
        name = text_of(entry.get("name") or older)
        if external in (None, False, "false"):
            return "" if name == f"{self.around.project}_{path[-1]}" else name
        return name or str(path[-1])


def _is_own(subnet: str) -> bool:
    """Return whether a network of the engine may have these addresses: the device's packets for them go there."""
    try:
        found = ipaddress.ip_network(subnet, strict=False)
    except ValueError:
        return False
    return any(
        found.version == pool.version and found.prefixlen >= shortest and found.network_address in pool
        for pool, shortest in _SUBNETS
    )


_RULES: Final[Mapping[str, Callable[[_Judge, Path, Json], Iterator[Refused]]]] = {
    "cap_add": _Judge.capabilities,
    "cgroup": _Judge.mode,
    "deploy": _Judge.deploy,
    "devices": _Judge.devices,
    "gpus": lambda judge, path, value: judge.requests(path, value if isinstance(value, list) else [{}]),
    "image": _Judge.image,
    "ipc": _Judge.mode,
    "isolation": _Judge.mode,
    "logging": _Judge.logging,
    "network_mode": _Judge.mode,
    "networks": _Judge.attachments,
    "oom_score_adj": _Judge.score,
    "pid": _Judge.mode,
    "ports": _Judge.ports,
    "post_start": _Judge.hooks,
    "pre_start": _Judge.hooks,
    "pre_stop": _Judge.hooks,
    "privileged": lambda judge, path, value: judge.switch(path, value, "privileged"),
    "security_opt": _Judge.security,
    "sysctls": _Judge.sysctls,
    "use_api_socket": lambda judge, path, value: judge.switch(path, value, "engineSocket"),
    "volumes": _Judge.volumes,
    "volumes_from": _Judge.volumes_from,
}
