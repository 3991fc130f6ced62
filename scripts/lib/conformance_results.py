"""docs/conformance-results.md: which checks and tests each requirement has, and what they found last."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from margo_gitops.conformance.agents.playing import checks_of
from margo_gitops.conformance.requirement import GIT_PAGE, HTTP_PAGE, Requirement, requirements
from margo_gitops.conformance.servers.git_checks import GIT_CHECKS
from margo_gitops.conformance.servers.git_content_checks import WRITTEN
from margo_gitops.conformance.servers.http_checks import HTTP_CHECKS

RESULTS = "docs/conformance-results.json"

# Heading, page, whom the requirements bind, what was checked last (by its name in the results), and the checks.
CHAPTERS = (
    (
        "Git servers",
        GIT_PAGE,
        "server",
        ("serve, git", "git http-backend", "JGit"),
        [(c.requirement, c.name) for c in GIT_CHECKS if c not in WRITTEN],
    ),
    ("Git clients", GIT_PAGE, "client", ("agent, git", "git in a loop"), list(checks_of("git"))),
    ("Writers of the state repo", GIT_PAGE, "renderer", ("serve, git",), [(c.requirement, c.name) for c in WRITTEN]),
    ("HTTP servers", HTTP_PAGE, "server", ("serve, http",), [(c.requirement, c.name) for c in HTTP_CHECKS]),
    ("HTTP clients", HTTP_PAGE, "client", ("agent, http", "margo-pull.sh"), list(checks_of("http"))),
)

ABOUT = """\
# Conformance: results

<!-- Written by scripts/generate-docs from the conformance kit, the tests and docs/conformance-results.json. -->

What the [conformance kit](conformance.md) checks of each requirement, which tests name it, and the last verdict. The
tests compare the verdicts with what they see. "not applicable": the requirement does not touch what was checked. Empty:
nothing checks it from outside. `git http-backend` and JGit are those of the [testbed](testbed.md). JGit is the library
in Gerrit, alone: without users and without a proxy in front.
"""

_NAMED = re.compile(r"\bdef test_(?:f[0-9]+_)?([gh](?:_[a-z])?_[0-9]+)_")


def results_page(root: Path) -> str:
    """Return the page.

    Args:
        root: of the repository.
    """
    verdicts = json.loads((root / RESULTS).read_text(encoding="utf-8"))
    tests = tests_by_requirement(root / "tests")
    parts = [ABOUT]
    for heading, page, who, subjects, checks in CHAPTERS:
        bound = [each for each in requirements(page).values() if each.who == who]
        # A requirement of somebody else can be checked at this side too.
        named = {name for name, _ in checks}
        known = [each for each in requirements(page).values() if each in bound or each.id in named]
        parts.append("\n".join(_table(heading, page, known, subjects, checks, verdicts, tests)))
    return "\n".join(parts).rstrip() + "\n"


def _table(
    heading: str,
    page: str,
    known: Iterable[Requirement],
    subjects: tuple[str, ...],
    checks: list[tuple[str, str]],
    verdicts: dict[str, dict[str, str]],
    tests: dict[str, list[str]],
) -> Iterator[str]:
    yield f"## {heading}"
    yield ""
    yield f"The requirements are in [{page}]({page})."
    yield ""
    yield "| " + " | ".join(["Requirement", "", "The kit checks", "Tests", *subjects]) + " |"
    yield "|---" * (4 + len(subjects)) + "|"
    for each in known:
        made = "; ".join(name for requirement, name in checks if requirement == each.id)
        found = (verdicts.get(subject, {}).get(each.id, "").replace("-", " ") for subject in subjects)
        cells = [each.id, each.level, made, ", ".join(f"`{name}`" for name in tests.get(each.id, [])), *found]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def tests_by_requirement(folder: Path) -> dict[str, list[str]]:
    """Return files with tests whose names begin with a requirement: `test_g_s_4_…` is about G-S-4."""
    found: dict[str, set[str]] = {}
    for file in folder.rglob("test_*.py"):
        for name in _NAMED.findall(file.read_text(encoding="utf-8")):
            found.setdefault(name.upper().replace("_", "-"), set()).add(file.relative_to(folder.parent).as_posix())
    return {name: sorted(files) for name, files in found.items()}
