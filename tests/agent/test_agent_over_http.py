"""The agent with an HTTP source, as a process: the same state as by git, changes at once, and reports back."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from device_world import DEVICE, World, deployment_bytes, deployment_id
from support.faulty_http import Answer
from support.margo_server import MargoServer, margo_server, problem

from margo_gitops.documents.yaml_text import write_yaml

TIMEOUT = 30.0
CAPABILITIES = {"properties": {"id": DEVICE, "vendor": "acme", "modelNumber": "7", "serialNumber": "0815"}}


@pytest.fixture
def server() -> Iterator[MargoServer]:
    with margo_server("/margo") as made:
        made.publish(1, {deployment_id(1): deployment_bytes(1), deployment_id(2): deployment_bytes(2)})
        yield made


@pytest.fixture
def world(tmp_path: Path, server: MargoServer) -> World:
    made = World(tmp_path / "world")
    over_http(made, server)
    return made


def over_http(world: World, server: MargoServer, *capabilities: str, **settings: str | bool) -> None:
    source = {"http": {"url": server.base(), **settings}}
    world.configure(source=source, trust={"unsigned": True}, capabilities=list(capabilities))


def eventually(what: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def reported(server: MargoServer) -> list[tuple[str, str, str]]:
    """Return what was reported of deployments, in order: id, overall state, adopted version."""
    documents = [json.loads(body) for method, _, body in server.reports if method == "POST"]
    return [(item["deploymentId"], item["status"]["state"], item["adoptedManifestVersion"]) for item in documents]


@contextmanager
def running(world: World) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        world.command("run"), env=world.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT)


def test_the_state_is_applied_and_each_change_is_followed(world: World, server: MargoServer) -> None:
    first = world.agent("once")
    assert (first.returncode, world.value(1)) == (0, 'GREETING="hello"\n'), first.stderr
    server.publish(2, {deployment_id(1): deployment_bytes(1, values={"GREETING": "good morning"})})
    second = world.agent("once")
    assert (second.returncode, world.value(1), world.value(2)) == (0, 'GREETING="good morning"\n', None), second.stderr
    third = world.agent("once")
    assert "unchanged" in third.stdout
    assert world.agent("verify").returncode == 0


def test_a_device_moves_from_git_to_http_in_the_middle_without_fetching_anything_again(
    world: World, server: MargoServer
) -> None:
    world.configure()
    held = world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    server.manifest = held.manifest
    over_http(world, server)
    result = world.agent("once")
    assert (result.returncode, "unchanged" in result.stdout) == (0, True), result.stderr
    assert server.asked() == ["deployments", f"deployments/{deployment_id(1)}/status"]


def test_state_without_a_signature_is_refused_where_one_is_demanded(world: World, server: MargoServer) -> None:
    world.configure(source={"http": {"url": server.base()}})
    result = world.agent("once")
    assert (result.returncode, "MG1501" in result.stderr, world.value(1)) == (4, True, None)


@pytest.mark.parametrize("attack", ["older", "reused", "digest", "algorithm", "foreign"])
def test_a_refused_state_changes_nothing_and_is_a_security_event(
    world: World, server: MargoServer, attack: str
) -> None:
    server.publish(5, {deployment_id(1): deployment_bytes(1, values={"GREETING": "second"})})
    assert world.agent("once").returncode == 0
    evil = deployment_bytes(1, values={"GREETING": "evil"}, device="press-08" if attack == "foreign" else DEVICE)
    server.publish({"older": 4, "reused": 5}.get(attack, 6), {deployment_id(1): evil})
    if attack == "digest":
        server.resources = {path: (kind, b"tampered") for path, (kind, _) in server.resources.items()}
    if attack == "algorithm":
        server.manifest = server.manifest.replace(b"sha256:", b"sha512:")
    result = world.agent("once")
    assert result.returncode == 4, result.stderr
    assert world.value(1) == 'GREETING="second"\n'
    status = json.loads(world.agent("status", "--output", "json").stdout)
    assert status["held"]["version"] == 5
    assert "held     version 5 at sha256:" in world.agent("status").stdout, "an ETag, without its quotes"
    assert status["securityEvents"][0]["reason"] == "StateRefused"


def test_f2_a_listed_deployment_that_answers_404_deletes_nothing_and_is_asked_for_again(
    world: World, server: MargoServer
) -> None:
    assert world.agent("once").returncode == 0
    changed = {deployment_id(1): deployment_bytes(1, values={"GREETING": "new"}), deployment_id(2): deployment_bytes(2)}
    server.publish(2, changed)
    server.resources = {}
    result = world.agent("once")
    assert (result.returncode, "MG1402" in result.stderr) == (3, True)
    assert world.value(1) == 'GREETING="hello"\n'
    assert world.value(2) is not None
    server.publish(2, changed)
    assert world.agent("once").returncode == 0
    assert world.value(1) == 'GREETING="new"\n'


def test_a_change_arrives_at_once_where_the_server_waits(world: World, server: MargoServer) -> None:
    server.honours_wait = True
    over_http(world, server, wait="1m")
    with running(world):
        eventually(lambda: any("prefer" in request.headers for request in server.requests))
        before = len(server.requests)
        server.publish(2, {deployment_id(1): deployment_bytes(1, values={"GREETING": "at once"})})
        eventually(lambda: world.value(1) == 'GREETING="at once"\n')
        eventually(lambda: server.requests[-1].headers.get("prefer", "").startswith("wait="))
        polls = [request for request in server.requests[before:] if request.method == "GET"]
        assert len(polls) <= 3, "the manifest, the change, and the next wait"


def test_f16_a_server_that_does_not_wait_is_not_stormed(world: World, server: MargoServer) -> None:
    server.faults.append(
        lambda request, answer: (
            Answer(answer.status, [*answer.headers, ("Preference-Applied", "wait=60")], answer.body)
            if "prefer" in request.headers
            else None
        )
    )
    over_http(world, server, wait="1m")
    with running(world):
        eventually(lambda: len(server.asked("status")) == 2)
        before, begin = len(server.requests), time.monotonic()
        eventually(lambda: len(server.requests) >= before + 2)
        assert time.monotonic() - begin > 0.5, "polled at its interval of one second"


def test_every_status_and_the_capabilities_are_sent_once(world: World, server: MargoServer) -> None:
    (world.folder / "capabilities.yaml").write_bytes(write_yaml(CAPABILITIES))
    child = {"properties": {**CAPABILITIES["properties"], "id": f"{DEVICE}/arm"}}
    (world.folder / "child.json").write_text(json.dumps(child))
    over_http(world, server, "capabilities.yaml", "child.json")
    assert world.agent("once").returncode == 0
    assert server.reports[0][:2] == ("PUT", f"/api/v1/capabilities/{DEVICE}")
    assert json.loads(server.reports[0][2]) == CAPABILITIES
    assert server.reports.pop(1)[:2] == ("PUT", f"/api/v1/capabilities/{DEVICE}/arm")
    assert reported(server) == [(deployment_id(1), "installed", 1), (deployment_id(2), "installed", 1)]
    assert world.agent("once").returncode == 0
    assert len(server.reports) == 3, "a restart repeats nothing"
    server.publish(2, {deployment_id(2): deployment_bytes(2)})
    assert world.agent("once").returncode == 0
    assert reported(server)[2:] == [(deployment_id(2), "installed", 2), (deployment_id(1), "removed", 2)]
    changed = {"properties": {**CAPABILITIES["properties"], "vendor": "umbrella"}}
    (world.folder / "capabilities.yaml").write_text(json.dumps(changed))
    assert world.agent("once").returncode == 0
    assert json.loads(server.reports[-1][2]) == changed


def test_states_are_reported_while_an_installation_takes_its_time(world: World, server: MargoServer) -> None:
    (world.folder / "capabilities.yaml").write_bytes(write_yaml(CAPABILITIES))
    gate = world.folder / "gate"
    hook = world.folder / "hook"
    hook.write_text(f"#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.05; done\n")
    hook.chmod(0o755)
    over_http(world, server, "capabilities.yaml")
    world.configure(**{**world.settings, "appliers": {"files": {"folder": "output", "hook": ["./hook"]}}})
    with running(world):
        eventually(lambda: (deployment_id(1), "installing", 1) in reported(server))
        eventually(lambda: (deployment_id(2), "pending", 1) in reported(server))
        assert [request.method for request in server.requests][:2] == ["PUT", "GET"], "capabilities come first"
        gate.touch()
        eventually(lambda: reported(server)[-1:] == [(deployment_id(2), "installed", 1)])
    names = [component["name"] for _, _, body in server.reports[1:] for component in json.loads(body)["components"]]
    assert set(names) == {"web"}


@pytest.mark.parametrize("answer", [problem(503, "busy"), problem(405, "static files"), problem(500, "no")])
def test_f12_what_could_not_be_sent_is_sent_later_and_hinders_nothing(
    world: World, server: MargoServer, answer: Answer
) -> None:
    server.faults.append(lambda request, _: answer if request.method == "POST" else None)
    first = world.agent("once")
    assert (first.returncode, world.value(2) is not None) == (0, True), first.stderr
    assert "ReportFailed" in first.stderr
    assert json.loads(world.agent("status", "--output", "json").stdout)["reports"] == {"waiting": 2}
    assert "\nreports  2 statuses wait to be sent\n" in world.agent("status").stdout
    server.publish(2, {deployment_id(1): deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    server.faults.clear()
    server.reports.clear()
    assert world.agent("once").returncode == 0
    assert reported(server) == [
        (deployment_id(1), "installed", 1),
        (deployment_id(1), "installed", 2),
        (deployment_id(2), "installed", 1),
        (deployment_id(2), "removed", 2),
    ]
    assert "\nreports " not in world.agent("status").stdout


def test_a_document_that_the_server_will_not_have_is_not_sent_again(world: World, server: MargoServer) -> None:
    server.report_status = 422
    first = world.agent("once")
    assert "ReportRefused" in first.stderr
    assert world.agent("once").returncode == 0
    assert len(server.reports) == 2


def test_static_files_are_told_nothing(world: World, server: MargoServer) -> None:
    over_http(world, server, reportStatus=False)
    assert world.agent("once").returncode == 0
    assert server.reports == []
