"""The applications of a fleet repo as people choose them: what each is, what it needs, what can be set; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from margo_gitops.documents.application import (
    ApplicationDescription,
    ApplicationInformation,
    DeploymentProfile,
    Setting,
    ValueSchema,
)
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.constraints import CapacityRequirements, DeviceConstraints, EligibilityRule
from margo_gitops.documents.declarations import About, OwnKind
from margo_gitops.documents.matching import condition_text
from margo_gitops.documents.versions import newest, version_key
from margo_gitops.rendering.intent import Application, Intent
from margo_gitops.rendering.placement import TargetDevice, select, targets
from margo_gitops.rendering.value_rules import rule_text
from margo_gitops.values import dataclass

OTHER_SECTION: Final = "Parameters"
"""Heading for parameters where an application describes no configuration."""


@dataclass(frozen=True, slots=True)
class ListedDeployment:
    """A deployment of an application."""

    name: Annotated[str, About("Of the Deployment.")]
    version: Annotated[str, About("Of the application.")]
    devices: Annotated[int, About("How many it selects.")]


@dataclass(frozen=True, slots=True)
class ListedProfile:
    """A way to run an application."""

    id: Annotated[str, About("The profile's id.")]
    type: Annotated[str, About("Which engine runs it.")]


@dataclass(frozen=True, slots=True)
class ListedApplication:
    """An application, in short; what is said of it is what its newest version says."""

    id: Annotated[str, About("Id of the application.")]
    name: Annotated[str, About("For people.")]
    newest: Annotated[str, About("The newest version in the fleet repo.")]
    versions: Annotated[tuple[str, ...], About("All versions in the fleet repo, newest first.")]
    tagline: Annotated[str | None, About("One line of the supplier; null for none.")]
    organizations: Annotated[tuple[str, ...], About("Who is responsible for it.")]
    tags: Annotated[tuple[str, ...], About("Words to search for.")]
    profiles: Annotated[tuple[ListedProfile, ...], About("Ways to run it.")]
    deployments: Annotated[tuple[ListedDeployment, ...], About("Where it is deployed, in any version.")]
    devices: Annotated[int, About("How many devices have at least one of these.")]


@dataclass(frozen=True, slots=True)
class ApplicationCatalog(OwnKind):
    """The applications of a fleet repo."""

    applications: Annotated[tuple[ListedApplication, ...], About("Sorted by id.")]


@dataclass(frozen=True, slots=True)
class ShownProfile:
    """A way to run an application, and what it needs."""

    id: Annotated[str, About("The profile's id.")]
    type: Annotated[str, About("Which engine runs it.")]
    description: Annotated[str | None, About("Of the supplier; null for none.")]
    components: Annotated[tuple[str, ...], About("Names of its parts, in the order of installation.")]
    needs: Annotated[tuple[str, ...], About("What it needs of a device, in words; all must be there.")]


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """A parameter as people set it."""

    parameter: Annotated[str, About("Name of the parameter.")]
    name: Annotated[str, About("What people see.")]
    description: Annotated[str | None, About("Help; null for none.")]
    type: Annotated[str | None, About("Type of its values; null where the application does not say.")]
    default: Annotated[ParameterValue | None, About("The supplier's value; null for none.")]
    limits: Annotated[str, About("What a value must be, in words; may be empty.")]
    immutable: Annotated[bool, About("Whether the value may not change after the first installation.")]


@dataclass(frozen=True, slots=True)
class ShownSection:
    """A group of settings."""

    name: Annotated[str, About("Its heading.")]
    settings: tuple[ShownSetting, ...]


@dataclass(frozen=True, slots=True)
class ShownAuthor:
    """Who made an application."""

    name: Annotated[str | None, About("Null where it is not told.")]
    email: Annotated[str | None, About("Null where it is not told.")]


@dataclass(frozen=True, slots=True)
class ShownOrganization:
    """Who is responsible for an application."""

    name: Annotated[str, About("Of the organization.")]
    site: Annotated[str | None, About("Its web site; null where it is not told.")]


@dataclass(frozen=True, slots=True)
class CatalogPage(OwnKind):
    """An application in one version, as people read of it before they choose it."""

    id: Annotated[str, About("Id of the application.")]
    name: Annotated[str, About("For people.")]
    version: Annotated[str, About("The version that is shown.")]
    versions: Annotated[tuple[str, ...], About("All versions in the fleet repo, newest first.")]
    digest: Annotated[str, About("Of the package, as `applications.lock` pins it.")]
    tagline: Annotated[str | None, About("One line of the supplier; null for none.")]
    description: Annotated[str | None, About("What it does; null where it is not told.")]
    organizations: tuple[ShownOrganization, ...]
    authors: tuple[ShownAuthor, ...]
    site: Annotated[str | None, About("Web site of the application; null for none.")]
    tags: Annotated[tuple[str, ...], About("Words to search for.")]
    description_file: Annotated[str | None, About("More information: a path in the fleet repo, or a URL.")]
    release_notes: Annotated[str | None, About("A path in the fleet repo, or a URL.")]
    icon: Annotated[str | None, About("A path in the fleet repo, or a URL.")]
    license_file: Annotated[str | None, About("A path in the fleet repo, or a URL.")]
    profiles: tuple[ShownProfile, ...]
    sections: Annotated[tuple[ShownSection, ...], About("What people may set, in the supplier's order.")]
    deployments: Annotated[tuple[ListedDeployment, ...], About("Where it is deployed, in any version.")]


def application_catalog(intent: Intent) -> ApplicationCatalog:
    """Return the applications of a fleet, in short."""
    fleet = targets(intent)
    ids = sorted({application for application, _ in intent.applications})
    return ApplicationCatalog(
        applications=tuple(_listed(intent, application, fleet) for application in ids),
    )


def application_versions(intent: Intent, application: str) -> tuple[str, ...]:
    """Return the versions of an application in the fleet repo, newest first."""
    found = [version for each, version in intent.applications if each == application]
    return tuple(sorted(found, key=lambda version: (version_key(version), version), reverse=True))


def _listed(intent: Intent, application: str, fleet: Mapping[str, TargetDevice]) -> ListedApplication:
    versions = application_versions(intent, application)
    description = intent.applications[application, newest(versions)].description.value
    about = _information(description)
    deployments, devices = _deployments(intent, application, fleet)
    return ListedApplication(
        id=application,
        name=description.metadata.name,
        newest=description.metadata.version,
        versions=versions,
        tagline=about.tagline,
        organizations=tuple(each.name for each in description.metadata.catalog.organization),
        tags=about.tags,
        profiles=tuple(ListedProfile(each.id, each.type) for each in description.deployment_profiles),
        deployments=deployments,
        devices=devices,
    )


def _deployments(
    intent: Intent, application: str, fleet: Mapping[str, TargetDevice]
) -> tuple[tuple[ListedDeployment, ...], int]:
    """Return the deployments of an application, and how many devices have at least one."""
    found: list[ListedDeployment] = []
    devices: set[str] = set()
    for name, deployment in sorted(intent.deployments.items()):
        spec = deployment.value.spec
        if spec.application.id == application:
            selected = {target.id for target in select(spec.placement, fleet)}
            devices |= selected
            found.append(ListedDeployment(name, spec.application.version, len(selected)))
    return tuple(found), len(devices)


def catalog_page(intent: Intent, application: Application) -> CatalogPage:
    """Return what people read of an application in one version."""
    description = application.description.value
    metadata = description.metadata
    about = _information(description)
    folder = application.description.file.rpartition("/")[0]
    return CatalogPage(
        id=description.id,
        name=metadata.name,
        version=metadata.version,
        versions=application_versions(intent, description.id),
        digest=application.digest,
        tagline=about.tagline,
        description=metadata.description,
        organizations=tuple(ShownOrganization(each.name, each.site) for each in metadata.catalog.organization),
        authors=tuple(ShownAuthor(each.name, each.email) for each in metadata.catalog.author),
        site=about.site,
        tags=about.tags,
        description_file=_place(folder, about.description_file),
        release_notes=_place(folder, about.release_notes),
        icon=_place(folder, about.icon),
        license_file=_place(folder, about.license_file),
        profiles=tuple(map(_profile, description.deployment_profiles)),
        sections=shown_sections(description),
        deployments=_deployments(intent, description.id, targets(intent))[0],
    )


def _information(description: ApplicationDescription) -> ApplicationInformation:
    return description.metadata.catalog.application or ApplicationInformation()


def _place(folder: str, path: str | None) -> str | None:
    """Return where a resource of a package is: a URL as it is, a path from the fleet repo's root."""
    if path is None or "://" in path:
        return path
    return f"{folder}/{path.removeprefix('./')}"


def _profile(profile: DeploymentProfile) -> ShownProfile:
    components = tuple(each.name for each in profile.components)
    needs = (f"a device that runs {profile.type}", *constraint_words(profile.device_constraints))
    return ShownProfile(profile.id, profile.type, profile.description, components, needs)


def shown_sections(description: ApplicationDescription) -> tuple[ShownSection, ...]:
    """Return what people may set: the application's sections, or where it has none, all its parameters."""
    configuration = description.configuration
    if configuration is None or not configuration.sections:
        plain = tuple(
            ShownSetting(name, name, None, None, parameter.value, "", immutable=False)
            for name, parameter in description.parameters.items()
        )
        return (ShownSection(OTHER_SECTION, plain),) if plain else ()
    schemas = {schema.name: schema for schema in configuration.schema}
    return tuple(
        ShownSection(section.name, tuple(_settings(description, section.settings, schemas)))
        for section in configuration.sections
    )


def _settings(
    description: ApplicationDescription, settings: tuple[Setting, ...], schemas: Mapping[str, ValueSchema]
) -> Iterator[ShownSetting]:
    for each in settings:
        schema = schemas[each.schema]
        yield ShownSetting(
            parameter=each.parameter,
            name=each.name,
            description=each.description,
            type=schema.data_type,
            default=description.parameters[each.parameter].value,
            limits=rule_text(schema),
            immutable=each.immutable,
        )


def constraint_words(constraints: DeviceConstraints | None) -> tuple[str, ...]:
    """Return what constraints want, one need a line; empty where any device will do.

    Args:
        constraints: of a profile (Margo application description, device constraints).
    """
    if constraints is None:
        return ()
    rules = [" and ".join(_conditions(rule)) or "any device" for rule in constraints.eligibility_rules]
    lines = list(_capacity(constraints.capacity_requirements))
    if len(rules) == 1:
        lines.append(rules[0])
    else:
        lines += [f"{'or ' if number else 'either '}{rule}" for number, rule in enumerate(rules)]
    return tuple(lines)


def _capacity(needed: CapacityRequirements | None) -> Iterator[str]:
    if needed is None:
        return
    if needed.cpu is not None:
        kinds = f" of {' or '.join(needed.cpu.architectures)}" if needed.cpu.architectures else ""
        yield f"one CPU with {needed.cpu.cores:g} {'core' if needed.cpu.cores == 1 else 'cores'}{kinds}"
    if needed.memory is not None:
        yield f"memory of {needed.memory}"
    if needed.storage is not None:
        yield f"storage of {needed.storage}"


def _conditions(rule: EligibilityRule) -> Iterator[str]:
    for expression in rule.property_selector.match_expressions if rule.property_selector else ():
        yield f"property {condition_text(expression)}"
    for expression in rule.label_selector.match_expressions if rule.label_selector else ():
        yield f"label {condition_text(expression)}"
