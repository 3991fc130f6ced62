"""A server that serves a mirror: it follows the git server, pushes reports there, and serves what it has without it."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from server.git_requests import fetch, ls_refs, objects
from server.serving import FLEET, ServedFleet, capabilities, status, until
from support.command_line import margo_gitops

from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import device_ref
from margo_gitops.state_repo.followed_state import FollowedState
from margo_gitops.state_repo.report_branch import ReportKey

NEWER = FLEET | {"press-01": {"hmi": b"two\n"}}


@pytest.fixture
def mirrored(fleet: ServedFleet) -> Callable[[], ServedFleet]:
    """Starts a server of a mirror of the fleet's state repo."""
    url = (fleet.folder / "state.git").as_uri()
    reports = {"folder": "journal", "commitSeconds": 0.2}
    return lambda: fleet.start(stateRepo=url, mirror={"fetchSeconds": 0.2}, reports=reports)


def follower(fleet: ServedFleet, name: str = "one") -> FollowedState:
    return FollowedState((fleet.folder / "state.git").as_uri(), fleet.folder / f"{name}.git")


def test_a_render_on_the_git_server_wakes_who_waits_here_and_reports_go_there(
    fleet: ServedFleet, mirrored: Callable[[], ServedFleet]
) -> None:
    mirrored()
    with fleet.client("press-01") as client:
        held = client.get("/api/v1/deployments")
        threading.Timer(0.3, fleet.render, [NEWER]).start()
        headers = {"If-None-Match": held.headers["ETag"], "Prefer": "wait=30"}
        answer = client.get("/api/v1/deployments", headers=headers)
        assert answer.json()["manifestVersion"] == held.json()["manifestVersion"] + 1
        deployment = answer.json()["deployments"][0]["deploymentId"]
        assert client.post(f"/api/v1/deployments/{deployment}/status", json=status(deployment)).status_code == 201
    until(lambda: f"press-01/status/{deployment}.json" in fleet.reports())


def test_a_rewritten_history_and_a_git_server_that_is_gone_leave_what_is_served(
    fleet: ServedFleet, mirrored: Callable[[], ServedFleet]
) -> None:
    before = fleet.renderer.refs()
    fleet.render(NEWER)
    mirrored()
    with fleet.client("press-01") as client:
        served = client.get("/api/v1/deployments").content
        fleet.renderer.git.run("update-ref", "refs/heads/fleet", before["refs/heads/fleet"])
        until(lambda: "rewritten" in fleet.log.read_text())
        assert client.get("/api/v1/deployments").content == served
        fleet.stop()
        (fleet.folder / "state.git").rename(fleet.folder / "gone.git")
        mirrored()
        with fleet.client("press-01") as again:
            assert again.get("/api/v1/deployments").content == served
            unknown = {"If-None-Match": f'"sha256:{"0" * 64}"'}
            assert again.get("/api/v1/deployments", headers=unknown).content == served, "nothing newer can be had"
            put = again.put("/api/v1/capabilities/press-01", json=capabilities("press-01"))
            assert put.status_code == 201
        (fleet.folder / "gone.git").rename(fleet.folder / "state.git")
        until(lambda: "press-01/capabilities/press-01.json" in fleet.reports())


def test_a_device_that_another_server_gave_a_newer_state_gets_it_here_too(fleet: ServedFleet) -> None:
    url = (fleet.folder / "state.git").as_uri()
    mirror = {"url": url, "fetchSeconds": 3600}
    fleet.start(stateRepo="mirror.git", mirror=mirror, reports={"folder": "journal"})

    def render(content: bytes) -> dict[str, str]:
        fleet.render(FLEET | {"press-01": {"hmi": content}})
        return fleet.manifest("press-01")["deployments"][0]

    with fleet.client("press-01") as client:
        client.get("/api/v1/deployments")
        assert client.get(render(b"two\n")["url"]).content == b"two\n"
        render(b"three\n")
        newest = fleet.renderer.git.run_bytes("show", f"{device_ref('press-01')}:manifest.json")
        answer = client.get("/api/v1/deployments", headers={"If-None-Match": f'"{sha256(newest)}"'})
        assert answer.status_code == 304
        render(b"four\n")
        ref = device_ref("press-01")
        tip = fleet.renderer.refs()[ref]
        assert ls_refs(client, ref, If_None_Match=f'"{tip}"') == {ref: tip}
        render(b"five\n")
        tip = fleet.renderer.refs()[ref]
        assert tip.encode() in objects(fetch(client, f"want {tip}", "deepen 1", "done").content)
        fleet.render(FLEET | {"press-01": {"new": b"seven\n"}})
        deployment = fleet.manifest("press-01")["deployments"][0]["deploymentId"]
        assert client.post(f"/api/v1/deployments/{deployment}/status", json=status(deployment)).status_code == 201


def test_a_look_fetches_only_when_a_render_moved_something(fleet: ServedFleet) -> None:
    state = follower(fleet)
    assert [state.follow(), state.follow()] == [True, False]
    fleet.render(NEWER)
    assert [state.follow(), state.follow()] == [True, False]
    assert state.mirror.joinpath("HEAD").exists()
    run = ["git", "--git-dir", str(state.mirror), "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads"]
    mirror = dict(line.split() for line in subprocess.run(run, capture_output=True, text=True).stdout.splitlines())
    assert mirror == fleet.renderer.refs()


def test_two_servers_commit_on_top_of_each_other_and_the_same_twice_changes_nothing(fleet: ServedFleet) -> None:
    one, two = follower(fleet, "one"), follower(fleet, "two")
    for each in (one, two):
        each.start()
    put = lambda to, name: to.commit({ReportKey(name, "status", "a"): b"{}\n"}, f"Reports of {name}", (), 1)  # noqa: E731
    assert put(one, "press-01")
    assert put(two, "press-02")
    assert put(one, "press-03") == put(two, "press-03")
    assert sorted(fleet.reports()) == [f"press-0{number}/status/a.json" for number in (1, 2, 3)]
    assert fleet.renderer.git.run("rev-list", "--count", "refs/heads/reports").strip() == "3"


def test_a_server_without_any_mirror_does_not_start_while_the_git_server_is_away(fleet: ServedFleet) -> None:
    file = fleet.configure(stateRepo="mirror.git", mirror={"url": "file:///nowhere.git"}, reports={"folder": "journal"})
    done = margo_gitops("serve", "--config", file, cwd=fleet.folder)
    assert done.code == 3, done
    assert "cannot be fetched" in done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "outside of a mirror"),
        ({"reports": {"folder": "j"}, "freshness": {"signingKey": "k"}}, "pushes only reports"),
        (
            {"reports": {"postgresql": {}}, "identity": {"signatures": {"accepted": "a", "publicUrls": ["http://a"]}}},
            "file",
        ),
    ],
)
def test_what_a_mirror_or_a_shared_journal_cannot_do_is_said_before_it_starts(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    fleet = ServedFleet(tmp_path)
    fleet.write_tokens()
    done = margo_gitops(
        "serve",
        "--config",
        fleet.configure(**{"mirror": {"url": "file:///x"}, "reports": {}, **changes}),
        "--check",
        cwd=tmp_path,
    )
    assert done.code == 2, done
    assert said in done.stderr
