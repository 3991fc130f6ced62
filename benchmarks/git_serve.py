"""What it costs to answer devices by git: `serve` beside `git http-backend` behind nginx, the same repository.

Server CPU and polls per second of the idle poll, in turns, and server CPU of a fetch. fcgiwrap lets its children go
unseen, so their CPU is that of `git http-backend` run with the same request and environment, added to what nginx and
fcgiwrap used. Then requests and bytes of an idle poll and of a change of one file, for the agent's client, git's and
dulwich's own, counted by a relay in front of the servers.

Usage: python benchmarks/git_serve.py [DEVICES]        default: 10000
"""

from __future__ import annotations

import http.client
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import dulwich.client
import dulwich.repo

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts" / "lib"), str(ROOT / "tests")]

from server.serving import ServedFleet, served_fleet  # noqa: E402
from support.git_cli import GIT_ENVIRONMENT, Git  # noqa: E402
from testbed.git_server import GitServer  # noqa: E402
from testbed.parts import GIT, using  # noqa: E402
from testbed.places import state_folder  # noqa: E402
from testbed.processes import everything, find  # noqa: E402

from margo_gitops.documents.state_layout import device_ref  # noqa: E402
from margo_gitops.transport import GitSource, GitTransport  # noqa: E402
from margo_gitops.transport.git.pack import ObjectID  # noqa: E402
from margo_gitops.transport.git.protocol_v2 import fetch_request, ls_refs_request  # noqa: E402
from margo_gitops.trust.snapshot import Snapshot  # noqa: E402

DEVICE = "press-00000"
REF = device_ref(DEVICE)
ROUNDS = 7
CLIENTS = 4
PROCESSES = 20
FETCHES = 1000
DEPLOYMENT = b"# one of the settings of this application\n" * 17
TICK = os.sysconf("SC_CLK_TCK")
V2 = {"Git-Protocol": "version=2", "Content-Type": "application/x-git-upload-pack-request"}


@dataclass
class Way:
    """One server to poll, with what its processes are."""

    name: str
    url: str
    token: str
    basic: str
    polls: int
    cpu: Callable[[], float]
    more: Callable[[], float] = lambda: 0.0
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    names = [f"press-{number:05}" for number in range(count)]
    with (
        tempfile.TemporaryDirectory() as folder,
        served_fleet(Path(folder)) as fleet,
        using(GIT, state_folder()) as git,
    ):
        Path(folder).chmod(0o755)  # nginx answers as another user
        fleet.render({name: {"app": DEPLOYMENT, "other": DEPLOYMENT + b"other: 1\n"} for name in names})
        fleet.tokens = {name: f"{number:043}" for number, name in enumerate(names)}
        fleet.write_tokens()
        fleet.start(limits={"requestsPerMinute": 1e9, "burst": 1_000_000_000})
        served = git.add_repository(fleet.folder / "state.git", "state")
        try:
            ours = fleet.tokens[DEVICE]
            ways = [
                Way("serve", f"{fleet.url}/git/state.git", ours, f"{DEVICE}:{ours}", 4000, lambda: _cpu(_pids(fleet))),
                Way(
                    "http-backend",
                    served.http("token"),
                    git.token,
                    "",
                    60,
                    lambda: _cpu(_backend(git)),
                    lambda: _children(fleet.folder, ls_refs_request(REF.encode()), f" {REF}\n0000".encode()),
                ),
            ]
            refs = len(fleet.renderer.refs())
            show_polls(ways, refs)
            show_fetches(fleet, ways, names[1 : FETCHES + 1])
            show_wire(fleet, ways, served.http("basic"), ":".join(git.basic))
        finally:
            (git.folder / "repositories" / served.route).unlink()


def show_polls(ways: list[Way], refs: int) -> None:
    """Poll in turns, and print polls a second and server CPU."""
    for way in ways:
        poll(way, way.polls // 10)
    for _ in range(ROUNDS):
        for way in ways:
            before, began = way.cpu(), time.perf_counter()
            poll(way, way.polls)
            way.rates.append(way.polls / (time.perf_counter() - began))
            way.costs.append((way.cpu() - before) / way.polls + way.more())
    print(f"{refs} refs, idle polls on {CLIENTS} kept connections, median of {ROUNDS}")
    print(f"{'server':<14} {'polls/s':>9} {'CPU ms':>8} {'ratio':>7}")
    first = statistics.median(ways[0].costs)
    for way in ways:
        cost = statistics.median(way.costs)
        print(
            f"{way.name:<14} {statistics.median(way.rates):>9.0f} {cost * 1000:>8.3f} {cost / first:>7.1f}", flush=True
        )


def poll(way: Way, polls: int) -> None:
    """Make so many idle polls, each answer looked at."""
    body = ls_refs_request(REF.encode())
    address = urlsplit(way.url)
    answers: set[bytes] = set()

    def work() -> None:
        connection = http.client.HTTPConnection(address.hostname or "", address.port)
        for _ in range(polls // CLIENTS):
            headers = {**V2, "Authorization": f"Bearer {way.token}"}
            connection.request("POST", f"{address.path}/git-upload-pack", body, headers)
            answers.add(connection.getresponse().read())
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    (answer,) = answers
    assert answer.endswith(f" {REF}\n0000".encode()), answer


def show_fetches(fleet: ServedFleet, ways: list[Way], names: list[str]) -> None:
    """Let devices fetch their whole state at depth 1, twice from `serve`, and print server CPU."""
    ours, backend = ways
    commits = {name: fleet.renderer.refs()[device_ref(name)] for name in names}
    print(f"\n{'fetch at depth 1':<24} {'CPU ms':>8}")
    for what in ("serve, pack not yet made", "serve, pack kept"):
        before = ours.cpu()
        for name, commit in commits.items():
            fetch(ours, fleet.tokens[name], commit)
        print(f"{what:<24} {(ours.cpu() - before) / len(names) * 1000:>8.3f}")
    few = list(commits.values())[: len(names) // 10]
    before = backend.cpu()
    for commit in few:
        fetch(backend, backend.token, commit)
    own = (backend.cpu() - before) / len(few)
    cost = own + _children(fleet.folder, fetch_request(ObjectID(few[0].encode()), None), b"0000")
    print(f"{'http-backend':<24} {cost * 1000:>8.3f}", flush=True)


def fetch(way: Way, token: str, commit: str) -> None:
    """Fetch a commit at depth 1, on a connection of its own."""
    address = urlsplit(way.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    body = fetch_request(ObjectID(commit.encode()), None)
    connection.request("POST", f"{address.path}/git-upload-pack", body, {**V2, "Authorization": f"Bearer {token}"})
    answer = connection.getresponse().read()
    connection.close()
    assert b"PACK" in answer, answer
    assert answer.endswith(b"0000")


@dataclass
class Relay:
    """Passes bytes to a server, and counts them."""

    port: int = 0
    up: int = 0
    down: int = 0
    requests: int = 0


@contextmanager
def relay(url: str) -> Iterator[Relay]:
    """Relay to the server of a URL while the block lasts."""
    address = urlsplit(url)
    counted = Relay()

    def passing(source: socket.socket, target: socket.socket, *, up: bool) -> None:
        while content := source.recv(1 << 16):
            if up:
                counted.up += len(content)
                counted.requests += len(re.findall(rb"(?:GET|POST) /\S+ HTTP/1\.1\r\n", content))
            else:
                counted.down += len(content)
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection((address.hostname or "", address.port or 80))
            for ends, up in (((client, server), True), ((server, client), False)):
                threading.Thread(target=_quiet(passing), args=ends, kwargs={"up": up}, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        counted.port = listener.getsockname()[1]
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield counted
        listener.shutdown(socket.SHUT_RDWR)


def _quiet(function: Callable[..., None]) -> Callable[..., None]:
    def called(*arguments: object, **named: object) -> None:
        try:
            function(*arguments, **named)
        except OSError:
            return  # one of the two ends closed

    return called


@dataclass
class Client:
    """One program that polls."""

    what: str
    server: str
    counted: Relay
    poll: Callable[[], None]
    spent: list[tuple[int, int, int]] = field(default_factory=list)

    def count(self) -> None:
        """Poll, and note requests and bytes."""
        before = (self.counted.requests, self.counted.up, self.counted.down)
        self.poll()
        time.sleep(0.2)  # the relay's threads
        after = (self.counted.requests, self.counted.up, self.counted.down)
        self.spent.append(tuple(new - old for new, old in zip(after, before, strict=True)))  # type: ignore[arg-type]


def show_wire(fleet: ServedFleet, ways: list[Way], basic_url: str, basic: str) -> None:
    """Count an idle poll and a change of one file, each on new connections, for each client and server."""
    ours, backend = ways
    with relay(ours.url) as one, relay(backend.url) as two:
        clients = [client for way, counted in ((ours, one), (backend, two)) for client in _clients(fleet, way, counted)]
        clients.append(_dulwich(fleet, ours.name, _at(one, ours.url), ours.basic, one))
        clients.append(_dulwich(fleet, backend.name, _at(two, basic_url), basic, two))
        for client in clients:
            client.poll()  # the first state
        for client in clients:
            client.count()
        fleet.render({DEVICE: {"app": DEPLOYMENT.replace(b"one", b"two", 1), "other": DEPLOYMENT + b"other: 1\n"}})
        for client in clients:
            client.count()
    print(f"\n{'':<28} {'idle poll':>24} {'change of one file':>26}")
    print(f"{'client':<14} {'server':<13} {'requests':>9} {'up':>7} {'down':>7} {'requests':>11} {'up':>7} {'down':>7}")
    for client in clients:
        (idle, change) = client.spent
        numbers = f"{idle[0]:>9} {idle[1]:>7} {idle[2]:>7} {change[0]:>11} {change[1]:>7} {change[2]:>7}"
        print(f"{client.what:<14} {client.server:<13} {numbers}")


def _clients(fleet: ServedFleet, way: Way, counted: Relay) -> Iterator[Client]:
    url = _at(counted, way.url)
    token = fleet.folder / f"{way.name}.token"
    token.write_text(way.token)
    held: list[Snapshot] = []

    def agent() -> None:
        transport = GitTransport(GitSource(url, device=DEVICE, token_file=token))
        found = transport.pull(held[-1] if held else None).snapshot
        transport.close()
        if found is not None:
            held.append(found)

    yield Client("agent", way.name, counted, agent)
    clone = Git(fleet.folder / f"{way.name}-clone").init(bare=True)
    header = f"http.extraHeader=Authorization: Bearer {way.token}"
    fetch = ("-c", header, "fetch", "--quiet", url, f"+{REF}:{REF}")
    yield Client("git fetch", way.name, counted, lambda: print(end=clone.run(*fetch)))


def _dulwich(fleet: ServedFleet, server: str, url: str, basic: str, counted: Relay) -> Client:
    user, _, password = basic.partition(":")
    repository = dulwich.repo.Repo.init_bare(str(fleet.folder / f"{server}-dulwich"), mkdir=True)

    def fetch() -> None:
        client, path = dulwich.client.get_transport_and_path(url, username=user, password=password)
        wanted = REF.encode()
        found = client.fetch(
            path,
            repository,
            determine_wants=lambda refs, depth=None: [refs[wanted]] if refs[wanted] not in repository else [],  # noqa: ARG005
            ref_prefix=[wanted],
            protocol_version=2,
        )
        assert found.refs[wanted] in repository

    return Client("dulwich", server, counted, fetch)


def _at(counted: Relay, url: str) -> str:
    return f"http://127.0.0.1:{counted.port}{urlsplit(url).path}"


def _pids(fleet: ServedFleet) -> list[int]:
    assert fleet.process is not None
    return [fleet.process.pid]


def _backend(git: GitServer) -> list[int]:
    roots = {process.pid for name in ("nginx", "fcgiwrap") if (process := find(name, git.folder))}
    return [process.pid for process in everything() if process.pid in roots or _parent(process.pid) in roots]


def _children(folder: Path, body: bytes, end: bytes) -> float:
    """Return the CPU seconds of the processes that answer one request, with what its answer must end with."""
    environment = {
        **GIT_ENVIRONMENT,
        "GIT_PROJECT_ROOT": str(folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/state.git/git-upload-pack",
        "CONTENT_TYPE": V2["Content-Type"],
        "CONTENT_LENGTH": str(len(body)),
        "GIT_PROTOCOL": V2["Git-Protocol"],
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(PROCESSES):
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=True)
        assert done.stdout.endswith(end), done
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / PROCESSES


def _parent(pid: int) -> int:
    return int(_stat(pid)[1]) if Path(f"/proc/{pid}").exists() else 0


def _cpu(pids: list[int]) -> float:
    """Return the CPU seconds of processes, and of all their children that have ended (proc(5), stat)."""
    return sum(sum(map(int, _stat(pid)[11:15])) for pid in pids) / TICK


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


if __name__ == "__main__":
    main()
