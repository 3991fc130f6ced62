"""`margo-gitops validate`: exit codes for pipelines, the report asked for, and what a rule is about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit("Make the fleet")
    return fleet


def validate(fleet: FleetFolder, *arguments: str) -> Outcome:
    return margo_gitops("validate", *arguments, cwd=fleet.root)


def test_warnings_alone_pass_unless_they_are_to_count(fleet: FleetFolder):
    passed = validate(fleet)
    assert passed.code == 0
    assert passed.stdout.splitlines()[-2:] == [
        "working tree: 2 warnings",
        "what a rule is about: margo-gitops validate --explain R202",
    ]
    assert validate(fleet, "--strict").code == 1


def test_errors_fail_with_rule_place_reason_and_remedy(fleet: FleetFolder):
    fleet.change("deployments/line-monitor.yaml", "intervalSeconds: 60", "intervalSeconds: 0")
    failed = validate(fleet)
    assert failed.code == 1
    assert "deployments/line-monitor.yaml:22:26: error: parameter intervalSeconds" in failed.stdout
    assert "[MG1204]\n  it comes from the layer: overlay slow-devices\n  remedy: " in failed.stdout


def test_a_pipeline_sees_only_what_the_change_brought(fleet: FleetFolder):
    fleet.change("deployments/line-monitor.yaml", "intervalSeconds: 60", "intervalSeconds: 0")
    fleet.commit("An old mistake")
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    assert validate(fleet, "--since", "HEAD").code == 0
    assert validate(fleet).code == 1


@pytest.mark.parametrize("output", ["json", "sarif", "gitlab"])
def test_reports_are_json_alone(fleet: FleetFolder, output: str):
    shown = validate(fleet, "--output", output)
    assert shown.code == 0
    json.loads(shown.stdout)
    assert shown.stderr == ""


@pytest.mark.parametrize(("output", "start"), [("junit", "<?xml"), ("github", "::warning file=applications/")])
def test_other_reports_are_printed_alone(fleet: FleetFolder, output: str, start: str):
    shown = validate(fleet, "--output", output)
    assert shown.stdout.startswith(start)


def test_a_rule_is_explained_anywhere(tmp_path: Path):
    shown = margo_gitops("validate", "--explain", "r201", cwd=tmp_path)
    assert shown.code == 0
    assert shown.stdout.startswith("R201 (warning): An image has no tag, or a tag that moves.")
    assert shown.stdout.rstrip().endswith("docs/rules.md#r201")
    unknown = margo_gitops("validate", "--explain", "MG1210", cwd=tmp_path)
    assert unknown.code == 2
    assert "did you mean" in unknown.stderr


def test_what_cannot_be_checked_is_neither_passed_nor_failed(fleet: FleetFolder, tmp_path: Path):
    assert validate(fleet, "--rev", "nothing").code == 2
    assert validate(fleet, "--since", "nothing").code == 2
    assert validate(fleet, "--state-repo", "no-such-state").code == 2
    assert margo_gitops("validate", cwd=tmp_path).code == 2
