"""`margo-gitops state`: the way back after a loss of the state repo."""

from __future__ import annotations

from pathlib import Path

import click

from margo_gitops.cli.options import cache_folder, fleet_option, state_option
from margo_gitops.cli.output import output_option, show
from margo_gitops.errors import StateRepoUnusable
from margo_gitops.operations.fleet_input import chosen_location
from margo_gitops.state_repo.remote import RemoteState, is_remote
from margo_gitops.wording import counted


@click.group()
def state() -> None:
    """Give a state repo back what it has lost."""


@state.command()
@fleet_option
@state_option
@output_option()
def restore(fleet: Path, state: str | None, output: str) -> None:
    """Push what this machine rendered or saw last to a state repo that lost it.

    If the server lost the repository, make an empty one there first. Branches move only forward: nothing newer
    is lost.
    """
    location = chosen_location(fleet, state)
    if not is_remote(location):
        raise StateRepoUnusable(
            f"{location} is a path: this machine has no other copy of it",
            remedy="restore it from a backup or a clone (docs/state-repo.md, Recovery)",
        )
    remote = RemoteState(location, cache_folder())
    try:
        restored = remote.restore()
    finally:
        remote.release()
    said = f"{counted(len(restored), 'ref')} restored" if restored else "nothing is lost: every ref is there"
    show(output, {"restored": restored}, [said])
