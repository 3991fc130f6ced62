"""`margo-gitops deploy`: create or change a Deployment."""

from __future__ import annotations

from pathlib import Path

import click

from margo_gitops.cli.deploy_form import deploy_by_form
from margo_gitops.cli.edit_options import Editing, edit_options
from margo_gitops.cli.name_completion import (
    complete_applications,
    complete_assignments,
    complete_deployments,
    complete_profiles,
    complete_selectors,
    complete_versions,
)
from margo_gitops.cli.options import fleet_option
from margo_gitops.editing.deploy import DeployRequest, deploy_target
from margo_gitops.editing.deploy import deploy as deploy_edit
from margo_gitops.editing.selectors import parse_selector
from margo_gitops.editing.values import typed_parameters


@click.command()
@click.argument("application", metavar="APP", shell_complete=complete_applications)
@click.argument("version", required=False, shell_complete=complete_versions)
@click.option(
    "--to",
    "selector",
    metavar="SELECTOR",
    help="Where it goes: all, device=ID, or conditions as line=3,site=north. A new deployment needs it.",
    shell_complete=complete_selectors,
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter; may be given several times.",
    shell_complete=complete_assignments,
)
@click.option("--unset", multiple=True, metavar="NAME", help="Take a parameter out of the deployment.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="PROFILE",
    help="A profile's id; may be given several times, best first.",
    shell_complete=complete_profiles,
)
@click.option("--name", metavar="NAME", help="The deployment's name.", shell_complete=complete_deployments)
@click.option("--interactive", is_flag=True, help="Ask for parameters and devices on the terminal.")
@click.option(
    "--state",
    metavar="LOCATION",
    help="With --interactive: the state repo, for settings that may not change. Default: spec.stateRepo.",
)
@fleet_option
@edit_options
def deploy(
    application: str,
    version: str | None,
    selector: str | None,
    assignments: tuple[str, ...],
    unset: tuple[str, ...],
    profiles: tuple[str, ...],
    name: str | None,
    interactive: bool,
    state: str | None,
    fleet: Path,
    commit: bool,
    branch: str | None,
    dry_run: bool,
) -> None:
    """Deploy APP in VERSION: create a deployment, or change the one that is there.

    Without --name, the one deployment of APP is changed; if there is none, a new one gets the application's id as its
    name. Without VERSION, a deployment keeps its own, and a new one gets the newest in the fleet repo. What is not
    given stays as it is.

    Values get the type that the application declares; a list is a,b,c or a JSON list. The change is checked as
    `validate` does before anything is written.

    With --interactive, the application's configuration is a form on the terminal, section by section, followed by the
    devices; what other options say is filled in already. The change, and what it does to devices, is shown before
    anything is written.
    """
    if state is not None and not interactive:
        raise click.UsageError("--state goes with --interactive")
    editing = Editing(fleet, commit, branch, dry_run)
    base = editing.base()
    target = deploy_target(base.intent, application, version, name)
    request = DeployRequest(
        application,
        target.version,
        target.name,
        parse_selector(selector, base.intent) if selector is not None else None,
        typed_parameters(target.description, assignments),
        unset,
        profiles,
    )
    if interactive:
        deploy_by_form(editing, base, target, request, state)
    else:
        editing.finish(base, deploy_edit(base, request))
