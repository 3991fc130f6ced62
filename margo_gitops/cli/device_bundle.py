"""`margo-gitops agent once` and `agent bundle`: one cycle, from the source or from what a technician brought."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.memory.events import LogFormat
from margo_gitops.agent.memory.state_folder import refuse_other_user
from margo_gitops.agent.run import run_once
from margo_gitops.agent.settings.configuration import SourceSettings
from margo_gitops.cli.device_orders import config_option, load_configuration
from margo_gitops.cli.output import say
from margo_gitops.errors import AgentMisconfigured, ExitCode, Location
from margo_gitops.transport.stick.source import StickSettings
from margo_gitops.values import replace

log_format = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of the log on standard error.",
)
_retry = click.option("--retry", is_flag=True, help="Retry failed updates that are in quarantine.")
_now = click.option("--now", "at_once", is_flag=True, help="Change also what waits for a maintenance window or a lock.")


@click.command()
@config_option
@log_format
@_retry
@_now
def once(config: Path | None, log_format: LogFormat, *, retry: bool, at_once: bool) -> None:
    """Poll once, apply, and exit."""
    outcome = run_once(load_configuration(config), log_format, retry=retry, at_once=at_once)
    _end(outcome, f"poll: {outcome.poll}")


@click.group()
def bundle() -> None:
    """Take what a technician brought to this device, on a stick (docs/sticks.md)."""


@bundle.command()
@click.argument("place", type=click.Path(path_type=Path), metavar="FILE|FOLDER")
@config_option
@log_format
@_retry
@_now
def apply(place: Path, config: Path | None, log_format: LogFormat, *, retry: bool, at_once: bool) -> None:
    """Take the state from a bundle, in place of the configured source, apply it, and exit.

    It is verified as if it came over a network. An agent that runs as a service must be stopped meanwhile; one with
    `source.stick` does all of this by itself.

    Exit status: as `agent once`.
    """
    configuration = load_configuration(config)
    if not place.exists():
        raise AgentMisconfigured("there is no bundle", where=Location(str(place)), remedy="plug in the stick")
    source = SourceSettings(stick=StickSettings(place.absolute()))
    outcome = run_once(replace(configuration, source=source), log_format, retry=retry, at_once=at_once)
    _end(outcome, f"bundle: {outcome.poll}")


@bundle.command()
@click.argument("place", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="FOLDER")
@config_option
def receipts(place: Path, config: Path | None) -> None:
    """Write this device's reports and receipts into the folder on a stick, signed with its key.

    `agent bundle apply` does this, too. The operator takes them with `margo-gitops reports import`.
    """
    from margo_gitops.agent.memory.journal import JOURNAL_FILE, Journal
    from margo_gitops.agent.memory.receipt_store import ReceiptStore
    from margo_gitops.agent.report.wiring import stick_reporter
    from margo_gitops.agent.settings.configuration import RECEIPTS_FOLDER

    configuration = load_configuration(config)
    refuse_other_user(configuration.state_folder)
    journal = Journal.peek(configuration.state_folder / JOURNAL_FILE)
    if journal is None or configuration.receipts is None:
        what = "this device has done nothing yet" if journal is None else "this device signs no reports"
        remedy = "apply a bundle first" if journal is None else "add receipts: {} to its configuration"
        raise AgentMisconfigured(what, remedy=remedy)
    store = ReceiptStore(configuration.state_folder / RECEIPTS_FOLDER, writes=False)
    with journal:
        reporter = stick_reporter(configuration, place.absolute(), journal, lambda _event: None, time.time, store)
        written = reporter is not None and reporter.write()
    say(f"the reports of {configuration.device} are {'written' if written else 'there already'}")


def _end(outcome: Outcome, how: str) -> None:
    version = f"version {outcome.version}" if outcome.version is not None else "nothing"
    waits = "; what is missing waits: margo-gitops agent status" if outcome.exit_code is ExitCode.TRY_LATER else ""
    say(f"{how}; holds {version}{waits}")
    sys.exit(outcome.exit_code)
