"""Break an update of a device at every system call that matters, one at a time (scripts/faults disk)."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from device_world import World, deployment_bytes, deployment_id
from fault_points import FINE, NOT_REACHED, Points
from testbed.docker_engine import crash_engine, start_engine, stop_engine
from testbed.places import state_folder
from testbed.test_image import TEST_IMAGE
from traced_agent import Ended, Failed, run

import margo_gitops as package
from margo_gitops.digests import folder_digest, sha256
from margo_gitops.documents.nodes import Json

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
STOPPED = ".stopped"
"""The files applier's mark of what an update stopped."""
ENGINE_FAULTS = ("power", "engine")
TRIES = 3
"""How often a point is tried that the update did not come to."""
EXIT_CODES = {0, 1, 2, 3, 4, 5, 75, -signal.SIGKILL}
COMPOSE = f"""
services:
  web:
    image: {TEST_IMAGE}
    restart: always
    command: [sh, -c, "trap 'exit 0' TERM; sleep 3600 & wait $$!"]
    environment: {{GREETING: "${{GREETING}}"}}
    labels: {{greeting: "${{GREETING}}"}}
"""
NO_NETWORK = "    network_mode: none\n"


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

    @classmethod
    def named(cls, name: str) -> Point:
        """Return the point of this name."""
        fault, _, call, number = name.split()
        return cls(fault, call, int(number))


class Device:
    """A device with three applications: the next update changes two, one of which stops first, and swaps one."""

    def __init__(self, folder: Path, applier: str) -> None:
        self.engine = folder.parent / "engine"
        self.variables: Mapping[str, str] = {}
        if applier == "compose":
            packages = state_folder() / "packages"
            for made in (packages, self.engine):
                made.mkdir(parents=True, exist_ok=True)
            (self.engine / "packages").symlink_to(packages)  # downloaded once
            self.variables = start_engine(self.engine, {}).environment
        self.world = World(folder, device=f"press-{uuid.uuid4().int % 10**6}")
        self.applier = applier
        self.world.configure(appliers={applier: {"folder": "output"} if applier == "files" else {}})
        self.number = 0
        self.folder = folder

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
            extension: dict[str, Json] = {"stop": [deployment_id(2)]} if app == 1 else {}
            if self.applier == "compose":
                extension["artifacts"] = [self.artifact(app)]
            documents[app] = deployment_bytes(
                app,
                values={"GREETING": f"{self.number}"},
                components=tuple(parts),
                after=[1] if app == 2 else [],
                extension=extension,
                device=self.world.device,
            )
        self.world.publish(documents)

    def artifact(self, app: int) -> dict[str, Json]:
        """Return the content of an application; those that come and go have a network."""
        content = COMPOSE if app > 2 else COMPOSE + NO_NETWORK
        folder = self.folder / f"application-{app}"
        folder.mkdir(exist_ok=True)
        (folder / "compose.yaml").write_text(content)
        digest = folder_digest({"compose.yaml": sha256(content.encode())})
        return {"component": "web", "url": folder.as_uri(), "digest": str(digest)}

    def once(self, injection: str = "", *, trace: bool = True) -> Ended:
        """Run one cycle of the agent."""
        variables = {**self.world.environment(), **self.variables}
        calls = sorted({call for _, calls in FAULTS.values() for call in calls}) if trace else ()
        command = ["agent", "once", "--config", str(self.world.config), "--retry"]
        stopped = self.crash if "STOP" in injection else None
        return run(command, variables, self.world.folder, injection, trace=calls, stopped=stopped)

    def fine(self) -> list[str]:
        """Make an update without a fault; return its calls (Failed: it does not work)."""
        self.publish()
        done = self.once()
        if done.code or self.there() != self.wanted(self.number):
            raise Failed(f"an update without a fault does not work: exit {done.code}\n{done.said}")
        return done.calls

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
        labels = ("org.margo-gitops.deployment-id", "org.margo-gitops.component", "greeting")
        form = " ".join(f'{{{{.Label "{label}"}}}}' for label in labels)
        command = ["docker", "ps", "--filter", mine, "--format", form]
        done = subprocess.run(command, env=self.variables, capture_output=True, check=True, timeout=60, text=True)
        for deployment, part, value in map(str.split, done.stdout.splitlines()):
            yield int(deployment.partition("-")[0]), part, value

    def names(self) -> Counter[str]:
        """Return how many files of each kind the agent keeps: what a broken update leaves must not add up."""
        folders = [self.world.state, self.world.output]
        paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return Counter(re.sub(r"[0-9a-f]{6,}|\d+", "#", str(path.relative_to(self.world.folder))) for path in paths)


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
    """Run the next update with a fault, and then once without; return what is wrong, or that it came through."""
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
    if again.code or device.there() != new or any(device.world.output.rglob(STOPPED)):
        return f"did not recover: exit {again.code}, {device.there()}\n{again.said}\nbefore:\n{broken.said}"
    return FINE if broken.reached else NOT_REACHED


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
    fork = multiprocessing.get_context("fork")
    todo, told = fork.SimpleQueue(), fork.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="margo-gitops-faults-") as folder:
        places = [Path(folder) / f"{number}" for number in range(arguments.devices)]
        workers = [fork.Process(target=_work, args=(place, arguments.applier, todo, told)) for place in places]
        try:
            for worker in workers:
                worker.start()
            return _attempt(len(workers), arguments, todo, told)
        finally:
            for worker in workers:
                worker.terminate()
            for worker, place in zip(workers, places, strict=True):
                worker.join()
                stop_engine(place / "engine")


def _attempt(devices: int, arguments: argparse.Namespace, todo: SimpleQueue[Any], told: SimpleQueue[Any]) -> int:
    """Hand out the points to the devices; returns the exit code."""
    starts = [told.get() for _ in range(devices)]
    for calls in starts:
        if isinstance(calls, Failed):
            print(calls.why, file=sys.stderr)
            return calls.code
    possible = [fault for fault in FAULTS if arguments.applier == "compose" or fault not in ENGINE_FAULTS]
    every = [str(point) for point in points(starts[0], arguments.fault or possible)]
    tried = Points(every, arguments.resume, sample=arguments.sample, seed=arguments.seed, verbose=arguments.verbose)
    waiting = tried.left()
    for _ in starts:
        todo.put(next(waiting, None))
    left: Counter[str] = Counter()
    while devices:
        came = told.get()
        if isinstance(came, Failed):
            print(came.why, file=sys.stderr)
            return came.code
        if isinstance(came, Counter):
            left += came
            devices -= 1
            continue
        tried.note(*came)
        todo.put(next(waiting, None))
    if left:
        print(f"left behind: {left}")
    return 0 if tried.show() and not left else 1


def _work(folder: Path, applier: str, todo: SimpleQueue[Any], told: SimpleQueue[Any]) -> None:
    """Be one device, which tries the points that it is handed."""
    folder.mkdir()
    try:
        device = Device(folder / "device", applier)
        device.fine()
        told.put(device.fine())  # the second update has something to change and to remove
        before = device.names()
        for name in iter(todo.get, None):
            found = NOT_REACHED
            for _ in range(TRIES):
                if found == NOT_REACHED:
                    found = trouble(device, Point.named(name))
            told.put((name, found))
            if found not in (FINE, NOT_REACHED):
                device.fine()
        told.put(Counter({kind: count for kind, count in (device.names() - before).items() if count > 2}))
    except Failed as error:
        told.put(error)
    except Exception as error:
        told.put(Failed(f"{type(error).__name__}: {error}"))
        raise
