"""`margo-gitops conformance`: check agents and servers that anybody built against the numbered requirements."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import click

from margo_gitops.cli.output import say, say_text
from margo_gitops.conformance.agents.case import TransportName
from margo_gitops.conformance.agents.playing import check_agent
from margo_gitops.conformance.agents.stage import AgentUnderTest
from margo_gitops.conformance.report import FORMATS, ConformanceReport, shown
from margo_gitops.conformance.servers.client import ServerTarget, read_token
from margo_gitops.conformance.servers.git_checks import check_git
from margo_gitops.conformance.servers.http_checks import check_http
from margo_gitops.errors import ExitCode

_FILE = click.Path(path_type=Path)

report_option = click.option(
    "--output",
    type=click.Choice(sorted(FORMATS)),
    default="text",
    show_default=True,
    help="How to print: text for people, or a report for a pipeline; html is a single file.",
)


@click.group()
def conformance() -> None:
    """Check agents and servers against the numbered requirements of the git subset and the HTTP interface."""


@conformance.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--transport",
    type=click.Choice(["git", "http"]),
    default="git",
    show_default=True,
    help="How the agent fetches its state.",
)
@click.option(
    "--held",
    default="current",
    show_default=True,
    help="Folder below {folder} that has manifest.json and deployments/ after a poll.",
)
@click.option("--held-by", default="", help="A command that writes the held state into {view}, instead of --held.")
@click.option("--signed", is_flag=True, help="The agent asks for signatures over HTTP too.")
@click.option(
    "--rooted",
    is_flag=True,
    help="The agent follows trust documents, from the one in {trust_document}; implies --signed.",
)
@click.option(
    "--enroll",
    default="",
    help="A command that enrols the device with the code in {code_file}; over HTTP. It exits 0 if it is enrolled.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(1, 3600),
    default=60,
    show_default=True,
    help="Time limit of one poll in seconds; a slower poll fails.",
)
@click.option(
    "--only", multiple=True, metavar="WORD", help="Run only cases of this requirement, or with this word in their name."
)
@report_option
@click.pass_context
def agent(
    context: click.Context,
    command: tuple[str, ...],
    transport: str,
    held: str,
    held_by: str,
    signed: bool,
    rooted: bool,
    enroll: str,
    time_limit: float,
    only: tuple[str, ...],
    output: str,
) -> None:
    """Test an agent with valid and hostile states: margo-gitops conformance agent [OPTIONS] -- COMMAND...

    COMMAND polls once and exits. The test replaces {url}, {device}, {folder}, {allowed_signers}, {trust_document},
    {transport}, {token_file} and {ref} in it, and sets CONFORMANCE_URL and so on in its environment
    (docs/conformance.md). The agent must keep everything in {folder}. The test uses only the loopback network.

    Exits 0 if every MUST holds, 1 if not, 2 if COMMAND cannot be run.
    """
    under_test = AgentUnderTest(
        command,
        cast("TransportName", transport),
        held,
        tuple(shlex.split(held_by)),
        time_limit,
        signed or rooted,
        rooted,
        tuple(shlex.split(enroll)),
    )
    report = check_agent(under_test, shown(shlex.join(command)), _now(), only, _progress)
    _end(context, report, output)


def _server_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.argument("url"),
            click.option("--device", required=True, help="Id of the device that the credentials belong to."),
            click.option("--token-file", type=_FILE, help="File with the device's access token."),
            click.option("--username", default="", help="Send tokens as the password of this user (Basic)."),
            click.option("--other-device", default="", help="Id of a device that the credentials do not belong to."),
            click.option("--other-token-file", type=_FILE, help="File with the other device's token."),
            click.option(
                "--ca-file", type=_FILE, help="Certificates (PEM) to trust instead of the system's certificates."
            ),
            click.option("--certificate", type=_FILE, help="Client certificate and key (PEM) in one file."),
            click.option(
                "--time-limit",
                type=click.FloatRange(1, 3600),
                default=30,
                show_default=True,
                help="Time limit of one answer in seconds.",
            ),
        )
    ):
        function = option(function)
    return function


@conformance.command()
@_server_options
@report_option
@click.pass_context
def git(context: click.Context, /, url: str, output: str, **settings: str | float | Path | None) -> None:
    """Check a git server: URL is the URL of the repository.

    The test tries each requirement of docs/git-subset.md that binds servers, as one device. With the token of a second
    device, it also checks that a device learns nothing about another. It changes nothing on the server.

    Exits 0 if every MUST holds, 1 if not, 2 if the settings cannot work, 3 if the server cannot be reached.
    """
    _end(context, check_git(_target(url, settings), _now(), _progress), output)


@conformance.command()
@_server_options
@click.option(
    "--reports",
    type=click.Choice(["invalid", "all", "none"]),
    default="invalid",
    show_default=True,
    help="Which reports to send: only invalid ones, which change nothing; valid ones too; none, for static files.",
)
@report_option
@click.pass_context
def http(context: click.Context, /, url: str, output: str, **settings: str | float | Path | None) -> None:
    """Check a server of the Margo API: URL is the part before /api/v1/deployments.

    The test tries each requirement of docs/http.md that binds servers, as one device.

    Exits 0 if every MUST holds, 1 if not, 2 if the settings cannot work, 3 if the server cannot be reached.
    """
    _end(context, check_http(_target(url, settings), _now(), _progress), output)


def _target(url: str, settings: Mapping[str, str | float | Path | None]) -> ServerTarget:
    def path(name: str) -> Path | None:
        value = settings[name]
        return value if isinstance(value, Path) else None

    limit = settings["time_limit"]
    return ServerTarget(
        url=url,
        device=str(settings["device"]),
        token=read_token(path("token_file")),
        other_device=str(settings["other_device"]),
        other_token=read_token(path("other_token_file")),
        username=str(settings["username"]),
        ca_file=path("ca_file"),
        certificate=path("certificate"),
        seconds=limit if isinstance(limit, float) else 30,
        reports=str(settings.get("reports", "none")),
    )


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        say(f"  {line}", err=True)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _end(context: click.Context, report: ConformanceReport, output: str) -> None:
    say_text(FORMATS[output](report))
    context.exit(ExitCode.OK if report.conforms else ExitCode.FINDINGS)
