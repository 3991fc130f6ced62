"""Three servers with PostgreSQL behind nginx, killed and restarted in turn under load: what devices saw, what is there.

Each device reports on every deployment that it has, one after the other, until the report is acknowledged. At the same
time it waits for a change, and a render lands in the middle. Nine times, evenly spread over the reports, a server ends
and starts again: killed (-9) in the first run, asked to end (TERM) in the second. Counts do not depend on the machine.

Usage: python benchmarks/replicas.py [DEVICES [DEPLOYMENTS]]        default: 100 100, which makes 10,000 reports
Needs: scripts/testbed up postgresql (or root, which starts it), nginx, git
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts" / "lib")]

from server.replicas import Counts, Replicas, reports_of, under_load  # noqa: E402
from testbed.parts import POSTGRESQL, using  # noqa: E402
from testbed.places import state_folder  # noqa: E402
from testbed.postgresql_server import PostgresqlServer  # noqa: E402

ENDS = 9


def run(postgresql: PostgresqlServer, how: signal.Signals, devices: int, deployments: int) -> None:
    """Run one load, and print what came of it."""
    fleet = {f"cell-{number}": {f"app-{n}": b"%d\n" % n for n in range(deployments)} for number in range(devices)}
    newer = {device: {**content, "app-0": b"new\n"} for device, content in fleet.items()}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        replicas = Replicas(Path(folder), postgresql)
        replicas.fleet.render(fleet)
        replicas.fleet.tokens = {device: f"token-of-{device}-{'x' * 32}" for device in fleet}
        replicas.fleet.write_tokens()
        with replicas.running(connections=20_000):
            counts = under_load(replicas, reports_of(replicas, fleet), [how] * ENDS, newer)
            replicas.settle()
            rows = replicas.query("SELECT count(*) || ' rows, ' || max(change) || ' changes' FROM report")
        show(how, counts, rows, replicas)


def show(how: signal.Signals, counts: Counts, rows: str, replicas: Replicas) -> None:
    """Print the counts."""
    history = replicas.history()
    commits = replicas.fleet.renderer.git.run("rev-list", "--count", "refs/heads/reports").strip()
    print(f"{how.name}: {counts.ended} ends and starts of servers in {counts.seconds:.0f} s of reports")
    print(f"  reports acknowledged      {counts.acknowledged}")
    print(f"  answers to reports        {dict(counts.answers)}")
    print(f"  journal                   {rows}")
    print(f"  branch of reports         {len(history)} files, written {sum(history.values())} times, {commits} commits")
    print(f"  answers to waiting polls  {dict(counts.polls)}")
    print(f"  devices that saw the render in the middle: {counts.renders_seen}", flush=True)


def main() -> None:
    """Kill in turn, then restart in turn."""
    given = [int(word) for word in sys.argv[1:]]
    devices, deployments = [*given, *(100, 100)[len(given) :]]
    with using(POSTGRESQL, state_folder()) as postgresql:
        for how in (signal.SIGKILL, signal.SIGTERM):
            run(postgresql, how, devices, deployments)


if __name__ == "__main__":
    main()
