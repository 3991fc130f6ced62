"""Print a result: the option that chooses a format, and the one function that prints it.

A command gives its result and the lines for people. JSON and YAML are made from the result. A format of its own is one
more word in the option and one more argument:

    @output_option("text", "json", "yaml", "markdown", says="How to print.")
    def plan(output: str) -> None:
        show(output, made, as_text(made), markdown=lambda: as_markdown(made))

What a terminal changes is decided here as well: escaping, colour, progress.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, TypeVar

import click

from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.errors import ExitCode, MargoGitopsError
from margo_gitops.wording import printable

C = TypeVar("C", bound=Callable[..., object])

_NOT_ENCODABLE = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes that are not UTF-8, in the name of a file for example."""


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
    styled: bool = False,
    stream: bool = False,
    **others: Callable[[], str],
) -> None:
    """Print a result.

    Args:
        output: the format that the person chose.
        result: a document, or a plain value; JSON and YAML are made from it.
        lines: for people; used for text only.
        styled: whether the lines are printable already, and may hold colours.
        stream: whether more results follow: JSON is then one line, YAML a document of its own.
        others: makes the whole text of each further format.
    """
    if output in others:
        click.echo(others[output](), nl=False)
    elif output == "json":
        click.echo(_json_text(_plain(result), indent=None if stream else 2))
    elif output == "yaml":
        click.echo(("---\n" if stream else "") + write_yaml(_plain(result)).decode(), nl=False)
    else:
        for line in lines:
            click.echo(line if styled else printable(line))


def _plain(result: Any) -> Json:  # noqa: ANN401  # a document of any kind
    plain: Json = write(result) if is_dataclass(result) else result
    return plain


def _json_text(value: Json, *, indent: int | None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _NOT_ENCODABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def note(text: str) -> None:
    """Print what a person should know in addition to the result, to standard error."""
    click.echo(f"note: {text}", err=True)


def colour() -> bool:
    """Return whether standard output may have colours: on a terminal, without NO_COLOR."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


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
        click.echo(f"error: {error}", err=True)
        code = ExitCode.USAGE if error.exit_code == ExitCode.FINDINGS else error.exit_code
        raise click.exceptions.Exit(code) from error
