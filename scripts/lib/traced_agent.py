"""Run a command in a process of its own whose system calls are counted, and fail where scripts/faults says so."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from margo_gitops.cli.main import main as margo_gitops

LONGEST_SECONDS = 240


@dataclass
class Ended:
    """How a run of the agent ended.

    Attributes:
        calls: strace's lines.
        reached: whether the fault came.
    """

    code: int
    said: str
    calls: list[str]
    reached: bool


class Failed(Exception):
    """This run cannot go on."""

    def __init__(self, why: str, code: int = 1) -> None:
        super().__init__(why, code)
        self.why, self.code = why, code


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
    trace: Sequence[str] = (),
    stopped: Callable[[], None] | None = None,
) -> Ended:
    """Run the command in a process forked from this one: its start has no calls that count.

    Args:
        injection: as strace takes it.
        trace: the system calls that count.
        stopped: what to do where a fault stops the process; then it goes on.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        _be(command, variables, theirs)
    theirs.close()
    try:
        return _watched(child, ours, folder / "strace", injection, trace, stopped)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise


def _watched(
    child: int,
    ours: socket.socket,
    log: Path,
    injection: str,
    trace: Sequence[str],
    stopped: Callable[[], None] | None,
) -> Ended:
    log.unlink(missing_ok=True)
    os.waitpid(child, os.WUNTRACED)
    tracer = None
    if trace:
        options = [f"-einject={injection}"] if injection else []
        tracer = subprocess.Popen(
            ["strace", "-qq", "-o", log, f"-etrace={','.join(trace)}", "-esignal=none", *options, "-p", str(child)],
            stderr=subprocess.PIPE,
        )
        while b"TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_bytes():
            if tracer.poll() is not None:
                raise Failed(f"scripts/faults: {tracer.stderr.read().decode().strip()}", 2)
            os.sched_yield()
    os.kill(child, signal.SIGCONT)
    reached = False
    if stopped:
        ended = os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if ended and ended.si_code == os.CLD_STOPPED:
            reached = True
            stopped()
            os.kill(child, signal.SIGCONT)
    said = _heard(ours, child)
    _, status = os.waitpid(child, 0)
    if tracer:
        tracer.communicate()
    code = os.waitstatus_to_exitcode(status)
    calls = log.read_text(errors="replace").splitlines() if trace else []
    reached = reached or code == -signal.SIGKILL or any("(INJECTED)" in call for call in calls)
    return Ended(code, said, calls, reached)


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
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
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
        traceback.print_exc()
    finally:
        os._exit(code)
