"""The rule for real parts that a machine lacks: a person's run skips, CI installs them or fails."""

from pathlib import Path
from typing import NoReturn

import pytest
from testbed.errors import UnavailableError
from testbed.packages import are_required, program, require


def unavailable(reason: str, *, extra: bool = False) -> NoReturn:
    """Skip the test, or fail it where MARGO_GITOPS_REQUIRE_REAL is set.

    Args:
        reason: what is missing and what to do about it.
        extra: fail it only where the variable is `all`.
    """
    if are_required(extra=extra):
        pytest.fail(f"needed, as MARGO_GITOPS_REQUIRE_REAL is set: {reason}", pytrace=False)
    pytest.skip(reason)


def require_program(name: str, package: str) -> Path:
    """Return the path of a program, installed where CI lacks it, or end the test.

    Args:
        name: the program.
        package: the Debian package that brings it.
    """
    try:
        require({name: package})
    except UnavailableError as error:
        unavailable(f"no {name}; on Debian: apt-get install {package} ({error})")
    return program(name) or unavailable(f"{package} brought no {name}")
