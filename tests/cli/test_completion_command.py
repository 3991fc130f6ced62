"""Shell completion: the real shells complete commands, options and the names of the fleet; nothing ever complains."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from support.command_line import margo_gitops, put_program
from support.fleet import FleetFolder
from support.git_cli import GIT_ENVIRONMENT
from support.real import require_program

from margo_gitops.cli import COMPLETION_VARIABLE
from margo_gitops.cli.commands import cli
from margo_gitops.cli.completion import PROGRAM

DEADLINE_SECONDS = 40


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.device("hall-3/press-30")
    fleet.put("devices/_4d-1.yaml", "kind: Device\nmetadata:\n  name: M-1\n")
    fleet.put("devices/folder/nested.yaml", '# x\nkind: Device\nmetadata:\n  labels: {a: 1}\n  name: "nested"  # y\n')
    return fleet


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a shell that finds `margo-gitops`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    put_program(programs)
    return {
        "PATH": f"{programs}:{GIT_ENVIRONMENT['PATH']}",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "TERM": "vt100",
    }


def words(fleet: FleetFolder, *typed: str) -> list[str]:
    """Return what is offered for the last word."""
    outcome = margo_gitops(
        cwd=fleet.root,
        environment={
            "_MARGO_GITOPS_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["margo-gitops", *typed]),
            "COMP_CWORD": str(len(typed)),
        },
    )
    assert (outcome.code, outcome.stderr) == (0, ""), outcome
    return [line.partition(",")[2] for line in outcome.stdout.splitlines() if line]


OFFERED = {
    "devices": (("device", "show", ""), "M-1 cell-01 hall-3/press-30 mixer-01 nested press-01 sensor-01"),
    "devices that start so": (("device", "show", "pre"), "press-01"),
    "commands": (("de",), "deploy device"),
    "sub-commands": (("device", "l"), "list"),
    "options": (("deploy", "x", "--dr"), "--dry-run"),
    "sites": (("device", "add", "x", "--site", ""), "north south"),
    "applications": (("deploy", ""), "com-example-greeting com-example-line-monitor"),
    "versions": (("deploy", "com-example-greeting", ""), "1.0.0"),
    "parameters of the application": (("deploy", "com-example-greeting", "--set", ""), "greeting= image="),
    "parameters of any application": (("device", "add", "x", "--param", "i"), "image= intervalSeconds="),
    "profiles": (("deploy", "com-example-greeting", "--profile", "greeting-h"), "greeting-helm"),
    "deployments": (("revert", "--deployment", ""), "greeting line-monitor"),
    "selectors": (("deploy", "x", "--to", "site"), "site=north site=south"),
    "labels": (("deploy", "x", "--to", "l"), "line="),
    "nothing unknown": (("device", "show", "x"), ""),
    "nothing of an unknown application": (("deploy", "../..", "--set", ""), ""),
}


@pytest.mark.parametrize("case", OFFERED)
def test_names_of_the_fleet_are_offered(fleet: FleetFolder, case: str, monkeypatch: pytest.MonkeyPatch):
    typed, expected = OFFERED[case]
    monkeypatch.chdir(fleet.root)
    shell = BashComplete(cli, {}, PROGRAM, COMPLETION_VARIABLE)
    assert " ".join(sorted(each.value for each in shell.get_completions([*typed[:-1]], typed[-1]))) == expected


def test_whatever_is_broken_nothing_complains(fleet: FleetFolder, tmp_path: Path):
    fleet.put("applications/com-example-greeting/1.0.0/margo.yaml", b"\xff{[")
    fleet.put("devices/press-01.yaml", b"\xff")
    assert words(fleet, "deploy", "com-example-greeting", "--set", "") == []
    assert "press-01" in words(fleet, "device", "show", "")
    (tmp_path / "nowhere").mkdir()
    assert words(FleetFolder(tmp_path / "nowhere"), "device", "show", "") == []


def test_a_missing_extra_stops_no_completion(fleet: FleetFolder):
    prelude = "import sys; sys.modules['pygit2'] = None"
    variables = {"_MARGO_GITOPS_COMPLETE": "bash_complete", "COMP_WORDS": "margo-gitops device ", "COMP_CWORD": "2"}
    outcome = margo_gitops(cwd=fleet.root, environment=variables, prelude=prelude)
    assert (outcome.stdout, outcome.stderr) == ("", ""), outcome
    outcome = margo_gitops(cwd=fleet.root, environment=variables | {"COMP_CWORD": "1"}, prelude=prelude)
    assert "plain,device" in outcome.stdout.split()


def test_an_unknown_shell_is_refused(tmp_path: Path):
    outcome = margo_gitops("completion", "tcsh", cwd=tmp_path)
    assert outcome.code == 2, outcome
    assert "'bash', 'zsh', 'fish'" in outcome.stderr


def typed_in(
    command: Sequence[str], lines: Sequence[str], expected: str, folder: Path, variables: dict[str, str]
) -> str:
    """Return what a shell shows when a person types lines in a terminal, until `expected` is there.

    Args:
        command: starts the shell.
        lines: what is typed; each waits for the prompt before it, `$> `.
        expected: a regular expression.
        folder: the working folder.
        variables: of the shell.
    """
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, cwd=folder, env=variables, start_new_session=True
    )
    os.close(child)
    shown, waiting, prompts = "", list(lines), 0
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        while time.monotonic() < deadline:
            if waiting and shown.count("$> ") > prompts:
                prompts = shown.count("$> ")
                os.write(parent, waiting.pop(0).encode())
            if not waiting and re.search(expected, shown):
                return shown
            if select.select([parent], [], [], 0.2)[0]:
                shown += os.read(parent, 65536).decode(errors="replace")
                # What moves the cursor or colours is not shown; zsh takes a space back before it goes on.
                shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x00", "", shown).replace(" \b", "")
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    pytest.fail(f"{expected!r} is not shown:\n{shown}")


def test_bash_completes_at_the_tab_key(fleet: FleetFolder, environment: dict[str, str]):
    bash = require_program("bash", "bash")
    lines = ['eval "$(margo-gitops completion bash)"\n', "margo-gitops dev\tsh\tpress\t"]
    start = [str(bash), "--norc", "--noprofile", "-i"]
    typed_in(start, lines, r"margo-gitops device show press-01 ", fleet.root, environment | {"PS1": "$> "})
    lines[1] = "margo-gitops deploy com-example-greeting --set gr\tHallo"
    typed_in(start, lines, r"--set greeting=Hallo", fleet.root, environment | {"PS1": "$> "})


def test_zsh_completes_at_the_tab_key(fleet: FleetFolder, environment: dict[str, str]):
    zsh = require_program("zsh", "zsh")
    lines = [
        "autoload -Uz compinit && compinit -u -D\n",
        'eval "$(margo-gitops completion zsh)"\n',
        "margo-gitops dev\tsh\tpress\t",
    ]
    start = [str(zsh), "-f", "-i"]
    typed_in(start, lines, r"margo-gitops device show press-01 ", fleet.root, environment | {"PS1": "$> "})


def test_fish_completes(fleet: FleetFolder, environment: dict[str, str]):
    fish = require_program("fish", "fish")
    script = "margo-gitops completion fish | source; complete --do-complete 'margo-gitops device show '"
    done = subprocess.run(
        [fish, "--no-config", "-c", script],
        cwd=fleet.root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done
    assert "press-01" in done.stdout.split()
