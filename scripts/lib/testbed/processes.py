"""Long-running programs: started in a session of their own, recorded in a file, stopped with all their descendants."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from testbed.errors import UnavailableError

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Process(NamedTuple):
    """A process for good: `started` (clock ticks since boot) tells it from a later one with the same number."""

    pid: int
    started: int


def run(
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    content: bytes = b"",
    seconds: float = 30.0,
) -> str:
    """Return what a short program prints.

    Args:
        arguments: the program and its arguments.
        environment: its whole environment; by default only a PATH and a plain locale.
        folder: where it runs.
        content: its standard input.
        seconds: how long it may take.

    Raises:
        UnavailableError: it failed, or took too long; the message ends with what it said last.
    """
    command = " ".join(str(argument) for argument in arguments if not str(argument).startswith("-"))[:200]
    try:
        done = subprocess.run(
            arguments,
            env={"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"} if environment is None else environment,
            cwd=folder,
            input=content,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command}: {error}", "run it by hand to see why") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-800:]
        raise UnavailableError(f"{command} failed with status {done.returncode}: {said}", "run it by hand to see why")
    return done.stdout.decode(errors="replace")


def start(name: str, arguments: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> None:
    """Start a program that outlives this one; `folder` gets NAME.log with its output and NAME.pid."""
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        pid = os.posix_spawn(
            arguments[0],
            [os.fspath(argument) for argument in arguments],
            dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(log)
    started = _started(pid)
    (folder / f"{name}.pid").write_text(f"{pid} {started or 0}\n", encoding="ascii")


def find(name: str, folder: Path) -> Process | None:
    """Return the running process that `start` recorded under this name, if it still runs."""
    try:
        pid, started = map(int, (folder / f"{name}.pid").read_text(encoding="ascii").split())
    except (FileNotFoundError, ValueError):
        return None
    process = Process(pid, started)
    return process if _runs(process) else None


def stop(name: str, folder: Path, *, patience: float = 20.0) -> None:
    """Ask the recorded process to end, wait `patience` seconds, then kill it and whatever descends from it."""
    process = find(name, folder)
    if process:
        family = [process, *_descendants(process.pid)]
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        wait_until(lambda: not _runs(process), patience)
        kill(family)
    (folder / f"{name}.pid").unlink(missing_ok=True)


def kill(processes: Sequence[Process], *, patience: float = 10.0) -> None:
    """Kill processes without asking them, and wait until the kernel has let go of them."""
    for process in processes:
        if _runs(process):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(_runs(process) for process in processes), patience)


def everything() -> Iterator[Process]:
    """Yield every process of this machine that this one may see."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (started := _started(int(entry.name))) is not None:
            yield Process(int(entry.name), started)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll `condition`; return whether it came true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def tail(log: Path, lines: int = 8) -> str:
    """Return the last lines of a log, for a message to people."""
    try:
        return "\n    ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"


def _runs(process: Process) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return _started(process.pid) == process.started


def _started(pid: int) -> int | None:
    fields = _status(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def _descendants(pid: int) -> list[Process]:
    children: dict[int, list[Process]] = {}
    for process in everything():
        if fields := _status(process.pid):
            children.setdefault(int(fields[1]), []).append(process)

    family: list[Process] = []
    waiting = [pid]
    while waiting:
        found = children.get(waiting.pop(), [])
        family += found
        waiting += [process.pid for process in found]
    return family


def _status(pid: int) -> list[str] | None:
    # The fields after the program's name, which may hold spaces and parentheses: state, parent, ..., start time.
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
