"""What a large fleet costs: a render, a plan, a validation and a status, each first and after one edit.

All seconds are CPU seconds, of one run each. The floor is that of `render.py`, for the objects of the first render.

Usage: python benchmarks/scale.py [DEVICES]        default: 100000
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fleets import change_device, change_site, command, commit, make_fleet
from render import read_objects, render, timed, write_floor


def main() -> None:
    """Measure one fleet and print a table, a line as soon as it is known."""
    devices = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print(f"{devices} devices")
    print(f"{'what':<34} {'CPU s':>8} {'of floor':>9} {'peak MB':>8}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        floor = 0.0
        for what, seconds, memory in measure(devices, Path(folder)):
            floor = floor or seconds
            print(f"{what:<34} {seconds:>8.2f} {seconds / floor:>9.2f} {memory or '':>8}", flush=True)


def measure(devices: int, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield what was done, its CPU seconds and its peak memory (MB), beginning with the floor."""
    fleet, state = folder / "fleet", folder / "state.git"
    make_fleet(fleet, devices)
    here, there = ["--fleet", str(fleet)], ["--state-repo", str(state)]
    first = render(fleet, state)
    # In a process of its own: Linux counts the memory of who starts a command as the command's.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        yield "floor", apart.submit(floor_of, state, folder / "floor").result(), 0
    yield "render, first", *first
    yield "render, nothing new", *render(fleet, state)
    yield "validate, first", *command(["validate", *here], codes=(0, 1))
    change_device(fleet)
    commit(fleet, "Change one device")
    yield "validate, one device changed", *command(["validate", *here, "--since", "HEAD~1"], codes=(0, 1))
    yield "plan, one device changed", *command(["plan", *here, *there], codes=(1,))
    yield "plan of this device", *command(["plan", *here, *there, "press-00000"], codes=(1,))
    yield "explain this device", *command(["explain", *here, "press-00000", "greeting"])
    yield "render, one device changed", *render(fleet, state)
    change_site(fleet)
    commit(fleet, "Change one site")
    yield "plan, one site changed", *command(["plan", *here, *there], codes=(1,))
    yield "render, one site changed", *render(fleet, state)
    yield "status", *command(["status", *there], codes=(0, 1))
    yield "status of one device", *command(["status", *there, "press-00001"], codes=(0, 1))


def floor_of(state: Path, target: Path) -> float:
    """Return the CPU seconds of the floor for all objects of a state repo."""
    objects = read_objects(state)
    return timed(lambda: write_floor(objects, target))


if __name__ == "__main__":
    main()
