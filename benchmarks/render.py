"""What a render costs, beside a floor measured in the same run: hash, compress and write the same bytes, nothing else.

All seconds are CPU seconds. Of two processes, they are those of the main process and half of what the others took: how
long it takes on two processors that do nothing else.

Usage: python benchmarks/render.py [DEVICES ...]        default: 1000 10000
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from fleets import change_device, change_site, command, commit, make_fleet

ROUNDS = 3
TWO_PROCESSES = """
import resource
import sys
from margo_gitops.cli.main import main
try:
    main()
finally:
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = own.ru_utime + own.ru_stime + (others.ru_utime + others.ru_stime) / 2
    print(seconds, (own.ru_maxrss + 2 * others.ru_maxrss) // 1024, file=sys.stderr)
"""


def main() -> None:
    """Measure each fleet size and print a table."""
    print(f"{'devices':>8} {'what':<26} {'CPU s':>8} {'of floor':>9} {'peak MB':>8}")
    for devices in [int(text) for text in sys.argv[1:]] or [1000, 10_000]:
        with tempfile.TemporaryDirectory() as folder:
            measure(devices, Path(folder))


def measure(devices: int, folder: Path) -> None:
    """Print the figures of one fleet size: the best of some rounds, floor and render taken in turns."""
    fleet = folder / "fleet"
    make_fleet(fleet, devices)
    first: list[tuple[float, float]] = []
    divided: list[tuple[float, float]] = []
    floors: list[float] = []
    for number in range(ROUNDS):
        state = folder / f"state-{number}.git"
        first.append(render(fleet, state))
        divided.append(render_by_two(fleet, folder / f"divided-{number}.git"))
        objects = read_objects(state)
        floors.append(timed(lambda content=objects, at=number: write_floor(content, folder / f"floor-{at}")))
    floor = min(floors)
    state = folder / "state-0.git"
    nothing = render(fleet, state)
    change_device(fleet)
    commit(fleet, "Change one device")
    one_device = render(fleet, state)
    change_site(fleet)
    commit(fleet, "Change one site")
    one_site = render(fleet, state)
    rows = [
        ("floor", (floor, 0.0)),
        ("first render", min(first)),
        ("first render, 2 processes", min(divided)),
        ("render, nothing new", nothing),
        ("render, one device changed", one_device),
        ("render, one site changed", one_site),
    ]
    for what, (seconds, memory) in rows:
        print(f"{devices:>8} {what:<26} {seconds:>8.2f} {seconds / floor:>9.1f} {memory or '':>8}", flush=True)


def render(fleet: Path, state: Path) -> tuple[float, float]:
    """Return CPU seconds and peak memory (MB) of one `margo-gitops render` in its own process."""
    return command(["render", "--jobs", "1", "--fleet", str(fleet), "--state-repo", str(state)])


def render_by_two(fleet: Path, state: Path) -> tuple[float, float]:
    """Return CPU seconds and peak memory (MB, a sum that counts shared memory more than once) of two processes."""
    arguments = ["render", "--jobs", "2", "--fleet", str(fleet), "--state-repo", str(state)]
    done = subprocess.run([sys.executable, "-c", TWO_PROCESSES, *arguments], check=True, capture_output=True, text=True)
    seconds, memory = done.stderr.splitlines()[-1].split()
    return float(seconds), int(memory)


def read_objects(state: Path) -> list[tuple[bytes, bytes]]:
    """Return every object of a state repo: its kind and its bytes."""
    batch = ["git", "-C", str(state), "cat-file", "--batch-all-objects", "--batch", "--buffer"]
    output = subprocess.run(batch, check=True, capture_output=True).stdout
    objects = []
    at = 0
    while at < len(output):
        end = output.index(b"\n", at)
        _, kind, size = output[at:end].split()
        objects.append((kind, output[end + 1 : end + 1 + int(size)]))
        at = end + 2 + int(size)
    return objects


def write_floor(objects: list[tuple[bytes, bytes]], target: Path) -> None:
    """Hash, compress and write objects: what no renderer can do without."""
    with target.open("wb") as file:
        for kind, content in objects:
            hashlib.sha1(b"%b %d\0" % (kind, len(content)) + content, usedforsecurity=False).digest()
            hashlib.sha256(content).digest()
            file.write(zlib.compress(content, zlib.Z_BEST_SPEED))
        file.flush()
        os.fsync(file.fileno())


def timed(action: Callable[[], None]) -> float:
    """Return how many CPU seconds an action took."""
    start = time.process_time()
    action()
    return time.process_time() - start


if __name__ == "__main__":
    main()
