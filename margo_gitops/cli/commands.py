"""The commands, found by name and imported only when used.

A device has only what the agent needs; a command that needs more says so instead of failing on an import.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from margo_gitops import __version__
from margo_gitops.cli.completion import answer
from margo_gitops.cli.output import say_text, shown_progress
from margo_gitops.errors import ExitCode, ExtraMissing
from margo_gitops.wording import did_you_mean

COMMANDS = {
    "agent": "margo_gitops.cli.agent:agent",
    "app": "margo_gitops.cli.applications:app",
    "artifact": "margo_gitops.cli.artifact:artifact",
    "audit": "margo_gitops.cli.audit:audit",
    "budget": "margo_gitops.cli.budget:show_budget",
    "bundle": "margo_gitops.cli.bundle:bundle",
    "catalog": "margo_gitops.cli.applications:catalog",
    "conformance": "margo_gitops.cli.conformance:conformance",
    "completion": "margo_gitops.cli.completion:completion",
    "deploy": "margo_gitops.cli.deploy:deploy",
    "device": "margo_gitops.cli.enrolment:device",
    "document": "margo_gitops.cli.document:document",
    "explain": "margo_gitops.cli.plan:explain",
    "freshness": "margo_gitops.cli.freshness:freshness",
    "init": "margo_gitops.cli.init:init",
    "keys": "margo_gitops.cli.keys:keys",
    "plan": "margo_gitops.cli.plan:plan",
    "publish": "margo_gitops.cli.publish:publish",
    "registry": "margo_gitops.cli.registries:registry",
    "render": "margo_gitops.cli.render:render",
    "reports": "margo_gitops.cli.reports:reports",
    "revert": "margo_gitops.cli.deploy:revert",
    "secret": "margo_gitops.cli.secret:secret",
    "serve": "margo_gitops.cli.serve:serve",
    "site": "margo_gitops.cli.site:site",
    "state": "margo_gitops.cli.state:state",
    "status": "margo_gitops.cli.status:status",
    "support-bundle": "margo_gitops.cli.support_bundle:support_bundle",
    "validate": "margo_gitops.cli.validate:validate",
}
_EXTRAS = {
    "check_jsonschema": "operator",
    "fastcdc": "operator",
    "dulwich.object_format": "operator",  # the kit needs a newer dulwich than a device
    "jinja2": "operator",
    "jsonschema": "operator",
    "pygit2": "operator",
    "re2": "operator",
    "ruamel": "operator",
    "watchfiles": "operator",
    "starlette": "server",
    "uvicorn": "server",
}


class _ReaderGoneError(Exception):
    """The reader of our output went away; Click would answer that with 1, which means differences here."""


@contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _ReaderGoneError from error


def _missing(error: ModuleNotFoundError, command: str) -> Exception:
    """Return what to say of a package that is not installed; the error itself where no extra has it."""
    name = error.name or ""
    extra = _EXTRAS.get(name) or _EXTRAS.get(name.partition(".")[0])
    if extra is None:
        return error
    from margo_gitops.scaffolding.tool import how_to_install

    return ExtraMissing(f"`margo-gitops {command}` needs the Python package {name}", remedy=how_to_install(extra))


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """Parse the options, of which some print; as `invoke`."""
        with _reader():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command.

        Raises:
            ExtraMissing: it needs packages that are not installed; some are loaded only where they are used.
            _ReaderGoneError: the reader of its output went away.
        """
        try:
            with _reader():
                return super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise _missing(error, ctx.invoked_subcommand or "") from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named; a near match in the refusal of another (UsageError)."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}; {did_you_mean(args[0], COMMANDS, 'list them with --help')}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return every command's name."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command (ExtraMissing: it needs packages that are not installed)."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _missing(error, cmd_name) from error
        return command if isinstance(command, click.Command) else None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that start so; no command is imported for it."""
        names = [CompletionItem(name) for name in self.list_commands(ctx) if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands; those whose packages are missing with the reason."""
        rows = []
        for name in self.list_commands(ctx):
            try:
                command = self.get_command(ctx, name)
            except ExtraMissing as error:
                rows.append((name, f"({error.remedy})"))
            else:
                rows.append((name, command.get_short_help_str(80) if command else ""))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="margo-gitops")
@click.option(
    "--debug", is_flag=True, expose_value=False, help="Show where in the program an unexpected error comes from."
)
def cli() -> None:
    """Run a factory's Margo edge applications from git.

    Exit codes: 0 done, 1 findings or differences, 2 usage or configuration, 3 transport (you can retry), 4 trust
    refused (find out why before you retry), 5 apply failed, 70 a defect of this program, 75 try later.
    """


def complete() -> NoReturn:
    """Print the words that a shell asks for, and end."""
    answer(cli)


def run_command() -> int:
    """Run the command that the command line names, and return what to end with.

    Raises:
        MargoGitopsError: as the command says.
        BrokenPipeError: the reader of the output went away.
        KeyboardInterrupt: the person pressed control-C.
    """
    try:
        with shown_progress():
            code = cli.main(prog_name="margo-gitops", standalone_mode=False)
        return code if isinstance(code, int) else ExitCode.OK
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say_text(shown.getvalue(), err=True)
        return ExitCode.USAGE
    except click.Abort:
        raise KeyboardInterrupt from None
    except _ReaderGoneError as error:
        raise BrokenPipeError from error
