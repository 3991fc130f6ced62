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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO
from urllib.parse import quote, quote_plus

from margo_gitops.errors import MargoGitopsError, StepInterrupted
from margo_gitops.values import dataclass
from margo_gitops.wording import abridged, how_it_ended

NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})
_PATIENCE_SECONDS = 5.0
_LONGEST_OUTPUT = 4 * 1024 * 1024
_LOOK_SECONDS = 0.5
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended.

    Attributes:
        status: its exit status; None where it ran out of time and was killed.
        output: its standard output, as much of it as was asked for.
        complaint: its standard error, as much of it.
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
    most: int = _LONGEST_OUTPUT,
    interrupted: Callable[[], bool] | None = None,
) -> Finished:
    """Run a program in a session of its own, and stop it with all it started when its time is over.

    Args:
        environment: its whole environment; the program itself is looked up in its PATH.
        keep_open: a descriptor that it, and what it starts, hold while they live.
        reads: the file that is its standard input; None: an empty one.
        run_as: user and group that it runs as, with no other groups; None: those of this process.
        most: bytes of its output that are kept, and of its complaint.
        interrupted: whether the agent was asked to stop, which stops the program as the end of its time does.

    Raises:
        OSError: there is no such program, or it cannot be started.
        StepInterrupted: the agent was asked to stop.
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
    streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
    try:
        output, complaint, in_time = _communicate(process, streams, time.monotonic() + seconds, most, interrupted)
    finally:
        _stop(process)
        if not in_time:  # what it started may outlive it, and ignore SIGTERM
            _signal(process, signal.SIGKILL)
        # What does not end at all is left: one that became another user, or waits for a disk.
        for stream in streams:
            stream.close()
    return Finished(process.returncode if in_time else None, output, complaint)


def _communicate(
    process: subprocess.Popen[bytes],
    streams: Sequence[IO[bytes]],
    deadline: float,
    most: int,
    interrupted: Callable[[], bool] | None,
) -> tuple[str, str, bool]:
    collected: dict[int, bytearray] = {stream.fileno(): bytearray() for stream in streams}
    numbers = list(collected)
    in_time = True
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                in_time = False
                break
            ready = selector.select(left if interrupted is None else min(left, _LOOK_SECONDS))
            if interrupted is not None and interrupted():
                raise StepInterrupted("a program still ran, and was stopped")
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif len(collected[key.fd]) < most:
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
        _signal(process, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


class Secret(str):
    """A value that is hidden also where that of a parameter is not: after a colon, as a port, or as a word."""

    __slots__ = ()


def _spellings(value: str) -> Iterator[str]:
    """Yield a value, its lines, and both as programs write them: escaped, quoted, encoded."""
    shortest = _SHORTEST_REDACTED if isinstance(value, Secret) else _SHORTEST_SPELLED
    yield value
    for text in dict.fromkeys([value, value.strip(), *map(str.strip, value.splitlines())]):
        if len(text) < shortest:
            continue
        raw = text.encode(errors="replace")
        in_json = (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
        yield from (text, *in_json, *(each.translate(_GO_JSON) for each in in_json), repr(text)[1:-1])
        yield from (text.replace("$", "$$"), *(text.replace("'", each) for each in ("'\\''", "'\"'\"'")))
        yield from (quote(raw), quote(raw, safe=""), quote_plus(raw), raw.hex(), raw.hex().upper())
        yield "".join(_BYTES[each] for each in raw)
        for place in range(3):  # in base64, a value looks different after one, two or three other bytes
            encoded = base64.b64encode(bytes(place) + raw).decode().rstrip("=")[place + (place > 0) :]
            whole = encoded if not (place + len(raw)) % 3 else encoded[:-1]  # its end depends on what follows
            yield from (each.translate(table) for each in (encoded, whole) for table in ({}, _URL_SAFE))


_URL_SAFE = str.maketrans("+/", "-_")
_BYTES = [f"\\x{each:02x}" if not 32 <= each < 127 else chr(each) for each in range(256)]
_BYTES[ord('"')], _BYTES[ord("\\")] = '\\"', "\\\\"
_GO_JSON = {ord(each): f"\\u{ord(each):04x}" for each in "&<>"}
_PORT = re.compile(r"[1-9][0-9]{3,4}")
_SHORTEST_REDACTED = 4
"""Characters; hiding every `1` or `on` would make messages unreadable."""


_SHORTEST_SPELLED = 8
"""Characters of a parameter's value that is hidden in other spellings too."""


def redacted(text: str, environment: Mapping[str, str]) -> str:
    """Return `text` with parameter values replaced by their names, however a program spells them.

    Values of under four characters stay.
    """
    hidden = [place for name, value in environment.items() for place in _places(text, name, value)] if text else []
    parts, end = [], 0
    # Of values that overlap, nothing stays; of those at one place, the longest is named.
    for begin, stop, name in sorted(hidden, key=lambda place: (place[0], -place[1], place[2])):
        if begin >= end:
            parts += [text[end:begin], f"<{name}>"]
        end = max(end, stop)
    return "".join([*parts, text[end:]])


def _places(text: str, name: str, value: str) -> Iterator[tuple[int, int, str]]:
    """Yield where a value is in a text, and its name."""
    is_secret = isinstance(value, Secret)
    for spelling in set(_spellings(value)):
        if len(spelling) < _SHORTEST_REDACTED or (spelling in ("true", "false") and not is_secret):
            continue
        pattern = re.escape(spelling)
        if _PORT.fullmatch(spelling) and not is_secret:
            # "port 0.0.0.0:8080 is already allocated" is the reason itself; elsewhere the number may be a PIN.
            pattern = rf"(?<![\d:]){spelling}(?!\d)"
        if spelling in text:
            yield from ((*found.span(), name) for found in re.finditer(pattern, text))


@contextmanager
def hiding(environment: Mapping[str, str]) -> Iterator[None]:
    """Replace values by their names in every error of ours that is raised inside."""
    try:
        yield
    except MargoGitopsError as error:
        hide(error, environment)
        raise


def hide(error: MargoGitopsError, environment: Mapping[str, str]) -> None:
    """Replace values by their names in an error."""
    error.what = redacted(error.what, environment)
    error.why = tuple(redacted(each, environment) for each in error.why)
    error.remedy = redacted(error.remedy, environment)
    error.args = (error.what,)
