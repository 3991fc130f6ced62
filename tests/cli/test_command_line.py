"""The command line as a whole: the environment, missing extras, and what an edge device must not load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.git_cli import GIT_ENVIRONMENT

from margo_gitops import __version__
from margo_gitops.cli.options import KNOWN
from margo_gitops.scaffolding.tool import how_to_install

SCRIPTS = Path(__file__).parents[2] / "scripts"

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
OPERATOR = ("pygit2", "jinja2", "re2")


def test_help_lists_every_command(tmp_path: Path):
    outcome = margo_gitops("--help", cwd=tmp_path)
    assert outcome.code == 0
    for command in ("agent", "app", "document", "explain", "init", "render"):
        assert f"\n  {command}" in outcome.stdout
        assert margo_gitops(command, "--help", cwd=tmp_path).code == 0


def test_the_version_is_that_of_the_package(tmp_path: Path):
    from margo_gitops import __version__

    assert margo_gitops("--version", cwd=tmp_path).stdout == f"margo-gitops, version {__version__}\n"


@pytest.mark.parametrize("arguments", [["nosuch"], ["render", "--nosuch"], ["app"], ["app", "nosuch"], ["explain"]])
def test_what_cannot_be_understood_is_exit_code_2(tmp_path: Path, arguments: list[str]):
    outcome = margo_gitops(*arguments, cwd=tmp_path)
    assert outcome.code == 2, outcome


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(["rendr"], "did you mean render?"), (["app", "ad"], "'add'"), (["plan", "--bsae", "x"], "--base")],
)
def test_a_near_command_or_option_is_named(tmp_path: Path, arguments: list[str], hint: str):
    outcome = margo_gitops(*arguments, cwd=tmp_path)
    assert "did you mean" in outcome.stderr.lower()
    assert hint in outcome.stderr


# F24


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MARGO_GITOPS_SIGNINGKEY", "did you mean MARGO_GITOPS_SIGNING_KEY?"),
        ("MARGO_GITOPS_CASHE", "did you mean MARGO_GITOPS_CACHE?"),
        ("margo_gitops_cache", "did you mean MARGO_GITOPS_CACHE?"),
        ("MARGO_XYZZY", "known are"),
    ],
)
def test_f24_a_misspelt_variable_is_an_error_that_never_shows_its_value(tmp_path: Path, name: str, hint: str):
    """F24."""
    outcome = margo_gitops("--help", cwd=tmp_path, environment={name: "s3cret-value"})
    assert outcome.code == 2, outcome
    assert f"{name}: {hint}" in outcome.stderr
    assert "s3cret-value" not in outcome.stderr + outcome.stdout


def test_the_variables_of_the_small_puller_are_known(tmp_path: Path):
    usage = subprocess.run([SCRIPTS / "margo-pull.sh", "--help"], capture_output=True, check=True, text=True).stdout
    options = re.findall(r"^  --([a-z-]+)", usage, re.MULTILINE)
    names = {f"MARGO_PULL_{option.upper().replace('-', '_')}" for option in options}
    assert names == {name for name in KNOWN if name.startswith("MARGO_PULL_")}


def test_other_variables_are_none_of_our_business(tmp_path: Path):
    assert margo_gitops("--help", cwd=tmp_path, environment={"MARGOT": "x", "MY_MARGO_X": "y"}).code == 0


# Extras


@pytest.fixture(scope="module")
def scaffold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scaffold")
    assert margo_gitops("init", "fleet", cwd=folder).code == 0
    return folder / "fleet"


@pytest.mark.parametrize("missing", [(name,) for name in OPERATOR] + [OPERATOR], ids=str)
def test_a_device_without_the_operators_packages_has_the_agent(
    tmp_path: Path, scaffold: Path, missing: tuple[str, ...]
):
    prelude = WITHOUT.format(missing=missing)
    assert margo_gitops("agent", "--help", cwd=tmp_path, prelude=prelude).code == 0
    assert margo_gitops("document", "--help", cwd=tmp_path, prelude=prelude).code == 0
    outcome = margo_gitops("validate", cwd=scaffold, prelude=prelude)
    assert outcome.code == 2, outcome
    assert how_to_install("operator") in outcome.stderr
    listed = margo_gitops("--help", cwd=tmp_path, prelude=prelude)
    assert listed.code == 0
    assert ("margo-gitops[operator]" in listed.stdout) == ("pygit2" in missing), "what is loaded later is not known yet"


EVIDENCE = ("in_toto_attestation", "securesystemslib", "google")


@pytest.mark.parametrize("missing", [(name,) for name in EVIDENCE], ids=str)
def test_only_the_commands_for_evidence_need_its_packages(tmp_path: Path, missing: tuple[str, ...]):
    prelude = WITHOUT.format(missing=missing)
    for command in (("audit", "--help"), ("audit", "verify", "--help"), ("render", "--help")):
        assert margo_gitops(*command, cwd=tmp_path, prelude=prelude).code == 0
    outcome = margo_gitops("audit", "check-evidence", "evidence.json", cwd=tmp_path, prelude=prelude)
    assert outcome.code == 2, outcome
    assert "`margo-gitops audit check-evidence` needs the Python package" in outcome.stderr
    assert how_to_install("operator,evidence") in outcome.stderr


DEFECT = """
import margo_gitops.cli.plan
def broken(*arguments, **named): raise {error}
margo_gitops.cli.plan.plan_fleet = broken
"""


def test_a_defect_ends_with_a_code_of_its_own_and_says_how_to_report_it(tmp_path: Path):
    outcome = margo_gitops("plan", cwd=tmp_path, prelude=DEFECT.format(error="KeyError('press-07')"))
    assert (outcome.code, outcome.stdout) == (70, "")
    first, remedy = outcome.stderr.splitlines()
    assert first == f"error: margo-gitops {__version__} has a defect: KeyError: 'press-07'"
    assert "margo-gitops --debug" in remedy


def test_debug_shows_where_a_defect_is(tmp_path: Path):
    with pytest.raises(AssertionError, match="Traceback") as raised:
        margo_gitops("--debug", "plan", cwd=tmp_path, prelude=DEFECT.format(error="KeyError('press-07')"))
    assert "exit code 70" in str(raised.value)
    assert "in broken" in str(raised.value)


def test_a_machine_without_memory_is_no_defect(tmp_path: Path):
    outcome = margo_gitops("plan", cwd=tmp_path, prelude=DEFECT.format(error="MemoryError()"))
    assert outcome.code == 70
    assert "not enough free memory" in outcome.stderr
    assert "defect" not in outcome.stderr


def test_the_kit_asks_for_a_newer_dulwich_than_devices_need(tmp_path: Path):
    older = "import sys; sys.modules['dulwich.object_format'] = None"  # as in Debian 12 and 13
    outcome = margo_gitops("conformance", "--help", cwd=tmp_path, prelude=older)
    assert outcome.code == 2
    assert "[operator]" in outcome.stderr


def test_another_missing_module_is_a_defect(tmp_path: Path):
    outcome = margo_gitops("render", cwd=tmp_path, prelude=WITHOUT.format(missing=("yaml",)))
    assert outcome.code == 70
    assert "has a defect: ModuleNotFoundError" in outcome.stderr


FORBIDDEN = (
    *OPERATOR,
    "jsonschema",
    "watchfiles",
    "kubernetes",
    "margo_gitops.rendering",
    "margo_gitops.catalog",
    "margo_gitops.state_repo",
    "margo_gitops.operations",
)


def test_the_edge_agent_loads_nothing_of_the_operators_side():
    code = """
import importlib, json, pkgutil, sys
import margo_gitops.cli.commands, margo_gitops.cli.agent
for package in ("agent", "appliers", "transport", "trust", "documents"):
    found = importlib.import_module(f"margo_gitops.{package}")
    for module in pkgutil.walk_packages(found.__path__, f"margo_gitops.{package}."):
        importlib.import_module(module.name)
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(GIT_ENVIRONMENT), capture_output=True, text=True, check=True, timeout=60
    )
    loaded = json.loads(done.stdout)
    assert [name for name in loaded if name.startswith(tuple(FORBIDDEN))] == []


def test_help_loads_no_more_than_it_shows(tmp_path: Path):
    """`agent` on a small device starts without importing the commands of the operator."""
    code = "import sys; import margo_gitops.cli.commands; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "pygit2" not in done.stdout
    assert "jinja2" not in done.stdout


# Ends


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path):
    code = "import sys; sys.argv=['margo-gitops','--help']; from margo_gitops.cli.main import main; main()"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, check=False, timeout=60, cwd=tmp_path
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_that_goes_away_does_not_look_like_findings(tmp_path: Path):
    code = "import sys; sys.argv=['margo-gitops','completion','bash'];from margo_gitops.cli.main import main; main()"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, check=False, timeout=60, cwd=tmp_path
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_of_errors_that_goes_away_is_no_traceback(tmp_path: Path):
    code = "import sys; sys.argv=['margo-gitops','nosuch']; from margo_gitops.cli.main import main; main()"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=pipe, check=False, timeout=60, cwd=tmp_path
        )
    assert (done.returncode, done.stdout) == (141, b"")


def test_closed_streams_are_no_traceback_and_no_file_takes_their_place(tmp_path: Path):
    code = (
        "import os, sys; sys.argv=['margo-gitops','status','--state-repo','missing'];"
        "from margo_gitops.cli.main import _open_missing_streams, main; _open_missing_streams();"
        "assert os.open('file', os.O_CREAT) > 2; main()"
    )
    shell = 'exec "$0" -c "$1" 0<&- >&- 2>error'
    done = subprocess.run(["sh", "-c", shell, sys.executable, code], check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 2
    assert (tmp_path / "error").read_text().startswith("error: there is no state repo")


def test_nobody_is_told_to_remove_a_state_repo_that_is_only_damaged(tmp_path: Path):
    (tmp_path / "state.git/refs").mkdir(parents=True)
    done = margo_gitops("status", "--state-repo", "state.git", cwd=tmp_path)
    assert done.code == 2, done
    assert "remedy: this repository is damaged: restore it" in done.stderr
