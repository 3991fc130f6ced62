"""The hooks of this repository are the project's own tools, and need nothing that scripts/test does not install."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
(REPO,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]


def test_hooks_are_local_and_run_programs_of_the_virtual_environment() -> None:
    assert REPO["repo"] == "local"
    for hook in REPO["hooks"]:
        program, *command = hook["entry"].split()
        assert hook["language"] == "system"
        assert (program, os.access(ROOT / program, os.X_OK)) == ("scripts/lib/in-venv", True)
        assert command[0] in (ROOT / "scripts" / "test").read_text() or os.access(ROOT / command[0], os.X_OK)


def test_without_a_virtual_environment_a_hook_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts/lib/in-venv", "ruff"],
        env={**os.environ, "MARGO_GITOPS_VENV": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "run scripts/test once" in done.stderr
