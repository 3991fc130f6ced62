"""The branch of reports: only changes are committed, and renders never notice."""

import os
from pathlib import Path

import pytest
from support.state_publishing import Renderer

from margo_gitops.documents.state_layout import REPORTS_REF
from margo_gitops.errors import StateRepoUnusable
from margo_gitops.state_repo.report_branch import ReportBranch, ReportKey

A = ReportKey("press-01", "capabilities", "press-01")
CHILD = ReportKey("press-01", "capabilities", "press-01/axis-1")
STATUS = ReportKey("Mixer_1", "status", "2541C588-2b5a-5659-898c-f2128302b9a5")


@pytest.fixture
def branch(renderer: Renderer) -> ReportBranch:
    return ReportBranch(renderer.repo.folder)


def held(renderer: Renderer) -> dict[str, str]:
    names = renderer.git.run("ls-tree", "-r", "--name-only", REPORTS_REF).split()
    return {name[3:]: renderer.git.run("show", f"{REPORTS_REF}:{name}") for name in names}


def test_reports_have_their_places(renderer: Renderer, branch: ReportBranch) -> None:
    branch.commit({A: b"a", CHILD: b"c", STATUS: b"s"}, "Reports", [("Reported-By", "press-01 (token)")], 1_700_000_000)
    assert held(renderer) == {
        "press-01/capabilities/press-01.json": "a",
        "press-01/capabilities/press-01_2faxis-1.json": "c",
        "_4dixer_5f1/status/2541c588-2b5a-5659-898c-f2128302b9a5.json": "s",
    }
    message = renderer.git.run("log", "-1", "--format=%B%(trailers:key=Reported-By,valueonly)", REPORTS_REF)
    assert message.count("press-01 (token)") == 2


def test_what_is_as_it_was_makes_no_commit(renderer: Renderer, branch: ReportBranch) -> None:
    first = branch.commit({A: b"a"}, "Reports", [], 1).tip
    assert branch.commit({A: b"a"}, "Reports", [], 2).tip == first
    assert branch.commit({CHILD: None}, "Reports", [], 3).tip == first
    second = branch.commit({A: b"b"}, "Reports", [], 4).tip
    assert renderer.git.run("rev-list", REPORTS_REF).split() == [second, first]


def test_a_commit_changes_only_what_it_names(renderer: Renderer, branch: ReportBranch) -> None:
    branch.commit({A: b"a", STATUS: b"s"}, "Reports", [], 1)
    branch.commit({A: None}, "Reports", [], 2)
    assert list(held(renderer).values()) == ["s"]
    branch.commit({STATUS: None}, "Reports", [], 3)
    assert held(renderer) == {}


def test_renders_and_reports_do_not_meet(renderer: Renderer, branch: ReportBranch) -> None:
    for number in range(5):
        values = renderer.refs()
        branch.commit({A: b"%d" % number}, "Reports", [], number)
        renderer.publish({"press-01": {"hmi": b"%d" % number}}, values=values)
        branch.commit({A: b"%d again" % number}, "Reports", [], number)
    assert len(renderer.git.run("rev-list", REPORTS_REF).split()) == 10
    renderer.git.run("fsck", "--strict")
    renderer.git.run("gc", "--quiet", "--prune=now")
    branch.commit({A: b"after the collection"}, "Reports", [], 9)
    assert held(renderer) == {"press-01/capabilities/press-01.json": "after the collection"}


def test_a_lock_that_a_crash_left_does_not_stop_reports_for_ever(renderer: Renderer, branch: ReportBranch) -> None:
    lock = renderer.repo.folder / f"{REPORTS_REF}.lock"
    lock.touch()
    os.utime(lock, (1, 1))
    assert branch.commit({A: b"a"}, "Reports", [], 1)


def test_without_a_repository_there_is_no_branch(tmp_path: Path) -> None:
    with pytest.raises(StateRepoUnusable):
        ReportBranch(tmp_path)
