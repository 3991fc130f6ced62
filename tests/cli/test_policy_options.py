"""Policy on the command line: the date of files, merge requests, and the command that somebody must ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder

POLICY = """\
  policy:
    freezes:
      - reason: Year-end production
        begins: "2036-12-20T00:00+01:00"
        ends: "2037-01-07T06:00+01:00"
        match: {sites: [north]}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    """The template with a policy, committed and rendered."""
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    file = fleet.root / "margo-gitops.yaml"
    file.write_text(file.read_text() + POLICY)
    fleet.commit("Make the fleet")
    rendered = margo_gitops("render", cwd=fleet.root)
    assert rendered.code == 0, rendered
    return fleet


def run(fleet: FleetFolder, *arguments: str) -> Outcome:
    return margo_gitops(*arguments, cwd=fleet.root)


def test_the_date_of_files_is_now_or_the_one_asked_for(fleet: FleetFolder):
    assert run(fleet, "plan", "--at", "2036-12-24T12:00+01:00").code == 0, "nothing changes, so nothing is refused"
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    assert run(fleet, "plan").code == 1
    frozen = run(fleet, "plan", "--at", "2036-12-24T12:00+01:00")
    assert (frozen.code, "[MG1223]" in frozen.stdout) == (2, True)
    assert run(fleet, "plan", "--at", "2037-01-07T05:00Z").code == 1
    assert run(fleet, "validate", "--since", "HEAD").code == 0
    assert run(fleet, "validate", "--since", "HEAD", "--at", "2036-12-24T12:00+01:00").code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "tomorrow"], "write 2026-12-24T12:00+01:00"),
        (["--at", "2036-12-24T12:00"], "names no time zone"),
        (["--at", "2036-12-24T12:00Z", "--rev", "HEAD"], "a commit is judged by its own date"),
    ],
    ids=["no-time", "no-zone", "a-commit"],
)
def test_a_date_that_says_nothing_is_refused(fleet: FleetFolder, arguments: list[str], message: str):
    for command in ("plan", "validate"):
        refused = run(fleet, command, *arguments)
        assert refused.code == 2
        assert message in refused.stderr


def test_a_refused_render_says_why_and_exits_with_1(fleet: FleetFolder):
    fleet.change("margo-gitops.yaml", "2036-12-20", "2000-12-20")
    fleet.commit("Freeze it now")
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    fleet.commit("Change it")
    refused = run(fleet, "render")
    assert refused.code == 1
    assert "[MG1223]" in refused.stderr
    assert "Year-end production" in refused.stderr
    assert run(fleet, "plan", "--rev", "HEAD").code == 2


def test_verdicts_are_in_every_output_of_a_plan(fleet: FleetFolder):
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    frozen = ("--at", "2036-12-24T12:00+01:00")
    plan = json.loads(run(fleet, "plan", *frozen, "--output", "json").stdout)
    assert [(each["part"], each["outcome"]) for each in plan["policy"]] == [("freezes", "refused")]
    assert plan["policy"][0]["reasons"][0]["rule"] == "MG1223"
    assert [each["device"] for each in plan["devices"]] == ["press-01"]
    markdown = run(fleet, "plan", *frozen, "--output", "markdown").stdout
    assert "| freezes | **refused** |" in markdown
    assert "[MG1223]" in markdown


def test_reviews_of_a_merge_request_are_still_to_come(fleet: FleetFolder):
    file = fleet.root / "margo-gitops.yaml"
    file.write_text(file.read_text() + "    reviews:\n      default: {count: 1}\n")
    fleet.commit("Want reviews")
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    fleet.commit("Change it")
    since = ("--rev", "HEAD", "--since", "HEAD~1")
    assert run(fleet, "validate", *since).code == 1
    told = run(fleet, "validate", *since, "--before-merge")
    assert told.code == 0
    assert "note: commit" in told.stdout
    base = ("--rev", "HEAD", "--base", "HEAD~1")
    assert run(fleet, "plan", *base).code == 2
    assert run(fleet, "plan", *base, "--before-merge").code == 1


def test_a_policy_command_runs_only_when_asked_for(fleet: FleetFolder):
    fleet.put("policy/check", '#!/bin/sh\necho \'[{"message": "not today"}]\'\nexit 1\n').chmod(0o755)
    file = fleet.root / "margo-gitops.yaml"
    file.write_text(file.read_text() + "    command: [policy/check]\n")
    fleet.commit("Add a command")
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    fleet.commit("Change it")
    unasked = run(fleet, "render")
    assert (unasked.code, "--allow-policy-command" in unasked.stderr) == (2, True)
    assert run(fleet, "plan", "--rev", "HEAD").code == 1
    refused = run(fleet, "render", "--allow-policy-command")
    assert (refused.code, "not today [MG1226]" in refused.stderr) == (1, True)
    assert run(fleet, "plan", "--rev", "HEAD", "--allow-policy-command").code == 2


@pytest.mark.parametrize("rule", ["MG1220", "MG1221", "MG1222", "MG1223", "MG1224", "MG1225", "R207", "R301", "R302"])
def test_every_rule_of_the_policy_is_explained(tmp_path: Path, rule: str):
    shown = margo_gitops("validate", "--explain", rule, cwd=tmp_path)
    assert shown.code == 0
    assert shown.stdout.startswith(f"{rule} (")
