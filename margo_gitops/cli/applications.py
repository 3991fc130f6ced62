"""`margo-gitops app` and `catalog`: the applications of a fleet repo, as files and as people choose them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click

from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.package import Package
from margo_gitops.catalog.vendor import add_offered, offered_package
from margo_gitops.cli import registries
from margo_gitops.cli.completion import (
    complete_applications,
    complete_deployments,
    complete_devices,
    complete_sites,
    complete_versions,
)
from margo_gitops.cli.edit_options import Editing, edit_options
from margo_gitops.cli.options import fleet_option, rev_option
from margo_gitops.cli.output import SEVERITIES, output_option, say, show
from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.components import ParameterValue
from margo_gitops.editing.applications import Upgrade, UpgradeRequest, add_edit
from margo_gitops.editing.applications import upgrade as upgrade_deployments
from margo_gitops.editing.named import all_known, named_application
from margo_gitops.errors import PackageInvalid, ReferenceUnknown
from margo_gitops.operations.application_catalog import application_catalog, catalog_page
from margo_gitops.operations.catalog_text import compatibility_lines, list_lines, page_lines
from margo_gitops.operations.compatibility import compatibility
from margo_gitops.operations.fleet_input import read_intent, read_working_tree
from margo_gitops.registry.references import parse_reference
from margo_gitops.rendering.intent import Application
from margo_gitops.wording import did_you_mean, json_text


@click.group()
def app() -> None:
    """Vendor, pin and inspect applications."""


for _command in (
    registries.new,
    registries.pack,
    registries.push,
    registries.sign,
    registries.verify,
    registries.outdated,
):
    app.add_command(_command)


@app.command()
@click.argument("source", metavar="PATH|oci://REGISTRY/NAME:VERSION")
@click.option("--replace", is_flag=True, help="Overwrite this version if it exists with other content.")
@click.option("--pack", is_flag=True, help="Make its folders of content tar.gz, which devices can fetch over https.")
@registries.key_option
@registries.registry_options
@edit_options
def add(source: str, replace: bool, pack: bool, key: Path | None, reach: registries.Reach, editing: Editing) -> None:
    """Copy a package into the fleet repo, and pin its digest in applications.lock.

    The package is a folder, or a version in a registry. Of a registry, the lock file keeps the digest too, and devices
    get the content of components from there.
    """
    base = editing.base() if editing.commit or editing.dry_run else None
    if base is None:
        editing.refuse_branch()
    package, origin = _offered(source, key, reach, pack=pack)
    if base is not None:
        _print_findings(package)
        editing.finish(base, add_edit(base, package, replace=replace, source=origin))
        return
    vendored = add_offered(package, FleetRepo.find(editing.fleet), replace=replace, source=origin)
    _print_findings(vendored.package)
    description = vendored.package.application.description.value
    say(f"{vendored.outcome} {description.id} {description.metadata.version} in {vendored.folder}")
    say(f"  {vendored.package.application.digest}")


def _offered(
    source: str, key: Path | None, reach: registries.Reach, *, pack: bool = False
) -> tuple[Package, str | None]:
    """Return the package in a folder or a registry, and where in a registry it is."""
    if registries.is_reference(source):
        if pack:
            raise click.UsageError("--pack is for a folder: content from a registry is packed already")
        package, fetched = reach.package(parse_reference(source), key)
        return package, str(fetched.reference)
    if key is not None:
        raise click.UsageError("--key is for a package in a registry")
    if not Path(source).is_dir():
        raise PackageInvalid(f"{source} is not a folder", remedy="name the folder that holds margo.yaml")
    return offered_package(Path(source), pack=pack), None


@app.command()
@click.argument("application", metavar="APP", shell_complete=complete_applications)
@click.argument("source", metavar="[PATH|oci://REGISTRY/NAME:VERSION]", required=False)
@click.option(
    "--to", "version", metavar="VERSION", help="A version in the fleet repo.", shell_complete=complete_versions
)
@click.option(
    "--deployment",
    "deployments",
    multiple=True,
    metavar="NAME",
    help="Upgrade only this deployment; repeatable. Default: every deployment of APP.",
    shell_complete=complete_deployments,
)
@registries.key_option
@registries.registry_options
@edit_options
def upgrade(
    application: str,
    source: str | None,
    version: str | None,
    deployments: tuple[str, ...],
    key: Path | None,
    reach: registries.Reach,
    editing: Editing,
) -> None:
    """Move the deployments of APP to another version: a package, the version of --to, or the newest one vendored.

    The command vendors and pins the package as `app add` does. It prints what changes for the deployments: parameters
    with their defaults and rules, and profiles with what they need from devices. If a deployment would break, it prints
    each reason and writes nothing.
    """
    base = editing.base()
    package, origin = _offered(source, key, reach) if source is not None else (None, None)
    made = upgrade_deployments(base, UpgradeRequest(application, package, version, deployments, origin))
    if package is not None:
        _print_findings(package)
    _print_steps(application, made, to_errors=editing.dry_run)
    editing.finish(base, made.edit)


def _print_steps(application: str, made: Upgrade, *, to_errors: bool) -> None:
    for step in made.steps:
        say(f"{application} {step.version} -> {made.version}: {', '.join(step.deployments)}", err=to_errors)
        for each in step.differences:
            say(f"  {each.subject} {each.change}", err=to_errors)
            for detail in each.details:
                say(f"    {detail}", err=to_errors)
        if not step.differences:
            say("  parameters and profiles are the same", err=to_errors)


@app.command()
@click.argument("path", type=click.Path(path_type=Path))
def validate(path: Path) -> None:
    """Check the package in the folder PATH: its description, resources and components."""
    package = offered_package(path)
    _print_findings(package)
    description = package.application.description.value
    say(f"{description.id} {description.metadata.version} is valid: {len(package.files)} files")
    say(f"  {package.application.digest}")


@app.command("list")
@fleet_option
@output_option()
def list_applications(fleet: Path, output: str) -> None:
    """List the applications of the fleet repo."""
    applications = [each for _, each in sorted(read_working_tree(fleet).applications.items())]
    show(output, [_summary(each) for each in applications], map(_line, applications))


def _line(application: Application) -> str:
    description = application.description.value
    profiles = ", ".join(profile.id for profile in description.deployment_profiles)
    return f"{description.id} {description.metadata.version}  {description.metadata.name}  [{profiles}]"


@app.command("show")
@click.argument("application", shell_complete=complete_applications)
@click.argument("version", required=False, shell_complete=complete_versions)
@fleet_option
@output_option()
def show_application(application: str, version: str | None, fleet: Path, output: str) -> None:
    """Show an APPLICATION: profiles, parameters and their rules. Without VERSION, show every version."""
    applications = read_working_tree(fleet).applications
    found = [applications[key] for key in sorted(applications) if key[0] == application and version in (None, key[1])]
    if not found:
        known = {f"{name} {number}" for name, number in applications}
        wanted = " ".join(filter(None, (application, version)))
        raise ReferenceUnknown(f"there is no application {wanted}", remedy=did_you_mean(wanted, known))
    show(output, [_summary(each) for each in found], chain.from_iterable(map(_application_lines, found)))


def _print_findings(package: Package) -> None:
    for finding in package.findings:
        say(f"{finding.severity}: {finding}", err=True, paint=SEVERITIES)


def _application_lines(application: Application) -> Iterator[str]:
    description = application.description.value
    yield f"{description.id} {description.metadata.version}: {description.metadata.name}"
    if description.metadata.description:
        yield from (f"  {line}" for line in description.metadata.description.splitlines())
    yield f"  {application.digest}"
    for profile in description.deployment_profiles:
        components = ", ".join(component.name for component in profile.components)
        yield f"  profile {profile.id} ({profile.type}): {components}"
    rules = _rules(description)
    for name, parameter in description.parameters.items():
        pointers = ", ".join(dict.fromkeys(target.pointer for target in parameter.targets))
        rule = f"  {rules[name]}" if name in rules else ""
        yield f"  parameter {name} = {_shown(parameter.value)}  -> {pointers}{rule}"


def _rules(description: ApplicationDescription) -> dict[str, str]:
    configuration = description.configuration
    if configuration is None:
        return {}
    types = {schema.name: schema.data_type for schema in configuration.schema}
    return {
        setting.parameter: f"[{types[setting.schema]}{', immutable' if setting.immutable else ''}] {setting.name}"
        for section in configuration.sections
        for setting in section.settings
    }


def _shown(value: ParameterValue | None) -> str:
    return "(no default)" if value is None else json_text(value)


def _summary(application: Application) -> dict[str, object]:
    description = application.description.value
    return {
        "id": description.id,
        "version": description.metadata.version,
        "name": description.metadata.name,
        "digest": application.digest,
        "profiles": [{"id": profile.id, "type": profile.type} for profile in description.deployment_profiles],
        "parameters": {name: parameter.value for name, parameter in description.parameters.items()},
    }


@click.group()
def catalog() -> None:
    """Choose an application: what exists, what it needs, and which devices can run it."""


@catalog.command("list")
@fleet_option
@rev_option
@output_option(says="How to print; json follows schemas/application-catalog.schema.json.")
def list_catalog(fleet: Path, rev: str | None, output: str) -> None:
    """List the applications: versions, profile types, and the number of devices that have them."""
    found = application_catalog(read_intent(fleet, rev))
    show(output, found, list_lines(found))


@catalog.command("show")
@click.argument("application", metavar="APP", shell_complete=complete_applications)
@click.argument("version", required=False, shell_complete=complete_versions)
@click.option("--compatible", is_flag=True, help="Show which devices can run it, and why the others cannot.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="ID",
    help="With --compatible: only this device; repeatable.",
    shell_complete=complete_devices,
)
@click.option(
    "--site",
    "sites",
    multiple=True,
    metavar="NAME",
    help="With --compatible: only devices of this site; repeatable.",
    shell_complete=complete_sites,
)
@click.option("--details", is_flag=True, help="With --compatible: show every device with each reason.")
@fleet_option
@rev_option
@output_option(
    says="How to print; json follows schemas/catalog-page.schema.json, with --compatible compatibility.schema.json."
)
def show_page(
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
    """Show the application APP in VERSION, or in its newest version: what it is, what it needs, and what you can set.

    With --compatible, show which devices can run it, with which profile, and why the others cannot. The answer comes
    from the placement of a render: a deployment can name every device that can run the application here.
    """
    if (devices or sites or details) and not compatible:
        raise click.UsageError("--device, --site and --details go with --compatible")
    intent = read_intent(fleet, rev)
    chosen = named_application(intent, application, version)
    if compatible:
        only = all_known("device", devices, intent.devices), all_known("site", sites, intent.sites)
        found = compatibility(intent, chosen, *only)
        show(output, found, compatibility_lines(found, details=details or bool(devices)))
    else:
        page = catalog_page(intent, chosen)
        show(output, page, page_lines(page))
