"""The command line as people run it: a process, its exit code, its output."""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support import preloaded
from support.git_cli import GIT_ENVIRONMENT
from support.preloaded import Forked

_EARLY = frozenset({"XDG_CONFIG_HOME", "LC_ALL", "LANG"})


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.stdout}\n{self.stderr}"


def margo_gitops(
    *arguments: str | Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    prelude: str = "",
    seconds: float = 120,
) -> Outcome:
    """Run `margo-gitops ARGUMENTS` in a folder; no outcome holds a traceback.

    Args:
        arguments: of the command line.
        cwd: the working folder.
        environment: variables besides those of `GIT_ENVIRONMENT`.
        prelude: Python code that runs before the program, which then is started, not forked.
        seconds: the longest that it may take.
    """
    variables = {**GIT_ENVIRONMENT, "MARGO_GITOPS_CACHE": str(cwd / ".cache"), **(environment or {})}
    # What Python and libgit2 read before a line of ours runs needs a start.
    early = any(name in _EARLY or name.startswith("PYTHON") for name in environment or {})
    run = functools.partial(started, prelude) if prelude or early else forked
    outcome = run([str(each) for each in arguments], cwd, variables, seconds)
    assert "Traceback" not in outcome.stderr, outcome
    return outcome


def started(prelude: str, arguments: list[str], cwd: Path, environment: Mapping[str, str], seconds: float) -> Outcome:
    """Run the program in a Python of its own."""
    code = f"{preloaded.AS_INSTALLED}\n{prelude}\nfrom margo_gitops.cli.main import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=seconds,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def forked(arguments: list[str], cwd: Path, environment: Mapping[str, str], seconds: float = 60) -> Outcome:
    """Run the program in a process that is forked from one that has imported it.

    Raises:
        TimeoutError: it took longer.
    """
    with (
        open(os.devnull, "rb") as nothing,  # noqa: PTH123 - no path of ours
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        streams = nothing.fileno(), stdout.fileno(), stderr.fileno()
        code = Forked(preloaded_program(), arguments, cwd, environment, streams).wait(seconds)
        said = []
        for stream in (stdout, stderr):
            stream.seek(0)
            said.append(stream.read().decode(errors="surrogateescape"))
    return Outcome(code, *said)


def client() -> tuple[str, ...]:
    """Return the command that is `margo-gitops`, forked from a process that has imported everything."""
    return (sys.executable, "-I", "-S", preloaded.__file__, "run", str(preloaded_program()))


def put_program(folder: Path) -> None:
    """Put the command `margo-gitops` into a folder that scripts have on their PATH."""
    program = folder / "margo-gitops"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(client())} "$@"\n')
    program.chmod(0o755)


@functools.cache
def preloaded_program() -> Path:
    """Return the socket of the server that forks commands for this process."""
    folder = tempfile.TemporaryDirectory(prefix="margo-gitops-test-")
    path = Path(folder.name) / "socket"
    ready, told = os.pipe()
    server = subprocess.Popen(
        [sys.executable, preloaded.__file__, "serve", str(path), str(told)],
        stdin=subprocess.DEVNULL,
        pass_fds=[told],
        env=GIT_ENVIRONMENT,
    )

    def end() -> None:
        server.kill()
        server.wait()
        folder.cleanup()

    atexit.register(end)
    os.close(told)
    with os.fdopen(ready, "rb") as signal:
        assert signal.read() == b"ready", "the server that forks commands did not start"
    return path
