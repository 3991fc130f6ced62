"""`margo-gitops agent`: what runs on a device."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from margo_gitops.agent.agent import run_once, run_service
from margo_gitops.agent.memory.events import LogFormat
from margo_gitops.agent.pull.held import verify_held
from margo_gitops.agent.report.inspection import as_json, as_text, report
from margo_gitops.agent.settings.environment import read_environment
from margo_gitops.agent.settings.loading import DEFAULT_CONFIGURATION, LoadedConfiguration, load_configuration
from margo_gitops.cli.agent_freshness import freshness

_config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help=f"The agent's configuration; MARGO_GITOPS_CONFIG, else {DEFAULT_CONFIGURATION}.",
)
_log_format = click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of standard error."
)


@click.group()
def agent() -> None:
    """Pull, verify and apply this device's state.

    Exit status: 0 ok, 2 usage or configuration, 3 transport (try again), 4 trust refused, 5 apply failed, 75 another
    agent works with the state folder.
    """


@agent.command()
@_config
@_log_format
@click.option("--retry", is_flag=True, help="Try updates again that failed and are quarantined.")
def once(config: Path | None, log_format: LogFormat, *, retry: bool) -> None:
    """Poll once, apply, end."""
    outcome = run_once(_load(config), log_format, retry=retry)
    version = f"version {outcome.version}" if outcome.version is not None else "nothing"
    click.echo(f"poll: {outcome.poll}; holds {version}")
    sys.exit(outcome.exit_code)


@agent.command()
@_config
@_log_format
def run(config: Path | None, log_format: LogFormat) -> None:
    """Poll and apply until SIGTERM or SIGINT; SIGHUP polls now, and tries what failed again."""
    run_service(_load(config), log_format)


@agent.command()
@_config
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(config: Path | None, output: str) -> None:
    """Show what the device holds, runs, and what went wrong."""
    found = report(_load(config))
    click.echo(json.dumps(as_json(found), indent=2, ensure_ascii=False) if output == "json" else as_text(found))


@agent.command()
@_config
def verify(config: Path | None) -> None:
    """Verify the held state again: every digest, the signature, the version against the floor.

    Exit status: 0 verified, 1 nothing held, 4 not what was trusted.
    """
    state = verify_held(_load(config))
    signer = state.signer or "nobody (unsigned state is accepted here)"
    click.echo(f"version {state.manifest.manifest_version} at {state.snapshot.revision}: verified")
    click.echo(f"  {len(state.deployments)} deployments; signed by {signer}")


agent.add_command(freshness)


def _load(config: Path | None) -> LoadedConfiguration:
    environment = read_environment(os.environ)
    return load_configuration(config or Path(environment.config or DEFAULT_CONFIGURATION), environment)
