"""Break an update of a device at every system call that matters, one at a time (scripts/faults disk)."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import pkgutil
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_world import World, deployment_bytes
from testbed.docker_engine import crash_engine, start_engine, stop_engine
from testbed.test_image import TEST_IMAGE

import margo_gitops as package
from margo_gitops.cli.main import main as margo_gitops
from margo_gitops.digests import folder_digest, sha256

WRITES = ("write", "pwrite64", "ftruncate", "fsync", "fdatasync")
NAMES = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir")
OPENS = ("openat", "socket", "pipe2")
PROGRAMS = ("vfork", "clone", "clone3", "wait4", "connect")
FAULTS = {
    # what is injected, and into which calls; `+`: into all that follow too
    "kill": ("signal=KILL:when={}", (*WRITES, *NAMES, *PROGRAMS)),
    "full": ("error=ENOSPC:when={}+", ("write", "pwrite64", "ftruncate", "mkdir", "rename", "link", "openat")),
    "read-only": ("error=EROFS:when={}+", ("openat", *NAMES)),
    "EIO": ("error=EIO:when={}", (*WRITES, *NAMES)),
    "descriptors": ("error=EMFILE:when={}+", OPENS),
    # with a Docker engine of our own: it is killed too, or alone, and starts again
    "power": ("signal=KILL:when={}", PROGRAMS),
    "engine": ("signal=STOP:when={}", PROGRAMS),
}
ENGINE_FAULTS = ("power", "engine")
LONGEST_SECONDS = 120
EXIT_CODES = {0, 1, 2, 3, 4, 5, 75, -signal.SIGKILL}
COMPOSE = f"""
services:
  web:
    image: {TEST_IMAGE}
    restart: always
    command: [sh, -c, "trap 'exit 0' TERM; sleep 3600 & wait $$!"]
    environment: {{GREETING: "${{GREETING}}"}}
"""


@dataclass(frozen=True)
class Point:
    """One fault at one call."""

    fault: str
    call: str
    number: int

    @property
    def injection(self) -> str:
        """As strace takes it."""
        return f"{self.call}:{FAULTS[self.fault][0].format(self.number)}"

    def __str__(self) -> str:
        return f"{self.fault} at {self.call} {self.number}"


@dataclass
class Ended:
    """How a run of the agent ended; `calls` are strace's lines."""

    code: int
    said: str
    calls: list[str]


class Voice(io.RawIOBase):
    """Standard output and error as a socket: a fault in write() must not take the agent's voice."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def writable(self) -> bool:
        """Say that it is."""
        return True

    def write(self, content: object) -> int:
        """Send it."""
        return self._end.send(bytes(content))  # type: ignore[call-overload]


def run(
    command: Sequence[str],
    variables: Mapping[str, str],
    folder: Path,
    injection: str = "",
    *,
    trace: bool = True,
    stopped: Callable[[], None] | None = None,
) -> Ended:
    """Run the command in a process forked from this one: its start has no calls that count.

    Args:
        stopped: what to do where a fault stops the process; then it goes on.
    """
    ours, theirs = socket.socketpair()
    log = folder / "strace"
    log.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _be(command, variables, theirs)
    theirs.close()
    os.waitpid(child, os.WUNTRACED)
    tracer = None
    if trace:
        calls = ",".join(sorted({call for _, calls in FAULTS.values() for call in calls}))
        options = [f"-einject={injection}"] if injection else []
        tracer = subprocess.Popen(
            ["strace", "-qq", "-o", log, f"-etrace={calls}", "-esignal=none", *options, "-p", str(child)],
            stderr=subprocess.PIPE,
        )
        while b"TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_bytes():
            if tracer.poll() is not None:
                os.kill(child, signal.SIGKILL)
                print(f"scripts/faults: {tracer.stderr.read().decode().strip()}", file=sys.stderr)
                sys.exit(2)
            os.sched_yield()
    os.kill(child, signal.SIGCONT)
    if stopped:
        ended = os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if ended and ended.si_code == os.CLD_STOPPED:
            stopped()
            os.kill(child, signal.SIGCONT)
    said = _heard(ours, child)
    _, status = os.waitpid(child, 0)
    if tracer:
        tracer.communicate()
    return Ended(os.waitstatus_to_exitcode(status), said, log.read_text(errors="replace").splitlines() if trace else [])


def _heard(end: socket.socket, child: int) -> str:
    """Return all that a process says until its end closes; kill it where it takes too long."""
    end.settimeout(LONGEST_SECONDS)
    said = b""
    try:
        while part := end.recv(65_536):
            said += part
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        said += b"\nTraceback: it hangs"
    end.close()
    return said.decode(errors="replace")


def _be(command: Sequence[str], variables: Mapping[str, str], end: socket.socket) -> None:
    """Become the command, once the tracer is there."""
    code = 70
    try:
        os.environ.clear()
        os.environ.update(variables)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        sys.stdout = sys.stderr = io.TextIOWrapper(io.BufferedWriter(Voice(end)), errors="replace", write_through=True)
        sys.argv = ["margo-gitops", *command]
        os.kill(os.getpid(), signal.SIGSTOP)
        margo_gitops()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - what a person would see as a traceback
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


class Device:
    """A device with three applications, of which the next update changes two and swaps the third."""

    def __init__(self, folder: Path, applier: str) -> None:
        self.engine = folder.parent / "engine"
        self.variables: Mapping[str, str] = {}
        if applier == "compose":
            self.variables = start_engine(self.engine, {}).environment
        self.world = World(folder, device=f"press-{uuid.uuid4().int % 10**6}")
        self.applier = applier
        self.world.configure(appliers={applier: {"folder": "output"} if applier == "files" else {}})
        self.number = 0
        self.content = folder / "application"
        self.content.mkdir()
        (self.content / "compose.yaml").write_text(COMPOSE)
        self.digest = folder_digest({"compose.yaml": sha256(COMPOSE.encode())})

    def wanted(self, number: int) -> dict[int, dict[str, str]]:
        """Return what runs after an update: values by component, by application."""
        swapped = 3 if number % 2 else 4
        parts = ("web", "data") if self.applier == "files" else ("web",)
        return {app: dict.fromkeys(parts, f"{number}") for app in (1, 2)} | {swapped: {"web": f"{number}"}}

    def publish(self) -> None:
        """Publish the next update."""
        self.number += 1
        documents = {}
        for app, parts in self.wanted(self.number).items():
            artifacts = [{"component": part, "url": self.content.as_uri(), "digest": self.digest} for part in parts]
            extension = {"artifacts": artifacts} if self.applier == "compose" else {}
            documents[app] = deployment_bytes(
                app,
                values={"GREETING": f"{self.number}"},
                components=tuple(parts),
                after=[1] if app == 2 else [],
                extension=extension,
                device=self.world.device,
            )
        self.world.publish(documents)

    def once(self, injection: str = "", *, trace: bool = True) -> Ended:
        """Run one cycle of the agent."""
        variables = {**self.world.environment(), **self.variables}
        command = ["agent", "once", "--config", str(self.world.config), "--retry"]
        stopped = self.crash if "STOP" in injection else None
        return run(command, variables, self.world.folder, injection, trace=trace, stopped=stopped)

    def crash(self) -> None:
        """Kill the engine, and start it again."""
        crash_engine(self.engine)

    def there(self) -> dict[int, dict[str, str]]:
        """Return what runs: values by component, by application."""
        found: dict[int, dict[str, str]] = {}
        for app, part, value in self._files() if self.applier == "files" else self._containers():
            found.setdefault(app, {})[part] = value
        return found

    def _files(self) -> Iterator[tuple[int, str, str]]:
        for path in sorted(self.world.output.glob("0*/[!.]*/values.env")):
            yield (
                int(path.parts[-3].partition("-")[0]),
                path.parts[-2],
                path.read_text().strip().partition("=")[2].strip('"'),
            )

    def _containers(self) -> Iterator[tuple[int, str, str]]:
        mine = f"label=org.margo-gitops.device={self.world.device}"
        form = '{{.Label "org.margo-gitops.deployment-id"}} {{.Label "org.margo-gitops.component"}} {{.ID}}'
        for line in self._docker("ps", "--filter", mine, "--format", form).splitlines():
            deployment, part, container = line.split()
            variables = self._docker("inspect", "-f", "{{range .Config.Env}}{{println .}}{{end}}", container)
            yield int(deployment.partition("-")[0]), part, re.findall(r"GREETING=(\d+)", variables)[0]

    def names(self) -> Counter[str]:
        """Return how many files of each kind the agent keeps: what a broken update leaves must not add up."""
        folders = [self.world.state, self.world.output]
        paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return Counter(re.sub(r"[0-9a-f]{6,}|\d+", "#", str(path.relative_to(self.world.folder))) for path in paths)

    def _docker(self, *arguments: str) -> str:
        command = ["docker", *arguments]
        done = subprocess.run(command, env=self.variables, capture_output=True, check=True, timeout=60, text=True)
        return done.stdout


def points(calls: Sequence[str], wanted: Sequence[str]) -> list[Point]:
    """Return all points of an update that made these calls."""
    seen: Counter[str] = Counter()
    found = []
    for line in calls:
        call = line.partition("(")[0]
        if not call.isidentifier():
            continue
        seen[call] += 1
        # A disk that is full or read-only lets files be opened for reading.
        reads = call == "openat" and not re.search("O_WRONLY|O_RDWR|O_CREAT", line)
        found += [
            Point(fault, call, seen[call])
            for fault in wanted
            if call in FAULTS[fault][1] and not (reads and fault in ("full", "read-only"))
        ]
    return found


def trouble(device: Device, point: Point) -> str:
    """Run the next update with a fault, and the one after it without; return what is wrong, or nothing."""
    old = device.wanted(device.number)
    device.publish()
    new = device.wanted(device.number)
    broken = device.once(point.injection)
    if point.fault == "power":
        device.crash()
    there = device.there()
    half = {
        app: parts
        for app, parts in there.items()
        if any(value not in _allowed(old, new, app) for value in parts.values())
    }
    lost = [app for app in old if app in new and app not in there and device.applier == "files"]
    again = device.once(trace=False)
    if "Traceback" in broken.said or broken.code not in EXIT_CODES:
        return f"ended with {broken.code}:\n{broken.said}"
    # A module of Python itself may be what could not be opened.
    if broken.code > 0 and "MG1" not in broken.said and "error: Too many open files" not in broken.said:
        return f"ended with {broken.code} and did not say why:\n{broken.said}"
    if half or lost:
        return f"half done: {half} {lost}"
    if again.code or device.there() != new:
        return f"did not recover: exit {again.code}, {device.there()}\n{again.said}\nbefore:\n{broken.said}"
    return ""


def _allowed(old: Mapping[int, Mapping[str, str]], new: Mapping[int, Mapping[str, str]], app: int) -> set[str]:
    return {value for state in (old, new) for value in state.get(app, {}).values()}


def main(arguments: argparse.Namespace) -> int:
    """Try all points, or a sample; returns the exit code."""
    if shutil.which("strace") is None:
        print("scripts/faults: strace is missing (Debian: strace)", file=sys.stderr)
        return 2
    # What a process reads of Python's own files while it starts is not what is broken here.
    for module in pkgutil.walk_packages(package.__path__, "margo_gitops."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    with tempfile.TemporaryDirectory(prefix="margo-gitops-faults-") as folder:
        device = Device(Path(folder) / "device", arguments.applier)
        try:
            return _attempt(device, arguments)
        finally:
            stop_engine(device.engine)


def _attempt(device: Device, arguments: argparse.Namespace) -> int:
    """Try all points on one device; returns the exit code."""
    for _ in range(2):  # the second has something to change and to remove
        device.publish()
        fine = device.once()
        if fine.code or device.there() != device.wanted(device.number):
            raise SystemExit(f"an update without a fault does not work: exit {fine.code}\n{fine.said}")
    before = device.names()
    possible = [fault for fault in FAULTS if device.variables or fault not in ENGINE_FAULTS]
    every = points(fine.calls, arguments.fault or possible)
    chosen = random.Random(arguments.seed).sample(every, min(arguments.sample or len(every), len(every)))
    chosen.sort(key=every.index)
    tried: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for point in chosen:
        found = trouble(device, point)
        tried[point.fault] += 1
        wrong[point.fault] += bool(found)
        if found or arguments.verbose:
            print(f"{point}: {found or 'came through'}", flush=True)
        if found and device.once(trace=False).code:
            raise SystemExit("the device does not recover at all")
    left = {name: count for name, count in (device.names() - before).items() if count > 2}
    if left:
        print(f"left behind: {left}")
    for fault in tried:
        print(f"{fault:12} {tried[fault]:5} points, {wrong[fault]} not come through")
    print(f"{'all':12} {tried.total():5} points of {len(every)}, {wrong.total()} not come through")
    return 1 if wrong.total() or left else 0
