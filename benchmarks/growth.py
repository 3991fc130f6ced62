"""How a state repo grows by edits of one device each, compared with what `git gc` makes of it in the same run.

Usage: python benchmarks/growth.py [DEVICES [EDITS ...]]        default: 1000 300 1000
"""

from __future__ import annotations

import random
import re
import resource
import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from fleets import git, make_fleet

from margo_gitops.operations.fleet_input import StateTarget, provenance, read_fleet_commit
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.operations.render.rendered_part import rendered_states
from margo_gitops.rendering.desired_state import DesiredState, raised
from margo_gitops.state_repo.publication import write_render
from margo_gitops.state_repo.render_commits import Provenance
from margo_gitops.state_repo.repacking import repack
from margo_gitops.state_repo.state_repo import StateRepo

FETCHES = 7
DEVICE = "press-00007"


def main() -> None:
    """Make the edits, and print a row for each number of them."""
    numbers = [int(text) for text in sys.argv[1:]] or [1000, 300, 1000]
    devices, edits = numbers[0], sorted(numbers[1:]) or [300]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_fleet(folder / "fleet", devices)
        render_fleet(RenderRequest(folder / "fleet", "HEAD", str(folder / "state.git"), folder / "cache"))
        print(f"{devices} devices")
        print(
            f"{'edits':>6} {'packs':>6} {'kB':>9} {'of gc':>6} {'kB of gc':>9} {'B an edit':>10} {'ms an edit':>11} "
            f"{'fetch ms':>9} {'of gc':>6}"
        )
        grow(folder, edits)


def grow(folder: Path, edits: list[int]) -> None:
    """Edit one device after another; print a row at each of `edits`."""
    repo = StateRepo.open(folder / "state.git")
    fleet = read_fleet_commit(folder / "fleet", "HEAD")
    values = repo.refs.read()
    states = {state.device: state for state in rendered_states(fleet.intent, StateTarget(repo, None), values)}
    origin = provenance(fleet)
    chance = random.Random(11)
    added: list[int] = []
    row(folder, 0, added, 0.0)
    began = cpu()
    for number in range(1, edits[-1] + 1):
        before = size(repo.folder)
        publish(repo, states, origin, chance.choice(sorted(states)), number)
        added.append(size(repo.folder) - before)
        repack(repo.folder)
        if number in edits:
            row(folder, number, added, (cpu() - began) / number)


def publish(repo: StateRepo, states: dict[str, DesiredState], origin: Provenance, device: str, number: int) -> None:
    """Change one line in one document of a device, as an edit of one parameter does."""
    held = states[device]
    name = min(held.deployments)
    content = re.sub(rb"value: .*", b"value: %d" % number, held.deployments[name], count=1)
    states[device] = raised(replace(held, deployments={**held.deployments, name: content}))
    write_render(repo, list(states.values()), repo.refs.read(), origin, None)
    states[device] = replace(states[device], changed=False)


def row(folder: Path, number: int, added: list[int], each: float) -> None:
    """Print what there is now, and what `git gc` makes of a copy."""
    state, packed = folder / "state.git", folder / "packed.git"
    shutil.copytree(state, packed)
    git(packed, "gc", "--quiet")
    packs = len(list((state / "objects" / "pack").glob("*.pack")))
    here, there = size(state), size(packed)
    fetch, fetch_packed = (statistics.median(fetched(each, folder) for _ in range(FETCHES)) for each in (state, packed))
    print(
        f"{number:>6} {packs:>6} {here / 1000:>9.0f} {here / there:>6.2f} {there / 1000:>9.0f} "
        f"{statistics.median(added or [0]):>10.0f} {1000 * each:>11.1f} {fetch:>9.1f} {fetch / fetch_packed:>6.2f}",
        flush=True,
    )
    shutil.rmtree(packed)


def fetched(state: Path, folder: Path) -> float:
    """Return the CPU milliseconds of git, both sides, for a device's state at depth 1."""
    target = folder / "fetched.git"
    began = cpu()
    url = f"file://{state}"
    git(folder, "clone", "--quiet", "--bare", "--depth", "1", "--branch", f"devices/{DEVICE}", url, str(target))
    spent = cpu() - began
    shutil.rmtree(target)
    return 1000 * spent


def cpu() -> float:
    """Return the CPU seconds of this process and its children so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def size(state: Path) -> int:
    """Return the bytes of a repository's objects."""
    return sum(path.stat().st_size for path in (state / "objects").rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
