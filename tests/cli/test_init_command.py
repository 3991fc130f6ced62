"""`margo-gitops init`: options, questions on a terminal, hints that hold, upgrades that say what they did."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.command_line import Outcome, margo_gitops
from support.git_cli import GIT_ENVIRONMENT, Git
from support.real import require_program


def init(folder: Path, *arguments: str, **environment: str) -> Outcome:
    return margo_gitops("init", *arguments, cwd=folder, environment=environment)


def on_terminal(folder: Path, typed: list[str], *arguments: str) -> tuple[int, str]:
    """Run `init` on a terminal where a person answers each question; returns the exit code and the screen."""
    person, terminal = pty.openpty()
    code = "from margo_gitops.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "init", *arguments],
        cwd=folder,
        env={**GIT_ENVIRONMENT, "TERM": "dumb"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    screen, deadline = "", time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            try:
                screen += os.read(person, 4096).decode(errors="replace")
            except OSError:  # the program closed the terminal
                break
            if typed and screen.endswith("]: "):
                os.write(person, f"{typed.pop(0)}\n".encode())
        return process.wait(timeout=30), screen.replace("\r\n", "\n")
    finally:
        process.kill()
        process.wait()
        os.close(person)


def fleet_of(folder: Path) -> dict[str, object]:
    document = yaml.safe_load((folder / "margo-gitops.yaml").read_text())
    return {"name": document["metadata"]["name"], **document["spec"]}


def test_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    made = init(tmp_path, "Plant_A")
    assert made.code == 0, made
    fleet = fleet_of(tmp_path / "Plant_A")
    assert (fleet["name"], fleet["stateRepo"]) == ("plant-a", "../Plant_A-state.git")
    assert (tmp_path / "Plant_A/sites/north.yaml").is_file()
    assert (tmp_path / "Plant_A/.gitlab-ci.yml").is_file()
    assert (tmp_path / "Plant_A/.github/workflows/render.yml").is_file()


def test_options_say_everything(tmp_path: Path) -> None:
    options = ("--name", "factory", "--state-repo", "ssh://git@git.plant.example/state.git", "--ci", "github", "--sign")
    made = init(tmp_path, "x", *options, "--site", "basel", "--artifacts-url", "https://a.plant.example/applications/")
    assert made.code == 0, made
    assert fleet_of(tmp_path / "x") == {
        "name": "factory",
        "stateRepo": "ssh://git@git.plant.example/state.git",
        "signing": {"required": True},
        "artifacts": {"baseUrl": "https://a.plant.example/applications/"},
    }
    assert not (tmp_path / "x/.gitlab-ci.yml").exists()
    assert (tmp_path / "x/sites/basel.yaml").is_file()
    assert made.stderr == ""


def test_on_a_terminal_it_asks_and_an_empty_answer_is_the_default(tmp_path: Path) -> None:
    code, screen = on_terminal(
        tmp_path,
        ["Not a name", "factory", "basel", "", "halle", "https://a.plant.example/applications/", "gitlab", "y"],
        "plant",
    )
    assert code == 0, screen
    assert "name of the fleet [plant]: " in screen
    assert "'Not a name' is not a name for a fleet" in screen
    assert "'halle' is not an address of applications/" in screen
    assert "state repo, a path or a URL [../plant-state.git]: " in screen
    fleet = fleet_of(tmp_path / "plant")
    assert (fleet["name"], fleet["stateRepo"], fleet["signing"]) == (
        "factory",
        "../plant-state.git",
        {"required": True},
    )
    assert (tmp_path / "plant/sites/basel.yaml").is_file()
    assert not (tmp_path / "plant/.github").exists()


def test_what_options_say_is_not_asked(tmp_path: Path) -> None:
    options = ("--name", "a", "--site", "b", "--state-repo", "s", "--artifacts-url", "https://a.example/", "--no-sign")
    code, screen = on_terminal(tmp_path, [""], "plant", *options)
    assert code == 0, screen
    assert screen.count("]: ") == 1
    assert "pipelines of (github, gitlab, gitea, both, none) [both]: " in screen


def test_yes_asks_nothing_on_a_terminal(tmp_path: Path) -> None:
    code, screen = on_terminal(tmp_path, [], "plant", "--yes")
    assert code == 0, screen
    assert "]: " not in screen


def test_an_interrupted_question_leaves_nothing_behind(tmp_path: Path) -> None:
    code, screen = on_terminal(tmp_path, ["\x04"], "plant")
    assert code == 130, screen
    assert "Traceback" not in screen
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_before_questions_are_asked(tmp_path: Path) -> None:
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant/file").write_text("mine")
    code, screen = on_terminal(tmp_path, [], "plant")
    assert (code, "]: " in screen) == (2, False), screen
    assert [path.name for path in (tmp_path / "plant").iterdir()] == ["file"]


@pytest.mark.parametrize("sign", [(), ("--sign",)], ids=["unsigned", "signed"])
def test_every_hint_is_right(tmp_path: Path, sign: tuple[str, ...]) -> None:
    """Whoever types what is printed gets a rendered fleet; git does not know who commits at first."""
    if sign:
        require_program("ssh-keygen", "openssh-client")
    nobody = {name: "" for name in GIT_ENVIRONMENT if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))}
    nobody |= {"HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": str(tmp_path / ".gitconfig"), "GIT_CONFIG_COUNT": "0"}
    made = init(tmp_path, "my plant", *sign, **nobody)
    assert made.code == 0, made
    hints = [line.strip() for line in made.stdout.splitlines() if line.startswith("  ")]
    assert len(hints) == (4 if sign else 3)
    program = f"{shlex.quote(sys.executable)} -m margo_gitops"
    script = "\n".join(hint.replace("margo-gitops ", f"{program} ", 1) for hint in hints)
    environment = {name: value for name, value in GIT_ENVIRONMENT.items() if name not in nobody}
    environment |= {name: value for name, value in nobody.items() if value}
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "4 devices changed" in done.stdout


def test_an_upgrade_says_what_it_did_and_what_to_do(tmp_path: Path) -> None:
    init(tmp_path, "plant")
    plant = tmp_path / "plant"
    git = Git(plant)
    git.commit({}, "Scaffold the fleet")
    assert init(plant, "--upgrade").stdout.endswith("up to date\n")
    git.run("rm", "-q", ".gitlab-ci.yml")
    (plant / "README.md").write_text("# Ours\n")
    git.commit({}, "Change")
    (plant / ".editorconfig").write_text("")
    refused = init(plant, "--upgrade")
    assert (refused.code, "[MG1121]" in refused.stderr) == (2, True), refused
    git.commit({}, "Change more")
    done = init(plant, "--upgrade", "--ci", "gitlab")
    assert done.code == 0, done
    assert "  removed   .github/workflows/render.yml  (the scaffold no longer has it)\n" in done.stdout
    assert "  deleted   .gitlab-ci.yml  (by you, and stays so)\n" in done.stdout
    hint = done.stdout.splitlines()[-1].strip()
    shown = subprocess.run(["sh", "-c", hint], capture_output=True, text=True, env=dict(GIT_ENVIRONMENT), check=True)
    assert "deleted file mode" in shown.stdout


def test_an_upgrade_with_conflicts_exits_1_and_its_hint_decides(tmp_path: Path) -> None:
    init(tmp_path, "plant")
    plant = tmp_path / "plant"
    (plant / ".margo-gitops/scaffold.json").unlink()
    (plant / "README.md").write_text("# Ours\n")
    Git(plant).commit({}, "As it was before")
    done = init(plant, "--upgrade")
    assert done.code == 1, done
    assert "  conflict  README.md  (you and the scaffold changed the same lines; yours are kept" in done.stdout
    assert "      -# Ours\n      +# plant\n" in done.stdout
    hint = next(line for line in done.stdout.splitlines() if "--conflicts" in line)
    words = shlex.split(hint.replace("mine|theirs|mark", "mine"))
    assert margo_gitops(*words[1:], cwd=plant).code == 0
    assert (plant / "README.md").read_text() == "# Ours\n"


@pytest.mark.parametrize(
    "arguments", [(), ("--upgrade", "--name", "x"), ("--upgrade", "--sign"), ("x", "--allow-dirty")]
)
def test_options_that_would_mean_nothing_are_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refused = init(tmp_path, *arguments)
    assert (refused.code, "Error: " in refused.stderr) == (2, True), refused
    assert list(tmp_path.glob("*")) == []


def test_what_a_person_ignores_everywhere_is_committed_all_the_same(tmp_path: Path):
    (tmp_path / "ignore").write_text("*.yaml\n.github\n")
    configuration = tmp_path / ".gitconfig"
    configuration.write_text(
        f"[core]\n\texcludesFile = {tmp_path / 'ignore'}\n[user]\n\tname=A\n\temail=a@example.com\n"
    )
    made = margo_gitops("init", "fleet", cwd=tmp_path, environment={"HOME": str(tmp_path)})
    assert made.code == 0, made
    checked = margo_gitops("validate", "--rev", "HEAD", cwd=tmp_path / "fleet")
    assert checked.code == 0, checked
