"""`margo-gitops explain`: where every value of a deployment on a device comes from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from margo_gitops.cli.name_completion import complete_deployments, complete_devices
from margo_gitops.cli.options import fleet_option, output_option
from margo_gitops.documents.application import ParameterValue
from margo_gitops.operations.fleet_input import read_fleet_commit, read_working_tree
from margo_gitops.rendering.explain import Explanation
from margo_gitops.rendering.explain import explain as explain_deployment
from margo_gitops.rendering.parameters import Effective, Origin


@click.command()
@click.argument("device", shell_complete=complete_devices)
@click.argument("deployment", shell_complete=complete_deployments)
@fleet_option
@click.option("--rev", help="A commit of the fleet repo. Default: the files as they are now.")
@output_option
def explain(device: str, deployment: str, fleet: Path, rev: str | None, output: str) -> None:
    """Show why DEVICE gets DEPLOYMENT as it does: the profile, and each parameter's value, layer, file and line."""
    intent = read_fleet_commit(fleet, rev).intent if rev is not None else read_working_tree(fleet)
    explanation = explain_deployment(intent, device, deployment)
    if output == "json":
        click.echo(json.dumps(_as_json(explanation), indent=2, ensure_ascii=False))
    else:
        _print(explanation)


def _print(explanation: Explanation) -> None:
    resolved = explanation.resolved
    description = resolved.application.description.value
    click.echo(f"{resolved.deployment.value.metadata.name} on {resolved.target.id}")
    click.echo(f"  application  {description.id} {description.metadata.version}")
    click.echo(f"  profile      {resolved.profile.id} ({resolved.profile.type})")
    for profile, reasons in explanation.rejected.items():
        for reason in reasons:
            click.echo(f"               not {profile}: {reason}")
    click.echo(f"  id           {resolved.id}")
    click.echo("  parameters" if resolved.parameters else "  no parameters")
    for parameter in resolved.parameters:
        _print_parameter(parameter)


def _print_parameter(parameter: Effective) -> None:
    pointers = ", ".join(target.pointer for target in parameter.targets)
    click.echo(f"    {parameter.name} = {_shown(parameter.value)}  -> {pointers}")
    written = f": {_shown(parameter.origin.written)}" if parameter.origin.written != parameter.value else ""
    click.echo(f"      from {_origin(parameter.name, parameter.origin)}{written}")
    for origin in reversed(parameter.overridden):
        click.echo(f"      over {_origin(parameter.name, origin)}: {_shown(origin.written)}")


def _origin(name: str, origin: Origin) -> str:
    return f"{origin.layer.name}  {origin.layer.location(name)}"


def _shown(value: ParameterValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _as_json(explanation: Explanation) -> dict[str, object]:
    resolved = explanation.resolved
    description = resolved.application.description.value
    return {
        "device": resolved.target.id,
        "deployment": resolved.deployment.value.metadata.name,
        "deploymentId": resolved.id,
        "application": {"id": description.id, "version": description.metadata.version},
        "profile": {"id": resolved.profile.id, "type": resolved.profile.type},
        "rejectedProfiles": {profile: list(reasons) for profile, reasons in explanation.rejected.items()},
        "parameters": [
            {
                "name": parameter.name,
                "value": parameter.value,
                "pointers": [target.pointer for target in parameter.targets],
                "from": _origin_json(parameter.name, parameter.origin),
                "overrides": [_origin_json(parameter.name, origin) for origin in reversed(parameter.overridden)],
            }
            for parameter in resolved.parameters
        ],
    }


def _origin_json(name: str, origin: Origin) -> dict[str, object]:
    location = origin.layer.location(name)
    return {
        "layer": origin.layer.name,
        "file": location.file,
        "line": location.line,
        "column": location.column,
        "written": origin.written,
    }
