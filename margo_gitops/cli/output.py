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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, TypeVar

import click

# What prints errors needs no documents: those are imported where a result is written.
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import ExitCode, MargoGitopsError
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


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show how far long work is, on standard error; yields None where that is not a terminal.

    Args:
        label: what is done. The function that is yielded takes what is done and how much there is.
    """
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def update(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield update


@contextmanager
def failing_with_usage() -> Iterator[None]:
    """End with 2 on an error that ends other commands with 1: here 1 says that the result has differences."""
    try:
        yield
    except MargoGitopsError as error:
        say_error(error)
        code = ExitCode.USAGE if error.exit_code == ExitCode.FINDINGS else error.exit_code
        raise click.exceptions.Exit(code) from error
