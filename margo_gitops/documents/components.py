"""What an application's description and its deployments share: components, and where parameters go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from margo_gitops.documents.capabilities import TIMEOUT_PATTERN
from margo_gitops.documents.declarations import About, Extensions, Items, Problem, Text
from margo_gitops.values import dataclass, field

APPLICATION_ID_PATTERN = r"^[a-z0-9-]{1,200}$"
COMPONENT_NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
REVISION_PATTERN = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-((0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(_([0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*))?$"
)

ParameterValue: TypeAlias = str | int | float | bool | tuple[str | int | float | bool, ...]
"""What a parameter may hold: a scalar, or a list of scalars."""

ProfileType: TypeAlias = Literal["helm", "compose", "custom"]

ContentFormat: TypeAlias = Literal["kubernetes"]
"""What the content of a component of a custom profile is: Kubernetes manifests."""


@dataclass(frozen=True, slots=True)
class ComponentProperties:
    """Where a component comes from, and how it is installed."""

    repository: Annotated[
        str | None,
        About("OCI repository of the component.", ("oci://registry.example.com/acme/press-hmi",)),
        Text(pattern=r"^oci://.+", what="an OCI repository, oci://host/name"),
    ] = None
    revision: Annotated[
        str | None,
        About("Tag in the repository: SemVer without a leading v, build metadata after `_`.", ("1.4.2",)),
        Text(pattern=REVISION_PATTERN, what="a SemVer version without a leading v (build metadata after _)"),
    ] = None
    package_location: Annotated[
        str | None,
        About("Older spelling for compose: URL of a tar.gz. Accepted, not written by current suppliers."),
        Text(pattern=r"^[a-z][a-z0-9+.-]*://.+", what="a URL"),
    ] = None
    key_location: Annotated[str | None, About("Older spelling for compose: URL of the supplier's public key.")] = None
    wait: Annotated[bool, About("Wait until this component is installed before the next one.")] = True
    timeout: Annotated[
        str | None,
        About("Not installed within this time means failed.", ("8m30s",)),
        Text(pattern=TIMEOUT_PATTERN, what="a time-out of the form 8m30s, or 0m30s for 30 seconds"),
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield what is missing for the component to be found."""
        if self.package_location is not None and self.repository is None:
            return
        for name, value in (("repository", self.repository), ("revision", self.revision)):
            if value is None:
                yield Problem((), f"{name} is missing", f"add {name}")


@dataclass(frozen=True, slots=True)
class Component:
    """One installable part of a profile: a Helm chart or a compose project."""

    name: Annotated[
        str,
        About("Lower-case letters, digits and dashes; for Helm also the chart's name.", ("press-hmi",)),
        Text(
            pattern=COMPONENT_NAME_PATTERN, what="a component name (lower-case letters, digits, dashes)", max_length=200
        ),
    ]
    properties: ComponentProperties
    extensions: Extensions = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a parameter goes: a Helm value path, or an environment variable of a compose project."""

    pointer: Annotated[str, About("`a.b.c` in values.yaml, or the variable's name.", ("GREETING",)), Text(min_length=1)]
    components: Annotated[tuple[str, ...], About("The components that get it."), Items(minimum=1)]
