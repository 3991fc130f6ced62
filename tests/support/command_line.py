"""The command line as people run it: a process, its exit code, its output."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.git_cli import GIT_ENVIRONMENT


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.stdout}\n{self.stderr}"


def margo_gitops(
    *arguments: str | Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    prelude: str = "",
    seconds: float = 120,
) -> Outcome:
    """Run `margo-gitops ARGUMENTS` in a folder; no outcome holds a traceback.

    Args:
        arguments: of the command line.
        cwd: the working folder.
        environment: variables besides those of `GIT_ENVIRONMENT`.
        prelude: Python code that runs before the program.
        seconds: the longest that it may take.
    """
    code = f"{prelude}\nfrom margo_gitops.cli.main import main\nmain()"
    variables = {**GIT_ENVIRONMENT, "MARGO_GITOPS_CACHE": str(cwd / ".cache"), **(environment or {})}
    if "COVERAGE_PROCESS_START" in os.environ:
        variables["COVERAGE_PROCESS_START"] = os.environ["COVERAGE_PROCESS_START"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=seconds,
        check=False,
    )
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, outcome
    return outcome
