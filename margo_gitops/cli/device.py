"""`margo-gitops device`: the devices of a fleet repo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from margo_gitops.cli.completion import complete_assignments, complete_devices, complete_sites
from margo_gitops.cli.edit_options import Editing, edit_options
from margo_gitops.cli.options import cache_folder, fleet_option, state_option
from margo_gitops.cli.output import note, output_option, say, show
from margo_gitops.documents.fleet_kinds import Device
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.editing.devices import (
    DeviceRequest,
    add_device,
    device_parameters,
    read_capabilities_file,
    refresh_devices,
)
from margo_gitops.editing.named import PlacedDeployment, known_device, placed_deployments
from margo_gitops.editing.places import move_device, remove_device
from margo_gitops.editing.selectors import typed_labels
from margo_gitops.editing.values import plain_values
from margo_gitops.errors import ExitCode
from margo_gitops.fleet_status.reading import StatusRequest, read_reported_capabilities
from margo_gitops.operations.fleet_input import read_working_tree
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.placement import targets
from margo_gitops.wording import json_text, table_lines


@click.group()
def device() -> None:
    """Add, move, remove, list, show and refresh devices."""


@device.command()
@click.argument("device_id", metavar="ID", shell_complete=complete_devices)
@click.option(
    "--capabilities",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Margo's capabilities document of the device, in any shape, as JSON or YAML.",
)
@click.option("--site", metavar="SITE", help="The site of the device.", shell_complete=complete_sites)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; repeatable.")
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of this device; repeatable.",
    shell_complete=complete_assignments,
)
@click.option("--update", is_flag=True, help="Change an existing device; everything that you do not name stays.")
@edit_options
def add(
    device_id: str,
    capabilities: Path | None,
    site: str | None,
    labels: tuple[str, ...],
    parameters: tuple[str, ...],
    update: bool,
    editing: Editing,
) -> None:
    """Add the device ID to the fleet, with its capabilities; with --update, change it.

    A label's value gets the type that this label has in the fleet: 3 is a number where the others are numbers. A value
    in double quotes is text; [a, b] is a list.
    """
    base = editing.base()
    request = DeviceRequest(
        device_id,
        read_capabilities_file(capabilities) if capabilities is not None else None,
        site,
        typed_labels(labels, base.intent),
        device_parameters(base.intent, parameters),
        update,
    )
    editing.finish(base, add_device(base, request))


@device.command()
@click.argument("device_id", metavar="ID", shell_complete=complete_devices)
@click.argument("site", shell_complete=complete_sites)
@edit_options
def move(device_id: str, site: str, editing: Editing) -> None:
    """Move the device ID to another SITE. Its plan shows what it gains and loses there."""
    base = editing.base()
    editing.finish(base, move_device(base, device_id, site))


@device.command()
@click.argument("device_id", metavar="ID", shell_complete=complete_devices)
@edit_options
def remove(device_id: str, editing: Editing) -> None:
    """Remove the device ID, also from placements, overlays and freezes that name it. What runs on it stays."""
    base = editing.base()
    editing.finish(base, remove_device(base, device_id))


@device.command("list")
@click.option("--site", metavar="SITE", help="Only the devices of this site.", shell_complete=complete_sites)
@fleet_option
@output_option()
def list_devices(site: str | None, fleet: Path, output: str) -> None:
    """List the devices of the fleet, each with its site, its deployment types and its labels."""
    intent = read_working_tree(fleet)
    rows = [_row(each.device, dict(each.labels)) for each in targets(intent).values() if site in (None, each.site)]
    cells = [(str(row["id"]), str(row["site"] or "-"), _types(row), _labels_text(row)) for row in rows]
    show(output, rows, table_lines(cells))


@device.command("show")
@click.argument("device_id", metavar="ID", shell_complete=complete_devices)
@fleet_option
@output_option("text", "json", "yaml")
def show_device(device_id: str, fleet: Path, output: str) -> None:
    """Show the device ID: its capabilities, labels and parameters, and its deployments."""
    intent = read_working_tree(fleet)
    known = known_device(intent, device_id).value
    row = _row(known, dict(targets(intent)[device_id].labels))
    row["parameters"] = plain_values(known.spec.parameters)
    row["capabilities"] = write(known.spec.capabilities)
    placed = placed_deployments(intent, device_id)
    row["deployments"] = [_placed_row(each) for each in placed]
    show(output, row, _device_lines(intent, known, row, placed))


def _row(known: Device, labels: dict[str, object]) -> dict[str, Json]:
    spec = known.spec
    plain: dict[str, Json] = {key: _plain(value) for key, value in sorted(labels.items())}
    types = spec.capabilities.properties.supported_deployment_types or ()
    return {"id": known.metadata.name, "site": spec.site, "deploymentTypes": list(types), "labels": plain}


def _plain(value: object) -> Json:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool)) else None


def _placed_row(each: PlacedDeployment) -> dict[str, Json]:
    row: dict[str, Json] = {
        "name": each.name,
        "application": each.application,
        "version": each.version,
        "profile": each.profile,
    }
    return row | ({"problem": each.problem} if each.problem else {})


def _types(row: dict[str, Json]) -> str:
    types = row["deploymentTypes"]
    return ",".join(map(str, types)) if isinstance(types, list) and types else "-"


def _labels_text(row: dict[str, Json]) -> str:
    labels = row["labels"]
    if not isinstance(labels, dict):
        return ""
    return " ".join(f"{key}={json_text(value)}" for key, value in labels.items())


def _device_lines(
    intent: Intent, known: Device, row: dict[str, Json], placed: tuple[PlacedDeployment, ...]
) -> Iterator[str]:
    properties = known.spec.capabilities.properties
    yield f"{known.metadata.name}  {intent.devices[known.metadata.name].file}"
    made = f"{properties.vendor} {properties.model_number}, serial number {properties.serial_number}"
    yield f"  {made}"
    lines = {
        "site": str(row["site"] or "none"),
        "labels": _labels_text(row) or "none",
        "runs": _types(row),
        "cpus": ", ".join(f"{cpu.cores:g} x {cpu.architecture or 'any'}" for cpu in properties.cpus),
        "memory": properties.memory or "",
        "storage": properties.storage or "",
    }
    for name, value in lines.items():
        if value:
            yield f"  {name:<8}  {value}"
    for name, parameter in plain_values(known.spec.parameters).items():
        yield f"  parameter {name} = {json_text(parameter)}"
    for each in placed:
        outcome = f"[{each.profile}]" if not each.problem else f"cannot run: {each.problem}"
        yield f"  deployment {each.name}: {each.application} {each.version}  {outcome}"
    if not placed:
        yield "  no deployment"


@device.command()
@click.argument("device_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_devices)
@click.option("--site", metavar="SITE", help="The site of added devices.", shell_complete=complete_sites)
@state_option
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a document differs from what its device reports.")
@edit_options
@click.pass_context
def refresh(
    context: click.Context,
    device_ids: tuple[str, ...],
    site: str | None,
    state: str | None,
    check: bool,
    editing: Editing,
) -> None:
    """Update capabilities from device reports: for all devices with `capabilitiesFrom: reports`, or for the named ones.

    A named device that is not in the fleet is added. A named device takes its capabilities from its reports from now
    on. Placement uses the documents, so nothing moves before you merge this change.
    """
    base = editing.base()
    reported = read_reported_capabilities(StatusRequest(editing.fleet, state, cache_folder()))
    edit = refresh_devices(base, reported, device_ids, site=site)
    if not check:
        editing.finish(base, edit)
        return
    for each in edit.notes:
        note(each)
    for change in edit.changes:
        say(f"{change.path}: the device reports other capabilities")
    context.exit(ExitCode.FINDINGS if edit.changes else ExitCode.OK)
