"""The generated pages are what the code says, and every error tells people what to do."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from margo_gitops import errors
from margo_gitops.cli.options import KNOWN
from margo_gitops.errors import ExitCode, MargoGitopsError

ROOT = Path(__file__).parents[2]

ERRORS = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, MargoGitopsError)]


def test_the_committed_pages_are_the_generated_ones_whatever_the_width_of_the_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate-docs", "--check"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "40", "TERMINAL_WIDTH": "40"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_code_stands_twice() -> None:
    codes = [error.code for error in ERRORS]
    assert sorted(set(codes)) == sorted(codes)


def test_every_code_is_in_the_range_of_its_chapter() -> None:
    """A module's docstring starts with the range of its codes; the base of all has a code of the first."""
    wrong = {}
    for error in ERRORS:
        chapter = (inspect.getdoc(sys.modules[error.__module__]) or "")[:4]
        if error is not MargoGitopsError and not error.code.startswith(chapter):
            wrong[error.__name__] = (error.code, chapter)
    assert wrong == {}


def test_all_errors_are_in_the_one_tree() -> None:
    def below(error: type[MargoGitopsError]) -> set[type[MargoGitopsError]]:
        return {error}.union(*map(below, error.__subclasses__()))

    ours = {error for error in below(MargoGitopsError) if error.__module__.startswith("margo_gitops")}
    assert ours == set(ERRORS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_error_has_a_title_and_a_page_that_says_why_or_what_to_do(error: type[MargoGitopsError]) -> None:
    title, _, text = inspect.getdoc(error).partition("\n\n")
    assert title.replace("\n", " ").endswith(".")
    assert len(text.split()) >= 10, f"{error.__name__}: {text!r}"
    assert text.endswith((".", "`."))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_error_ends_a_command_with_a_documented_code(error: type[MargoGitopsError]) -> None:
    assert error.exit_code in set(ExitCode) - {ExitCode.OK}
    assert f"### {error.code}\n" in (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("variable", KNOWN)
def test_every_environment_variable_is_documented(variable: str) -> None:
    assert f"| `{variable}` | " in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def test_every_code_that_the_docs_name_exists() -> None:
    codes = {error.code for error in ERRORS}
    named = {
        f"{page.name}: {code}"
        for page in (ROOT / "docs").glob("**/*.md")
        for code in re.findall(r"\bMG[0-9]{4}\b", page.read_text(encoding="utf-8"))
        if code not in codes
    }
    assert named == set()


def test_the_message_of_an_error_leads_to_its_page() -> None:
    message = str(errors.ReferenceUnknown("press-99 is not a device", remedy="did you mean press-01?"))
    assert message.splitlines()[0].endswith("[MG1206]")
