"""Make a machine ready for the agent as a service: a unit, a user, and the configuration with every setting explained.

INSTALL-1  What a person changed stays: a file is replaced only while it is as an earlier installation wrote it.
INSTALL-2  Doing it again changes nothing. Nothing is started; the caller learns what to do next.
INSTALL-3  With another root it writes into an image: no file of the running system is read or written.
INSTALL-4  The service has its own user, no capabilities, and one place to write: its state folder. It reaches the
           container engine through the socket's group.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

from margo_gitops.agent.settings.configuration import DEFAULT_LONGEST_TIMEOUT, AgentConfiguration
from margo_gitops.digests import sha256
from margo_gitops.disk.files import disk_errors, read_small_file, replace_file
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import RecordShape, record_shape
from margo_gitops.documents.shapes import ChoiceShape
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.errors import AgentMisconfigured
from margo_gitops.values import MISSING

USER: Final = "margo-gitops"
UNIT: Final = "margo-gitops-agent"
EXAMPLE: Final = Path("etc/margo-gitops/agent.example.yaml")
_SYSTEMD: Final = Path("etc/systemd/system")
_GROUPS: Final = Path("etc/group")

_LARGEST: Final = 1024 * 1024
_MARK: Final = re.compile(rb"# Written by `margo-gitops agent install` ([^\n]*)\n")
_WIDTH: Final = 100

_LONGEST_STEP: Final = 2 * DEFAULT_LONGEST_TIMEOUT
"""Seconds: a step may fail, and then start again what ran before."""

Placed: TypeAlias = Literal["written", "unchanged", "kept: someone changed it"]

_HARDENING: Final = """\
User={user}
Group={user}
{groups}StateDirectory=margo-gitops
StateDirectoryMode=0700
RuntimeDirectory=margo-gitops
UMask=0077
# What an applier or the configuration writes elsewhere (files: folder, trust.floorCopy, health.textfile):
#   systemctl edit {unit}, and there ReadWritePaths=/that/folder
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
KeyringMode=private
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
LimitCORE=1
"""

_SERVICE: Final = """\
[Unit]
Description=margo-gitops agent
Wants=network-online.target
After=network-online.target docker.service podman.socket

[Service]
Type=notify
ExecStart={program} agent run
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=10
# A step that runs when the stop comes is finished first: longer than longestTimeout.
TimeoutStopSec={stop}
KillMode=mixed
# Signs of life come before each step: at least twice longestTimeout.
WatchdogSec={watchdog}
{hardening}
[Install]
WantedBy=multi-user.target
"""

_ONCE: Final = """\
[Unit]
Description=margo-gitops agent, one poll
Wants=network-online.target
After=network-online.target docker.service podman.socket

[Service]
Type=oneshot
ExecStart={program} agent once
# Another agent is at work, or a change waits for its time.
SuccessExitStatus=75
TimeoutStartSec={watchdog}
# Between two polls, metrics stay.
RuntimeDirectoryPreserve=yes
{hardening}"""

_TIMER: Final = """\
[Unit]
Description=margo-gitops agent, at intervals

[Timer]
OnBootSec=1min
OnUnitInactiveSec=5min
# So that a plant that starts at once does not poll at once.
RandomizedDelaySec=1min

[Install]
WantedBy=timers.target
"""

_ACCOUNT: Final = """\
u {user} - "margo-gitops agent" /var/lib/margo-gitops
"""
_FOLDER: Final = """\
d /etc/margo-gitops 0750 {user} {user} -
d /var/lib/margo-gitops 0700 {user} {user} -
"""


def install(root: Path, program: Path, *, timer: bool, groups: tuple[str, ...] | None = None) -> dict[Path, Placed]:
    """Write what a service needs below a root, and return what became of each file.

    Args:
        program: the command `margo-gitops`, as the service calls it.
        timer: whether a timer polls, in place of a service that stays.
        groups: of the engines' sockets; None: docker, where the root has that group.

    Raises:
        AgentMisconfigured: a file cannot be written.
    """
    if groups is None:
        groups = ("docker",) if _has_group(root, "docker") else ()
    unit = f"{UNIT}-once" if timer else UNIT
    hardening = _HARDENING.format(
        user=USER, unit=unit, groups=f"SupplementaryGroups={' '.join(groups)}\n" if groups else ""
    )
    values = {
        "program": program,
        "hardening": hardening,
        "stop": f"{_LONGEST_STEP // 60 - 10}min",
        "watchdog": f"{_LONGEST_STEP // 60 + 10}min",
    }
    files = {
        Path(f"etc/sysusers.d/{USER}.conf"): _ACCOUNT.format(user=USER),
        Path(f"etc/tmpfiles.d/{USER}.conf"): _FOLDER.format(user=USER),
        EXAMPLE: "\n".join(explained()) + "\n",
        _SYSTEMD / f"{unit}.service": (_ONCE if timer else _SERVICE).format_map(values),
    }
    if timer:
        files[_SYSTEMD / f"{unit}.timer"] = _TIMER
    return {path: _place(root / path, text.encode()) for path, text in files.items()}


def next_steps(*, timer: bool) -> list[str]:
    """Return what a person does after an installation, command by command."""
    unit = f"{UNIT}-once.timer" if timer else UNIT
    return [
        "systemd-sysusers",
        "systemd-tmpfiles --create",
        f"runuser -u {USER} -- margo-gitops agent enroll URL",
        f"runuser -u {USER} -- margo-gitops agent config check",
        f"systemctl daemon-reload && systemctl enable --now {unit}",
    ]


def explained() -> Iterator[str]:
    """Yield the lines of a configuration with every setting and its meaning, all of them comments."""
    yield "# The agent's settings: what they mean, and what counts without them. Copy what you need into agent.yaml."
    yield "# `margo-gitops agent enroll` writes agent.yaml; `margo-gitops agent config check` checks it."
    yield from _explained(record_shape(AgentConfiguration), "")


def _explained(record: RecordShape, indent: str) -> Iterator[str]:
    for item in record.slots.fields:
        about = item.about.text if item.about else ""
        has_default = item.default is not MISSING and item.default is not None
        note = "Required." if item.required else ""
        if about or note:
            yield "#"
            yield from (f"# {indent}{line}" for line in textwrap.wrap(f"{about} {note}".strip(), _WIDTH))
        if isinstance(item.shape, RecordShape):
            yield f"#{indent}{item.wire}:"
            yield from _explained(item.shape, indent + "  ")
            continue
        example: Json = item.shape.choices[0] if isinstance(item.shape, ChoiceShape) else None
        if item.about and item.about.examples:
            example = item.about.examples[0]
        value = item.shape.write(item.default) if has_default else example
        text = write_yaml({item.wire: value}).decode().rstrip() if value is not None else f"{item.wire}:"
        yield from (f"#{indent}{line}" for line in text.split("\n"))


def _has_group(root: Path, name: str) -> bool:
    try:
        return any(line.startswith(f"{name}:") for line in (root / _GROUPS).read_text().splitlines())
    except OSError:
        return False


def _place(path: Path, text: bytes) -> Placed:
    """Write a file unless a person changed it (INSTALL-1)."""
    what = f"{path.name} cannot be installed"
    with disk_errors(path, what=what, error=AgentMisconfigured, remedy="run it as root, or name another --root"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            held = read_small_file(path, _LARGEST, what=what, error=AgentMisconfigured)
            mark = _MARK.match(held)
            if mark is None or mark.group(1).decode() != sha256(held[mark.end() :]):
                return "kept: someone changed it"
            if held[mark.end() :] == text:
                return "unchanged"
        replace_file(
            path, b"# Written by `margo-gitops agent install` " + sha256(text).encode() + b"\n" + text, mode=0o644
        )
    return "written"
