"""What it costs to verify a fleet's history, beside git reading the same objects in the same run.

Usage: python benchmarks/audit.py [DEVICES [COMMITS [FOLDER]]]        default: 1000 500

The history is made first, which takes longer than to verify it; in FOLDER it is kept, and found again.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fleets import commit, git, make_fleet

from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet

JOBS = (1, 2)
EVERY = 25
"""Commits between two lines of progress."""


def main() -> None:
    """Make a history, or take the one that is there, and print what it costs to verify it."""
    arguments = sys.argv[1:]
    devices = int(arguments[0]) if arguments else 1000
    commits = int(arguments[1]) if len(arguments) > 1 else 500
    if len(arguments) > 2:
        measure(devices, commits, Path(arguments[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(devices, commits, Path(folder))


def measure(devices: int, commits: int, folder: Path) -> None:
    """Print the figures of one history."""
    seconds = make_history(devices, commits, folder)
    if seconds:
        print(f"made {commits} commits in {seconds:.0f} s", file=sys.stderr)
    fleet, state = folder / "fleet", folder / "state.git"
    rows = {"git cat-file --batch-all-objects": run(["git", "-C", str(state), *READ_ALL], folder)}
    verify = [
        sys.executable,
        "-m",
        "margo_gitops",
        "audit",
        "verify",
        "--fleet",
        str(fleet),
        "--state-repo",
        str(state),
    ]
    verify += ["--allowed-signers", str(folder / "allowed_signers")]
    for jobs in JOBS:
        rows[f"audit verify --jobs {jobs}"] = run([*verify, "--jobs", str(jobs)], folder)
    rows["audit verify --resume, nothing new"] = run([*verify, "--resume"], folder)
    device_commits = len(output(state, "rev-list", "--glob=refs/heads/devices/*").split())
    commits = len(output(state, "rev-list", "fleet").split())  # an edit that concerns no device brings none
    print(f"{devices} devices, {commits} fleet commits, {device_commits} device commits")
    print(f"{'what':<36} {'seconds':>8} {'CPU s':>8} {'ms each':>8} {'peak MB':>8}")
    for what, (wall, cpu, memory) in rows.items():
        each = 1000 * cpu / commits if "verify --jobs" in what else 0
        print(f"{what:<36} {wall:>8.1f} {cpu:>8.1f} {f'{each:.0f}' if each else '':>8} {memory:>8}", flush=True)


READ_ALL = ("cat-file", "--batch-all-objects", "--batch", "--buffer")


def make_history(devices: int, commits: int, folder: Path) -> float:
    """Make a signed history of random edits; return the seconds it took, 0 where it was there already.

    Of 20 edits 12 concern one device, 5 a site of a hundred, 2 all devices, and 1 brings a device that was not there.
    """
    fleet, state, key_file = folder / "fleet", folder / "state.git", folder / "key"
    if not fleet.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_fleet(fleet, devices)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key_file)], check=True)
        public = (folder / "key.pub").read_text(encoding="utf-8").strip()
        (folder / "allowed_signers").write_text(f'renderer namespaces="git" {public}\n', encoding="utf-8")
    key = read_signing_key(key_file)
    request = RenderRequest(fleet, "HEAD", str(state), folder / "cache", key)
    start = time.perf_counter()
    if not state.exists():
        render_fleet(request)
    made = len(output(fleet, "rev-list", "HEAD").split())
    for number in range(made, commits):
        edit(fleet, number, random.Random(number))
        commit(fleet, f"Edit {number}")
        render_fleet(request)
        if number % EVERY == 0:
            print(f"made {number} of {commits} commits", file=sys.stderr, flush=True)
    if made >= commits:
        return 0
    # As a host keeps it: one pack of everything, not one for each render.
    git(state, "repack", "-a", "-d", "--quiet")
    return time.perf_counter() - start


def edit(fleet: Path, number: int, chance: random.Random) -> None:
    """Change a file of the fleet."""
    kind = chance.choices(["device", "site", "fleet", "new device"], [12, 5, 2, 1])[0]
    if kind == "fleet":
        file = chance.choice(sorted((fleet / "deployments").iterdir()))
        text = file.read_text(encoding="utf-8")
        text = re.sub(r'(?m)^(    (?:greeting|topic): ".*?)(-v\d+)?"$', rf'\g<1>-v{number}"', text)
        file.write_text(text, encoding="utf-8")
        return
    devices = sorted((fleet / "devices").glob("*/*.yaml"))
    if kind == "new device":
        old = chance.choice(devices)
        name = f"new-{number:05}"
        text = old.read_text(encoding="utf-8").replace(old.stem, name)
        (old.parent / f"{name}.yaml").write_text(text, encoding="utf-8")
        return
    file = chance.choice(devices if kind == "device" else sorted((fleet / "sites").iterdir()))
    kept = [line for line in file.read_text(encoding="utf-8").splitlines() if "intervalSeconds" not in line]
    if kind == "site" and "spec:" not in kept:
        kept += ["spec:", "  parameters:"]
    if kind == "device" and "  parameters:" not in kept:
        kept.append("  parameters:")
    at = kept.index("  parameters:") + 1
    kept.insert(at, f"    intervalSeconds: {number % 3000 + 5}")
    file.write_text("\n".join([*kept, ""]), encoding="utf-8")


def output(folder: Path, *arguments: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout


def run(arguments: list[str], folder: Path) -> tuple[float, float, int]:
    """Return seconds, seconds of CPU (with those of its processes) and peak memory (MB) of one process."""
    environment = os.environ | {"MARGO_GITOPS_CACHE": str(folder / "cache")}
    start = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} failed with status {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, round(usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
