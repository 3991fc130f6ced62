"""`margo-gitops status`: what the fleet should run, and what its devices say they run."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from threading import Event
from typing import cast

import click

from margo_gitops.cli.options import cache_folder, fleet_option, state_option
from margo_gitops.cli.output import failing_with_usage, output_option, say_error, show
from margo_gitops.documents.device_id import is_device_id
from margo_gitops.editing.selectors import parse_selector
from margo_gitops.errors import ExitCode, MargoGitopsError, StatusUnusable
from margo_gitops.fleet_status.reading import StatusRequest, read_status
from margo_gitops.fleet_status.status import DEVICE_STATES, DeviceState, StatusFilter
from margo_gitops.fleet_status.text import status_lines
from margo_gitops.fleet_status.watch import StatusWatch

_CLEAR = "\x1b[H\x1b[2J\x1b[3J"
_STATES = re.compile(r"  \S+ +(?:(?P<red>failed|ahead)|(?P<yellow>silent|behind)|(?P<cyan>applying)) ")
"""What a terminal colours in the line of a device."""


@click.command()
@click.argument("device", required=False)
@fleet_option
@state_option
@click.option("--device", "devices", multiple=True, metavar="ID", help="Only this device.")
@click.option("--site", "sites", multiple=True, metavar="NAME", help="Only devices of this site.")
@click.option(
    "-l",
    "--label",
    "labels",
    multiple=True,
    metavar="SELECTOR",
    help="Only devices that a selector of `deploy --to` selects: line=3,zone!=wet, line in (1, 2), !line.",
)
@click.option("--application", "applications", multiple=True, metavar="ID", help="Only devices that should run it.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(DEVICE_STATES),
    help="Only devices in this state.",
)
@click.option("--details", is_flag=True, help="Show every device with each of its deployments.")
@click.option("--watch", is_flag=True, help="Show it again after each change, until interrupted.")
@output_option("text", "json", "yaml", says="How to print; json and yaml follow schemas/fleet-status.schema.json.")
@click.pass_context
def status(
    context: click.Context,
    device: str | None,
    fleet: Path,
    state: str | None,
    devices: tuple[str, ...],
    sites: tuple[str, ...],
    labels: tuple[str, ...],
    applications: tuple[str, ...],
    states: tuple[str, ...],
    details: bool,
    watch: bool,
    output: str,
) -> None:
    """Show the fleet: desired and adopted version, state and last report of each device; with DEVICE, of that one.

    A device must match one value of each kind of filter.

    Exits 0 if every shown device runs what it should, 1 if one does not, 2 or more if the status is unknown.
    """
    named = (device, *devices) if device is not None else devices
    wanted = StatusFilter(
        devices=frozenset(map(_device, named)),
        sites=frozenset(sites),
        applications=frozenset(applications),
        states=frozenset(cast("tuple[DeviceState, ...]", states)),
        labels=tuple(partial(parse_selector, each) for each in labels),
    )
    details = details or bool(named)
    request = StatusRequest(fleet, state, cache_folder(), wanted, brief=output == "text" and not details)
    if watch:
        _watch(request, output, details=details)
        return
    with failing_with_usage():
        found = read_status(request)
    show(output, found, status_lines(found, details=details), paint=_STATES)
    context.exit(ExitCode.OK if found.as_desired else ExitCode.FINDINGS)


def _watch(request: StatusRequest, output: str, *, details: bool) -> None:
    screen = output == "text" and sys.stdout.isatty()
    for number, found in enumerate(StatusWatch(request, Event()).changes()):
        if isinstance(found, MargoGitopsError):
            say_error(found)
        else:
            if output == "text":
                click.echo(_CLEAR if screen else "\n" if number else "", nl=False, color=screen)
            show(output, found, status_lines(found, details=details), paint=_STATES, stream=True)
        sys.stdout.flush()


def _device(text: str) -> str:
    if not is_device_id(text):
        raise StatusUnusable(f"{text!r} is not a device id", remedy="list them: margo-gitops status")
    return text
