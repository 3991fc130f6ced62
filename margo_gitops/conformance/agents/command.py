"""The agent under test: any command that polls once and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final

from margo_gitops.conformance.evidence import shown
from margo_gitops.errors import AgentNotRunnable

VARIABLE_PREFIX: Final = "CONFORMANCE_"
PLACEHOLDERS: Final = {
    "url": "where the state comes from: the git repository, or what stands before /api/v1/deployments",
    "device": "id of the device",
    "folder": "folder in which the agent keeps everything that it keeps; the same for all polls of a case",
    "allowed_signers": "file with the key that may sign the state, in the format of ssh-keygen; git only",
    "transport": "`git` or `http`",
    "token_file": "file with the access token of the device",
    "ref": "full name of the device's ref; git only",
    "view": "folder that `--held-by` shall write what is held into",
}
"""What stands in braces in a command, and in upper case after `CONFORMANCE_` in its environment."""

_LONGEST_OUTPUT: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; None where it had to be killed.
        seconds: how long it took.
        said: its last line of output that says anything.
    """

    code: int | None
    seconds: float
    said: str

    def __str__(self) -> str:
        how = "did not end and was killed" if self.code is None else f"ended with {self.code}"
        return f"the command {how} after {self.seconds:.1f} s{f': {self.said}' if self.said else ''}"


def filled_in(arguments: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return a command with its placeholders replaced; other braces stay as they are."""
    filled = []
    for argument in arguments:
        text = argument
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
        filled.append(text)
    return filled


def run_command(arguments: Sequence[str], values: Mapping[str, str], seconds: float, secret: str) -> Ended:
    """Run a command to its end, or kill it and what it started.

    Args:
        arguments: the command, with placeholders.
        values: of the placeholders and variables.
        seconds: the longest it may take.
        secret: what must not stand in what is reported.

    Raises:
        AgentNotRunnable: it cannot be started.
    """
    environment = {**os.environ, **{VARIABLE_PREFIX + name.upper(): value for name, value in values.items()}}
    begin = time.monotonic()
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                filled_in(arguments, values),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise AgentNotRunnable(
                f"the command {arguments[0]} cannot be started: {error.strerror}",
                remedy="name a program, and its arguments, after --",
            ) from error
        code = _wait(process, seconds)
        return Ended(code, time.monotonic() - begin, _last_line(output, secret))


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # What it left running would go on asking, and disturb the next case.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(output: IO[bytes], secret: str) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _LONGEST_OUTPUT))
    lines = [line for line in output.read().splitlines() if line.strip()]
    return shown(lines[-1], (secret,)) if lines else ""
