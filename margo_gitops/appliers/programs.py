"""Programs that an applier runs: what they get, how long they may take, and what of their output people may see.

A program gets an argument list, and the environment it is given and no other. Its time and its output are bounded.
Values of parameters may be secrets, so a message shows their names instead.
"""

from __future__ import annotations

import base64
import json
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO
from urllib.parse import quote, quote_plus

from margo_gitops.errors import MargoGitopsError
from margo_gitops.values import dataclass
from margo_gitops.wording import abridged, how_it_ended

NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})
_PATIENCE_SECONDS = 5.0
_LONGEST_OUTPUT = 4 * 1024 * 1024
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended.

    Attributes:
        status: its exit status; None where it ran out of time and was killed.
        output: its standard output, at most 4 MiB.
        complaint: its standard error, at most 4 MiB.
    """

    status: int | None
    output: str
    complaint: str

    def last_lines(self, parameters: Mapping[str, str] = NO_PARAMETERS) -> list[str]:
        """Return what it complained about last, for people: at most ten lines of 300 characters.

        One that failed and said nothing, or was ended by a signal, has a line that says so.

        Args:
            parameters: their values are hidden, all of each, before lines are cut.
        """
        text = redacted(self.complaint.strip() or self.output.strip(), parameters)
        lines = [abridged(line, 300) for line in text.splitlines()[-10:]]
        if self.status and (self.status < 0 or not lines):
            lines.append(how_it_ended(self.status))
        return lines


def run_program(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    seconds: float,
    folder: Path | None = None,
    keep_open: int | None = None,
    reads: IO[bytes] | None = None,
    run_as: tuple[int, int] | None = None,
) -> Finished:
    """Run a program in a session of its own, and stop it with all it started when its time is over.

    Args:
        environment: its whole environment; the program itself is looked up in its PATH.
        keep_open: a descriptor that it, and what it starts, hold while they live.
        reads: the file that is its standard input; None: an empty one.
        run_as: user and group that it runs as, with no other groups; None: those of this process.

    Raises:
        OSError: there is no such program, or it cannot be started.
    """
    process = subprocess.Popen(
        arguments,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL if reads is None else reads,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=() if keep_open is None else (keep_open,),
        user=run_as[0] if run_as else None,
        group=run_as[1] if run_as else None,
        extra_groups=() if run_as else None,
    )
    in_time = False
    with process:
        try:
            output, complaint, in_time = _communicate(process, time.monotonic() + seconds)
        finally:
            _stop(process)
            if not in_time:  # what it started may outlive it, and ignore SIGTERM
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
    return Finished(process.returncode if in_time else None, output, complaint)


def _communicate(process: subprocess.Popen[bytes], deadline: float) -> tuple[str, str, bool]:
    streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
    collected: dict[int, bytearray] = {stream.fileno(): bytearray() for stream in streams}
    numbers = list(collected)
    in_time = True
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                in_time = False
                break
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif len(collected[key.fd]) < _LONGEST_OUTPUT:
                    collected[key.fd] += chunk
    if in_time:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            in_time = False
    output, complaint = (bytes(collected[number]).decode(errors="replace") for number in numbers)
    return output, complaint, in_time


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a program that still runs, and all that it started: politely first, so that it can tidy up."""
    if process.poll() is not None:
        return
    for number, seconds in ((signal.SIGTERM, _PATIENCE_SECONDS), (signal.SIGKILL, _PATIENCE_SECONDS)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _spellings(value: str) -> Iterator[str]:
    """Yield a value, its lines, and both as programs write them: escaped, percent-encoded, hexadecimal, base64."""
    yield value
    if len(value) < _SHORTEST_SPELLED:
        return
    for text in dict.fromkeys([value, value.strip(), *map(str.strip, value.splitlines())]):
        if len(text) < _SHORTEST_SPELLED:
            continue
        raw = text.encode(errors="replace")
        encoded = base64.b64encode(raw).decode()
        yield from (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1])
        yield from (quote(raw), quote(raw, safe=""), quote_plus(raw), raw.hex(), raw.hex().upper())
        yield from (encoded.rstrip("="), encoded.rstrip("=").translate(_URL_SAFE))


_URL_SAFE = str.maketrans("+/", "-_")
_PORT = re.compile(r"[1-9][0-9]{3,4}")
_SHORTEST_REDACTED = 4
"""Characters; hiding every `1` or `on` would make messages unreadable."""


_SHORTEST_SPELLED = 8
"""Characters of a value that is hidden in other spellings too."""


def redacted(text: str, environment: Mapping[str, str]) -> str:
    """Return `text` with parameter values replaced by their names, however a program spells them.

    Values of under four characters stay.
    """
    if not text:
        return text
    spelled = {(name, each) for name, value in environment.items() for each in _spellings(value)}
    for name, value in sorted(spelled, key=lambda item: (-len(item[1]), item)):
        if len(value) < _SHORTEST_REDACTED or value in ("true", "false"):
            continue
        if _PORT.fullmatch(value):
            # "port 0.0.0.0:8080 is already allocated" is the reason itself; elsewhere the number may be a PIN.
            text = re.sub(rf"(?<![\d:]){value}(?!\d)", f"<{name}>", text)
        else:
            text = text.replace(value, f"<{name}>")
    return text


@contextmanager
def hiding(environment: Mapping[str, str]) -> Iterator[None]:
    """Replace values by their names in every error of ours that is raised inside."""
    try:
        yield
    except MargoGitopsError as error:
        error.what = redacted(error.what, environment)
        error.why = tuple(redacted(each, environment) for each in error.why)
        error.remedy = redacted(error.remedy, environment)
        error.args = (error.what,)
        raise
