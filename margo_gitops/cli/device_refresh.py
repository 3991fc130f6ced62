"""`margo-gitops device refresh`: capabilities as devices report them, as a change to review."""

from __future__ import annotations

from pathlib import Path

import click

from margo_gitops.cli.edit_options import Editing, edit_options
from margo_gitops.cli.name_completion import complete_devices, complete_sites
from margo_gitops.cli.options import cache_folder, fleet_option
from margo_gitops.editing.refresh import refresh_devices
from margo_gitops.errors import ExitCode
from margo_gitops.fleet_status.reading import StatusRequest
from margo_gitops.fleet_status.reported_capabilities import read_reported_capabilities


@click.command()
@click.argument("device_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_devices)
@click.option("--site", metavar="SITE", help="The site of devices that are added.", shell_complete=complete_sites)
@click.option("--state", help="The state repo, a path or a URL. Default: spec.stateRepo of margo-gitops.yaml.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a document is not what its device reports.")
@fleet_option
@edit_options
@click.pass_context
def refresh(
    context: click.Context,
    device_ids: tuple[str, ...],
    site: str | None,
    state: str | None,
    check: bool,
    fleet: Path,
    commit: bool,
    branch: str | None,
    dry_run: bool,
) -> None:
    """Make capabilities what devices report: of all devices with `capabilitiesFrom: reports`, or of those named.

    A device that is named and not in the fleet is added; one that is named takes its capabilities from its reports
    from now on. Placement goes by the documents, so nothing moves before this change is merged.
    """
    editing = Editing(fleet, commit, branch, dry_run)
    base = editing.base()
    reported = read_reported_capabilities(StatusRequest(fleet, state, cache_folder()))
    edit = refresh_devices(base, reported, device_ids, site=site)
    if not check:
        editing.finish(base, edit)
        return
    for note in edit.notes:
        click.echo(f"note: {note}", err=True)
    for change in edit.changes:
        click.echo(f"{change.path}: the device reports other capabilities")
    context.exit(ExitCode.FINDINGS if edit.changes else ExitCode.OK)
