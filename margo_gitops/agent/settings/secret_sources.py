"""Where the values of secrets are on a device (docs/secrets.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from margo_gitops.documents.declarations import About, Items, Keys, Problem
from margo_gitops.documents.secrets import SECRET_NAME_PATTERN
from margo_gitops.settings import Duration, FilePath, spell_duration
from margo_gitops.values import dataclass, field

_SHORTEST_TIMEOUT: Final = 1.0
_LONGEST_COMMAND: Final = 60.0


@dataclass(frozen=True, slots=True)
class SecretCommand:
    """A program that prints a secret."""

    command: Annotated[
        tuple[str, ...],
        About("The program and its arguments. It gets PATH and HOME, and no input.", (["/usr/local/bin/get", "x"],)),
        Items(minimum=1, maximum=64),
    ]
    timeout: Annotated[Duration, About("How long it may take; at most 60s.")] = 10

    def problems(self) -> Iterator[Problem]:
        """Yield a program that is not named by its path, and a time that is too long."""
        if not self.command[0].startswith("/"):
            yield Problem(("command", 0), "must be the absolute path of a program")
        if not _SHORTEST_TIMEOUT <= self.timeout <= _LONGEST_COMMAND:
            yield Problem(("timeout",), f"must be 1s to 60s, is {spell_duration(self.timeout)}")


_BySecret = Keys(SECRET_NAME_PATTERN, "a secret's name")


@dataclass(frozen=True, slots=True)
class SecretSettings:
    """Where the values of secrets are (docs/secrets.md). The first source that has one gives it, in this order."""

    environment: Annotated[
        Mapping[str, str],
        About("Variables of the agent, by the secret's name.", ({"brokerPassword": "BROKER_PASSWORD"},)),
        _BySecret,
    ] = field(default_factory=dict)
    commands: Annotated[Mapping[str, SecretCommand], About("Programs, by the secret's name."), _BySecret] = field(
        default_factory=dict
    )
    folder: Annotated[
        FilePath | None, About("A folder with a file for each secret, readable for the agent's user alone (0600).")
    ] = None
    credentials: Annotated[bool, About("Take systemd's credentials (LoadCredential=), by their names.")] = False
    keys: Annotated[
        tuple[FilePath, ...],
        About(
            "Private keys that open what is encrypted for this device: age's, or OpenSSH ed25519.", (["device-key"],)
        ),
    ] = ()
