"""ApplicationDescription: what a supplier ships as `margo.yaml` (Margo application description, current shape)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, TypeAlias

from margo_gitops.documents.components import (
    APPLICATION_ID_PATTERN,
    Component,
    ParameterValue,
    ProfileType,
    Target,
)
from margo_gitops.documents.constraints import DeviceConstraints
from margo_gitops.documents.declarations import About, Extensions, Items, Keys, Problem, Range, Text
from margo_gitops.documents.patterns import pattern_mistake
from margo_gitops.values import dataclass, field

DataType: TypeAlias = Literal[
    "string", "integer", "double", "boolean", "array[string]", "array[integer]", "array[double]", "array[boolean]"
]


@dataclass(frozen=True, slots=True)
class DeploymentProfile:
    """One way to run the application: all its components, installed in this order."""

    type: Annotated[ProfileType, About("Which engine runs it.", ("compose",))]
    id: Annotated[str, About("Unique within the description.", ("acme-vision-compose",)), Text(min_length=1)]
    components: Annotated[
        tuple[Component, ...], Items(minimum=1, unique="name", noun="component"), About("Installed in this order.")
    ]
    description: Annotated[str | None, About("For people; says what a resource of type `other` means.")] = None
    device_constraints: DeviceConstraints | None = None
    extensions: Extensions = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DescribedParameter:
    """A parameter that users may set, with its default where there is one."""

    targets: Annotated[tuple[Target, ...], About("Where the value goes, for each profile that uses it.")]
    value: Annotated[ParameterValue | None, About("The default.", ("Hello",))] = None


@dataclass(frozen=True, slots=True)
class Setting:
    """How a parameter is shown to users, and which rules its value must obey."""

    parameter: Annotated[str, About("Name of the parameter that the setting changes.")]
    name: Annotated[str, About("What users see.")]
    schema: Annotated[str, About("Name of a rule in `configuration.schema`.")]
    description: Annotated[str | None, About("Help for users.")] = None
    immutable: Annotated[bool, About("The value may not change after the first installation.")] = False


@dataclass(frozen=True, slots=True)
class Section:
    """A group of settings."""

    name: Annotated[str, About("Heading that users see.")]
    settings: Annotated[tuple[Setting, ...], About("In the order shown.")]


@dataclass(frozen=True, slots=True)
class ValueSchema:
    """Rules for a parameter's value. All that are given must hold; the type always must."""

    name: Annotated[str, About("What settings refer to.")]
    data_type: Annotated[DataType, About("The type that the value must have.")]
    allow_empty: Annotated[bool, About("Whether the value may be empty.")] = True
    min_length: Annotated[int | None, Range(minimum=0), About("Least number of characters.")] = None
    max_length: Annotated[int | None, Range(minimum=0), About("Greatest number of characters.")] = None
    regex_match: Annotated[
        str | None, About("The whole value must match this pattern (RE2 syntax)."), Text(max_length=1000)
    ] = None
    min_value: Annotated[float | None, About("Least value, inclusive.")] = None
    max_value: Annotated[float | None, About("Greatest value, inclusive.")] = None
    min_precision: Annotated[int | None, Range(minimum=0), About("Least number of decimal places.")] = None
    max_precision: Annotated[int | None, Range(minimum=0), About("Greatest number of decimal places.")] = None
    multiselect: Annotated[bool, About("Whether several options may be chosen; the value is then a list.")] = False
    options: Annotated[tuple[str | int | float | bool, ...] | None, About("What may be chosen.")] = None

    def problems(self) -> Iterator[Problem]:
        """Yield rules that cannot be used."""
        if self.regex_match is not None:
            mistake = pattern_mistake(self.regex_match)
            if mistake is not None:
                yield Problem(("regexMatch",), f"not a pattern that can be used: {mistake}")


@dataclass(frozen=True, slots=True)
class Configuration:
    """How users configure the application."""

    sections: Annotated[tuple[Section, ...], About("In the order shown.")]
    schema: Annotated[
        tuple[ValueSchema, ...],
        Items(unique="name", noun="schema"),
        About("Rules that settings refer to by name."),
    ]

    def problems(self) -> Iterator[Problem]:
        """Yield settings that name no schema."""
        names = {schema.name for schema in self.schema}
        for at, section in enumerate(self.sections):
            for index, setting in enumerate(section.settings):
                if setting.schema not in names:
                    path = ("sections", at, "settings", index, "schema")
                    yield Problem(path, f"there is no schema {setting.schema}", "name one of configuration.schema")


@dataclass(frozen=True, slots=True)
class ApplicationInformation:
    """What the catalog shows of the application; all optional."""

    description_file: Annotated[str | None, About("Markdown.", ("./resources/description.md",))] = None
    icon: Annotated[str | None, About("Path of the icon in the package.")] = None
    license_file: Annotated[str | None, About("Path of the licence in the package.")] = None
    release_notes: Annotated[str | None, About("Path of the release notes in the package.")] = None
    site: Annotated[str | None, About("Web site of the application.")] = None
    tagline: Annotated[str | None, About("One line for the catalog.")] = None
    tags: Annotated[tuple[str, ...], About("Words to search for.")] = ()


@dataclass(frozen=True, slots=True)
class Author:
    """Who made the application."""

    name: Annotated[str | None, About("Name of the author.")] = None
    email: Annotated[
        str | None, Text(pattern=r"^.*@[a-z0-9.-]*$", what="an e-mail address"), About("Address of the author.")
    ] = None


@dataclass(frozen=True, slots=True)
class Organization:
    """Who is responsible for the application."""

    name: Annotated[str, About("Name of the organization.")]
    site: Annotated[str | None, About("Web site of the organization.")] = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """What users see before they choose the application."""

    organization: Annotated[
        tuple[Organization, ...], Items(minimum=1), About("Who is responsible for the application.")
    ]
    application: ApplicationInformation | None = None
    author: Annotated[tuple[Author, ...], About("Who made it.")] = ()


@dataclass(frozen=True, slots=True)
class ApplicationMetadata:
    """Name and version of the application."""

    name: Annotated[str, About("For people; any characters.", ("Line vision",)), Text(min_length=1)]
    version: Annotated[
        str, About("Equal to the OCI tag of the package.", ("2.1.0",)), Text(min_length=1, max_length=128)
    ]
    catalog: Catalog
    description: Annotated[str | None, About("What the application does.")] = None


@dataclass(frozen=True, slots=True)
class ApplicationDescription:
    """What a supplier says of an application: profiles, parameters and their rules."""

    api_version: Annotated[Literal["v1"], About("Always v1 in the current shape.")]
    id: Annotated[
        str,
        About("Lower-case letters, digits and dashes.", ("com-acme-vision",)),
        Text(pattern=APPLICATION_ID_PATTERN, what="an application id (1 to 200 lower-case letters, digits, dashes)"),
    ]
    metadata: ApplicationMetadata
    deployment_profiles: Annotated[
        tuple[DeploymentProfile, ...],
        Items(minimum=1, unique="id", noun="profile id"),
        About("Ways to run the application; a device gets one of them."),
    ]
    parameters: Annotated[
        Mapping[str, DescribedParameter],
        Keys(r"^[^\s{}]{1,200}$", "a parameter name (no spaces or braces)"),
        About("What users may set, by name."),
    ] = field(default_factory=dict)
    configuration: Configuration | None = None
    extensions: Extensions = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        """Yield names that lead nowhere."""
        components = {part.name for profile in self.deployment_profiles for part in profile.components}
        for name, parameter in self.parameters.items():
            for at, target in enumerate(parameter.targets):
                for index, component in enumerate(target.components):
                    if component not in components:
                        path = ("parameters", name, "targets", at, "components", index)
                        yield Problem(path, f"no profile has a component {component}", "name a component of a profile")
        for at, section in enumerate(self.configuration.sections if self.configuration else ()):
            for index, setting in enumerate(section.settings):
                if setting.parameter not in self.parameters:
                    place = ("configuration", "sections", at, "settings", index, "parameter")
                    yield Problem(place, f"there is no parameter {setting.parameter}", "name one of parameters")
