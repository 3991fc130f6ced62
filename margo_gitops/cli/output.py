"""Print a result: the option that chooses a format, and the one function that prints it.

A command gives its result and the lines for people. JSON and YAML are made from the result. A format of its own is one
more word in the option and one more argument:

    @output_option("text", "json", "yaml", "markdown", says="How to print.")
    def plan(output: str) -> None:
        show(output, made, as_text(made), markdown=lambda: as_markdown(made))

Everything that a command prints goes through `say`, `say_text` or `show`: they spell out what is not printable, and
colour what a terminal shows, as git and terraform do. Progress is here as well.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

import click

# What prints errors needs no documents: those are imported where a result is written.
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import ExitCode, MargoGitopsError
from margo_gitops.progress import heard_by, step
from margo_gitops.values import is_dataclass
from margo_gitops.wording import json_text, printable, printable_lines

C = TypeVar("C", bound=Callable[..., object])

SEVERITIES = re.compile(r"(?:\S+: )?(?:(?P<red>error)|(?P<yellow>warning)|(?P<cyan>note)): ")
CHANGES = re.compile(r" *(?:(?P<green>\+)|(?P<yellow>~)|(?P<red>-)) ")
DIFF = re.compile(r"(?P<green>\+.*)|(?P<red>-.*)|(?P<cyan>@@.*)")
"""What has a colour in a line: the group of that name, where the line starts so."""


def output_option(*formats: str, says: str = "How to print.") -> Callable[[C], C]:
    """Return the option `--output`.

    Args:
        formats: their names; without any, text and json. The default is text.
        says: the help text.
    """
    return click.option(
        "--output", type=click.Choice(formats or ("text", "json")), default="text", show_default=True, help=says
    )


def show(
    output: str,
    result: object,
    lines: Iterable[str],
    *,
    paint: re.Pattern[str] | None = None,
    stream: bool = False,
    **others: Callable[[], str],
) -> None:
    """Print a result.

    Args:
        output: the format that the person chose.
        result: a document, or a plain value; JSON and YAML are made from it.
        lines: for people; used for text only.
        paint: what a terminal colours in the lines.
        stream: whether more results follow: JSON is then one line, YAML a document of its own.
        others: makes the whole text of each further format.
    """
    if output in others:
        say_text(others[output]())
    elif output == "json":
        click.echo(json_text(_plain(result), indent=None if stream else 2))
    elif output == "yaml":
        from margo_gitops.documents.yaml_text import write_yaml

        # Our writer quotes all such text, and there an escape of Python is one of YAML, too.
        say_text(("---\n" if stream else "") + write_yaml(_plain(result)).decode())
    else:
        for line in lines:
            say(line, paint=paint)


def _plain(result: Any) -> Json:  # noqa: ANN401  # a document of any kind
    from margo_gitops.documents.records import write

    plain: Json = write(result) if is_dataclass(result) else result
    return plain


def say(line: str, *, err: bool = False, paint: re.Pattern[str] | None = None) -> None:
    """Print one line for people.

    Args:
        err: to standard error.
        paint: what a terminal colours in it.
    """
    click.echo(_painted(printable(line), paint, err=err), err=err)


def say_text(text: str, *, err: bool = False, paint: re.Pattern[str] | None = None) -> None:
    """Print text of several lines, each with its end."""
    lines = printable_lines(text).split("\n")
    click.echo("\n".join(_painted(line, paint, err=err) for line in lines), err=err, nl=False)


def note(text: str) -> None:
    """Print what a person should know in addition to the result, to standard error."""
    say(f"note: {text}", err=True, paint=SEVERITIES)


def say_error(error: object) -> None:
    """Print an error with its reasons and its remedy, to standard error."""
    say_text(f"error: {error}\n", err=True, paint=SEVERITIES)


def _painted(line: str, paint: re.Pattern[str] | None, *, err: bool) -> str:
    """Return a line with its colour: on a terminal that has colours, without NO_COLOR (no-color.org)."""
    found = paint.match(line) if paint else None
    stream = sys.stderr if err else sys.stdout
    if found is None or not stream.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return line
    colour = found.lastgroup or ""
    start, end = found.span(colour)
    return f"{line[:start]}{click.style(line[start:end], fg=colour)}{line[end:]}"


PATIENCE_SECONDS = 1.0
_BETWEEN_SECONDS = 0.1
_ERASE = "\r\x1b[K"


class ProgressLine:
    """Shows how far work is, in one line on a terminal, once it has taken a second; nothing of it stays."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._process = os.getpid()
        self._label = ""
        self._began = self._next = 0.0
        self._is_shown = False

    def __call__(self, label: str, done: int, total: int) -> None:
        """Hear of a step (`margo_gitops.progress`)."""
        if os.getpid() != self._process:  # a process that does a part of the work
            return
        now = time.monotonic()
        if label != self._label:
            self.erase()
            self._label, self._began, self._next = label, now, now + PATIENCE_SECONDS
        if not label or now < self._next:
            return
        self._next = now + _BETWEEN_SECONDS
        of = f" of {total:,}" if total else ""
        left = (now - self._began) / done * (total - done) if done and total else 0.0
        about = f", about {left / 60:.0f} min left" if left >= 120 else f", about {left:.0f} s left" if left else ""
        self._terminal.write(f"{_ERASE}{label}: {done:,}{of}{about}")
        self._terminal.flush()
        self._is_shown = True

    def erase(self) -> None:
        """Take the line away."""
        if self._is_shown:
            self._terminal.write(_ERASE)
            self._terminal.flush()
            self._is_shown = False


@contextmanager
def shown_progress() -> Iterator[None]:
    """Show how far the work inside is, where standard error is a terminal that can erase a line."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        yield
        return
    line = ProgressLine(sys.stderr)
    with heard_by(line):
        try:
            yield
        finally:
            line.erase()


@contextmanager
def failing_with_usage() -> Iterator[None]:
    """End with 2 on an error that ends other commands with 1: here 1 says that the result has differences."""
    try:
        yield
    except MargoGitopsError as error:
        step("", 0, 0)  # the work has ended
        say_error(error)
        code = ExitCode.USAGE if error.exit_code == ExitCode.FINDINGS else error.exit_code
        raise click.exceptions.Exit(code) from error
