"""`margo-gitops revert`: undo a commit of the fleet repo, or bring a deployment back to what it was."""

from __future__ import annotations

from pathlib import Path

import click

from margo_gitops.cli.edit_options import Editing, edit_options
from margo_gitops.cli.name_completion import complete_deployments
from margo_gitops.cli.options import fleet_option
from margo_gitops.editing.revert import revert_commit, revert_deployment


@click.command()
@click.argument("revision", metavar="COMMIT", required=False)
@click.option("--deployment", metavar="NAME", help="Bring one deployment back.", shell_complete=complete_deployments)
@click.option("--to", "target", metavar="REV", help="With --deployment: the commit at which it was right.")
@fleet_option
@edit_options
def revert(
    revision: str | None,
    deployment: str | None,
    target: str | None,
    fleet: Path,
    commit: bool,
    branch: str | None,
    dry_run: bool,
) -> None:
    """Undo COMMIT; or with --deployment NAME --to REV, make a deployment what it was at REV.

    Undoing a merge undoes all that it brought. What was changed again since is a conflict: the files are named, and
    nothing is written. A deployment comes back with the application version that it needs.

    The fleet goes forward: devices get the old content under a new manifest version, never an old version. `plan`
    shows it before.
    """
    if (deployment is None) != (target is None) or (revision is None) == (deployment is None):
        raise click.UsageError("name a COMMIT, or --deployment NAME with --to REV")
    editing = Editing(fleet, commit, branch, dry_run)
    base = editing.base()
    if revision is not None:
        edit = revert_commit(base, revision)
    else:
        edit = revert_deployment(base, deployment or "", target or "")
    editing.finish(base, edit)
