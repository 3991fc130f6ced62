"""scripts/margo-pull.sh on a device that has a POSIX sh, curl, sha256sum, tar and gzip, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from testbed.errors import UnavailableError
from testbed.packages import program, unpack
from testbed.places import state_folder

from support.command_line import Outcome
from support.real import require_program, unavailable

SCRIPT = Path(__file__).parents[2] / "scripts" / "margo-pull.sh"
SHELLS = ("dash", "busybox")
# What POSIX has, and the script uses; besides, /proc where there is one.
_POSIX = (
    *(
        "awk",
        "cat",
        "chmod",
        "cmp",
        "cp",
        "date",
        "env",
        "grep",
        "ln",
        "ls",
        "mkdir",
        "mv",
        "rm",
        "sed",
        "sleep",
        "sort",
    ),
    *("sync", "tail", "tr", "uname", "wc"),
)
_ADDED = ("sha256sum", "tar", "gzip")


def small_device(folder: Path, shell: str) -> Device:
    """Return a device whose PATH holds nothing but what the script may use.

    Args:
        folder: of the device.
        shell: "dash", with the programs of this system, or "busybox", with its own.
    """
    path = folder / "bin"
    path.mkdir(parents=True)
    path.joinpath("curl").symlink_to(require_program("curl", "curl"))
    if shell == "busybox":
        found = _busybox()
        for name in (*_POSIX, *_ADDED, "sh"):
            path.joinpath(name).symlink_to(found)
        return Device(folder, (str(found), "sh"))
    for name in (*_POSIX, *_ADDED):
        path.joinpath(name).symlink_to(require_program(name, "coreutils"))
    dash = require_program("dash", "dash")
    path.joinpath("sh").symlink_to(dash)
    return Device(folder, (str(dash),))


def _busybox() -> Path:
    found = program("busybox")
    if found:
        return found
    try:
        return unpack("busybox-static", "busybox", state_folder() / "packages")
    except (UnavailableError, OSError) as error:
        unavailable(f"no busybox: {error}")


@dataclass
class Device:
    """A device with its state folder, its hook and its token."""

    folder: Path
    shell: tuple[str, ...]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def current(self) -> Path:
        return self.state / "current"

    def hooks(self) -> list[list[str]]:
        """Return the arguments of every call of the hook, in order."""
        calls = self.folder / "hooks"
        return [line.split("|")[:-1] for line in calls.read_text().splitlines()] if calls.exists() else []

    def documents(self) -> dict[str, bytes]:
        """Return what is adopted: content by name."""
        return {path.name: path.read_bytes() for path in sorted((self.current / "deployments").glob("*"))}

    def manifest(self) -> bytes:
        return (self.current / "manifest.json").read_bytes()

    def hook(self, body: str = "exit 0") -> Path:
        """Write the hook; it notes its arguments first."""
        path = self.folder / "hook"
        path.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >>{self.folder}/hooks\necho >>{self.folder}/hooks\n{body}\n')
        path.chmod(0o755)
        return path

    def can_verify(self, today: datetime | None = None) -> None:
        """Add what signatures need; `today` is the day that it shows when it looks whether a document has expired."""
        for name, package in (("ssh-keygen", "openssh-client"), ("sha1sum", "coreutils")):
            if not (place := self.folder / "bin" / name).exists():
                place.symlink_to(require_program(name, package))
        if today is not None:
            date, real = self.folder / "bin" / "date", require_program("date", "coreutils")
            date.unlink()
            shown = f'case $* in "-u +%Y%m%d%H%M%S" | "-u +%s") set -- -u -d @{int(today.timestamp())} "$2" ;; esac\n'
            date.write_text(f'#!/bin/sh\n{shown}exec {real} "$@"\n')
            date.chmod(0o755)

    def command(self, url: str, token: str, *options: str) -> list[str]:
        token_file = self.folder / "token"
        token_file.write_text(f"{token}\n")
        hook = self.folder / "hook"
        if not hook.exists():
            self.hook()
        settings = ["--url", url, "--state", str(self.state), "--hook", str(hook), "--token-file", str(token_file)]
        signed = [] if {"--allowed-signers", "--trust-document"} & {*options} else ["--unsigned", "yes"]
        return [*self.shell, str(SCRIPT), *settings, *signed, *options]

    def environment(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        return {"PATH": str(self.folder / "bin"), "HOME": "/nonexistent", **(variables or {})}

    def pull(self, url: str, token: str, *options: str, variables: Mapping[str, str] | None = None) -> Outcome:
        """Poll once."""
        self.folder.joinpath("tmp").mkdir(exist_ok=True)
        done = subprocess.run(
            self.command(url, token, *options),
            env=self.environment(variables),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def crash_at(self, number: int) -> None:
        """Let the device die at the n-th program that changes its disk or asks the server; 0: never again."""
        real = self.folder / "real"
        real.mkdir(exist_ok=True)
        counter = self.folder / "counter"
        counter.write_text("0")
        for name in ("curl", "mv", "ln", "rm", "cp", "sync", "mkdir"):
            plain, kept = self.folder / "bin" / name, real / name
            if not kept.is_symlink():
                kept.symlink_to(plain.readlink())
            plain.unlink()
            if not number:
                plain.symlink_to(kept.readlink())
                continue
            plain.write_text(
                f"#!/bin/sh\nread n <{counter}\nn=$((n + 1))\necho $n >{counter}\n"
                f'[ $n -ne {number} ] || kill -9 0\nexec {kept} "$@"\n'
            )
            plain.chmod(0o755)
