"""Runs the commands of a fleet repo's pipelines: what GitHub Actions and GitLab do with their files, as documented.

Checkouts are clones of a real remote. `pip install` is not run: this program is on the path instead. Nothing else
of the files is replaced or left out.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from support.command_line import put_program
from support.git_cli import GIT_ENVIRONMENT, Git


@dataclass
class Ran:
    """What a pipeline did.

    Attributes:
        failed: names of the steps or jobs that failed, in order.
        log: all they printed.
        workspace: the checkout of the last job.
        temporary: the folder for temporary files of the last job.
    """

    log: str = ""
    failed: list[str] = field(default_factory=list)
    workspace: Path = Path()
    temporary: Path = Path()


@dataclass
class Runner:
    """A machine that runs pipelines of one remote.

    Attributes:
        folder: for checkouts and homes.
        remote: the bare repository of the fleet.
        api: base URL of the git host's API.
        variables: of the project, that are no secrets.
    """

    folder: Path
    remote: Path
    api: str
    variables: dict[str, str] = field(default_factory=dict)
    runs: int = 0

    def begin(self, revision: str) -> tuple[Ran, dict[str, str]]:
        """Check a revision out, with the whole history; returns the run and the variables that every system has."""
        self.runs += 1
        place = self.folder / f"run-{self.runs}"
        ran = Ran(workspace=place / "workspace", temporary=place / "tmp")
        for name in ("home", "tmp", "bin"):
            (place / name).mkdir(parents=True)
        put_program(place / "bin")
        Git(place).run("clone", "--quiet", f"file://{self.remote}", ran.workspace)
        Git(ran.workspace).run("checkout", "--quiet", "--detach", revision)
        variables = {
            "PATH": f"{place / 'bin'}:{GIT_ENVIRONMENT['PATH']}",
            "HOME": str(place / "home"),
            "TMPDIR": str(ran.temporary),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "RETRY_SECONDS": "0",
            "CI": "true",
            **self.variables,
        }
        return ran, variables


def shell(command: list[str], script: str, ran: Ran, variables: Mapping[str, str]) -> bool:
    """Run a script in the checkout; returns whether it succeeded."""
    done = subprocess.run(
        [*command, script],
        cwd=ran.workspace,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    ran.log += done.stdout
    return done.returncode == 0


def github(
    runner: Runner,
    workflow: str,
    revision: str,
    *,
    base: str = "main",
    secrets: Mapping[str, str] | None = None,
    token: str = "",
) -> Ran:
    """Run a workflow as GitHub Actions does: for pull request 7 against `base`, or for a push to main."""
    ran, variables = runner.begin(revision)
    commit = Git(ran.workspace).run("rev-parse", "HEAD")
    files = {name: ran.temporary.parent / name for name in ("env", "path", "summary", "event.json")}
    for file in files.values():
        file.write_text("")
    files["event.json"].write_text(json.dumps({"pull_request": {"number": 7, "head": {"sha": commit}}}))
    variables |= {
        "GITHUB_ACTIONS": "true",
        "GITHUB_API_URL": runner.api,
        "GITHUB_BASE_REF": base,
        "GITHUB_ENV": str(files["env"]),
        "GITHUB_EVENT_PATH": str(files["event.json"]),
        "GITHUB_PATH": str(files["path"]),
        "GITHUB_REPOSITORY": "plant/fleet",
        "GITHUB_SHA": commit,
        "GITHUB_STEP_SUMMARY": str(files["summary"]),
        "RUNNER_TEMP": str(ran.temporary),
    }
    known = {"github.event.pull_request.head.sha": commit, "github.token": token}
    (job,) = yaml.safe_load((ran.workspace / ".github/workflows" / workflow).read_text())["jobs"].values()
    for step in job["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"actions/checkout@[0-9a-f]{40}", step["uses"])
            assert step["with"]["fetch-depth"] == 0
            continue
        if installs(step["run"], ran.workspace) or not _due(step.get("if"), ran, variables):
            continue
        named = {
            name: _value(text, known, secrets or {}, runner.variables) for name, text in step.get("env", {}).items()
        }
        assert "${{" not in step["run"], "text of others must not become a command"
        if not shell(["bash", "-e", "-c"], step["run"], ran, variables | named):
            ran.failed.append(step["name"])
        variables |= dict(line.split("=", 1) for line in files["env"].read_text().splitlines())
    return ran


def _due(condition: str | None, ran: Ran, variables: Mapping[str, str]) -> bool:
    if condition is None:
        return not ran.failed
    assert condition == "${{ !cancelled() && env.BASE != '' }}", condition
    return bool(variables.get("BASE"))


def _value(text: str, known: Mapping[str, str], secrets: Mapping[str, str], project: Mapping[str, str]) -> str:
    match = re.fullmatch(r"\$\{\{ (\S+) \}\}", text)
    assert match, text
    kind, _, name = match[1].partition(".")
    named = {"secrets": secrets, "vars": project}.get(kind)
    return named.get(name, "") if named is not None else known[match[1]]


def gitlab(
    runner: Runner, revision: str, variables: Mapping[str, str], *, base: str | None = None, source: str = "push"
) -> Ran:
    """Run the jobs that GitLab runs for merge request 7 from the commit `base`, or on the default branch.

    Args:
        runner: the machine.
        revision: what is checked out.
        variables: of the project, with its secrets.
        base: of the merge request; None: there is none.
        source: what started the pipeline on the default branch, "push" or "schedule".
    """
    whole, _ = runner.begin(revision)
    pipeline: dict[str, Any] = yaml.safe_load((whole.workspace / ".gitlab-ci.yml").read_text())
    commit = Git(whole.workspace).run("rev-parse", "HEAD")
    predefined = {"CI_PIPELINE_SOURCE": source, "CI_COMMIT_BRANCH": "main", "CI_DEFAULT_BRANCH": "main"}
    if base is not None:
        predefined |= {
            "CI_PIPELINE_SOURCE": "merge_request_event",
            "CI_COMMIT_BRANCH": "",
            "CI_MERGE_REQUEST_DIFF_BASE_SHA": base,
            "CI_MERGE_REQUEST_IID": "7",
        }
    predefined |= {"CI_API_V4_URL": runner.api, "CI_PROJECT_ID": "42", "CI_COMMIT_SHA": commit, **variables}
    for stage in pipeline["stages"]:
        jobs = {
            name: job
            for name, job in pipeline.items()
            if isinstance(job, dict)
            and job.get("stage") == stage
            and any(_holds(rule["if"], predefined) for rule in job["rules"])
        }
        for name, job in jobs.items():
            ran, of_system = runner.begin(revision)
            of_system |= {"CI_PROJECT_DIR": str(ran.workspace), "GITLAB_CI": "true", **predefined}
            for variable, value in job.get("variables", {}).items():
                of_system[variable] = of_system[value.removeprefix("$")]
            lines = [*pipeline["default"]["before_script"], *job["script"]]
            kept = [line for line in lines if "-m venv" not in line and not installs(line, ran.workspace)]
            if not shell(["bash", "-c"], "\n".join(["set -eo pipefail", *kept]), ran, of_system):
                whole.failed.append(name)
            whole.log += ran.log
            whole.temporary = ran.temporary
            reports = job.get("artifacts", {})
            for file in (*reports.get("reports", {}).values(), *reports.get("paths", [])):
                (whole.workspace / file).write_bytes((ran.workspace / file).read_bytes())
        if whole.failed:
            break
    return whole


def _holds(rule: str, variables: Mapping[str, str]) -> bool:
    """Return whether a rule of comparisons joined by && holds."""
    for each in rule.split(" && "):
        match = re.fullmatch(r'\$(\w+) (==|!=) (?:"([^"]*)"|\$(\w+))', each)
        assert match, rule
        right = variables.get(match[4], "") if match[4] else match[3]
        if (variables.get(match[1], "") == right) is (match[2] == "!="):
            return False
    return True


def installs(script: str, workspace: Path) -> bool:
    """Return whether a script installs this program, and only from where the fleet repo says it is."""
    if "pip" not in script or "install" not in script:
        return False
    assert "--requirement .margo-gitops/requirements.txt" in script
    assert "\n--no-index\nmargo-gitops[operator]==" in (workspace / ".margo-gitops/requirements.txt").read_text()
    return True
