"""Secrets: which parameters get their values on the device, and values that are encrypted for one device. Pure.

A Deployment says which parameters are secrets; none of its layers has their values:

    secretRefs:
      brokerPassword: {}            # the device's secret brokerPassword
      apiToken: {name: cloud}       # the device's secret cloud

A Device may hold values that only it can read, which `margo-gitops secret set` writes (docs/secrets.md, D-44).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, TypeAlias

from margo_gitops.documents.components import Target
from margo_gitops.documents.declarations import About, Items, Keys, Problem, Text
from margo_gitops.values import dataclass

SECRET_NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # noqa: S105  # of names
"""A secret's name is the name of a file on the device."""
MAX_SECRET_BYTES: Final = 64 * 1024
"""Of a value."""

_WHAT: Final = "a secret's name: 1 to 64 letters, digits, and . _ - inside"
SecretName: TypeAlias = Annotated[str, Text(pattern=SECRET_NAME_PATTERN, what=_WHAT)]
_SEALED: Final = Text(
    pattern=r"^YWdlLWVuY3J5cHRpb24ub3JnL3Yx[A-Za-z0-9+/]+={0,2}$",
    what="an age file in base64",
    max_length=2 * MAX_SECRET_BYTES,
)


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a parameter gets its value: from a secret of the device."""

    name: Annotated[SecretName | None, About("Name of the secret; absent: that of the parameter.", ("cloud",))] = None


SecretRefs: TypeAlias = Annotated[
    Mapping[str, SecretRef],
    About("Parameters whose values are secrets of the device ([secrets](secrets.md)).", ({"brokerPassword": {}},)),
]


def unnamed_secrets(refs: Mapping[str, SecretRef]) -> Iterator[Problem]:
    """Yield the parameters whose names no secret can have, and that name none."""
    for parameter, ref in refs.items():
        if ref.name is None and not re.search(SECRET_NAME_PATTERN, parameter):
            yield Problem(("secretRefs", parameter), f"{parameter} is not {_WHAT}", "give it a name")


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A value that is encrypted for one device."""

    recipients: Annotated[
        tuple[str, ...],
        About("The keys that can read it: age recipients, and fingerprints of SSH keys.", (["SHA256:…"],)),
        Items(minimum=1, maximum=8),
    ]
    sealed: Annotated[str, About("An age file in base64 with device, name and value."), _SEALED]


SealedSecrets: TypeAlias = Annotated[
    Mapping[str, SealedSecret],
    About("Secrets by name, encrypted for this device; `margo-gitops secret set` writes them."),
    Keys(SECRET_NAME_PATTERN, _WHAT),
]


@dataclass(frozen=True, slots=True)
class DeployedSecret:
    """A parameter whose value the device gets from a secret."""

    parameter: Annotated[str, About("Name of the parameter.")]
    name: Annotated[SecretName, About("Name of the secret.")]
    targets: Annotated[tuple[Target, ...], About("Where the value goes.")]
    sealed: Annotated[str | None, About("The value, encrypted for the device."), _SEALED] = None


@dataclass(frozen=True, slots=True)
class WantedSecret:
    """A secret that a component gets.

    Attributes:
        device: whose secret it is, by its id in the fleet repo.
        sealed: its value, encrypted for the device; None where it is not in the state.
    """

    device: str
    name: SecretName
    sealed: str | None = None
