"""A sample of `scripts/faults`: an update that breaks at a system call, or at a byte on the line, comes through."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fault_points import FINE, NOT_REACHED, Points
from support.real import require_program, unavailable

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "faults"


@pytest.mark.real
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


def test_a_run_that_was_cut_goes_on_where_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results"
    first = Points(["kill at write 1", "kill at write 2", "full at write 1"], file, sample=0, seed=1, verbose=False)
    first.note("kill at write 1", FINE)
    first.note("full at write 1", "half done")

    again = Points(["kill at write 1"], file, sample=0, seed=1, verbose=False)
    assert list(again.left()) == ["kill at write 2"]
    again.note("kill at write 2", NOT_REACHED)
    assert not again.show()
    said = capsys.readouterr().out
    assert "full at write 1: half done" in said
    assert "kill             2 points, 0 not come through, 1 not reached" in said
    assert "all              3 points of 3, 1 not come through, 1 not reached" in said
