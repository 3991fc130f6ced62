"""A sample of `scripts/faults`: an update that breaks at a system call, or at a byte on the line, comes through."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.real import require_program, unavailable

pytestmark = pytest.mark.real

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "faults"


@pytest.mark.parametrize(
    "arguments",
    [
        ("disk", "--sample", "12"),
        ("disk", "--applier", "compose", "--fault", "kill", "--fault", "power", "--fault", "engine", "--sample", "4"),
        ("line", "--way", "http", "--sample", "8"),
        ("line", "--way", "git", "--sample", "8"),
    ],
    ids=" ".join,
)
def test_an_update_comes_through_wherever_it_breaks(arguments: tuple[str, ...]) -> None:
    if arguments[0] == "disk":
        require_program("strace", "strace")
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=280, check=False
    )
    if done.returncode == 2:
        unavailable(f"this user may not trace: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    tried, of = map(int, re.findall(r"^all +(\d+) points of (\d+), 0 not", done.stdout, re.MULTILINE)[0])
    assert tried == int(arguments[-1])
    assert of > 300
