"""A person at a terminal: a program behind a real pseudo-terminal, and what is typed and read there."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from support.command_line import Outcome
from support.git_cli import GIT_ENVIRONMENT
from support.preloaded import AS_INSTALLED

_PROGRAM = f"""
{AS_INSTALLED}
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal is the program's own, so that Ctrl-C reaches it
{{prelude}}
from margo_gitops.cli.main import main
main()
"""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """What is on the screen so far, and the keys."""

    def __init__(self, keyboard: int, program: subprocess.Popen[bytes]) -> None:
        self._keyboard = keyboard
        self._program = program
        self._screen = b""
        self._seen = 0

    @property
    def screen(self) -> str:
        """Everything shown so far, without the terminal's own codes."""
        text = self._screen.decode(errors="replace").replace("\r\n", "\n").replace("\r", "")
        return _ESCAPES.sub("", text)

    def reads(self, wanted: str, seconds: float = 60) -> str:
        """Wait until text is shown that was not read yet; returns all that was shown up to it."""
        end = time.monotonic() + seconds
        while wanted not in self.screen[self._seen :]:
            left = end - time.monotonic()
            assert left > 0, f"{wanted!r} is not shown after\n{self.screen}"
            assert self._more(left), f"the program ended without {wanted!r}\n{self.screen}"
        found = self.screen.index(wanted, self._seen) + len(wanted)
        shown, self._seen = self.screen[self._seen : found], found
        return shown

    def types(self, text: str) -> None:
        """Type a line."""
        os.write(self._keyboard, f"{text}\n".encode())

    def answers(self, prompt: str, text: str) -> str:
        """Wait for a prompt, and answer it; returns what was shown before."""
        shown = self.reads(f"{prompt}> ")
        self.types(text)
        return shown

    def presses(self, control: str, seconds: float = 60) -> Outcome:
        """Press a letter with the control key until the program ends; returns what it ended with.

        Once is not always enough: Python can miss a signal that comes while it gives the terminal to readline.
        """
        end = time.monotonic() + seconds
        while self._program.poll() is None:
            assert time.monotonic() < end, f"control-{control} does not end it\n{self.screen}"
            with suppress(OSError):  # it may have ended just now
                os.write(self._keyboard, bytes([ord(control.upper()) - 64]))
            again = time.monotonic() + 5
            while time.monotonic() < again and self._program.poll() is None:
                self._more(0.1)
        return self.ends()

    def ends(self, seconds: float = 60) -> Outcome:
        """Wait for the program's end; standard output is there if it was no terminal."""
        end = time.monotonic() + seconds
        while self._more(max(0.0, end - time.monotonic())):
            pass
        code = self._program.wait(timeout=max(1.0, end - time.monotonic()))
        output = self._program.stdout.read().decode() if self._program.stdout else ""
        assert "Traceback" not in self.screen, self.screen
        return Outcome(code, output, self.screen)

    def _more(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._keyboard], [], [], seconds)
        try:
            read = os.read(self._keyboard, 65_536) if ready else b""
        except OSError:  # Linux says so when the last program has closed the terminal
            read = b""
        self._screen += read
        return bool(read)


@contextmanager
def terminal(
    *arguments: str | Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    piped: bool = False,
    prelude: str = "",
) -> Iterator[Terminal]:
    """Run `margo-gitops ARGUMENTS` on a terminal.

    Args:
        arguments: of the command line.
        cwd: the working folder.
        environment: variables besides those of `GIT_ENVIRONMENT`.
        prelude: code that runs before the command.
        piped: whether standard output goes elsewhere; it is in the outcome then.
    """
    keyboard, screen = pty.openpty()
    variables = {**GIT_ENVIRONMENT, "TERM": "dumb", "MARGO_GITOPS_CACHE": str(cwd / ".cache"), **(environment or {})}
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(prelude=prelude), *arguments],
        cwd=cwd,
        env=variables,
        stdin=screen,
        stdout=subprocess.PIPE if piped else screen,
        stderr=screen,
        start_new_session=True,
    )
    os.close(screen)
    try:
        yield Terminal(keyboard, program)
    finally:
        program.kill()
        program.wait()
        if program.stdout:
            program.stdout.close()
        os.close(keyboard)
