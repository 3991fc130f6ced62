"""What the status of a fleet costs, beside git reading the same objects in the same run.

Usage: python benchmarks/status.py [DEVICES ...]        default: 1000 10000
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fleets import command, git, make_fleet, run

from margo_gitops.documents.state_layout import MANIFEST_FILE, REPORTS_REF, device_ref
from margo_gitops.state_repo.report_branch import ReportBranch, ReportKey

ROUNDS = 3
BATCH = 500


def main() -> None:
    """Measure each fleet size and print a table."""
    print(f"{'devices':>8} {'what':<44} {'CPU s':>8} {'of git':>7} {'peak MB':>8}")
    for devices in [int(text) for text in sys.argv[1:]] or [1000, 10_000]:
        with tempfile.TemporaryDirectory() as folder:
            measure(devices, Path(folder))


def measure(devices: int, folder: Path) -> None:
    """Print the figures of one fleet size: the best of some rounds, taken in turns."""
    fleet, state = folder / "fleet", folder / "state.git"
    make_fleet(fleet, devices)
    command(["render", "--fleet", str(fleet), "--state-repo", str(state)])
    report(state)
    # As a state repo is found in the field: new reports lie loose until git collects them.
    names = [*objects(state, "fleet"), *objects(state, REPORTS_REF)]
    rows: dict[str, list[tuple[float, float]]] = {}
    for kind in ("loose reports", "packed reports"):
        if kind.startswith("packed"):
            git(state, "repack", "-a", "-d", "--quiet")
        for _ in range(ROUNDS):
            rows.setdefault(f"git cat-file --batch, {kind}", []).append((read(state, names), 0.0))
            whole = ["status", "--state-repo", str(state)]
            for what, more in (
                ("status", []),
                ("status of one device", ["press-00001"]),
                ("json", ["--output", "json"]),
            ):
                rows.setdefault(f"{what}, {kind}", []).append(command([*whole, *more], codes=(0, 1)))
    for what, taken in rows.items():
        floor = min(rows[f"git cat-file --batch, {what.rpartition(', ')[2]}"])[0]
        seconds, memory = min(taken)
        print(f"{devices:>8} {what:<44} {seconds:>8.2f} {seconds / floor:>7.1f} {memory or '':>8}", flush=True)


def report(state: Path) -> None:
    """Let every device report every deployment as installed, as the server commits it."""
    branch = ReportBranch(state)
    listed = text(state, "for-each-ref", "--format=%(refname)", "refs/heads/devices/").split()
    devices = [each.rpartition("/")[2] for each in listed]
    manifests = read_manifests(state, devices)
    for start in range(0, len(devices), BATCH):
        some = devices[start : start + BATCH]
        changes: dict[ReportKey, bytes | None] = {}
        for device in some:
            manifest = json.loads(manifests[device])
            for each in manifest["deployments"]:
                document = {
                    "adoptedManifestVersion": manifest["manifestVersion"],
                    "components": [{"name": "web", "state": "installed"}],
                    "deploymentId": each["deploymentId"],
                    "status": {"state": "installed"},
                }
                changes[ReportKey(device, "status", each["deploymentId"])] = json.dumps(document, indent=2).encode()
        trailers = [("Reported-By", f"{device} (token)") for device in some]
        branch.commit(changes, f"Reports of {len(some)} devices", trailers, int(time.time()))


def read_manifests(state: Path, devices: list[str]) -> dict[str, bytes]:
    """Return every device's manifest."""
    asked = "".join(f"{device_ref(device)}:{MANIFEST_FILE}\n" for device in devices).encode()
    batch = ["git", "-C", str(state), "cat-file", "--batch", "--buffer"]
    output = subprocess.run(batch, input=asked, capture_output=True, check=True).stdout
    found, at = {}, 0
    for device in devices:
        end = output.index(b"\n", at)
        size = int(output[at:end].split()[2])
        found[device] = output[end + 1 : end + 1 + size]
        at = end + 2 + size
    return found


def objects(state: Path, ref: str) -> list[str]:
    """Return the ids of the trees and files of a commit."""
    return [line.split()[2] for line in text(state, "ls-tree", "-r", "-t", ref).splitlines()]


def read(state: Path, names: list[str]) -> float:
    """Return how many seconds of CPU git takes to read objects."""
    listed = state / "listed"
    listed.write_text("\n".join(names))
    with listed.open("rb") as source:
        return run(["git", "-C", str(state), "cat-file", "--batch", "--buffer"], (0,), source)[0]


def text(folder: Path, *arguments: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
