"""The environment variables of the agent: few, all listed here, and a misspelt one is an error (failure mode F24)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from margo_gitops.documents.nodes import FieldPath
from margo_gitops.errors import AgentMisconfigured
from margo_gitops.values import dataclass, field
from margo_gitops.wording import did_you_mean

PREFIX: Final = "MARGO_"
CONFIG_VARIABLE: Final = "MARGO_GITOPS_CONFIG"
TOKEN_VARIABLE: Final = "MARGO_GITOPS_TOKEN"  # noqa: S105  # the variable's name, no secret

OVERRIDES: Final[Mapping[str, FieldPath]] = {
    "MARGO_GITOPS_DEVICE": ("device",),
    "MARGO_GITOPS_STATE_FOLDER": ("stateFolder",),
    "MARGO_GITOPS_GIT_URL": ("source", "git", "url"),
    "MARGO_GITOPS_GIT_CA_FILE": ("source", "git", "caFile"),
    "MARGO_GITOPS_ALLOWED_SIGNERS": ("trust", "allowedSigners"),
    "MARGO_GITOPS_POLL_INTERVAL": ("poll", "interval"),
}
"""Which key of the configuration each variable overrides."""

OF_THE_SCRIPTS: Final = (
    "MARGO_GITOPS_REQUIRE_REAL",
    "MARGO_GITOPS_VENV",
    "MARGO_GITOPS_TESTBED",
    "MARGO_PULL_URL",
    "MARGO_PULL_STATE",
    "MARGO_PULL_HOOK",
    "MARGO_PULL_TOKEN_FILE",
    "MARGO_PULL_CA_FILE",
    "MARGO_PULL_CERT_FILE",
    "MARGO_PULL_KEY_FILE",
    "MARGO_PULL_TRUST_DOCUMENT",
    "MARGO_PULL_ALLOWED_SIGNERS",
    "MARGO_PULL_DEVICE",
    "MARGO_PULL_UNSIGNED",
    "MARGO_PULL_FRESHNESS",
    "MARGO_PULL_EVERY",
    "MARGO_PULL_STATUS",
    "MARGO_PULL_TIMEOUT",
    "MARGO_PULL_MAX_BYTES",
)
"""Variables of the project's own scripts; the agent ignores them."""

OF_OTHER_COMMANDS: Final = ("MARGO_GITOPS_SIGNING_KEY", "MARGO_GITOPS_CACHE", "MARGO_GITOPS_FRESHNESS_KEY")
"""Variables that only the operator's commands use (docs/cli.md); a machine may run both."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment says.

    Attributes:
        config: the configuration file, where it names one.
        overrides: values by the path of the key they override; None removes the key.
        token_variable: the variable that holds the access token, in place of the source's own settings.
    """

    config: str | None = None
    overrides: Mapping[tuple[str, ...], str | None] = field(default_factory=dict)
    token_variable: str | None = None


KNOWN: Final = (*OF_OTHER_COMMANDS, CONFIG_VARIABLE, TOKEN_VARIABLE, *OVERRIDES, *OF_THE_SCRIPTS)
"""Every variable that starts with `MARGO_` and means something."""


def unknown_variables(variables: Mapping[str, str]) -> Iterator[str]:
    """Yield, in words, each variable that starts with `MARGO_` and means nothing; values are never shown."""
    for name in sorted(variables):
        if name.upper().startswith(PREFIX) and name not in KNOWN:
            hint = did_you_mean(name.upper(), KNOWN, f"known are {', '.join(KNOWN)}")
            yield f"{name}: {hint}"


def read_environment(variables: Mapping[str, str]) -> Environment:
    """Return what the environment says to the agent.

    Raises:
        AgentMisconfigured: a variable starts with `MARGO_` and means nothing, or is empty; every one is listed. Values
            are never shown.
    """
    ours = (*OVERRIDES, CONFIG_VARIABLE, TOKEN_VARIABLE)
    empty = [f"{name} is empty; unset it, or give it a value" for name in ours if variables.get(name) == ""]
    mistakes = sorted([*unknown_variables(variables), *empty])
    if mistakes:
        raise AgentMisconfigured(
            "the environment has variables that mean nothing here", why=mistakes, remedy="correct or unset them"
        )
    overrides: dict[tuple[str, ...], str | None] = {
        tuple(map(str, path)): variables[name] for name, path in OVERRIDES.items() if name in variables
    }
    if "MARGO_GITOPS_ALLOWED_SIGNERS" in variables:
        overrides["trust", "unsigned"] = None
    # The token stays in the environment, where only this process sees it: children get one of their own.
    token = TOKEN_VARIABLE if TOKEN_VARIABLE in variables else None
    return Environment(variables.get(CONFIG_VARIABLE), overrides, token)
