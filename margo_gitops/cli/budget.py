"""`margo-gitops budget`: what a fleet costs before it is there."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from margo_gitops.cli.options import Duration, fleet_option, rev_option
from margo_gitops.cli.output import output_option, show
from margo_gitops.operations.budget import COSTS, Layout, Way, budget, budget_lines, layout_of
from margo_gitops.operations.fleet_input import read_intent

_DEPLOYMENTS = 2


@click.command("budget")
@fleet_option
@rev_option
@click.option(
    "--devices", type=click.IntRange(min=1), help="Calculate for so many devices. Default: those of the fleet repo."
)
@click.option(
    "--way", type=click.Choice([*COSTS]), default="git", show_default=True, help="How devices get their state."
)
@click.option(
    "--interval", type=Duration(), default="60s", show_default=True, help="Time between two polls; for wait, of a wait."
)
@click.option("--edits", type=click.FloatRange(min=0), default=10, show_default=True, help="Rendered edits in a day.")
@click.option(
    "--changed", type=click.IntRange(min=1), help="Devices that an edit changes. Default: those of a site, on average."
)
@output_option("text", "json", "yaml", says="How to print; json and yaml follow schemas/budget.schema.json.")
def show_budget(
    fleet: Path,
    rev: str | None,
    devices: int | None,
    way: str,
    interval: int,
    edits: float,
    changed: int | None,
    output: str,
) -> None:
    """Calculate what a fleet costs: requests, bytes, time to converge, server, growth, and what git hosts allow."""
    if interval < 1:
        raise click.BadParameter("the shortest is 1s", param_hint="--interval")
    chosen = cast("Way", way)
    if devices is None:
        layout = layout_of(read_intent(fleet, rev), way=chosen, interval=interval, edits=edits, changed=changed)
    else:
        sites = -(-devices // 100)
        layout = Layout(devices, sites, devices * _DEPLOYMENTS, chosen, interval, edits, min(changed or 100, devices))
    found = budget(layout)
    show(output, found, budget_lines(found))
