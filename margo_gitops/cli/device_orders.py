"""`margo-gitops agent suspend`, `resume` and `apply-now`: what a person at the device orders."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from margo_gitops.agent.agent import LOCK_FILE
from margo_gitops.agent.memory.journal import JOURNAL_FILE, Journal
from margo_gitops.agent.memory.orders import (
    LONGEST_REASON,
    ApplyOrder,
    is_carried_out,
    order_to_apply,
    read_apply_order,
    read_suspension,
    suspended,
)
from margo_gitops.agent.memory.orders import resume as resume_changes
from margo_gitops.agent.memory.orders import suspend as suspend_changes
from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.agent.settings.loading import DEFAULT_CONFIGURATION, configuration_in_force
from margo_gitops.cli.options import Duration
from margo_gitops.cli.output import say
from margo_gitops.disk.locks import lock_holder

_LONGEST_SUSPENSION = timedelta(days=31)

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help=f"The agent's configuration. Default: MARGO_GITOPS_CONFIG, or {DEFAULT_CONFIGURATION}.",
)


def load_configuration(config: Path | None) -> AgentConfiguration:
    """Return the configuration that a command names, or the machine's."""
    return configuration_in_force(config, os.environ)


@click.command()
@config_option
@click.option("--reason", required=True, help="Why, for everyone who asks.")
@click.option("--for", "seconds", type=Duration(), help="How long: 90m, 4h, 2d; at most 31d.")
@click.option("--until", help="Until when: 2026-12-24T18:00+01:00; at most 31 days from now.")
def suspend(config: Path | None, reason: str, seconds: int | None, until: str | None) -> None:
    """Let nothing change on this device for some time.

    New state is fetched and verified, and then waits. What runs is kept running. If no agent runs now, the next one
    obeys when it starts.
    """
    configuration, now = load_configuration(config), datetime.now(UTC)
    end = _end(now, seconds, until)
    if not reason.strip() or len(reason) > LONGEST_REASON:
        raise click.BadParameter(f"1 to {LONGEST_REASON} characters are a reason", param_hint="--reason")
    order = suspend_changes(configuration.state_folder, _user(), reason, now, end)
    say(f"{order}; {_call(configuration)}")


@click.command()
@config_option
def resume(config: Path | None) -> None:
    """Let changes be made again on this device."""
    configuration = load_configuration(config)
    done = "changes are made again" if read_suspension(configuration.state_folder) else "changes were not suspended"
    resume_changes(configuration.state_folder)
    say(f"{done}; {_call(configuration)}")


@click.command("apply-now")
@click.argument("deployments", nargs=-1, metavar="[DEPLOYMENT]...")
@config_option
def apply_now(deployments: tuple[str, ...], config: Path | None) -> None:
    """Change what waits for a maintenance window, once: the named deployments, or all.

    The running agent polls and does it. If no agent runs now, the next one does it when it starts. Each order is
    recorded. Exits 75 while changes are suspended: then nothing is ordered.
    """
    configuration = load_configuration(config)
    folder = configuration.state_folder
    if suspension := suspended(folder, datetime.now(UTC).timestamp()):
        raise suspension
    known: frozenset[str] = frozenset()
    waiting = read_apply_order(folder)
    journal = Journal.peek(folder / JOURNAL_FILE)
    if journal is not None:
        with journal:
            known = frozenset(each.name for each in journal.deployments())
            waiting = None if waiting is None or is_carried_out(waiting, journal.facts()) else waiting
    if unknown := sorted({*deployments} - known):
        raise click.UsageError(f"{unknown[0]} is not a deployment of this device; it has: {', '.join(sorted(known))}")
    named = () if not deployments or (waiting and not waiting.deployments) else deployments
    named = tuple(sorted({*named, *(waiting.deployments if waiting and named else ())}))
    order = ApplyOrder(secrets.token_hex(8), _user(), datetime.now(UTC).isoformat(timespec="seconds"), named)
    order_to_apply(folder, order)
    say(f"{order}; {_call(configuration)}")


def _end(now: datetime, seconds: int | None, until: str | None) -> datetime:
    if (seconds is None) == (until is None):
        raise click.UsageError("say how long: --for 4h, or --until 2026-12-24T18:00+01:00")
    try:
        end = now + timedelta(seconds=seconds) if seconds is not None else datetime.fromisoformat(until or "")
    except ValueError as error:
        raise click.BadParameter(f"{error}; write 2026-12-24T18:00+01:00", param_hint="--until") from error
    if end.tzinfo is None:
        raise click.BadParameter("it names no time zone; write 2026-12-24T18:00+01:00", param_hint="--until")
    if not now < end <= now + _LONGEST_SUSPENSION:
        raise click.UsageError("a suspension ends in the future, and within 31 days")
    return end


def _user() -> str:
    """Return who gives an order, as this machine knows it."""
    if by := os.environ.get("SUDO_USER"):
        return by
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in many containers
        return f"user {os.getuid()}"


def _call(configuration: AgentConfiguration) -> str:
    """Let a running agent look at its orders; return what becomes of them, for people."""
    holder = lock_holder(configuration.state_folder / LOCK_FILE)
    if holder is None:
        return "no agent runs here now: the next one obeys when it starts"
    try:
        os.kill(holder, signal.SIGHUP)
    except OSError:
        return f"the agent (process {holder}) obeys within a minute"
    return f"the agent (process {holder}) obeys now"
