"""What `margo-gitops budget` calculates, compared with a real server, a real state repo and the agent's own schedule.

Usage: python benchmarks/budget.py [DEVICES ...]        default: 1000 10000
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from fleets import DEVICES_PER_SITE, commit, make_fleet  # noqa: E402
from serve import Device, memory  # noqa: E402
from server.serving import ServedFleet, served_fleet  # noqa: E402

from margo_gitops.agent.service.schedule import Schedule  # noqa: E402
from margo_gitops.operations.budget import Budget, Layout, Way, budget  # noqa: E402
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet  # noqa: E402

INTERVAL = 60
POLLS = 20_000
WAITING = 1_000


def calculated(devices: int, way: Way = "http", edits: float = 0, changed: int = 0) -> Budget:
    """Return the budget of so many devices."""
    return budget(Layout(devices, devices // DEVICES_PER_SITE, 2 * devices, way, INTERVAL, edits, changed))


def row(what: str, says: float, found: float, unit: str) -> None:
    """Print a figure, calculated and measured."""
    print(f"  {what:<44} {says:12,.1f} {found:12,.1f} {found / says:6.2f}  {unit}")


def schedule(devices: int) -> None:
    """Compare requests with the polls of two intervals after an outage."""
    seconds: Counter[int] = Counter()
    longest = 0.0
    for number in range(devices):
        each = Schedule(f"press-{number:05}", INTERVAL, INTERVAL / 10)
        at = each.delay(0.0, failures=3)
        while at < 20 * INTERVAL:
            seconds[int(at)] += 1
            wait = each.delay(at)
            longest, at = max(longest, wait), at + wait
    later = [seconds[second] for second in range(10 * INTERVAL, 20 * INTERVAL)]
    says = calculated(devices)
    row("requests a second", says.requests_per_second, sum(later) / len(later), "/s")
    row("the busiest second after an outage", says.peak_requests_per_second, max(later), "/s")
    row("all devices have an edit after", says.converged_seconds, longest, "s")


def processor(fleet: ServedFleet) -> float:
    """Return the server's processor time, in seconds."""
    assert fleet.process is not None
    fields = Path(f"/proc/{fleet.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def polls(fleet: ServedFleet, devices: int) -> None:
    """Compare the server's processor time for polls, and its memory for polls that wait."""
    kept = [Device(fleet, f"press-{number:05}") for number in range(min(WAITING, devices))]
    for each in kept:
        await each.connect()
        await each.poll()
    began = processor(fleet)
    for number in range(POLLS):
        assert await kept[number % 32].poll() is None
    took = (processor(fleet) - began) / POLLS
    row("processor of serve", calculated(devices).server_cores * 100, took * devices / INTERVAL * 100, "% of a core")
    before = memory(fleet)
    waiting = [asyncio.create_task(each.poll(600)) for each in kept]
    await asyncio.sleep(3)
    # Connections are there already; what they take is in `before`.
    each_bytes = (memory(fleet) - before) / len(kept)
    print(f"  a poll that waits, without its connection: {each_bytes / 1024:.1f} KiB")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def growth(folder: Path, devices: int) -> None:
    """Compare the growth of the state repo by the edit of one device and of a site."""
    make_fleet(folder / "fleet", devices)

    def render() -> int:
        render_fleet(RenderRequest(folder / "fleet", "HEAD", str(folder / "state.git"), folder / "cache"))
        return sum(file.stat().st_size for file in (folder / "state.git/objects/pack").glob("*.pack"))

    size = render()
    for changed in (1, DEVICES_PER_SITE):
        for number in range(changed):
            file = folder / f"fleet/devices/site-000/press-{number:05}.yaml"
            text = re.sub(r"  parameters: .*\n", "", file.read_text())
            file.write_text(text.replace("\nspec:\n", f'\nspec:\n  parameters: {{greeting: "{changed}"}}\n'))
        commit(folder / "fleet", f"Change {changed}")
        now = render()
        says = calculated(devices, edits=1, changed=changed).state_bytes_per_year / 365
        row(f"state repo, an edit of {changed} devices", says / 1_000, (now - size) / 1_000, "kB")
        size = now


def main() -> None:
    """Compare, for each number of devices."""
    for devices in [int(text) for text in sys.argv[1:]] or [1_000, 10_000]:
        print(f"{devices:,} devices{'':<37} calculated     measured  ratio")
        schedule(devices)
        with tempfile.TemporaryDirectory() as name, served_fleet(Path(name)) as fleet:
            names = [f"press-{number:05}" for number in range(devices)]
            fleet.render({each: {"app": b"name: app\n" * 40} for each in names})
            fleet.tokens = {each: f"{number:064}" for number, each in enumerate(names)}
            fleet.write_tokens()
            fleet.start(limits={"requestsPerMinute": 1e9, "burst": 1_000_000, "waitSeconds": 600})
            asyncio.run(polls(fleet, devices))
        with tempfile.TemporaryDirectory() as name:
            growth(Path(name), devices)


if __name__ == "__main__":
    main()
