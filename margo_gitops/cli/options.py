"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path

import click

from margo_gitops.cli.environment import CACHE

fleet_option = click.option(
    "--fleet",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The fleet repo, or a folder in it. Default: here.",
)
output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)


def cache_folder() -> Path:
    """Return where mirrors of remote state repos are kept (XDG base directory specification)."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "margo-gitops" / "state"
