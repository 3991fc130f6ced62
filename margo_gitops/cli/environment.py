"""The environment variables of the command line: a misspelt one is an error, never ignored."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from margo_gitops.agent.environment import (
    CONFIG_VARIABLE,
    OF_OTHER_COMMANDS,
    OF_THE_SCRIPTS,
    OVERRIDES,
    PREFIX,
    TOKEN_VARIABLE,
)
from margo_gitops.errors import EnvironmentInvalid

SIGNING_KEY, CACHE = OF_OTHER_COMMANDS

KNOWN = (SIGNING_KEY, CACHE, CONFIG_VARIABLE, TOKEN_VARIABLE, *OVERRIDES, *OF_THE_SCRIPTS)


def check_environment(variables: Mapping[str, str]) -> None:
    """Check that every variable that starts with `MARGO_` is one of ours.

    Raises:
        EnvironmentInvalid: naming each that is not; values are never shown.
    """
    unknown = []
    for name in sorted(variables):
        if name.upper().startswith(PREFIX) and name not in KNOWN:
            close = difflib.get_close_matches(name.upper(), KNOWN, 1)
            unknown.append(f"{name}: did you mean {close[0]}?" if close else f"{name}: known are {', '.join(KNOWN)}")
    if unknown:
        raise EnvironmentInvalid(
            "the environment has variables that mean nothing here", why=unknown, remedy="correct or unset them"
        )
