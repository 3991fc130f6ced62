"""What did run, and when: the branch of reports in the log, in a trace, and verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from audited_world import World
from support.command_line import margo_gitops
from support.reporting import Reporter

from margo_gitops.audit.trace.adoption import adopted_at, moment
from margo_gitops.audit.trace.history import _is_same
from margo_gitops.audit.verify.verification import AuditFinding
from margo_gitops.documents.nodes import Node, Scalar
from margo_gitops.documents.state_layout import REPORTS_REF
from margo_gitops.state_repo.report_branch import ReportKey


@pytest.fixture
def reporter(world: World) -> Reporter:
    """The devices of the history: a is at manifest 4, gw at 2; a reported as it went on, gw half-way."""
    reporter = Reporter(world.folder / "state.git")
    for version in (1, 2, 4):
        reporter.report("a", adopted=version)
    reporter.report("gw", "failed", adopted=1, error="no space left")
    return reporter


def as_json(world: World, *arguments: str) -> dict[str, object]:
    outcome = margo_gitops("audit", *arguments, "--fleet", world.fleet.root, "--output", "json", cwd=world.folder)
    assert outcome.code == 0, outcome
    found: dict[str, object] = json.loads(outcome.stdout)
    return found


def test_the_log_says_when_each_device_adopted(world: World, reporter: Reporter):
    commits = as_json(world, "log", "--device", "a")["commits"]
    assert isinstance(commits, list)
    told = [(each["version"], each["adopted"]) for commit in commits for each in commit["devices"]]
    # Version 3 never ran: when 4 was adopted, it was past.
    assert told == [
        (4, "2027-01-15T08:03:00+00:00"),
        (None, None),
        (3, "2027-01-15T08:03:00+00:00"),
        (2, "2027-01-15T08:02:00+00:00"),
        (1, "2027-01-15T08:01:00+00:00"),
    ]
    outcome = margo_gitops("audit", "log", "--fleet", world.fleet.root, cwd=world.folder)
    assert "  gw  manifest 1  added  adopted 2027-01-15T08:04:00Z" in outcome.stdout.splitlines()
    assert "  gw  manifest 2" in outcome.stdout.splitlines()


def test_a_version_is_adopted_when_it_or_a_later_one_is_first_named():
    found = [adopted_at([(1, 10), (4, 40)], version) for version in (1, 2, 4, 5, None)]
    assert found == [moment(10), moment(40), moment(40), None, None]


def test_a_trace_says_what_did_run(world: World, reporter: Reporter):
    found = as_json(world, "trace", "gw")
    assert (found["version"], found["adopted"], found["adoptedAt"]) == (2, 1, "2027-01-15T08:04:00+00:00")
    deployments = found["deployments"]
    assert isinstance(deployments, list)
    (reported, *_) = [each["reported"] for each in deployments]
    assert reported["state"] == "failed"
    assert reported["error"] == "web: no space left"
    assert reported["evidence"] == "token of gw"
    assert reported["commit"] == world.state.run("rev-parse", REPORTS_REF)
    outcome = margo_gitops("audit", "trace", "gw", "--fleet", world.fleet.root, cwd=world.folder)
    assert "  adopted       manifest 1, not 2 since 2027-01-15T08:04:00Z" in outcome.stdout
    assert "failed by manifest 1, reported 2027-01-15T08:04:00Z with token of gw: web: no space left" in outcome.stdout


def test_a_trace_at_a_time_takes_the_reports_of_then(world: World, reporter: Reporter):
    reporter.report("gw")
    then = as_json(world, "trace", "gw", "--at", "2027-01-15T08:04:30Z")
    now = as_json(world, "trace", "gw", "--at", "2027-01-15T08:05:00Z")
    before = as_json(world, "trace", "gw", "--at", "2027-01-15T08:00:00Z")
    states = [
        {each["reported"]["state"] if each["reported"] else None for each in found["deployments"]}  # type: ignore[attr-defined]
        for found in (before, then, now)
    ]
    assert states == [{None}, {"failed"}, {"installed"}]
    assert [found["adopted"] for found in (before, then, now)] == [None, 1, 2]


def test_a_good_branch_of_reports_verifies(world: World, reporter: Reporter):
    reporter.commit({ReportKey("a", "capabilities", "a"): json.dumps({"properties": {"id": "a"}}).encode()}, "a")
    result = world.verify()
    assert (result.findings, result.report_commits) == ((), 5)
    reporter.report("b")
    again = world.verify(resume=True)
    assert (again.findings, again.report_commits) == ((), 1)


def forged(world: World) -> AuditFinding:
    (found,) = world.verify().errors
    assert found.ref == REPORTS_REF
    return found


def test_a_report_of_somebody_whom_the_commit_does_not_name(world: World, reporter: Reporter):
    commit = reporter.report("b", only=0, sender="a")
    reporter.report("a", "failed")
    found = forged(world)
    assert found.commit == commit
    assert (found.expected, found.found) == ("Reported-By: b (...)", "a")
    assert found.file is not None
    assert "/b/status/" in found.file


@pytest.mark.parametrize("content", [b"{}", b"[", b'{"deploymentId":"x","status":{"state":"installed"}}'])
def test_a_report_about_something_else_than_its_path_says(world: World, reporter: Reporter, content: bytes):
    reporter.commit({ReportKey("a", "status", reporter.deployments("a")[0]): content}, "a")
    assert forged(world).what == "this is not a report, or it is about something else than its path says"


def test_capabilities_of_another_device(world: World, reporter: Reporter):
    content = json.dumps({"properties": {"id": "b"}}).encode()
    reporter.commit({ReportKey("a", "capabilities", "a"): content}, "a")
    found = forged(world)
    assert (found.expected, found.found) == ("a", "b")


def put(world: World, path: str, parents: list[str]) -> str:
    """Commit a file to the branch of reports with plain git."""
    git = world.state
    index = {"GIT_INDEX_FILE": str(git.path / "forged-index")}
    git.run("read-tree", REPORTS_REF, environment=index)
    blob = git.run("hash-object", "-w", "--stdin", content=b"{}")
    git.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", environment=index)
    tree = git.run("write-tree", environment=index)
    options = [part for each in parents for part in ("-p", each)]
    made = git.run("commit-tree", tree, *options, "-m", "Reports\n\nReported-By: a (me)")
    git.run("update-ref", REPORTS_REF, made)
    return made


def test_a_path_that_no_server_writes(world: World, reporter: Reporter):
    made = put(world, "readme.txt", [world.state.run("rev-parse", REPORTS_REF)])
    found = forged(world)
    assert (found.commit, found.file) == (made, "readme.txt")
    assert found.what == "no server writes such a path"


def test_a_branch_that_was_moved_back_or_rewritten(world: World, reporter: Reporter):
    assert world.verify().errors == ()
    tip = world.state.run("rev-parse", REPORTS_REF)
    world.state.run("update-ref", REPORTS_REF, f"{REPORTS_REF}~1")
    found = forged(world)
    assert "moved back or rewritten" in found.what
    assert found.expected == tip
    world.state.run("update-ref", "-d", REPORTS_REF)
    assert forged(world).found == "nothing"


@pytest.mark.parametrize("backup", [True, False])
def test_a_loss_of_reports_that_the_fleet_repo_names_is_a_warning_and_a_later_one_is_not(
    world: World, reporter: Reporter, backup: bool
):
    assert world.verify().errors == ()
    world.state.run("update-ref", *([REPORTS_REF, f"{REPORTS_REF}~2"] if backup else ["-d", REPORTS_REF]))
    Reporter(world.folder / "state.git").report("a", adopted=4)
    begun = world.state.run("rev-parse", REPORTS_REF)
    named = begun if not backup else world.state.run("rev-list", "--max-parents=0", REPORTS_REF)
    assert f"spec.lostReports, before: {named} (" in forged(world).what

    def name_loss(commit: str) -> None:
        fleet = world.fleet.root / "margo-gitops.yaml"
        document = yaml.safe_load(fleet.read_text())
        document["spec"]["lostReports"] = [{"before": commit, "reason": "the disk broke"}]
        fleet.write_text(yaml.safe_dump(document))
        world.fleet.commit("Name the loss")

    name_loss("1" * 40)  # another one
    assert "moved back or rewritten" in forged(world).what
    name_loss(begun)
    (found,) = world.verify().findings
    assert (found.severity, "the disk broke" in found.what) == ("warning", True)
    assert world.verify().findings == ()
    world.state.run("update-ref", *([REPORTS_REF, f"{REPORTS_REF}~1"] if backup else ["-d", REPORTS_REF]))
    assert "moved back or rewritten" in forged(world).what


def test_a_merge_and_a_commit_that_changes_nothing(world: World, reporter: Reporter):
    tip = world.state.run("rev-parse", REPORTS_REF)
    put(world, "readme.txt", [tip, world.state.run("rev-parse", "fleet")])
    assert {each.what for each in world.verify().errors} >= {"the parents are wrong", "no server writes such a path"}
    world.state.run("update-ref", REPORTS_REF, tip)
    tree = world.state.run("rev-parse", f"{tip}^{{tree}}")
    empty = world.state.run("commit-tree", tree, "-p", tip, "-m", "Reports")
    world.state.run("update-ref", REPORTS_REF, empty)
    (world.folder / "cache").rename(world.folder / "other-cache")
    assert forged(world).what == "this commit changes nothing, and no server makes such a commit"


def test_an_object_of_the_reports_that_is_gone(world: World, reporter: Reporter):
    blob = world.state.run("rev-parse", f"{REPORTS_REF}:{reported_path(world)}")
    (Path(world.state.path) / "objects" / blob[:2] / blob[2:]).unlink()
    assert "missing or damaged" in forged(world).what


def reported_path(world: World) -> str:
    return world.state.run("ls-tree", "-r", "--name-only", REPORTS_REF).splitlines()[0]


def test_the_command_ends_with_4_and_names_the_branch(world: World, reporter: Reporter):
    outcome = margo_gitops("audit", "verify", "--fleet", world.fleet.root, cwd=world.folder)
    assert outcome.code == 0, outcome
    assert "4 commits of reports verified" in outcome.stdout
    reporter.report("b", sender="a")
    outcome = margo_gitops("audit", "verify", "--fleet", world.fleet.root, cwd=world.folder)
    assert outcome.code == 4, outcome
    assert REPORTS_REF in outcome.stderr


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [(1, True, False), (True, 1, False), (1, 1.0, False), ("1", 1, False), (None, False, False), (1, 1, True)],
)
def test_a_value_of_another_type_is_a_change_although_python_takes_it_for_equal(
    then: Scalar, now: Scalar, same: bool
) -> None:
    assert _is_same(Node(then), now) is same
    assert not _is_same(None, now)


COPIED = ReportKey("a", "identity", "copied")


def test_a_server_may_say_that_there_are_two_of_a_device_and_take_it_back(world: World, reporter: Reporter):
    reporter.commit({COPIED: b'{"noticed":"2026-11-30T09:00:00Z"}'}, "a")
    reporter.commit({COPIED: None}, "a")
    result = world.verify()
    assert (result.findings, result.report_commits) == ((), 6)


@pytest.mark.parametrize(
    ("key", "content", "found"),
    [
        (COPIED, b"{}", "no report"),
        (COPIED, b'{"noticed":"yesterday"}', "no report"),
        (COPIED, b"[" * 100_000, "no report"),
        (ReportKey("a", "identity", "owner"), b'{"noticed":"2026-11-30T09:00:00Z"}', "copied"),
    ],
)
def test_an_identity_that_no_server_writes_is_found(
    world: World, reporter: Reporter, key: ReportKey, content: bytes, found: str
):
    reporter.commit({key: content}, "a")
    assert (forged(world).found, forged(world).expected) == (found, key.name)
