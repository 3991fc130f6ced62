"""What an idle poll costs, beside `git ls-remote` against the same server; `agent.py` says what the agent costs.

The server is nginx with `git http-backend` on the loopback; the state repo is rendered and signed as in a plant. All
rows of a size are taken in turns, so that a busy moment of the machine meets each. Bytes are what nginx logged.

A second table has programs that poll each second for a minute, one after the other: the agent, and those given.
`--git-sync` takes a git-sync of version 4, `--flux` what `flux/main.go` is built to.

Usage: python benchmarks/poll.py [--git-sync BINARY] [--flux BINARY] [REFS ...]        default: 1 1000 10000
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agent import cpu, resident, running
from fleets import commit, make_fleet

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts" / "lib"), str(ROOT / "tests")]

from support.git_cli import GIT_ENVIRONMENT, Git  # noqa: E402
from testbed.git_server import GitServer, ServedRepository  # noqa: E402
from testbed.parts import GIT, using  # noqa: E402
from testbed.places import state_folder  # noqa: E402

from margo_gitops.documents.state_layout import device_ref  # noqa: E402
from margo_gitops.transport.git.git_transport import GitTransport  # noqa: E402
from margo_gitops.transport.git.source import GitSource  # noqa: E402

ROUNDS = 21
DEVICE = "press-00000"


@dataclass
class Row:
    """One way to ask: what it does, and what it took."""

    what: str
    ask: Callable[[], None]
    seconds: list[float] = field(default_factory=list)
    requests: int = 0
    up: int = 0
    down: int = 0


def main() -> None:
    """Measure each size of state repo, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--git-sync", metavar="BINARY", default="")
    parser.add_argument("--flux", metavar="BINARY", default="")
    parser.add_argument("refs", nargs="*", type=int, default=[1, 1000, 10_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, using(GIT, state_folder()) as server:
        for refs in options.refs:
            world = Path(folder, str(refs))
            served = serve(server, world, refs)
            # The repository is served from a temporary folder: the link to it goes with this run.
            try:
                show_polls(served, refs, measure_polls(server, served))
                show_programs(server, served, options.git_sync, options.flux)
            finally:
                (server.folder / "repositories" / served.route).unlink()


def serve(server: GitServer, world: Path, devices: int) -> ServedRepository:
    """Render a signed state repo with so many device branches, and serve it."""
    make_fleet(world / "fleet", devices)
    settings = world / "fleet" / "margo-gitops.yaml"
    text = settings.read_text(encoding="utf-8").replace("file:///srv/my-fleet", f"file://{world}/fleet")
    settings.write_text(text, encoding="utf-8")
    commit(world / "fleet", "Let devices fetch from here")
    key = world / "renderer"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "renderer", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text(encoding="utf-8")
    (world / "allowed_signers").write_text(f'renderer namespaces="git" {public}', encoding="utf-8")
    state = world / "state.git"
    command = [sys.executable, "-m", "margo_gitops", "render", "--fleet", str(world / "fleet")]
    subprocess.run(
        [*command, "--state-repo", str(state), "--signing-key", str(key)], check=True, stdout=subprocess.DEVNULL
    )
    # nginx answers as another user.
    for part in (world, world.parent, state):
        part.chmod(0o755)
    return server.add_repository(state, "state")


def measure_polls(server: GitServer, served: ServedRepository) -> list[Row]:
    """Return what each way to ask took; every answer is checked to be the one that the others gave.

    `git ls-remote URL REF` sorts out the other refs at its own end; `git fetch` asks for one ref, as the poll does.
    """
    source = GitSource(url=served.http(), device=DEVICE)
    with ExitStack() as stack:
        kept = GitTransport(source)
        stack.callback(kept.close)
        held = kept.pull(None).snapshot
        ref = device_ref(DEVICE)

        def poll_kept() -> None:
            assert kept.pull(held).snapshot is None

        def poll_cold() -> None:
            transport = GitTransport(source)
            try:
                assert transport.pull(held).snapshot is None
            finally:
                transport.close()

        def ls_remote(*names: str) -> None:
            found = subprocess.run(
                ["git", "ls-remote", served.http(), *names], env=GIT_ENVIRONMENT, check=True, capture_output=True
            ).stdout
            assert f"{held.revision}\t{ref}\n".encode() in found

        clone = Git(served.path.parent / "clone").init(bare=True)
        clone.run("fetch", "--quiet", served.http(), ref)
        assert clone.run("rev-parse", "FETCH_HEAD") == held.revision

        def fetch() -> None:
            clone.run("fetch", "--quiet", served.http(), ref)

        rows = [
            Row("git ls-remote URL REF", lambda: ls_remote(ref)),
            Row("git ls-remote URL", ls_remote),
            Row("git fetch URL REF", fetch),
            Row("poll, new connection", poll_cold),
            Row("poll, kept connection", poll_kept),
        ]
        for row in rows:
            row.requests, row.up, row.down = logged(server, served, row.ask)
        for _ in range(ROUNDS):
            for row in rows:
                start = time.perf_counter()
                row.ask()
                row.seconds.append(time.perf_counter() - start)
    return rows


def show_programs(server: GitServer, served: ServedRepository, git_sync: str, flux: str) -> None:
    """Print what programs take that poll each second for a minute."""
    world, url, ref = served.path.parent, served.http(), device_ref(DEVICE)
    config = world / "agent.yaml"
    config.write_text(
        "apiVersion: margo-gitops/v1\nkind: AgentConfiguration\n"
        f"device: {DEVICE}\nstateFolder: agent\nsource: {{git: {{url: {url}}}}}\npoll: {{interval: 1s}}\n"
        f"trust: {{allowedSigners: allowed_signers}}\nappliers: {{files: {{folder: {world}/output}}}}\n",
        encoding="utf-8",
    )
    programs = {"agent run": [sys.executable, "-m", "margo_gitops", "agent", "run", "--config", str(config)]}
    if git_sync:
        options = ["--root", str(world / "git-sync"), "--link", "current", "--depth", "1", "--period", "1s"]
        programs["git-sync"] = [git_sync, "--repo", url, "--ref", ref, *options]
    if flux:
        programs["Flux's client"] = [flux, url, ref.removeprefix("refs/heads/"), "1000"]
    print(f"\n{'a minute of':<16} {'requests':>9} {'bytes':>11} {'CPU, ms':>8} {'MB':>6}")
    for name, command in programs.items():
        with running(command) as process:
            time.sleep(5)
            before, spent = server.requests(served), cpu(process.pid)
            time.sleep(60)
            taken, memory = cpu(process.pid) - spent, resident(process.pid)[0]
            mine = server.requests(served)[len(before) :]
        moved = sum(int(each["received"]) + int(each["sent"]) for each in mine)
        print(f"{name:<16} {len(mine):>9} {moved:>11} {taken:>8.0f} {memory:>6.1f}", flush=True)


def logged(server: GitServer, served: ServedRepository, ask: Callable[[], None]) -> tuple[int, int, int]:
    """Return requests, bytes up and bytes down of one question, as the server logged them; asked until two agree."""
    found = [ask_logged(server, served, ask)]
    while len(found) < 2 or found[-1] != found[-2]:
        found.append(ask_logged(server, served, ask))
    return found[-1]


def ask_logged(server: GitServer, served: ServedRepository, ask: Callable[[], None]) -> tuple[int, int, int]:
    """Ask once, and return what the server logged."""
    before = settled(server, served)
    ask()
    mine = server.requests(served)[before : settled(server, served)]
    return len(mine), sum(int(each["received"]) for each in mine), sum(int(each["sent"]) for each in mine)


def settled(server: GitServer, served: ServedRepository) -> int:
    """Return how many requests were logged, once no more come: the server writes them down after its answer."""
    count, same = -1, 0
    while same < 5:
        now = len(server.requests(served))
        count, same = now, same + 1 if now == count else 0
        time.sleep(0.1)
    return count


def show_polls(served: ServedRepository, devices: int, rows: list[Row]) -> None:
    """Print seconds, requests and bytes, and how they stand to git's best."""
    refs = len(Git(served.path).run("for-each-ref").splitlines())
    print(f"\n{devices} devices, {refs} refs; median of {ROUNDS}")
    print(f"{'what':<24} {'ms':>8} {'ratio':>6} {'requests':>9} {'up':>7} {'down':>9} {'ratio':>7}")
    best = rows[0]
    for row in rows:
        seconds = statistics.median(row.seconds)
        time_ratio = seconds / statistics.median(best.seconds)
        bytes_ratio = (row.up + row.down) / (best.up + best.down)
        print(
            f"{row.what:<24} {seconds * 1000:>8.1f} {time_ratio:>6.2f} {row.requests:>9} {row.up:>7} {row.down:>9} "
            f"{bytes_ratio:>7.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
