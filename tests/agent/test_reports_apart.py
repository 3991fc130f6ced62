"""Reports that do not go to the source: a device that pulls by git is seen in `status`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_world import DEVICE, RENDERER, World, deployment_bytes, deployment_id
from server.serving import ServedFleet, served_fleet, until
from support.command_line import margo_gitops
from support.device_states import DEVICE as SERVED_DEVICE
from support.device_states import RENDERS
from support.margo_server import MargoServer, margo_server

from margo_gitops import __version__
from margo_gitops.documents.state_layout import device_ref
from margo_gitops.documents.yaml_text import write_yaml

CAPABILITIES = {"properties": {"id": DEVICE, "vendor": "acme", "modelNumber": "7", "serialNumber": "0815"}}


@pytest.fixture
def server() -> Iterator[MargoServer]:
    with margo_server("/margo") as made:
        yield made


@pytest.fixture
def world(tmp_path, server: MargoServer) -> World:
    made = World(tmp_path / "world")
    (made.folder / "capabilities.yaml").write_bytes(write_yaml(CAPABILITIES))
    made.configure(reports={"http": {"url": server.base()}}, capabilities=["capabilities.yaml"])
    made.publish({1: deployment_bytes(1)})
    return made


def test_a_device_that_pulls_by_git_reports_to_a_server(world: World, server: MargoServer) -> None:
    result = world.agent("once")
    assert result.returncode == 0, result.stderr
    paths = {path.removeprefix("/api/v1/") for _, path, _ in server.reports}
    assert paths == {f"capabilities/{DEVICE}", f"deployments/{deployment_id(1)}/status"}
    assert json.loads(server.reports[-1][2])["status"]["state"] == "installed"
    assert {request.method for request in server.requests} == {"PUT", "POST"}, "it asks this server for no state"
    before = len(server.reports)
    assert world.agent("once").returncode == 0
    assert len(server.reports) == before


def test_it_reports_although_its_source_is_away(world: World, server: MargoServer) -> None:
    world.configure(reports=None)
    assert world.agent("once").returncode == 0
    world.configure(
        source={"git": {"url": f"file://{world.folder}/nothing.git"}}, reports={"http": {"url": server.base()}}
    )
    assert world.agent("once").returncode == 3
    assert [path for method, path, _ in server.reports if method == "POST"] == [
        f"/api/v1/deployments/{deployment_id(1)}/status"
    ]


def test_a_server_of_reports_that_is_away_delays_no_state(world: World, server: MargoServer) -> None:
    world.configure(reports={"http": {"url": "http://127.0.0.1:9/"}})
    result = world.agent("once")
    assert (result.returncode, world.value(1)) == (0, 'GREETING="hello"\n')
    assert "ReportFailed" in result.stderr


def test_a_status_names_its_origin_where_it_is_asked_to_and_is_not_sent_again_for_it(
    world: World, server: MargoServer
) -> None:
    world.configure(reports={"http": {"url": server.base()}, "origin": True})
    assert world.agent("once").returncode == 0
    document = json.loads(server.reports[-1][2])
    origin = document["x-margo-gitops-extensions"]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert origin == {
        "agentVersion": __version__,
        "bootId": boot,
        "stateCommit": world.versions[0].revision,
        "signer": RENDERER.public.fingerprint,
    }
    before = len(server.reports)
    world.publish({1: deployment_bytes(1)}, version=2)
    assert world.agent("once").returncode == 0
    versions = [json.loads(body)["adoptedManifestVersion"] for _, _, body in server.reports[before:]]
    assert versions in ([], [2])


def test_reports_do_not_wait(world: World, server: MargoServer) -> None:
    world.configure(reports={"http": {"url": server.base(), "wait": "60s"}})
    result = world.agent("once")
    assert (result.returncode, "reports wait for nothing" in result.stderr) == (2, True)


@pytest.fixture
def fleet(tmp_path) -> Iterator[ServedFleet]:
    with served_fleet(tmp_path) as made:
        made.render({SERVED_DEVICE: RENDERS[0]})
        made.token(SERVED_DEVICE)
        yield made.start()


def test_status_shows_a_device_that_pulls_by_git_as_installed(fleet: ServedFleet, tmp_path) -> None:
    world = World(tmp_path / "git", device=SERVED_DEVICE)
    (world.folder / "token").write_text(fleet.tokens[SERVED_DEVICE])
    world.configure(
        source={"git": {"url": f"file://{tmp_path}/state.git"}},
        trust={"unsigned": True},
        reports={"http": {"url": fleet.url, "tokenFile": "token"}, "origin": True},
    )
    assert world.agent("once").returncode == 0
    until(lambda: len(fleet.reports()) == 2)
    shown = margo_gitops("status", "--state-repo", str(tmp_path / "state.git"), "--output", "json", cwd=tmp_path)
    assert [device["state"] for device in json.loads(shown.stdout)["devices"]] == ["installed"], shown
    commit = fleet.renderer.refs()[device_ref(SERVED_DEVICE)]
    for report in fleet.reports().values():
        origin = report["x-margo-gitops-extensions"]
        assert (origin["stateCommit"], origin["agentVersion"]) == (commit, __version__)
