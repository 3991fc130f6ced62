"""What an idle agent takes from its device: memory, CPU to its first request and for a poll, modules, disk.

`agent run` with a source by git (signed) and over HTTP (which has no signatures), `margo-pull.sh`, and a Python that
only sleeps, each against `margo-gitops serve` on the loopback. Every device holds its state already: it starts again.

Memory is resident, of all processes of a row, after the last poll. CPU to the first request is measured when the
connection comes, children included, by the scheduler's own clock; the median of `STARTS`.

Usage: python benchmarks/agent.py [POLLS]        default: 60, one each second
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fleets import commit, make_fleet

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from server.serving import ServedFleet, served_fleet  # noqa: E402

DEVICES = 100
DEVICE = "press-00000"
STARTS = 7
LIMIT_SECONDS = 120
AGENT = [sys.executable, "-m", "margo_gitops", "agent"]
MODULES = "import atexit, sys; atexit.register(lambda: print(len(sys.modules), flush=True)); sys.argv[1:] = {}; "
"""Says at its end how many modules a program loaded; what the rest of the line runs is that program."""
SOURCES = {
    "git": ("/git/state.git", "allowedSigners: allowed_signers"),
    "http": ("", "unsigned: true"),
}


@dataclass
class Figures:
    """What one row of the table took; None: it has no such figure."""

    memory: float
    private: float
    start: float | None = None
    poll: float | None = None
    written: float | None = None
    modules: int | None = None


def main() -> None:
    """Measure and print."""
    polls = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as name, served_fleet(Path(name)) as fleet:
        world = Path(name)
        serve(fleet, world)
        print(
            f"{'what':<24} {'MB':>6} {'private':>8} {'start, ms':>10} {'poll, ms':>9} {'disk/poll':>10} {'modules':>8}"
        )
        show("python -c sleep", bare())
        for kind in SOURCES:
            show(f"agent run, {kind}", agent(fleet, world, kind, polls))
        show("margo-pull.sh --every 1", script(fleet, world, polls))


def serve(fleet: ServedFleet, world: Path) -> None:
    """Render a signed state repo, and serve it."""
    make_fleet(world / "fleet", DEVICES)
    settings = world / "fleet" / "margo-gitops.yaml"
    text = settings.read_text(encoding="utf-8").replace("file:///srv/my-fleet", f"file://{world}/fleet")
    settings.write_text(text, encoding="utf-8")
    commit(world / "fleet", "Let devices fetch from here")
    key = world / "renderer"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "renderer", "-f", str(key)])
    public = key.with_suffix(".pub").read_text(encoding="utf-8")
    (world / "allowed_signers").write_text(f'renderer namespaces="git" {public}', encoding="utf-8")
    render = [sys.executable, "-m", "margo_gitops", "render", "--fleet", str(world / "fleet")]
    run([*render, "--state-repo", str(world / "state.git"), "--signing-key", str(key)])
    (world / "token").write_text(fleet.token(DEVICE), encoding="utf-8")
    fleet.start(log="all")


def agent(fleet: ServedFleet, world: Path, kind: str, polls: int) -> Figures:
    """Return what `agent run` takes."""
    config = configure(world, kind, fleet.url)
    run([*AGENT, "once", "--config", str(config)])
    starts, modules = [], 0
    for _ in range(STARTS):
        with listening() as (listener, url):
            arguments = ["agent", "run", "--config", str(configure(world, kind, url))]
            program = f"{MODULES.format(arguments)}from margo_gitops.cli.main import main; main()"
            with running([sys.executable, "-c", program], output=subprocess.PIPE) as process:
                starts.append(at_first_request(listener, process.pid))
                process.send_signal(signal.SIGTERM)
                modules = int(process.communicate(timeout=30)[0])
    with running([*AGENT, "run", "--config", str(configure(world, kind, fleet.url))]) as process:
        figures = idle(fleet, process.pid, polls)
    figures.start, figures.modules = statistics.median(starts), modules
    return figures


def configure(world: Path, kind: str, url: str) -> Path:
    """Write the agent's configuration for a source at an address."""
    source, trust = SOURCES[kind]
    file = world / f"agent-{kind}.yaml"
    file.write_text(
        "apiVersion: margo-gitops/v1\n"
        "kind: AgentConfiguration\n"
        f"device: {DEVICE}\n"
        f"stateFolder: agent-{kind}\n"
        f"source:\n  {kind}:\n    url: {url}{source}\n    tokenFile: token\n"
        f"trust:\n  {trust}\n  floorCopy: elsewhere-{kind}/floor.json\n"
        "poll:\n  interval: 1s\n"
        f"appliers:\n  files:\n    folder: output-{kind}\n",
        encoding="utf-8",
    )
    return file


def script(fleet: ServedFleet, world: Path, polls: int) -> Figures:
    """Return what `margo-pull.sh` takes."""
    options = ["--state", str(world / "script"), "--token-file", str(world / "token"), "--hook", shutil.which("true")]
    command = ["sh", str(ROOT / "scripts" / "margo-pull.sh"), *options, "--every", "1", "--unsigned", "yes", "--url"]
    starts = []
    for _ in range(STARTS):
        with listening() as (listener, url), running([*command, url]) as process:
            starts.append(at_first_request(listener, process.pid))
    with running([*command, fleet.url]) as process:
        figures = idle(fleet, process.pid, polls)
    figures.start = statistics.median(starts)
    return figures


def bare() -> Figures:
    """Return what an empty Python takes."""
    command = [sys.executable, "-c", MODULES.format([]) + "import time; time.sleep(2)"]
    with running(command, output=subprocess.PIPE) as process:
        time.sleep(1)
        memory, private = resident(process.pid)
        return Figures(memory, private, start=cpu(process.pid), modules=int(process.communicate(timeout=30)[0]))


def idle(fleet: ServedFleet, pid: int, polls: int) -> Figures:
    """Return what so many idle polls take, once the first five are over."""
    begun = requests(fleet)
    wait_for(fleet, begun + 5)
    start, before, disk = requests(fleet), cpu(pid), written(pid)
    wait_for(fleet, start + polls)
    count, spent = requests(fleet) - start, cpu(pid) - before
    time.sleep(0.4)  # between two polls
    return Figures(*resident(pid), poll=spent / count, written=(written(pid) - disk) / count)


def show(what: str, figures: Figures) -> None:
    """Print a row."""
    columns = [(figures.memory, 6, 1), (figures.private, 8, 1), (figures.start, 10, 0), (figures.poll, 9, 1)]
    columns += [(figures.written, 10, 0), (figures.modules, 8, 0)]
    cells = [" " * width if value is None else f"{value:>{width}.{digits}f}" for value, width, digits in columns]
    print(f"{what:<24} {' '.join(cells)}", flush=True)


def requests(fleet: ServedFleet) -> int:
    """Return how many requests the server has answered."""
    return fleet.log.read_text(encoding="utf-8").count(" request client=")


def wait_for(fleet: ServedFleet, count: int) -> None:
    """Wait for the server to have answered so many requests."""
    deadline = time.monotonic() + LIMIT_SECONDS + count
    while requests(fleet) < count:
        if time.monotonic() > deadline:
            sys.exit("no polls come")
        time.sleep(0.02)


@contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """Listen on the loopback, and answer nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_SECONDS)
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


def at_first_request(listener: socket.socket, pid: int) -> float:
    """Return the CPU, in ms, that a program has spent when its first connection comes."""
    connection, _ = listener.accept()
    spent = cpu(pid)
    connection.close()
    return spent


@contextmanager
def running(command: Sequence[str], output: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the context lasts."""
    with subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)


def run(command: Sequence[str]) -> None:
    """Run a program to its end."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def tree(pid: int) -> Iterator[Path]:
    """Yield the folders in /proc of a process and of all below it, as far as they have not ended meanwhile."""
    yield Path("/proc", str(pid))
    children = [
        child for task in Path("/proc", str(pid), "task").iterdir() for child in (task / "children").read_text().split()
    ]
    for child in children:
        with suppress(FileNotFoundError, ProcessLookupError):
            yield from list(tree(int(child)))


def resident(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process and all below it, and what of it is theirs alone, in MB."""
    sums = {"Rss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for process in tree(pid):
        for line in (process / "smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split()[:2]
            if name[:-1] in sums:
                sums[name[:-1]] += int(value)
    return sums["Rss"] / 1024, (sums["Private_Clean"] + sums["Private_Dirty"]) / 1024


def cpu(pid: int) -> float:
    """Return the CPU, in ms, of a process and of all below it, the ended ones too."""
    ticks = 1000 / os.sysconf("SC_CLK_TCK")
    spent = 0.0
    for process in tree(pid):
        spent += sum(int((task / "schedstat").read_text().split()[0]) for task in (process / "task").iterdir()) / 1e6
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        spent += (int(fields[13]) + int(fields[14])) * ticks  # its children that have ended
    return spent


def written(pid: int) -> int:
    """Return the bytes that a process and its children have written to disk."""
    return sum(int((process / "io").read_text().partition("\nwrite_bytes: ")[2].split()[0]) for process in tree(pid))


if __name__ == "__main__":
    main()
