"""Long work shows how far it is on a terminal, and nowhere else."""

from __future__ import annotations

import io
import os
import subprocess
import time
from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder
from support.terminal import terminal

from margo_gitops.cli import output
from margo_gitops.cli.output import ProgressLine
from margo_gitops.git_program import run_git
from margo_gitops.progress import heard_by, steps

IMPATIENT = "import margo_gitops.cli.output as output; output.PATIENCE_SECONDS = 0.0; output._BETWEEN_SECONDS = 0.0"


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    made = FleetFolder.from_template(tmp_path / "fleet")
    made.commit("Make the fleet")
    return made


def test_a_terminal_shows_each_part_of_the_work_and_keeps_nothing_of_it(fleet: FleetFolder) -> None:
    with terminal("render", cwd=fleet.root, environment={"TERM": "xterm"}, piped=True, prelude=IMPATIENT) as person:
        ended = person.ends()
    assert ended.code == 0, ended
    assert "rendering devices: 1 of " in ended.stderr
    assert "reading devices: " in ended.stderr
    assert person._screen.count(b"\r\x1b[K") > 4
    assert person._screen.rstrip(b"\r\n").endswith(b"\r\x1b[K") or b"\n" in person._screen.rpartition(b"\x1b[K")[2]
    assert "rendering" not in ended.stdout
    assert "changed" in ended.stdout


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_that_cannot_erase_shows_none(fleet: FleetFolder, environment: dict[str, str]) -> None:
    with terminal("render", cwd=fleet.root, environment=environment, prelude=IMPATIENT) as person:
        ended = person.ends()
    assert ended.code == 0, ended
    assert "rendering devices" not in ended.stderr


def test_a_pipe_gets_none(fleet: FleetFolder) -> None:
    ended = margo_gitops("render", cwd=fleet.root, prelude=f"import os; os.environ['TERM'] = 'xterm'; {IMPATIENT}")
    assert (ended.code, ended.stderr.count("rendering devices")) == (0, 0)


def test_the_line_comes_after_a_second_with_counts_and_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    screen = io.StringIO()
    line = ProgressLine(screen)
    for done in range(10_000):
        line("rendering devices", done, 10_000)
        now[0] += 0.01
    shown = screen.getvalue().split("\r\x1b[K")
    assert shown[:2] == ["", "rendering devices: 100 of 10,000, about 99 s left"]
    assert len(shown) < 1000, "ten times a second"
    line("reading files", 0, 0)
    assert screen.getvalue().endswith("\r\x1b[K")
    now[0] += 5
    line("reading files", 1234, 0)
    assert screen.getvalue().endswith("\r\x1b[Kreading files: 1,234")
    line("", 0, 0)
    assert screen.getvalue().endswith("reading files: 1,234\r\x1b[K")


def test_short_work_shows_nothing() -> None:
    screen = io.StringIO()
    with heard_by(ProgressLine(screen)):
        assert list(steps("rendering", range(1000))) == list(range(1000))
    assert screen.getvalue() == ""


def test_a_process_that_does_a_part_of_the_work_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PATIENCE_SECONDS", 0.0)
    screen = io.StringIO()
    line = ProgressLine(screen)
    monkeypatch.setattr(output.os, "getpid", lambda: 1)
    line("rendering", 1, 2)
    assert screen.getvalue() == ""


def test_items_are_what_they_were_where_nobody_listens() -> None:
    items = [1, 2, 3]
    assert steps("rendering", items) is items


def test_git_says_how_far_a_fetch_is_and_its_errors_stay_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "git"
    script.write_text(
        "#!/bin/sh\nprintf 'Receiving objects:  45%% (450/1000)\\rReceiving objects:  46%% (460/1000), 1 MiB\\r' >&2\n"
        "sleep 0.5\nprintf 'Receiving objects: 100%% (1000/1000), done.\\nfatal: it broke\\n' >&2\ncat\nexit 128\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    heard: list[tuple[str, int, int]] = []
    with heard_by(lambda *step: heard.append(step)):
        done = run_git(["fetch", "--progress"], seconds=20, variables={}, given="asked")
    assert ("git: receiving objects", 460, 1000) in heard
    assert heard[-1] == ("", 0, 0)
    assert (done.returncode, done.stdout) == (128, "asked")
    assert done.stderr == "Receiving objects: 100% (1000/1000), done.\nfatal: it broke\n"


def test_git_that_does_not_end_is_killed_while_somebody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "git"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    began = time.monotonic()
    with heard_by(lambda *_: None), pytest.raises(subprocess.TimeoutExpired):
        run_git(["fetch"], seconds=0.3, variables={})
    assert time.monotonic() - began < 20
