"""The kit checks servers: `serve` meets every requirement, an ordinary git host all but what none can."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server.serving import FLEET, HMI, ServedFleet, served_fleet
from support.command_line import Outcome, margo_gitops
from support.conformance_results import check_recorded
from support.state_publishing import Renderer
from testbed.git_server import GitServer
from testbed.jgit_server import JgitServer
from transport.git_http_server import serve

from margo_gitops.conformance.agents.states import make_signing_key
from margo_gitops.conformance.servers.checking import check_server
from margo_gitops.conformance.servers.client import RawClient, ServerTarget
from margo_gitops.conformance.servers.git_checks import GIT_CHECKS
from margo_gitops.conformance.servers.git_session import GitSession

DEVICE, OTHER = "press-01", "press-02"
KEY = make_signing_key()


def states(number: int) -> dict[str, dict[str, bytes]]:
    """Return a fleet whose device changed for the n-th time."""
    return {**FLEET, DEVICE: {"hmi": HMI + b"# %d\n" % number, "mes": b"b: 1\n"}}


Check = Callable[..., Outcome]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    """A server over a fleet with some history."""
    with served_fleet(tmp_path_factory.mktemp("served")) as fleet:
        for number in range(3):
            fleet.render(states(number), key=KEY)
        for device in FLEET:
            (fleet.folder / f"{device}.token").write_text(fleet.token(device))
        yield fleet.start(limits={"requestsPerMinute": 1_000_000, "burst": 1_000_000})


def check(kind: str, url: str, folder: Path, *options: str | Path) -> Outcome:
    return margo_gitops("conformance", kind, url, "--device", DEVICE, "--output", "json", *options, cwd=folder)


def as_device(served: ServedFleet) -> tuple[str | Path, ...]:
    folder = served.folder
    own = ("--token-file", folder / f"{DEVICE}.token")
    return (*own, "--other-device", OTHER, "--other-token-file", folder / f"{OTHER}.token")


def verdicts(outcome: Outcome) -> dict[str, set[str]]:
    """Return checks by verdict, each as its requirement and its name."""
    found: dict[str, set[str]] = {}
    for each in json.loads(outcome.stdout)["results"]:
        found.setdefault(each["verdict"], set()).add(f"{each['requirement']} {each['check']}")
    return found


def results(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {f"{each['requirement']} {each['check']}": each for each in json.loads(outcome.stdout)["results"]}


@pytest.mark.parametrize("reports", ["all", "invalid"])
def test_serve_meets_every_requirement_of_http(served: ServedFleet, reports: str) -> None:
    outcome = check("http", served.url, served.folder, *as_device(served), "--reports", reports)
    found = verdicts(outcome)
    assert (outcome.code, found.get("fail")) == (0, None), outcome
    kept_back = {"H-S-16 a valid status is taken", "H-S-18 valid capabilities are taken"}
    assert found.get("skipped", set()) == (kept_back if reports == "invalid" else set())
    not_there = {
        "H-S-20 429 and 503 say when to come back",
        "H-S-25 the trust document is served",
        "H-S-27 what is not a signed request for enrolment is refused",
        "H-S-28 a request with another trust document is refused",
        "H-S-29 a secret that was never made enrols no device, and tells nothing",
    }
    assert found["not-applicable"] == not_there
    if reports == "all":
        check_recorded("serve, http", json.loads(outcome.stdout))


def test_serve_meets_every_requirement_of_the_git_subset(served: ServedFleet) -> None:
    outcome = check("git", f"{served.url}/git/state.git", served.folder, *as_device(served))
    found = verdicts(outcome)
    assert (outcome.code, found.get("fail"), found.get("skipped")) == (0, None, None), outcome
    check_recorded("serve, git", json.loads(outcome.stdout))


def test_serve_meets_them_without_a_second_device_too_and_what_that_leaves_out_is_said(served: ServedFleet) -> None:
    token = ("--token-file", served.folder / f"{DEVICE}.token")
    outcome = check("git", f"{served.url}/git/state.git", served.folder, *token)
    found = verdicts(outcome)
    assert (outcome.code, found.get("fail")) == (0, None), outcome
    assert {each.split()[0] for each in found["skipped"]} == {"G-A-6", "G-A-7", "G-A-9"}


NO_HOST_CAN = {
    "G-A-5 the device sees its own ref alone",
    "G-A-5 and so in version 0",
    "G-A-6 a commit of another device is as one that does not exist",
    "G-A-7 have tells nothing",
    "G-A-8 only commits can be wanted",
    "G-S-20 and the server says why",
    "G-R-9 what is not a git request is 4xx",
}
"""What no setting of git or of the web server in front of it changes."""


@pytest.fixture
def ordinary(git_server: GitServer, tmp_path: Path) -> Callable[..., Outcome]:
    """Check `git http-backend` behind nginx, as the testbed runs it, with settings of the repository."""

    def run(way: str = "basic", **settings: str) -> Outcome:
        renderer = Renderer(tmp_path / "state.git")
        for number in range(3):
            renderer.publish(states(number), key=KEY)
        for name, value in settings.items():
            renderer.git.run("config", name.replace("_", "."), value)
        url = git_server.add_repository(tmp_path / "state.git").http(way)
        user, secret = ("device", git_server.password_file) if way == "basic" else ("", git_server.token_file)
        return check("git", url, tmp_path, "--token-file", secret, "--username", user, "--other-device", OTHER)

    return run


@pytest.mark.real
def test_an_ordinary_git_host_that_is_configured_fails_exactly_what_no_ordinary_host_can(
    ordinary: Callable[..., Outcome],
) -> None:
    outcome = ordinary(http_getanyfile="false")
    found = verdicts(outcome)
    assert (outcome.code, found["fail"]) == (1, NO_HOST_CAN), outcome
    assert found.get("skipped") is None
    for name in NO_HOST_CAN:
        assert "an ordinary git host" in results(outcome)[name]["reason"]
    check_recorded("git http-backend", json.loads(outcome.stdout))


@pytest.mark.real
def test_jgit_as_in_gerrit(jgit_server: JgitServer, tmp_path: Path) -> None:
    url, path = jgit_server.add_repository()
    renderer = Renderer(tmp_path / "state.git")
    for number in range(3):
        renderer.publish(states(number), key=KEY)
    renderer.git.run("push", "--quiet", "--mirror", path)
    outcome = check("git", url, tmp_path, "--other-device", OTHER)
    check_recorded("JGit", json.loads(outcome.stdout))


@pytest.mark.parametrize("hook", [True, False])
def test_a_git_host_that_takes_reports_must_keep_devices_to_them(tmp_path: Path, hook: bool) -> None:
    renderer = Renderer(tmp_path / "state.git")
    renderer.publish(states(1), key=KEY)
    renderer.git.run("config", "http.receivepack", "true")
    if hook:
        place = renderer.git.path / "hooks/pre-receive"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes((Path(__file__).parents[2] / "docs/deploy/device-reports.pre-receive").read_bytes())
        place.chmod(0o755)
    chosen = [each for each in GIT_CHECKS if each.requirement in ("G-P-4", "G-P-7", "G-X-6")]
    with serve(tmp_path) as host:
        target = ServerTarget(host.url("state.git"), DEVICE)
        found = check_server("git", GitSession(target, RawClient(target)), chosen, "2026-11-30T00:00:00Z", str)
    verdicts = {each.requirement: each.verdict for each in found.results}
    taken, idle = ("pass", "not-applicable") if hook else ("fail", "fail")
    assert verdicts == {"G-P-4": taken, "G-P-7": "pass", "G-X-6": idle}


@pytest.mark.real
def test_an_ordinary_git_host_is_told_what_to_configure(ordinary: Callable[..., Outcome]) -> None:
    outcome = ordinary("token")
    found = verdicts(outcome)
    told = {name: results(outcome)[name]["reason"].partition("To do: ")[2] for name in found["fail"] - NO_HOST_CAN}
    remedies = {
        "G-A-4 strangers learn nothing": "send WWW-Authenticate: Basic with 401",
        "G-X-8 no files of the dumb protocol": "git config http.getanyfile false",
    }
    assert told.keys() == remedies.keys()
    assert all(remedy in told[name] for name, remedy in remedies.items())
