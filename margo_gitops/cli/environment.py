"""The environment variables of the command line: a misspelt one is an error, never ignored."""

from __future__ import annotations

from collections.abc import Mapping

from margo_gitops.agent.settings.environment import KNOWN, OF_OTHER_COMMANDS, unknown_variables
from margo_gitops.errors import EnvironmentInvalid

__all__ = ["CACHE", "FRESHNESS_KEY", "KNOWN", "SIGNING_KEY", "check_environment"]

SIGNING_KEY, CACHE, FRESHNESS_KEY = OF_OTHER_COMMANDS


def check_environment(variables: Mapping[str, str]) -> None:
    """Check that every variable that starts with `MARGO_` is one of ours.

    Raises:
        EnvironmentInvalid: naming each that is not; values are never shown.
    """
    unknown = list(unknown_variables(variables))
    if unknown:
        raise EnvironmentInvalid(
            "the environment has variables that mean nothing here", why=unknown, remedy="correct or unset them"
        )
