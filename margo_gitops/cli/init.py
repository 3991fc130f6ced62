"""`margo-gitops init`: a fleet repo that renders as it is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from margo_gitops.documents.fleet_kinds import NAME_PATTERN
from margo_gitops.errors import ScaffoldRefused
from margo_gitops.renderer.scaffold import scaffold


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="The fleet's name. Default: the folder's.")
@click.option("--state", help="The state repo, a path or a URL. Default: a folder beside DIR.")
@click.option("--artifacts-url", help="The applications/ folder as devices see it. Default: this folder, by file://.")
def init(folder: Path, name: str | None, state: str | None, artifacts_url: str | None) -> None:
    """Scaffold a fleet repo in DIR: two sites, four devices, two applications, ready to render."""
    fleet = name or re.sub(r"[^a-z0-9]+", "-", folder.absolute().name.lower()).strip("-")
    if not re.search(NAME_PATTERN, fleet):
        raise ScaffoldRefused(
            f"{fleet!r} is no name for a fleet", remedy="pass --name with 1 to 63 lower-case letters, digits and dashes"
        )
    made = scaffold(folder, fleet, state, artifacts_url)
    click.echo(f"scaffolded the fleet {fleet} in {folder}")
    if made.commit is None:
        click.echo("git does not know who you are yet, so nothing is committed:")
        click.echo("  git config --global user.name NAME && git config --global user.email ADDRESS")
        click.echo(f"  git -C {shlex.quote(str(folder))} commit -m 'Scaffold the fleet'")
    click.echo("next:")
    click.echo(f"  margo-gitops render --fleet {shlex.quote(str(folder))}")
