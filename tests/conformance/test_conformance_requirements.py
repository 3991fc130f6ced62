"""Requirements come from the pages, and every check and case names one that is there."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.conformance.agents.playing import CASES, checks_of
from margo_gitops.conformance.requirement import GIT_PAGE, HTTP_PAGE, parse_requirements, requirements
from margo_gitops.conformance.servers.git_checks import GIT_CHECKS
from margo_gitops.conformance.servers.http_checks import HTTP_CHECKS

PAGES = (GIT_PAGE, HTTP_PAGE)


def test_a_page_is_read_with_sections_levels_and_lines_that_go_on() -> None:
    text = (
        "# Page\n\n## First\n\n- **G-S-1** (server) It MUST do\n  this, and MAY do that.\n"
        "- **H-2** (client) SHOULD NOT.\n"
        "- **bold** (no) requirement\n\n### Second\n- **G-A-10** (server) It MAY.\n"
    )
    found = parse_requirements(text, "page.md")
    assert [(each.id, each.level, each.who, each.section, each.text) for each in found.values()] == [
        ("G-S-1", "MUST", "server", "First", "It MUST do this, and MAY do that."),
        ("H-2", "SHOULD", "client", "First", "SHOULD NOT."),
        ("G-A-10", "MAY", "server", "Second", "It MAY."),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("- **G-1** (server) It MUST.\n- **G-1** (server) It MUST.\n", "occurs twice", id="twice"),
        pytest.param("- **G-1** (server) It must.\n", "none of the words", id="no-key-word"),
    ],
)
def test_a_page_with_a_mistake_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_requirements(text, "page.md")


@given(st.text())
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert all(each.level in ("MUST", "SHOULD", "MAY") for each in parse_requirements(text, "page.md").values())


@pytest.mark.parametrize("page", PAGES)
def test_every_requirement_of_a_page_is_read(page: str) -> None:
    found = requirements(page)
    assert len(found) > 30
    assert all(each.section and each.who in ("server", "client", "renderer") for each in found.values())


@pytest.mark.parametrize(
    ("page", "checks"),
    [
        pytest.param(GIT_PAGE, [(each.requirement, each.name) for each in GIT_CHECKS], id="git-server"),
        pytest.param(HTTP_PAGE, [(each.requirement, each.name) for each in HTTP_CHECKS], id="http-server"),
        pytest.param(GIT_PAGE, list(checks_of("git")), id="git-agent"),
        pytest.param(HTTP_PAGE, list(checks_of("http")), id="http-agent"),
    ],
)
def test_every_check_is_of_a_requirement_and_stands_once(page: str, checks: list[tuple[str, str]]) -> None:
    known = requirements(page)
    assert [name for name, _ in checks if name not in known] == []
    assert [each for each, count in Counter(checks).items() if count > 1] == []


def test_every_requirement_of_http_is_checked() -> None:
    named = {each.requirement for each in HTTP_CHECKS} | {name for name, _ in checks_of("http")}
    assert set(requirements(HTTP_PAGE)) - named == set()


def test_the_cases_are_named_apart() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
