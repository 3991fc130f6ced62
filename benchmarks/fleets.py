"""Fleets to measure with, two applications on each device; and what one command costs with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

TEMPLATE = Path(__file__).parents[1] / "repo-template"
DEVICES_PER_SITE = 100


def make_fleet(folder: Path, devices: int) -> None:
    """Write and commit a fleet: sites of a hundred devices, two deployments that go to all of them."""
    shutil.copytree(TEMPLATE, folder)
    for name in ("devices", "sites"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    device = (TEMPLATE / "devices" / "press-01.yaml").read_text(encoding="utf-8")
    site = (TEMPLATE / "sites" / "south.yaml").read_text(encoding="utf-8")
    for number in range(devices):
        place = f"site-{number // DEVICES_PER_SITE:03}"
        if number % DEVICES_PER_SITE == 0:
            (folder / "sites" / f"{place}.yaml").write_text(site.replace("south", place), encoding="utf-8")
            (folder / "devices" / place).mkdir()
        name = f"press-{number:05}"
        text = device.replace("press-01", name).replace("site: north", f"site: {place}")
        (folder / "devices" / place / f"{name}.yaml").write_text(text, encoding="utf-8")
    for deployment in (folder / "deployments").iterdir():
        lines = deployment.read_text(encoding="utf-8").splitlines(keepends=True)
        at = next(index for index, line in enumerate(lines) if line.startswith("  placement:"))
        end = next(index for index, line in enumerate(lines) if line.startswith("  parameters:"))
        kept = [*lines[:at], "  placement:\n", "    all: true\n", *lines[end:]]
        text = "".join(kept)
        start = text.find("  overlays:")
        if start >= 0:
            text = text[:start] + text[text.index("  # On a device") :]
        deployment.write_text(text, encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder, "Start the fleet")


def change_device(fleet: Path) -> None:
    """Write another value for one device; it is not committed."""
    device = fleet / "devices" / "site-000" / "press-00000.yaml"
    text = device.read_text(encoding="utf-8")
    device.write_text(f"{text}  parameters:\n    greeting: Salve\n", encoding="utf-8")


def change_site(fleet: Path) -> None:
    """Write another value for one site; it is not committed."""
    site = fleet / "sites" / "site-000.yaml"
    text = site.read_text(encoding="utf-8")
    site.write_text(f"{text}spec:\n  parameters:\n    greeting: Salve\n", encoding="utf-8")


def commit(folder: Path, message: str) -> None:
    """Commit everything in a fleet."""
    git(folder, "add", "--all")
    identity = ("-c", "user.name=Benchmark", "-c", "user.email=benchmark@plant.example")
    git(folder, *identity, "commit", "--quiet", "--message", message)


def git(folder: Path, *arguments: str) -> None:
    """Run git in a folder."""
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def command(arguments: list[str], codes: tuple[int, ...] = (0,)) -> tuple[float, float]:
    """Return seconds of CPU and peak memory (MB) of one `margo-gitops` command."""
    return run([sys.executable, "-m", "margo_gitops", *arguments], codes, None)


def run(arguments: list[str], codes: tuple[int, ...], source: IO[bytes] | None) -> tuple[float, float]:
    """Return seconds of CPU, which other work on the machine hardly changes, and peak memory (MB) of one process."""
    process = subprocess.Popen(arguments, stdin=source, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        sys.exit(f"{' '.join(arguments)} failed with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime, round(usage.ru_maxrss / 1024)
