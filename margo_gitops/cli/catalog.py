"""`margo-gitops catalog`: the applications of a fleet repo as people choose them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from margo_gitops.cli.name_completion import (
    complete_applications,
    complete_devices,
    complete_sites,
    complete_versions,
)
from margo_gitops.cli.options import fleet_option
from margo_gitops.documents.records import write
from margo_gitops.editing.named import named_application, named_devices, named_sites
from margo_gitops.operations.application_catalog import application_catalog, catalog_page
from margo_gitops.operations.catalog_text import compatibility_lines, list_lines, page_lines
from margo_gitops.operations.compatibility import compatibility
from margo_gitops.operations.fleet_input import read_fleet_commit, read_working_tree
from margo_gitops.rendering.intent import Intent

_rev_option = click.option("--rev", help="A commit of the fleet repo. Default: the files as they are now.")


@click.group()
def catalog() -> None:
    """Choose an application: what there is, what it needs, which devices could take it."""


@catalog.command("list")
@fleet_option
@_rev_option
@click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print; json follows schemas/application-catalog.schema.json.",
)
def list_applications(fleet: Path, rev: str | None, output: str) -> None:
    """List the applications: versions, ways to run them, and on how many devices they are deployed."""
    found = application_catalog(_read(fleet, rev))
    if output == "json":
        click.echo(json.dumps(write(found), indent=2, ensure_ascii=False))
        return
    for line in list_lines(found):
        click.echo(line)


@catalog.command()
@click.argument("application", metavar="APP", shell_complete=complete_applications)
@click.argument("version", required=False, shell_complete=complete_versions)
@click.option("--compatible", is_flag=True, help="Show which devices could take it, and why the others could not.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="ID",
    help="With --compatible: only this device; may be given several times.",
    shell_complete=complete_devices,
)
@click.option(
    "--site",
    "sites",
    multiple=True,
    metavar="NAME",
    help="With --compatible: only devices of this site; may be given several times.",
    shell_complete=complete_sites,
)
@click.option("--details", is_flag=True, help="With --compatible: show every device with each reason.")
@fleet_option
@_rev_option
@click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print; json follows schemas/catalog-page.schema.json, with --compatible compatibility.schema.json.",
)
def show(
    application: str,
    version: str | None,
    compatible: bool,
    devices: tuple[str, ...],
    sites: tuple[str, ...],
    details: bool,
    fleet: Path,
    rev: str | None,
    output: str,
) -> None:
    """Show the application APP in VERSION, or in its newest one: what it is, what it needs, what may be set.

    With --compatible, show which devices could take it, with which profile, and why each of the others could not. It is
    the placement of a render that judges, so a device that could take it here can be named in a deployment.
    """
    if (devices or sites or details) and not compatible:
        raise click.UsageError("--device, --site and --details go with --compatible")
    intent = _read(fleet, rev)
    chosen = named_application(intent, application, version)
    if compatible:
        found = compatibility(intent, chosen, named_devices(intent, devices), named_sites(intent, sites))
        document, lines = write(found), compatibility_lines(found, details=details or bool(devices))
    else:
        page = catalog_page(intent, chosen)
        document, lines = write(page), page_lines(page)
    if output == "json":
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for line in lines:
        click.echo(line)


def _read(fleet: Path, rev: str | None) -> Intent:
    return read_fleet_commit(fleet, rev).intent if rev is not None else read_working_tree(fleet)
