"""`margo-gitops`: where every command starts and ends.

A device has `agent run` in memory for years. So this command starts without click and everything else that only a
person at a command line needs. click reads all other command lines, and this one too where it is not plainly written.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from margo_gitops import __version__
from margo_gitops.agent.settings.environment import unknown_variables
from margo_gitops.cli import COMPLETION_VARIABLE
from margo_gitops.errors import EnvironmentInvalid, ExitCode, MargoGitopsError
from margo_gitops.wording import printable


def main() -> NoReturn:
    """Run the command line and exit with the command's code; only `--debug` shows a traceback."""
    _open_missing_streams()
    os.umask(os.umask(0o077) | 0o002)  # a shell or a container with umask 000 makes nothing that all users may write
    if COMPLETION_VARIABLE in os.environ:
        from margo_gitops.cli.commands import complete

        complete()
    try:
        _run()
    except BrokenPipeError:
        # The shell's own commands end so when `| head` has read enough; Python would complain when it flushes.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        sys.exit(141)


def _run() -> NoReturn:
    try:
        _check_environment(os.environ)
        options = plain_service(sys.argv[1:])
        if options is None:
            from margo_gitops.cli.commands import run_command

            sys.exit(run_command())
        _serve_device(options)
        sys.exit(ExitCode.OK)
    except MargoGitopsError as error:
        _say_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        from margo_gitops.cli.output import say

        say("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        raise
    except OSError as error:  # of the output: what a command does to files and networks has errors of its own
        _say_error(printable(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"))
        sys.exit(ExitCode.USAGE)
    except Exception as error:  # noqa: BLE001 - Python would end with 1, which means differences
        _end_with_defect(error, shown="--debug" in sys.argv)


def _end_with_defect(error: Exception, *, shown: bool) -> NoReturn:
    """Say what happened and how to report it, and end with 70: a defect, or a machine without memory."""
    if shown:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, MemoryError):
        what, remedy = "this machine has not enough free memory for the command", "free memory"
        _say_error(f"{what}\n  remedy: {remedy}, or run the command on a larger machine")
        sys.exit(ExitCode.DEFECT)
    kind, said = type(error).__name__, " ".join(str(error).split())
    again = "report the lines above" if shown else "run `margo-gitops --debug …` again and report what it prints"
    _say_error(
        f"margo-gitops {__version__} has a defect: {kind}{f': {said}' if said else ''}\n"
        f"  remedy: {again}, with the command and the version, to the maintainers"
    )
    sys.exit(ExitCode.DEFECT)


def plain_service(arguments: Sequence[str]) -> Mapping[str, str] | None:
    """Return the options of `agent run`, by name, where the command line says nothing else; None: let click read it."""
    if list(arguments[:2]) != ["agent", "run"]:
        return None
    words = [part for word in arguments[2:] for part in (word.split("=", 1) if word.startswith("--") else [word])]
    names, values = words[::2], words[1::2]
    known = set(names) <= {"--config", "--log-format"} and len(names) == len(values)
    if not known or any(value.startswith("-") for value in values):
        return None
    options = dict(zip(names, values, strict=True))
    return options if options.get("--log-format", "text") in ("text", "json") else None


def _serve_device(options: Mapping[str, str]) -> None:
    gc.disable()  # what a start loads is not garbage
    from margo_gitops.agent.run import run_service
    from margo_gitops.agent.settings.loading import configuration_in_force

    named = options.get("--config")
    configuration = configuration_in_force(Path(named) if named is not None else None, os.environ)
    gc.enable()
    run_service(configuration, "json" if options.get("--log-format") == "json" else "text")


def _check_environment(variables: Mapping[str, str]) -> None:
    """Check that every variable that starts with `MARGO_` is one of ours.

    Raises:
        EnvironmentInvalid: naming each that is not; values are never shown.
    """
    unknown = list(unknown_variables(variables))
    if unknown:
        raise EnvironmentInvalid(
            "the environment has variables that mean nothing here", why=unknown, remedy="correct or unset them"
        )


def _say_error(error: object) -> None:
    from margo_gitops.cli.output import say_error

    say_error(error)


def _open_missing_streams() -> None:
    """Give a process that was started with `>&-` a stream to nowhere, so that no later file becomes its output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
