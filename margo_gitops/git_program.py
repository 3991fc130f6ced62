"""The git program, for what libgit2 cannot do: it knows the person's servers, and every kind of clone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from margo_gitops.wording import how_it_ended

_ELSEWHERE: Final = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE",
)  # fmt: skip
"""What git tells the hooks of one repository; in another it would do harm."""


def run_git(
    arguments: Sequence[str], *, seconds: float, variables: Mapping[str, str], given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run git in the person's environment, without what points it at another repository.

    Args:
        variables: set in addition.
        given: its standard input.

    Raises:
        FileNotFoundError: there is no git.
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    done = subprocess.run(
        ["git", *arguments],
        env={**inherited, **variables},
        input=given,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )
    if done.returncode < 0:
        done.stderr += f"\n{how_it_ended(done.returncode)}"
    return done


def last_lines(text: str) -> list[str]:
    """Return the last lines of what git said that say something."""
    return [line for line in text.splitlines() if line.strip()][-6:]


def format_remedy(said: str) -> str:
    """Return what to do about a repository format that libgit2 does not read; empty for any other error.

    Args:
        said: the message of libgit2.
    """
    said = said.lower()
    if "refstorage" in said:
        return "reftable is not supported: git refs migrate --ref-format=files"
    if "objectformat" in said or "object format" in said:
        return "sha256 objects are not supported: make a repository with git init --object-format=sha1"
    return ""
