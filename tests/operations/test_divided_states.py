"""A first render by several processes gives what one process gives: the same pack, refs and errors (DIVIDED-1 to 3)."""

from __future__ import annotations

import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.fleet import FleetFolder, parameter, write_signing_key
from support.git_cli import Git

from margo_gitops.errors import MargoGitopsError, ProcessEnded
from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.operations.render import divided_states, fleet_render
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.state_repo import render_commits

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEVICES = ("a", "b", "c", "gw", "gw/child", "gw/Child.2", "north")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program under test see no threads of the test runner."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path / "fleet", freshness={})
    fleet.application("app", "1.0.0", parameters={"p": parameter(value="x")})
    fleet.site("north", {"line": 1}, p="{{ device.id }}")
    for device in DEVICES:
        fleet.device(device, site=None if device == "c" else "north", labels={"line": 1} if device < "gw" else {})
    fleet.change("devices/gw.yaml", '"capabilities"', '"alias": "serial", "capabilities"')
    fleet.deployment("web")
    fleet.deployment("base", on={"matchLabels": {"line": 1}})
    fleet.git.init()
    fleet.commit()
    return fleet


def render(fleet: FleetFolder, jobs: int, key: Path | None = None) -> Path:
    state = fleet.root.parent / f"state-{jobs}.git"
    signing = read_signing_key(key) if key else None
    cache = fleet.root.parent / f"cache-{jobs}"
    render_fleet(RenderRequest(fleet.root, "HEAD", str(state), cache, signing, jobs=jobs, now=NOW))
    return state


def contents(state: Path) -> tuple[str, list[tuple[str, bytes]]]:
    packs = sorted((state / "objects/pack").glob("*.*"))
    return Git(state).run("for-each-ref"), [(pack.name, pack.read_bytes()) for pack in packs]


@pytest.mark.parametrize("signed", [False, True])
def test_refs_and_pack_are_those_of_one_process(fleet: FleetFolder, signed: bool) -> None:
    key = write_signing_key(fleet.root.parent / "key") if signed else None
    alone = contents(render(fleet, 1, key))
    assert [contents(render(fleet, jobs, key)) for jobs in (2, 9)] == [alone] * 2


def test_other_processes_did_it(fleet: FleetFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_render, "rendered_states", None)
    monkeypatch.setattr(render_commits, "steps", None)
    render(fleet, 2)


def test_a_policy_judges_what_other_processes_made(fleet: FleetFolder) -> None:
    freeze = {"reason": "Audit", "begins": "2020-01-01T00:00Z", "ends": "2999-01-01T00:00Z", "match": {"all": True}}
    fleet.fleet(policy={"freezes": [freeze]})
    fleet.commit()
    fleet.site("south")
    fleet.commit()
    assert "Audit" in refusal(fleet, 1)
    assert refusal(fleet, 1) == refusal(fleet, 2)


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        ("deployments/base.yaml", '"line": 1', '"line": 7', "base selects no device"),
        ("deployments/base.yaml", '"matchLabels"', '"devices": ["d"], "matchLabels"', "d is not a device"),
        ("devices/north.yaml", '"compose"', '"helm"', "device north cannot run"),
        ("sites/north.yaml", "device.id", "device.nothing", "'nothing'"),
    ],
)
def test_errors_are_those_of_one_process(fleet: FleetFolder, file: str, old: str, new: str, what: str) -> None:
    fleet.change(file, old, new)
    fleet.commit()
    found = refusal(fleet, 1)
    assert what in found
    assert [refusal(fleet, jobs) for jobs in (2, 3)] == [found] * 2


def refusal(fleet: FleetFolder, jobs: int) -> str:
    with pytest.raises(MargoGitopsError) as caught:
        render(fleet, jobs)
    return str(caught.value)


@pytest.mark.parametrize(("module", "name"), [(divided_states, "device_objects"), (render_commits, "device_message")])
def test_a_process_that_is_killed_leaves_nothing_half_done(
    fleet: FleetFolder, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    monkeypatch.setattr(module, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ProcessEnded):
        render(fleet, 2)
    assert contents(fleet.root.parent / "state-2.git") == ("", [])
    monkeypatch.undo()
    assert contents(render(fleet, 2)) == contents(render(fleet, 1))
