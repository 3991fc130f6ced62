"""`margo-gitops status` as people run it: a fleet repo, its renders, and what devices report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder
from support.git_cli import GIT_ENVIRONMENT, Git
from support.reporting import Reporter

from margo_gitops.documents.state_layout import REPORTS_REF

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/fleet-status.schema.json").read_text())


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fleet and its state repo: three devices at two sites, rendered."""
    folder = tmp_path_factory.mktemp("rendered")
    fleet = FleetFolder.empty(folder / "fleet")
    fleet.application()
    fleet.site("north")
    fleet.site("south")
    fleet.device("press-01", site="north", labels={"line": 3})
    fleet.device("press-02", site="north", labels={"line": 4})
    fleet.device("gw", site="south")
    fleet.device("gw/axis", site="south", labels={"line": 3})
    fleet.deployment("web")
    fleet.commit()
    assert margo_gitops("render", cwd=fleet.root).code == 0
    return folder


@pytest.fixture
def fleet(rendered: Path, tmp_path: Path) -> FleetFolder:
    """The fleet, for one test."""
    shutil.copytree(rendered, tmp_path, dirs_exist_ok=True)
    return FleetFolder(tmp_path / "fleet")


@pytest.fixture
def reporter(fleet: FleetFolder) -> Reporter:
    return Reporter(fleet.root.parent / "state.git")


def run(fleet: FleetFolder, *arguments: str | Path) -> Outcome:
    return margo_gitops("status", *arguments, cwd=fleet.root)


def devices(outcome: Outcome) -> dict[str, str]:
    document = json.loads(outcome.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    return {each["device"]: each["state"] for each in document["devices"]}


def test_it_ends_with_1_until_every_device_runs_what_it_should(fleet: FleetFolder, reporter: Reporter):
    outcome = run(fleet, "--output", "json")
    assert outcome.code == 1, outcome
    assert devices(outcome) == {"press-01": "silent", "press-02": "silent", "gw": "silent"}
    for each in ("press-01", "press-02", "gw"):
        reporter.report(each)
    outcome = run(fleet, "--output", "json")
    assert outcome.code == 0, outcome
    assert set(devices(outcome).values()) == {"installed"}


def test_text_says_what_is_stuck_and_why(fleet: FleetFolder, reporter: Reporter):
    reporter.report("press-01", "failed", error="pull access denied")
    reporter.report("press-02")
    outcome = run(fleet)
    assert outcome.code == 1, outcome
    assert "devices  3: 1 installed, 1 failed, 1 silent" in outcome.stdout
    assert "  web: failed on north/press-01\n    web: pull access denied\n" in outcome.stdout
    assert "\x1b" not in outcome.stdout
    assert outcome.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--device", "press-01", "--device", "gw/axis"], {"press-01", "gw"}),
        (["-l", "line=3"], {"press-01", "gw"}),
        (["-l", "line in (3, 4)", "--site", "north"], {"press-01", "press-02"}),
        (["--application", "other"], set()),
        (["--state", "installed", "--state", "failed"], {"press-01"}),
    ],
    ids=lambda value: "-".join(value).replace(" ", "") if isinstance(value, list) else "",
)
def test_filters_choose_devices(fleet: FleetFolder, reporter: Reporter, arguments: list[str], shown: set[str]):
    reporter.report("press-01")
    assert devices(run(fleet, *arguments, "--output", "json")).keys() == shown


def test_yaml_says_the_same_as_json(fleet: FleetFolder, reporter: Reporter):
    reporter.report("press-01")
    assert yaml.safe_load(run(fleet, "--output", "yaml").stdout) == json.loads(run(fleet, "--output", "json").stdout)


def test_a_state_repo_is_enough(fleet: FleetFolder, reporter: Reporter, tmp_path: Path):
    reporter.report("press-01")
    outcome = margo_gitops("status", "press-01", "--state-repo", reporter.folder, cwd=tmp_path)
    assert outcome.code == 0, outcome


def test_a_remote_state_repo_is_fetched_with_its_reports(fleet: FleetFolder, reporter: Reporter):
    reporter.report("press-01")
    url = reporter.folder.as_uri()
    assert devices(run(fleet, "press-01", "--state-repo", url, "--output", "json")) == {"press-01": "installed"}
    reporter.report("press-01", "failed")
    assert devices(run(fleet, "press-01", "--state-repo", url, "--output", "json")) == {"press-01": "failed"}


def test_reports_that_a_remote_rewrote_are_not_believed(fleet: FleetFolder, reporter: Reporter):
    reporter.report("press-01", "failed")
    reporter.report("press-01")
    url = reporter.folder.as_uri()
    assert run(fleet, "press-01", "--state-repo", url).code == 0
    Git(reporter.folder).run("update-ref", REPORTS_REF, f"{REPORTS_REF}~1")
    reporter.report("press-01", "installing")
    outcome = run(fleet, "press-01", "--state-repo", url)
    assert outcome.code == 4, outcome
    assert "was rewritten" in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [("nobody",), ("a b",), ("-l", "=3"), ("--state-repo", "no-such.git"), ("--state", "fine"), ("--site",)],
    ids=lambda arguments: "-".join(arguments).replace(" ", ""),
)
def test_what_cannot_be_told_ends_with_2(fleet: FleetFolder, arguments: tuple[str, ...]):
    outcome = run(fleet, *arguments)
    assert outcome.code == 2, outcome
    assert outcome.stdout == ""
    assert outcome.stderr


@pytest.fixture
def watching(fleet: FleetFolder) -> Iterator[subprocess.Popen[str]]:
    """A watch that prints one JSON document a line."""
    code = "from margo_gitops.cli.main import main\nmain()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "status", "--watch", "--output", "json"],
        cwd=fleet.root,
        env={**GIT_ENVIRONMENT, "MARGO_GITOPS_CACHE": str(fleet.root.parent / ".cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_a_watch_shows_changes_and_ends_cleanly(watching: subprocess.Popen[str], reporter: Reporter):
    def state() -> str:
        assert watching.stdout is not None
        document = json.loads(watching.stdout.readline())
        return {each["device"]: each["state"] for each in document["devices"]}["press-01"]

    assert state() == "silent"
    reporter.report("press-01")
    assert state() == "installed"
    os.kill(watching.pid, signal.SIGINT)
    _, said = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert said.strip() == "interrupted"


def test_a_site_that_nobody_knows_is_not_as_desired(rendered: Path):
    done = margo_gitops("status", "--site", "nroth", "--state-repo", "state.git", cwd=rendered)
    assert done.code == 2, done
    assert "nroth is not the site of any device of this fleet" in done.stderr
