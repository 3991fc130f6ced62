"""`margo-gitops plan` and `explain`: what a render would change, and where a value comes from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import click

from margo_gitops.cli.completion import complete_deployments, complete_devices
from margo_gitops.cli.options import (
    at_option,
    before_merge_option,
    cache_folder,
    date_of_files,
    fleet_option,
    policy_command_option,
    rev_option,
    signing_key_option,
    state_option,
)
from margo_gitops.cli.output import CHANGES, failing_with_usage, output_option, show
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.nodes import Json
from margo_gitops.operations.fleet_input import read_for_device, read_signing_key
from margo_gitops.operations.plan.plan_markdown import as_markdown
from margo_gitops.operations.plan.plan_text import as_text
from margo_gitops.operations.plan.planning import PlanRequest, exit_code, plan_fleet
from margo_gitops.operations.plan.switching_times import opening_text
from margo_gitops.rendering.explanation import Explanation
from margo_gitops.rendering.explanation import explain as explain_deployment
from margo_gitops.rendering.parameters import Effective, Origin
from margo_gitops.rendering.resolution import deployed_secrets
from margo_gitops.wording import json_text


@click.command()
@click.argument("device", required=False, shell_complete=complete_devices)
@fleet_option
@click.option("--rev", help="The commit of the fleet repo that would be rendered. Default: the files as they are now.")
@click.option("--base", help="A commit of the fleet repo to compare with. Default: the state repo as it is.")
@state_option
@signing_key_option
@click.option(
    "--resign", is_flag=True, help="As `render --resign`: include what another key signed and this key signs again."
)
@at_option
@before_merge_option
@policy_command_option
@click.option(
    "--helm",
    metavar="FILE|no",
    help="The helm program that shows Kubernetes objects of charts; `no`: run none. Default: helm in PATH.",
)
@click.option("--details", is_flag=True, help="Show every device with each changed value and where it is written.")
@output_option(
    "text",
    "json",
    "markdown",
    says="How to print; json follows schemas/plan.schema.json, markdown fits into a comment of a merge request.",
)
@click.pass_context
def plan(
    context: click.Context,
    device: str | None,
    fleet: Path,
    rev: str | None,
    base: str | None,
    state: str | None,
    signing_key: Path | None,
    resign: bool,
    at: str | None,
    before_merge: bool,
    allow_policy_command: bool,
    helm: str | None,
    details: bool,
    output: str,
) -> None:
    """Show what a render would change; with DEVICE, on that device only. Nothing is written.

    The plan shows devices that join, leave or change, with their deployments, profiles, revisions and parameters. It
    says where each changed value is written, which workloads start, restart or stop, what devices download, and what
    the fleet's policy says. The plan runs the render itself, so it shows exactly what a render changes. With DEVICE,
    only what this device needs is read: what is wrong with other devices is not shown.

    Exits 0 if nothing changes, 1 if something does, 2 or more if nothing could be rendered or compared.
    """
    date = date_of_files(at, rev)
    with failing_with_usage():
        request = PlanRequest(
            fleet,
            rev,
            base,
            state,
            cache_folder(),
            device,
            key=read_signing_key(signing_key) if signing_key else None,
            resign=resign,
            at=date,
            before_merge=before_merge,
            policy_command=allow_policy_command,
            helm=_helm_program(helm),
        )
        made = plan_fleet(request)
    lines = as_text(made, details=details or device is not None)
    show(output, made, lines, paint=CHANGES, markdown=lambda: as_markdown(made))
    context.exit(exit_code(made))


@click.command()
@click.argument("device", shell_complete=complete_devices)
@click.argument("deployment", shell_complete=complete_deployments)
@fleet_option
@rev_option
@output_option()
def explain(device: str, deployment: str, fleet: Path, rev: str | None, output: str) -> None:
    """Show why DEVICE gets DEPLOYMENT in this form: the profile, and each parameter's value, layer, file and line."""
    explanation = explain_deployment(read_for_device(fleet, rev, device), device, deployment)
    show(output, _as_json(explanation), _lines(explanation))


def _helm_program(named: str | None) -> Path | None:
    """Return the helm program, with its whole path; None if there is no such program, or the user wants no program."""
    found = None if named == "no" else shutil.which(named or "helm")
    if found is None and named not in (None, "no"):
        raise click.BadParameter(f"there is no program {named}", param_hint="--helm")
    return Path(found).resolve() if found else None


def _lines(explanation: Explanation) -> Iterator[str]:
    resolved = explanation.resolved
    description = resolved.application.description.value
    yield f"{resolved.deployment.value.metadata.name} on {resolved.target.id}"
    yield f"  application  {description.id} {description.metadata.version}"
    yield f"  profile      {resolved.profile.id} ({resolved.profile.type})"
    for profile, reasons in explanation.rejected.items():
        for reason in reasons:
            yield f"               not {profile}: {reason}"
    yield f"  id           {resolved.id}"
    if explanation.urgent is not None:
        yield f"  changes      at any time: urgent  {explanation.urgent}"
    for calendar, where in explanation.calendars:
        yield f"  changes      only while {calendar.of} is open  {where}"
    if ruling := tuple(calendar for calendar, _ in explanation.calendars):
        yield f"               {opening_text(ruling, time.time())}"
    for setting in explanation.settings:
        yield f"  {setting.name:<12} {_setting_text(setting.value)}  {setting.where}"
    yield "  parameters" if resolved.parameters else "  no parameters"
    for parameter in resolved.parameters:
        yield from _parameter_lines(parameter)
    for each in deployed_secrets(resolved):
        pointers = ", ".join(target.pointer for target in each.targets)
        yield f"    {each.parameter} is the secret {each.name}  -> {pointers}"
        yield f"      from {'the fleet repo, encrypted for the device' if each.sealed else 'a source of the device'}"


def _setting_text(value: Json) -> str:
    """Return what a device gets as people write it, on one line: `before drain; after resume`."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_setting_text(each)}" for key, each in value.items())
    if isinstance(value, list):
        return " ".join(map(_setting_text, value))
    return value if isinstance(value, str) else json_text(value)


def _parameter_lines(parameter: Effective) -> Iterator[str]:
    pointers = ", ".join(target.pointer for target in parameter.targets)
    yield f"    {parameter.name} = {_shown(parameter.value)}  -> {pointers}"
    written = f": {_shown(parameter.origin.written)}" if parameter.origin.written != parameter.value else ""
    yield f"      from {_origin(parameter.name, parameter.origin)}{written}"
    for origin in reversed(parameter.overridden):
        yield f"      over {_origin(parameter.name, origin)}: {_shown(origin.written)}"


def _origin(name: str, origin: Origin) -> str:
    return f"{origin.layer.name}  {origin.layer.location(name)}"


def _shown(value: ParameterValue) -> str:
    return json_text(value)


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
        "urgent": explanation.urgent is not None,
        "calendars": [
            {"of": calendar.of, "file": where.file, "line": where.line, "column": where.column}
            for calendar, where in explanation.calendars
        ],
        "settings": [
            {
                "name": setting.name,
                "value": setting.value,
                "file": setting.where.file,
                "line": setting.where.line,
                "column": setting.where.column,
            }
            for setting in explanation.settings
        ],
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
        "secrets": [
            {
                "name": each.name,
                "parameter": each.parameter,
                "pointers": [target.pointer for target in each.targets],
                "encrypted": each.sealed is not None,
            }
            for each in deployed_secrets(resolved)
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
