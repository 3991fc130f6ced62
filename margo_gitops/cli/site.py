"""`margo-gitops site`: the sites of a fleet repo."""

from __future__ import annotations

import click

from margo_gitops.cli.completion import complete_sites
from margo_gitops.cli.edit_options import Editing, edit_options
from margo_gitops.editing.devices import device_parameters
from margo_gitops.editing.places import add_site, rename_site
from margo_gitops.editing.selectors import typed_labels


@click.group()
def site() -> None:
    """Add and rename sites."""


@site.command()
@click.argument("name")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of its devices; repeatable.")
@click.option("--param", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter; repeatable.")
@edit_options
def add(name: str, labels: tuple[str, ...], parameters: tuple[str, ...], editing: Editing) -> None:
    """Add the site NAME, with labels and parameters for its devices."""
    base = editing.base()
    made = add_site(base, name, typed_labels(labels, base.intent), device_parameters(base.intent, parameters))
    editing.finish(base, made)


@site.command()
@click.argument("old", shell_complete=complete_sites)
@click.argument("new")
@edit_options
def rename(old: str, new: str, editing: Editing) -> None:
    """Rename the site OLD to NEW: in its devices, in placements and overlays, and in the policy."""
    base = editing.base()
    editing.finish(base, rename_site(base, old, new))
