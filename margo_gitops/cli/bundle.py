"""`margo-gitops bundle`: what is carried to a site without a line, on the operator's side (docs/sticks.md)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from margo_gitops.appliers.artifacts import ArtifactCache
from margo_gitops.cli.completion import complete_devices
from margo_gitops.cli.options import cache_folder, fleet_option, state_option
from margo_gitops.cli.output import output_option, show
from margo_gitops.documents.records import write
from margo_gitops.operations.fleet_input import chosen_location, open_state
from margo_gitops.publishing.site_bundle import BundleRequest, make_bundle
from margo_gitops.wording import counted

_LONGEST_FETCH = 3600.0


@click.group()
def bundle() -> None:
    """Carry state to devices without a line, on a stick. On a device: `margo-gitops agent bundle`."""


@bundle.command()
@click.argument("place", type=click.Path(path_type=Path), metavar="FILE.tar|FOLDER")
@click.option("--site", help="For all devices of this site.")
@click.option(
    "--device", "devices", multiple=True, shell_complete=complete_devices, help="Only for this one; again for more."
)
@click.option("--since", metavar="COMMIT", help="Leave out what the site has: the stateCommit of its last bundle.")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Certificates (PEM) to trust when content of components is fetched. Default: the system's.",
)
@fleet_option
@state_option
@output_option()
def create(
    place: Path,
    site: str | None,
    devices: tuple[str, ...],
    since: str | None,
    ca_file: Path | None,
    fleet: Path,
    state: str | None,
    output: str,
) -> None:
    """Write what the devices of a site need into FOLDER, such as one on a stick, or into one FILE.tar.

    A folder that has an older bundle is brought up to date. Everything is as devices would fetch it, with its
    signatures, so the way that the stick goes need not be trusted.
    """
    if site is None and not devices:
        raise click.UsageError("name a --site, or each --device")
    request = BundleRequest(site=site, devices=frozenset(devices), since=since)
    with open_state(chosen_location(fleet, state), cache_folder(), create=False) as held:
        contents = ArtifactCache(cache_folder() / "contents", ca_file=ca_file, proxy_from_environment=True)
        made = make_bundle(held.repo, place.absolute(), request, partial(contents.file, seconds=_LONGEST_FETCH))
    left_out = f"; {made.left_out} left out, the site has them" if since else ""
    lines = (
        f"{place}: {counted(len(made.devices), 'device')}, {counted(made.blobs, 'blob')}, {made.size} bytes{left_out}",
        f"state {made.state_commit}; {counted(made.written, 'file')} written",
    )
    show(output, {"place": str(place), **write(made)}, lines)
