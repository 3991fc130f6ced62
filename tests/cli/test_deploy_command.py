"""`margo-gitops deploy` and `app upgrade`: what people type, what they see, what is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import TEMPLATE, FleetFolder

GREETING = "com-example-greeting"


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit()
    return fleet


def test_a_deployment_is_changed_in_its_file_and_planned(fleet: FleetFolder):
    done = margo_gitops("deploy", GREETING, "--set", "greeting=Hallo", cwd=fleet.root)
    assert done.code == 0, done
    assert done.stdout == "changed deployments/greeting.yaml\nnext:\n  margo-gitops plan\n"
    changed = [line for line in fleet.git.run("diff", "-U0").splitlines() if line[:1] in "+-" and line[1:2] == " "]
    assert changed == [
        '-    greeting: "Hello from {{ device.id }} on line {{ device.labels.line }}"',
        '+    greeting: "Hallo"',
    ]
    assert margo_gitops("validate", cwd=fleet.root).code == 0


def test_a_new_deployment_goes_where_the_selector_says(fleet: FleetFolder):
    refused = margo_gitops("deploy", GREETING, "--name", "second", "--to", "site=nort", cwd=fleet.root)
    assert refused.code == 1, refused
    assert "[MG2101]" in refused.stderr
    assert "nort is not a site; remedy: did you mean north?" in refused.stderr
    assert fleet.git.run("status", "--porcelain") == ""
    arguments = ("deploy", GREETING, "1.0.0", "--name", "second", "--to", "line=2,site=south,!spare")
    done = margo_gitops(*arguments, "--profile", "greeting-helm", "--profile", "greeting-compose", cwd=fleet.root)
    assert done.code == 0, done
    spec = fleet.read().deployments["second"].value.spec
    assert (spec.placement.sites, spec.placement.match_labels) == (("south",), {"line": 2})
    assert spec.profiles == ("greeting-helm", "greeting-compose")


def test_a_dry_run_prints_the_diff_and_writes_nothing(fleet: FleetFolder):
    arguments = ("deploy", GREETING, "--set", "greeting=Hallo", "--dry-run")
    done = margo_gitops(*arguments, "--fleet", fleet.root, cwd=fleet.root.parent)
    assert done.code == 0, done
    assert done.stdout.startswith("--- a/deployments/greeting.yaml\n+++ b/deployments/greeting.yaml\n@@")
    assert fleet.git.run("status", "--porcelain") == ""


def test_a_commit_is_made_on_a_branch_and_its_hints_work(fleet: FleetFolder):
    fleet.put("devices/draft.yaml", "broken: [")
    fleet.git.run("remote", "add", "upstream", str(fleet.root.parent / "upstream.git"))
    done = margo_gitops("deploy", GREETING, "--set", "greeting=Hallo", "--commit", cwd=fleet.root)
    assert done.code == 0, done
    branch = "deploy-greeting-1.0.0"
    assert done.stdout.splitlines()[1:] == [
        "changed deployments/greeting.yaml",
        "next:",
        f"  margo-gitops plan --rev {branch}",
        f"  git push --set-upstream upstream {branch}",
    ]
    assert fleet.git.run("status", "--porcelain") == "?? devices/draft.yaml"
    assert margo_gitops("plan", "--rev", branch, "--base", "main", cwd=fleet.root).code == 1
    again = margo_gitops("deploy", GREETING, "--set", "greeting=Servus", "--commit", cwd=fleet.root)
    assert again.code == 2, again
    assert f"add to this one with --branch {branch}" in again.stderr
    more = margo_gitops("deploy", GREETING, "--set", "greeting=x", "--commit", "--branch", branch, cwd=fleet.root)
    assert more.code == 0, more
    assert fleet.git.run("rev-list", "--count", f"main..{branch}") == "2"


def test_a_package_is_added_in_a_commit_of_its_own(fleet: FleetFolder, tmp_path: Path):
    shutil.copytree(TEMPLATE / "applications/com-example-greeting/1.0.0", tmp_path / "greeting")
    package = FleetFolder(tmp_path / "greeting")
    package.put("resources/more.md", "x")
    refused = margo_gitops("app", "add", package.root, "--commit", cwd=fleet.root)
    assert "[MG1104]" in refused.stderr
    replaced = margo_gitops("app", "add", package.root, "--replace", "--dry-run", cwd=fleet.root)
    assert "+++ b/applications.lock" in replaced.stdout
    package.change("margo.yaml", "  version: 1.0.0", "  version: 1.1.0")
    done = margo_gitops("app", "add", package.root, "--commit", "--branch", "new", cwd=fleet.root)
    assert done.code == 0, done
    assert fleet.git.run("status", "--porcelain") == ""
    assert "applications/com-example-greeting/1.1.0/resources/more.md" in fleet.git.run(
        "diff", "--name-only", "main", "new"
    )
    assert margo_gitops("validate", "--rev", "new", cwd=fleet.root).code == 0


MISTAKES = {
    "a parameter": ((GREETING, "--set", "greting=x"), 2, "did you mean greeting?"),
    "a type": (("com-example-line-monitor", "--set", "intervalSeconds=ten"), 2, "must be an integer"),
    "a selector": ((GREETING, "--to", "line in 1"), 2, "[MG2104]"),
    "an application": (("com-example-greetin",), 1, "did you mean com-example-greeting?"),
    "a branch without a commit": ((GREETING, "--branch", "x"), 2, "--branch goes with --commit"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_remedy(fleet: FleetFolder, mistake: str):
    arguments, code, said = MISTAKES[mistake]
    done = margo_gitops("deploy", *arguments, cwd=fleet.root)
    assert done.code == code, done
    assert said in done.stderr
    assert fleet.git.run("status", "--porcelain") == ""


def test_an_upgrade_prints_what_changes_then_writes_or_refuses(fleet: FleetFolder, tmp_path: Path):
    shutil.copytree(TEMPLATE / "applications/com-example-greeting/1.0.0", tmp_path / "greeting")
    package = FleetFolder(tmp_path / "greeting")
    package.change("margo.yaml", "  version: 1.0.0", "  version: 1.1.0")
    package.change("margo.yaml", "maxLength: 80", "maxLength: 20")
    refused = margo_gitops("app", "upgrade", GREETING, package.root, cwd=fleet.root)
    assert refused.code == 1, refused
    assert "maxLength: 80 -> 20" in refused.stdout
    assert "at most 20 characters" in refused.stderr
    assert fleet.git.run("status", "--porcelain") == ""
    package.change("margo.yaml", "maxLength: 20", "maxLength: 90")
    done = margo_gitops("app", "upgrade", GREETING, package.root, cwd=fleet.root)
    assert done.code == 0, done
    assert done.stdout.startswith(
        f"{GREETING} 1.0.0 -> 1.1.0: greeting\n  parameter greeting changed\n    maxLength: 80 -> 90\n"
    )
    assert fleet.read().deployments["greeting"].value.spec.application.version == "1.1.0"
    again = margo_gitops("app", "upgrade", GREETING, "--to", "1.1.0", cwd=fleet.root)
    assert again.stdout == "nothing changes: it is so already\n"


def test_no_push_is_hinted_at_where_there_is_no_remote(fleet: FleetFolder):
    done = margo_gitops("deploy", GREETING, "--set", "greeting=Hallo", "--commit", cwd=fleet.root)
    assert done.code == 0, done
    assert "push" not in done.stdout


def test_a_value_that_is_no_unicode_is_refused_by_name(fleet: FleetFolder):
    done = margo_gitops("deploy", GREETING, "--set", b"greeting=\xff".decode(errors="surrogateescape"), cwd=fleet.root)
    assert done.code == 2, done
    assert "parameter greeting is given bytes" in done.stderr
    assert "not UTF-8" in done.stderr
