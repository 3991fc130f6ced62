"""`margo-gitops app`: vendor, pin, list, show and validate applications."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import TEMPLATE, FleetFolder


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit()
    return fleet


@pytest.fixture
def package(tmp_path: Path) -> FleetFolder:
    """A new version of the greeting, outside of the fleet."""
    shutil.copytree(TEMPLATE / "applications/com-example-greeting/1.0.0", tmp_path / "greeting")
    package = FleetFolder(tmp_path / "greeting")
    package.change("margo.yaml", "  version: 1.0.0", "  version: 1.1.0")
    return package


def test_a_package_is_added_listed_shown_and_used(fleet: FleetFolder, package: FleetFolder):
    added = margo_gitops("app", "add", package.root, cwd=fleet.root)
    assert added.code == 0, added
    assert "added com-example-greeting 1.1.0 in applications/com-example-greeting/1.1.0" in added.stdout
    again = margo_gitops("app", "add", package.root, cwd=fleet.root)
    assert again.stdout.startswith("unchanged ")
    listed = json.loads(margo_gitops("app", "list", "--output", "json", cwd=fleet.root).stdout)
    assert [(each["id"], each["version"]) for each in listed] == [
        ("com-example-greeting", "1.0.0"),
        ("com-example-greeting", "1.1.0"),
        ("com-example-line-monitor", "1.0.0"),
    ]
    assert listed[1]["digest"] in added.stdout
    shown = margo_gitops("app", "show", "com-example-greeting", "1.1.0", cwd=fleet.root)
    assert "profile greeting-compose (compose): greeting" in shown.stdout
    assert 'parameter greeting = "Hello"  -> GREETING, greeting  [string] Greeting' in shown.stdout
    assert (
        len(json.loads(margo_gitops("app", "show", "com-example-greeting", "--output", "json", cwd=fleet.root).stdout))
        == 2
    )
    fleet.change("deployments/greeting.yaml", "version: 1.0.0", "version: 1.1.0")
    fleet.commit()
    assert margo_gitops("render", cwd=fleet.root).code == 0


def test_a_version_with_other_content_is_refused_unless_it_is_replaced(fleet: FleetFolder, package: FleetFolder):
    margo_gitops("app", "add", package.root, cwd=fleet.root)
    package.put("resources/more.md", "x")
    refused = margo_gitops("app", "add", package.root, cwd=fleet.root)
    assert refused.code == 1, refused
    assert "[MG1104]" in refused.stderr
    assert margo_gitops("app", "add", "--replace", package.root, cwd=fleet.root).stdout.startswith("replaced ")


def test_a_package_is_validated_without_a_fleet(package: FleetFolder, tmp_path: Path):
    sound = margo_gitops("app", "validate", package.root, cwd=tmp_path)
    assert sound.code == 0, sound
    assert "com-example-greeting 1.1.0 is valid: 6 files" in sound.stdout
    package.remove("resources/description.md")
    broken = margo_gitops("app", "validate", package.root, cwd=tmp_path)
    assert broken.code == 1, broken
    assert "the package has no file ./resources/description.md" in broken.stderr
    assert "margo.yaml:9:" in broken.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["app", "add", "/nowhere"], 1, "is not a folder"),
        (["app", "validate", "/nowhere"], 1, "holds no margo.yaml"),
        (["app", "show", "nosuch"], 1, "known: com-example-greeting 1.0.0"),
        (["app", "show", "com-example-greeting", "9"], 1, "there is no application com-example-greeting 9"),
        (["app", "list", "--fleet", "/"], 2, "[MG1102]"),
    ],
)
def test_what_cannot_be_found_is_said(fleet: FleetFolder, arguments: list[str], code: int, text: str):
    outcome = margo_gitops(*arguments, cwd=fleet.root)
    assert outcome.code == code, outcome
    assert text in outcome.stderr


def test_a_broken_fleet_is_listed_with_its_findings(fleet: FleetFolder):
    fleet.put("sites/x.yaml", "[")
    outcome = margo_gitops("app", "list", cwd=fleet.root)
    assert outcome.code == 1
    assert "sites/x.yaml:1:1" in outcome.stderr
