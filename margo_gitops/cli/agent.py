"""`margo-gitops agent`: what runs on a device."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from margo_gitops.agent.agent import run_once, run_service
from margo_gitops.agent.memory.events import LogFormat
from margo_gitops.agent.pull.held import freshness_keeper, verify_held
from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.agent.settings.loading import DEFAULT_CONFIGURATION, configuration_in_force
from margo_gitops.cli.output import output_option, say, show
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.freshness import MAX_PROOF_BYTES
from margo_gitops.errors import AgentMisconfigured, ExitCode, NothingHeld

if TYPE_CHECKING:
    from margo_gitops.agent.pull.proof_keeper import FreshnessKeeper

_config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help=f"The agent's configuration. Default: MARGO_GITOPS_CONFIG, or {DEFAULT_CONFIGURATION}.",
)
_log_format = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of the log on standard error.",
)


@click.group()
def agent() -> None:
    """Pull, verify and apply this device's state.

    Exit status: 0 ok, 2 usage or configuration, 3 transport (try again), 4 trust refused, 5 apply failed, 75 another
    agent uses the state folder.
    """


@agent.command()
@_config
@_log_format
@click.option("--retry", is_flag=True, help="Retry failed updates that are in quarantine.")
def once(config: Path | None, log_format: LogFormat, *, retry: bool) -> None:
    """Poll once, apply, and exit."""
    outcome = run_once(_load(config), log_format, retry=retry)
    version = f"version {outcome.version}" if outcome.version is not None else "nothing"
    say(f"poll: {outcome.poll}; holds {version}")
    sys.exit(outcome.exit_code)


@agent.command()
@_config
@_log_format
def run(config: Path | None, log_format: LogFormat) -> None:
    """Poll and apply until SIGTERM or SIGINT. SIGHUP polls now and retries what failed."""
    run_service(_load(config), log_format)


@agent.command()
@_config
@output_option()
def status(config: Path | None, output: str) -> None:
    """Show what the device holds and runs, and what failed."""
    from margo_gitops.agent.report.inspection import as_json, as_text, report

    found = report(_load(config))
    show(output, as_json(found), as_text(found).split("\n"))


@agent.command()
@_config
def verify(config: Path | None) -> None:
    """Verify the held state again: every digest, the signature, and the version against the floor.

    Exit status: 0 verified, 1 nothing held, 4 not the state that was trusted.
    """
    state = verify_held(_load(config))
    signer = state.signer or "no one (unsigned state is accepted here)"
    say(f"version {state.manifest.manifest_version} at {state.snapshot.revision}: verified")
    say(f"  {len(state.deployments)} deployments; signed by {signer}")


def _load(config: Path | None) -> AgentConfiguration:
    return configuration_in_force(config, os.environ)


@agent.group()
def freshness() -> None:
    """Show whether this device holds the newest state, or import a proof from a file."""


@freshness.command("show")
@_config
@output_option()
def show_proof(config: Path | None, output: str) -> None:
    """Show the proof that the held state is the newest, and when it expires.

    Exits 1 if there is no valid proof.
    """
    from margo_gitops.agent.report.inspection import held_proof

    configuration = _load(config)
    _keeper(configuration)
    found = held_proof(configuration)
    if found is None:
        raise TypeError("a device with a keeper has a verdict")
    show(output, asdict(found), [f"{found.verdict}: {found.text}"])
    codes = {"fresh": ExitCode.OK, "expiring": ExitCode.OK, "refused": ExitCode.TRUST}
    sys.exit(codes.get(found.verdict, ExitCode.FINDINGS))


@freshness.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@_config
def import_proof(file: Path, config: Path | None) -> None:
    """Import the proof in FILE, which `margo-gitops freshness export` wrote.

    A running agent uses it in its next cycle.
    """
    configuration = _load(config)
    keeper = _keeper(configuration)
    content = read_small_file(file, MAX_PROOF_BYTES, what="the proof cannot be read", error=AgentMisconfigured)
    try:
        state = verify_held(configuration)
    except NothingHeld:
        state = None
    taken = keeper.take(content, state)
    say(f"proven as of {taken.statement.issued}, until {taken.statement.expires}; signed by {taken.signer}")


def _keeper(configuration: AgentConfiguration) -> FreshnessKeeper:
    keeper = freshness_keeper(configuration, lambda _event: None)
    if keeper is None:
        raise AgentMisconfigured(
            "this device does not ask for proof of freshness",
            remedy="add freshness: {} to the agent's configuration",
        )
    return keeper
