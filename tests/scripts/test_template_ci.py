"""The commands in the pipelines of a scaffolded fleet refuse what is wrong, and render, sign and push what is right."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree as ET

import pytest
import yaml
from support.command_line import margo_gitops
from support.fleet import TEMPLATE, FleetFolder, write_signing_key
from support.git_cli import GIT_ENVIRONMENT, Git
from support.git_host import TOKEN, FakeGitea, GitHost, git_host
from support.pipelines import Ran, Runner, github, gitlab, shell
from testbed.git_server import GitServer
from testbed.ssh_server import SshServer

from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.scaffolding.scaffold import scaffold
from margo_gitops.scaffolding.template import Answers, tooling_files

HOSTS = ["github", "gitlab"]
ALL_HOSTS = [*HOSTS, "gitea"]


@dataclass
class Plant:
    """A scaffolded fleet with a remote, a state repo, and pipelines that run.

    Attributes:
        host: whose pipelines.
        fleet: an operator's clone.
        remote: the fleet's remote.
        state: the state repo.
        runner: runs the pipelines.
        api: the git host's API.
        secrets: what the pipelines of main know.
        key: of the renderer.
    """

    host: str
    fleet: FleetFolder
    remote: Git
    state: Git
    runner: Runner
    api: GitHost
    secrets: dict[str, str]
    key: Path

    def propose(self, message: str) -> None:
        """Commit what was changed to a branch, and push it."""
        branch = self.fleet.git.run("branch", "--show-current")
        if branch == "main":
            self.fleet.git.run("switch", "--quiet", "--create", "change")
        self.fleet.commit(message)
        self.fleet.git.run("push", "--quiet", "origin", "HEAD")

    def merge(self) -> None:
        """Merge the branch as the host does, and push main."""
        self.fleet.git.run("switch", "--quiet", "main")
        self.fleet.git.run("merge", "--quiet", "--no-ff", "-m", "Merge the change", "change")
        self.fleet.git.run("branch", "--quiet", "-D", "change")
        self.fleet.git.run("push", "--quiet", "origin", "main")

    def review(self) -> Ran:
        """Run the pipeline of the merge request."""
        if self.host == "github":
            return github(self.runner, "review.yml", "origin/change", token=TOKEN)
        base = self.fleet.git.run("merge-base", "main", "change")
        return gitlab(self.runner, "origin/change", {"PLAN_TOKEN": TOKEN}, base=base)

    def render(self) -> Ran:
        """Run the pipeline of main."""
        if self.host == "github":
            return github(self.runner, "render.yml", "origin/main", secrets=self.secrets)
        return gitlab(self.runner, "origin/main", self.secrets)

    def renew(self) -> Ran:
        """Run the scheduled pipeline."""
        if self.host == "github":
            return github(self.runner, "freshness.yml", "origin/main", secrets=self.secrets)
        return gitlab(self.runner, "origin/main", self.secrets, source="schedule")

    def refs(self) -> dict[str, str]:
        """Return what the state repo's branches point to."""
        lines = self.state.run("for-each-ref", "--format=%(refname:short) %(objectname)").splitlines()
        return dict(line.split(" ") for line in lines)


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Iterator[GitHost]:
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    with git_host(FakeGitea() if parameters.get("plant") == "gitea" else GitHost()) as host:
        yield host


@pytest.fixture
def plant(request: pytest.FixtureRequest, tmp_path: Path, git: Callable[[str], Git], api: GitHost) -> Plant:
    """A fleet as `init` makes it, whose main is rendered already."""
    host = getattr(request, "param", "github")
    remote, state = git("fleet.git").init(bare=True), git("state.git").init(bare=True)
    git("fleet").init()
    answers = Answers("plant", host)
    scaffold(tmp_path / "fleet", answers, state_repo=f"file://{state.path}", sign=True)
    fleet = FleetFolder(tmp_path / "fleet")
    fleet.git.run("remote", "add", "origin", f"file://{remote.path}")
    fleet.commit("Scaffold the fleet")
    fleet.git.run("push", "--quiet", "origin", "main")
    key = write_signing_key(tmp_path / "key")
    secrets = {"FLEET_SIGNING_KEY": key.read_text()}
    runner = Runner(tmp_path / "runner", remote.path, api.url)
    return Plant(host, fleet, remote, state, runner, api, secrets, key)


def annotations(plant: Plant, ran: Ran) -> list[str]:
    """Return the errors that the host shows in the change, as "rule file:line"."""
    if plant.host == "github":
        found = re.findall(r"^::error file=([^,]+),line=(\d+),col=\d+,title=(\w+)%3A ", ran.log, re.MULTILINE)
        return [f"{rule} {file}:{line}" for file, line, rule in found]
    report = json.loads((ran.workspace / "code-quality.json").read_text())
    failures = ET.parse(ran.workspace / "tests.xml").getroot().findall("testsuite/testcase/failure")
    told = [
        f"{each['check_name']} {each['location']['path']}:{each['location']['lines']['begin']}"
        for each in report
        if each["severity"] == "critical"
    ]
    assert len(failures) == len({each.split(":")[0].split(" ")[1] for each in told})
    return told


@pytest.mark.parametrize("plant", HOSTS, indirect=True)
def test_a_good_change_is_planned_in_one_comment_then_rendered_signed_and_pushed(plant: Plant) -> None:
    first = plant.render()
    assert not first.failed, first.log
    before = plant.refs()
    assert sorted(before) == [
        *(f"devices/{name}" for name in ("cell-01", "mixer-01", "press-01", "sensor-01")),
        "fleet",
    ]

    plant.api.say("Looks good")
    plant.fleet.change("sites/north.yaml", "Grüezi", "Servus")
    plant.propose("Greet in Bavarian")
    ran = plant.review()
    assert not ran.failed, ran.log
    assert annotations(plant, ran) == []
    (plan,) = plant.api.plans
    assert plan.startswith("<!-- margo-gitops plan -->\n")
    assert "1 changed, 3 unchanged" in plan
    if plant.host == "github":
        assert (ran.temporary.parent / "summary").read_text() == plan
    assert plant.refs() == before, "a review writes no state"

    plant.fleet.change("sites/south.yaml", "kind: Site", "kind: Site\nspec:\n  parameters: {greeting: Moin}")
    plant.propose("Greet in Hamburg")
    assert not plant.review().failed
    (plan,) = plant.api.plans
    assert "3 changed, 1 unchanged" in plan, "the comment is replaced"

    plant.merge()
    ran = plant.render()
    assert not ran.failed, ran.log
    after = plant.refs()
    assert {name for name in after if after[name] != before[name]} == {
        *("devices/cell-01", "devices/mixer-01", "devices/press-01", "fleet")
    }
    allowed = f"gpg.ssh.allowedSignersFile={plant.key}.allowed"
    for ref in after:
        plant.state.run("-c", allowed, "verify-commit", ref)
    assert plant.fleet.git.run("rev-parse", "main") in plant.state.run("log", "-1", "fleet")
    assert list(ran.temporary.iterdir()) == [], "secrets are gone"
    assert "PRIVATE KEY" not in ran.log
    assert TOKEN not in ran.log

    again = plant.render()
    assert not again.failed, again.log
    assert plant.refs() == after


def wrong_parameter(fleet: FleetFolder) -> str:
    fleet.change("deployments/line-monitor.yaml", "intervalSeconds: 60", "intervalSeconds: 0")
    return "MG1204 deployments/line-monitor.yaml:22"


def unplaceable(fleet: FleetFolder) -> str:
    fleet.change("deployments/greeting.yaml", "[press-01, mixer-01, cell-01]", "[press-01, sensor-01]")
    return "MG1201 deployments/greeting.yaml:10"


def unreadable(fleet: FleetFolder) -> str:
    fleet.change("sites/north.yaml", "kind: Site", "kind: Sight")
    return "MG1001 sites/north.yaml:3"


MISTAKES = [
    *((host, mistake) for host in HOSTS for mistake in (wrong_parameter, unplaceable)),
    ("github", unreadable),
]


@pytest.mark.parametrize(
    ("plant", "mistake"),
    MISTAKES,
    indirect=["plant"],
    ids=[f"{host}-{mistake.__name__}" for host, mistake in MISTAKES],
)
def test_a_mistake_is_refused_at_its_line_and_reaches_no_device(
    plant: Plant, mistake: Callable[[FleetFolder], str]
) -> None:
    where = mistake(plant.fleet)
    plant.propose("Make a mistake")
    ran = plant.review()
    assert ran.failed == (["Validate", "Plan"] if plant.host == "github" else ["validate", "plan"]), ran.log
    assert annotations(plant, ran) == [where]
    (plan,) = plant.api.plans
    assert plan.startswith("<!-- margo-gitops plan -->\n")
    assert "### No plan" in plan or "refused" in plan

    plant.merge()
    merged = plant.render()
    assert merged.failed == (["Validate"] if plant.host == "github" else ["render"])
    assert plant.refs() == {}


POLICY = """\
  policy:
    freezes:
      - reason: Year-end production
        begins: "2000-12-20T00:00+01:00"
        ends: "2900-01-07T06:00+01:00"
        match: {sites: [north]}
    applications:
      sites:
        south: [{id: com-example-greeting, versions: ">=1 <2"}]
"""


def not_allowed(fleet: FleetFolder) -> str:
    fleet.change("deployments/line-monitor.yaml", "sites: [north]\n", "sites: [north]\n    devices: [mixer-01]\n")
    return "MG1224 deployments/line-monitor.yaml:7"


def frozen(fleet: FleetFolder) -> str:
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    return "MG1223 margo-gitops.yaml:17"


def loosening(fleet: FleetFolder) -> str:
    """Lift the freeze in the change that it refuses: the finding stands where the freeze stood, on a line that is."""
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    fleet.change("margo-gitops.yaml", POLICY, "")
    assert len((fleet.root / "margo-gitops.yaml").read_text().splitlines()) == 14
    return "MG1223 margo-gitops.yaml:14"


BREACHES = [("github", not_allowed), ("gitlab", frozen), ("github", loosening)]


@pytest.mark.parametrize(
    ("plant", "breach"),
    BREACHES,
    indirect=["plant"],
    ids=[f"{host}-{breach.__name__}" for host, breach in BREACHES],
)
def test_a_breach_of_policy_is_refused_at_its_line_and_reaches_no_device(
    plant: Plant, breach: Callable[[FleetFolder], str]
) -> None:
    _render_by_hand(plant)
    plant.fleet.put("margo-gitops.yaml", (plant.fleet.root / "margo-gitops.yaml").read_text() + POLICY)
    plant.fleet.change("deployments/line-monitor.yaml", "    devices: [mixer-01]\n", "")
    plant.fleet.commit("Write down the policy")
    plant.fleet.git.run("push", "--quiet", "origin", "main")
    _render_by_hand(plant)
    before = plant.refs()

    where = breach(plant.fleet)
    plant.propose("Break the policy")
    ran = plant.review()
    assert ran.failed == (["Validate", "Plan"] if plant.host == "github" else ["validate", "plan"]), ran.log
    assert annotations(plant, ran) == [where]
    (plan,) = plant.api.plans
    assert "refused by the fleet's policy" in plan

    plant.merge()
    merged = plant.render()
    assert merged.failed
    assert where.split(" ")[0] in merged.log
    assert plant.refs() == before


def test_a_change_that_obeys_the_policy_passes_and_a_missing_review_waits_for_the_merge(plant: Plant) -> None:
    policy = "  policy:\n    reviews:\n      default: {count: 1}\n"
    plant.fleet.put("margo-gitops.yaml", (plant.fleet.root / "margo-gitops.yaml").read_text() + policy)
    plant.fleet.commit("Ask for reviews")
    plant.fleet.git.run("push", "--quiet", "origin", "main")
    _render_by_hand(plant)
    before = plant.refs()

    plant.fleet.change("sites/north.yaml", "Grüezi", "Servus")
    plant.propose("Greet in Bavarian")
    ran = plant.review()
    assert not ran.failed, ran.log
    plant.fleet.git.run("switch", "--quiet", "main")
    message = "Merge the change\n\nReviewed-by: Bob <bob@plant.example>"
    plant.fleet.git.run("merge", "--quiet", "--no-ff", "-m", message, "change")
    plant.fleet.git.run("push", "--quiet", "origin", "main")
    ran = plant.render()
    assert not ran.failed, ran.log
    assert plant.refs()["devices/press-01"] != before["devices/press-01"]


@pytest.mark.parametrize("plant", HOSTS, indirect=True)
def test_the_schedule_renews_the_statement_of_freshness_where_the_fleet_wants_one(plant: Plant) -> None:
    ran = plant.renew()
    assert not ran.failed, ran.log
    assert ran.log == "nothing to renew: margo-gitops.yaml has no spec.freshness\n"
    assert plant.refs() == {}

    text = (plant.fleet.root / "margo-gitops.yaml").read_text()
    plant.fleet.put("margo-gitops.yaml", f"{text}  freshness: {{validFor: 2d}}\n")
    plant.fleet.commit("Let devices know what is new")
    plant.fleet.git.run("push", "--quiet", "origin", "main")
    key = write_signing_key(plant.fleet.root.parent / "freshness-key", 2)
    if plant.host == "github":
        plant.secrets["FRESHNESS_KEY"] = key.read_text()
    else:
        plant.secrets["FRESHNESS_KEY"] = str(key)
    rendered = plant.render()
    assert not rendered.failed, rendered.log
    before = plant.refs()
    assert "freshness/all" in before, "a render makes a statement too"

    del plant.secrets["FLEET_SIGNING_KEY"]
    wait_for_the_next_second(statement(plant)["issued"])
    ran = plant.renew()
    assert not ran.failed, ran.log
    after = plant.refs()
    assert {name for name in after if after[name] != before[name]} == {"freshness/all"}, "no device's branch moves"
    assert "4 devices in 1 shard: fresh until " in ran.log
    issued, expires = (datetime.fromisoformat(str(statement(plant)[name])) for name in ("issued", "expires"))
    assert expires - issued == timedelta(days=2)
    assert list(ran.temporary.iterdir()) == []
    assert "PRIVATE KEY" not in ran.log

    plant.secrets.clear()
    ran = plant.renew()
    assert ran.failed
    assert "a statement must be signed: pass --signing-key FILE" in ran.log


def statement(plant: Plant) -> dict[str, object]:
    proof = json.loads(plant.state.run("show", "freshness/all:freshness.json"))
    read: dict[str, object] = json.loads(proof["statement"])
    return read


def wait_for_the_next_second(issued: object) -> None:
    """A statement of the same second is the same commit."""
    deadline = time.monotonic() + 5
    while datetime.now(UTC) < datetime.fromisoformat(str(issued)) + timedelta(seconds=1):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def script(plant: Plant, *command: str, plan: str = "", **variables: str) -> Ran:
    """Run one command of the pipelines in a checkout of main."""
    ran, of_system = plant.runner.begin("origin/main")
    (ran.workspace / "plan.md").write_text(plan)
    if not shell(["sh", "-c"], " ".join(command), ran, of_system | plant.secrets | variables):
        ran.failed.append(command[1])
    return ran


RENDER = ("sh", ".margo-gitops/ci/render.sh")
COMMENT = ("python3", ".margo-gitops/ci/comment.py", "plan.md")
PLAN = "<!-- margo-gitops plan -->\n### Plan: new\n"


def of_host(plant: Plant, token: str) -> dict[str, str]:
    """Return the variables by which the comment's script finds the change."""
    if plant.host == "gitlab":
        merge_request = {"CI_PROJECT_ID": "42", "CI_MERGE_REQUEST_IID": "7"}
        return {"CI_API_V4_URL": plant.api.url, "PLAN_TOKEN": token, **merge_request}
    event = plant.runner.folder / "event.json"
    event.parent.mkdir(exist_ok=True)
    event.write_text('{"pull_request": {"number": 7}}')
    of_event = {"GITHUB_REPOSITORY": "plant/fleet", "GITHUB_EVENT_PATH": str(event)}
    return {"GITHUB_ACTIONS": "true", "GITHUB_API_URL": plant.api.url, "GITHUB_TOKEN": token, **of_event}


@pytest.mark.parametrize("plant", ALL_HOSTS, indirect=True)
def test_the_comment_is_found_behind_a_hundred_others(plant: Plant) -> None:
    for number in range(150):
        plant.api.say(f"Comment {number}")
    plant.api.say("<!-- margo-gitops plan -->\nby a person", bot=False)
    plant.api.say("<!-- margo-gitops plan -->\nof yesterday", bot=True)
    ran = script(plant, *COMMENT, plan=PLAN, **of_host(plant, TOKEN))
    assert not ran.failed, ran.log
    assert len(plant.api.comments) == 152
    assert plant.api.comments[-1]["body"] == PLAN
    assert plant.api.comments[-2]["body"].endswith("by a person")


@pytest.mark.parametrize("plant", ALL_HOSTS, indirect=True)
def test_who_may_not_comment_passes_and_says_so(plant: Plant) -> None:
    plant.api.writable = False
    ran = script(plant, *COMMENT, plan=PLAN, **of_host(plant, TOKEN))
    assert (ran.failed, ran.log) == ([], "the plan is not written as a comment: 403 Forbidden\n")
    ran = script(plant, *COMMENT, plan=PLAN, **of_host(plant, "wrong"))
    assert (ran.failed, ran.log) == ([], "the plan is not written as a comment: 401 Unauthorized\n")
    ran = script(plant, *COMMENT, plan=PLAN, **of_host(plant, ""))
    assert (ran.failed, "is not set" in ran.log) == ([], True)
    assert plant.api.comments == []


def test_a_host_that_does_not_answer_fails_without_a_traceback(plant: Plant) -> None:
    variables = of_host(plant, TOKEN) | {"GITHUB_API_URL": "http://127.0.0.1:1"}
    ran = script(plant, *COMMENT, plan=PLAN, **variables)
    assert ran.failed
    assert "the plan is not written as a comment: " in ran.log
    assert "Traceback" not in ran.log
    assert TOKEN not in ran.log


@pytest.mark.parametrize("code", [0, 1, 70, 137])
def test_a_plan_that_says_nothing_is_never_green(plant: Plant, tmp_path: Path, code: int) -> None:
    program = tmp_path / "bin" / "margo-gitops"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexit {code}\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    assert script(plant, "sh", ".margo-gitops/ci/plan.sh", "HEAD", PATH=path).failed


def test_a_state_repo_that_is_a_folder_is_refused_before_a_render_is_lost(plant: Plant) -> None:
    _render_into(plant, "../state.git", plant.state)
    ran = script(plant, *RENDER)
    assert ran.failed
    assert "remedy: make an empty repository for the state" in ran.log
    assert plant.refs() == {}


def test_without_its_key_a_fleet_that_signs_is_not_rendered(plant: Plant) -> None:
    plant.secrets.clear()
    ran = script(plant, *RENDER)
    assert ran.failed
    assert "this fleet wants signed state" in ran.log
    assert plant.refs() == {}


@pytest.mark.real
@pytest.mark.parametrize("given", ["as itself", "as a file"])
def test_a_token_pushes_to_a_state_repo_over_https(plant: Plant, git_server: GitServer, given: str) -> None:
    repository = git_server.add_repository()
    user, password = git_server.basic
    _render_into(plant, repository.http("push/basic"), Git(repository.path))
    if given == "as a file":
        password = str(git_server.password_file)
    plant.secrets |= {"STATE_REPO_TOKEN": password, "FLEET_SIGNING_KEY": str(plant.key)}
    ran = script(plant, *RENDER, STATE_REPO_USER=user)
    assert not ran.failed, ran.log
    assert "fleet" in plant.refs()
    assert git_server.basic[1] not in ran.log
    assert list(ran.temporary.iterdir()) == []


@pytest.mark.real
def test_a_deploy_key_pushes_to_a_state_repo_over_ssh(plant: Plant, ssh_server: SshServer) -> None:
    _render_into(plant, ssh_server.url(plant.state.path), plant.state)
    plant.secrets |= {
        "STATE_REPO_SSH_KEY": ssh_server.identity_file.read_text(),
        "STATE_REPO_KNOWN_HOSTS": ssh_server.known_hosts_file.read_text(),
    }
    ran = script(plant, *RENDER)
    assert not ran.failed, ran.log
    assert "fleet" in plant.refs()
    assert list(ran.temporary.iterdir()) == []


@pytest.mark.real
def test_a_host_with_another_key_is_not_trusted(plant: Plant, ssh_server: SshServer) -> None:
    _render_into(plant, ssh_server.url(plant.state.path), plant.state)
    plant.secrets |= {
        "STATE_REPO_SSH_KEY": ssh_server.identity_file.read_text(),
        "STATE_REPO_KNOWN_HOSTS": ssh_server.other_known_hosts_file.read_text(),
    }
    ran = script(plant, *RENDER)
    assert ran.failed
    assert ran.log.count("trying again in 0 s") == 3, "what cannot be reached is tried again before it fails"
    assert plant.refs() == {}


def test_what_the_host_declines_is_not_tried_again(plant: Plant) -> None:
    hook = plant.state.path / "hooks" / "update"
    hook.write_text("#!/bin/sh\necho fleet is protected\nexit 1\n")
    hook.chmod(0o755)
    ran = script(plant, *RENDER, FLEET_SIGNING_KEY=str(plant.key))
    assert ran.failed
    assert "remote: fleet is protected" in ran.log
    assert "trying again" not in ran.log


class Elsewhere(BaseHTTPRequestHandler):
    """Two hosts in one: `/there/…` redirects to the other, which asks for credentials and is not the state repo's."""

    seen: ClassVar[list[tuple[str, str]]]
    other: ClassVar[str]

    def do_GET(self) -> None:
        credentials = self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN") or ""
        self.seen.append((self.path, credentials))
        moved = self.path.startswith(("/there/", "/repos/")) or (self.path.startswith("/ask/") and credentials)
        self.send_response(302 if moved else 401)
        there = f"{self.other}/other/{self.path.split('/', 2)[2]}"
        self.send_header(*(("Location", there) if moved else ("WWW-Authenticate", 'Basic realm="x"')))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[type[Elsewhere]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Elsewhere.seen, Elsewhere.other = [], f"http://localhost:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Elsewhere
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("of_fleet", "asked", "gets_it"),
    [("ask", "ask", True), ("there", "there", False), ("ask", "other", False), ("there", "ask", False)],
    ids=["redirected after it was asked for", "redirected at once", "another repository", "another path"],
)
def test_a_token_goes_to_the_state_repo_and_to_no_other_place(
    tmp_path: Path, elsewhere: type[Elsewhere], of_fleet: str, asked: str, gets_it: bool
) -> None:
    """The scaffold's script as it is; git itself is in the place of margo-gitops, and asks one URL."""
    host = elsewhere.other.replace("localhost", "127.0.0.1")
    for path, content in tooling_files(Answers("plant")).items():
        if path.startswith(".margo-gitops/ci/"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)
    url = f"{host.replace('//', '//somebody@')}/{of_fleet}/state.git"
    (tmp_path / "margo-gitops.yaml").write_text(f'spec:\n  stateRepo: "{url}"  # here\n')
    (tmp_path / "margo-gitops").write_text(f"#!/bin/sh\nexec git ls-remote {host}/{asked}/state.git\n")
    (tmp_path / "margo-gitops").chmod(0o755)
    variables = {**GIT_ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}", "STATE_REPO_TOKEN": "secret"}
    ran = Ran(workspace=tmp_path)
    assert not shell(["sh", "-c"], " ".join(RENDER), ran, variables | {"GIT_TERMINAL_PROMPT": "0"})
    got = {path.split("/")[1] for path, credentials in elsewhere.seen if credentials}
    assert got == ({"ask"} if gets_it else set()), (elsewhere.seen, ran.log)
    assert "secret" not in ran.log


def test_a_comments_token_is_carried_to_no_other_host(plant: Plant, elsewhere: type[Elsewhere]) -> None:
    variables = of_host(plant, TOKEN) | {"GITHUB_API_URL": elsewhere.other.replace("localhost", "127.0.0.1")}
    ran = script(plant, *COMMENT, plan=PLAN, **variables)
    assert ran.failed
    assert [path.partition("?")[0] for path, _ in elsewhere.seen] == ["/repos/plant/fleet/issues/7/comments"]


def test_secrets_are_only_for_jobs_of_a_protected_environment() -> None:
    for name in ("review.yml", "render.yml", "freshness.yml"):
        workflow = yaml.safe_load((TEMPLATE / ".github/workflows" / name).read_text())
        for job in workflow["jobs"].values():
            assert ("secrets." in str(job)) is (job.get("environment") == "state"), name
    pipeline = yaml.safe_load((TEMPLATE / ".gitlab-ci.yml").read_text())
    for name, job in pipeline.items():
        if isinstance(job, dict) and "script" in job:
            writes = re.search(r"ci/(render|freshness)\.sh", str(job["script"]))
            assert bool(writes) is (job.get("environment") == "state"), name


def _render_by_hand(plant: Plant) -> None:
    """Render as the pipeline of main does, sooner."""
    cache = plant.runner.folder / "cache"
    render_fleet(RenderRequest(plant.fleet.root, "HEAD", None, cache, read_signing_key(plant.key)))


def _render_into(plant: Plant, url: str, state: Git) -> None:
    plant.fleet.change("margo-gitops.yaml", f"file://{plant.state.path}", url)
    plant.fleet.commit("Render elsewhere")
    plant.fleet.git.run("push", "--quiet", "origin", "main")
    plant.state = state


def test_the_hook_checks_the_fleet_when_one_of_its_files_changes(plant: Plant) -> None:
    configuration = yaml.safe_load((plant.fleet.root / ".pre-commit-config.yaml").read_text())
    (repository,) = configuration["repos"]
    (hook,) = repository["hooks"]
    assert (repository["repo"], hook["language"], hook["pass_filenames"]) == ("local", "system", False)
    files = re.compile(hook["files"])
    checked = {path for path in plant.fleet.git.run("ls-files").splitlines() if files.search(path)}
    own = ("sites/", "devices/", "deployments/", "applications/", "margo-gitops.yaml", "applications.lock")
    assert checked == {path for path in plant.fleet.git.run("ls-files").splitlines() if path.startswith(own)}
    program, *arguments = hook["entry"].split()
    assert program == "margo-gitops"
    assert margo_gitops(*arguments, cwd=plant.fleet.root).code == 0
    wrong_parameter(plant.fleet)
    assert margo_gitops(*arguments, cwd=plant.fleet.root).code == 1


def test_every_action_is_pinned_by_its_commit_and_no_job_may_more_than_it_needs() -> None:
    for name in ("review.yml", "render.yml", "freshness.yml"):
        workflow = yaml.safe_load((TEMPLATE / ".github/workflows" / name).read_text())
        allowed = {"contents": "read"} | ({"pull-requests": "write"} if name == "review.yml" else {})
        assert workflow["permissions"] == allowed
        used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
        assert used
        assert all(re.fullmatch(r"actions/\w+@[0-9a-f]{40}", each) for each in used)
