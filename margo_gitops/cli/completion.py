"""`margo-gitops completion`: the script that teaches a shell to complete commands, options and names of the fleet."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click
from click.shell_completion import get_completion_class

PROGRAM = "margo-gitops"
VARIABLE = "_MARGO_GITOPS_COMPLETE"
"""Set by the script when the shell asks for words; click reads it."""

_NO_SPACE = "    [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n"
"""For bash: behind `greeting=` a value follows, not the next word."""

_BEFORE = "    return 0\n"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete commands, options, and the names of the fleet repo you are in.

    bash: put `eval "$(margo-gitops completion bash)"` into ~/.bashrc. zsh: put `eval "$(margo-gitops completion zsh)"`
    into ~/.zshrc, below compinit. fish: `margo-gitops completion fish > ~/.config/fish/completions/margo-gitops.fish`.
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"this version of click knows no {shell}")
    script = found(context.find_root().command, {}, PROGRAM, VARIABLE).source()
    if shell == "bash":
        script = script.replace(_BEFORE, _NO_SPACE + _BEFORE, 1)
    click.echo(script)


def answer(cli: click.Command) -> NoReturn:
    """Print the words that a shell asks for, and end; whatever goes wrong, nothing is offered and nothing complains."""
    code = 0
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123  # no path of ours
        sys.stderr, said = nowhere, sys.stderr
        try:
            cli.main(prog_name=PROGRAM)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001  # a traceback would end up in the line that somebody types
            code = 1
        finally:
            sys.stderr = said
    sys.exit(code)
