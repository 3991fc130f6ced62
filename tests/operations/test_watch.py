"""`render --watch`: a plan after every save, the same that a whole render gives; errors end nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder, parameter
from support.git_cli import GIT_ENVIRONMENT

from margo_gitops.operations.plan.planning import PlanRequest, plan_fleet
from margo_gitops.operations.plan.watching import Rerender
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet

CONTENT = {
    "site": st.dictionaries(st.just("p"), st.sampled_from(["x", "{{ device.id }}", "{{ nothing }}"])),
    "labels": st.dictionaries(st.just("line"), st.sampled_from([1, 2])),
}


def fleet_in(folder: Path) -> FleetFolder:
    fleet = FleetFolder.empty(folder / "fleet")
    for version in ("1.0.0", "2.0.0"):
        fleet.application("app", version, parameters={"p": parameter(value=version)})
    for site in ("north", "south"):
        fleet.site(site)
    for device in ("a", "b", "gw", "gw/child"):
        fleet.device(device, site="north")
    fleet.deployment("web")
    fleet.commit()
    render_fleet(RenderRequest(fleet.root, "HEAD", None, folder / "cache"))
    return fleet


def edit(fleet: FleetFolder, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["site", "device", "deployment", "remove", "fleet", "broken"]))
    if kind == "site":
        site = data.draw(st.sampled_from(["north", "south"]))
        fleet.site(site, data.draw(CONTENT["labels"]), **data.draw(CONTENT["site"]))
    elif kind == "device":
        device = data.draw(st.sampled_from(["a", "b", "gw", "gw/child"]))
        fleet.device(
            device, site=data.draw(st.sampled_from([None, "north", "south"])), labels=data.draw(CONTENT["labels"])
        )
    elif kind == "deployment":
        on = data.draw(st.sampled_from(["all", ["a"], ["gw/child"], {"matchLabels": {"line": 1}}]))
        version = data.draw(st.sampled_from(["1.0.0", "2.0.0"]))
        fleet.deployment(data.draw(st.sampled_from(["web", "db"])), on=on, version=version)
    elif kind == "remove":
        path = fleet.root / data.draw(st.sampled_from(["devices/b.yaml", "deployments/db.yaml"]))
        path.unlink(missing_ok=True)
    elif kind == "fleet":
        fleet.fleet(namespace=data.draw(st.sampled_from(["margo", "line"])))
    else:
        fleet.put("sites/broken.yaml", "x: [")


@given(st.data())
def test_the_plan_after_each_save_is_the_one_of_a_whole_render(data: st.DataObject):
    with TemporaryDirectory() as folder:
        fleet = fleet_in(Path(folder))
        renders = Rerender()
        request = PlanRequest(fleet.root, None, None, None, Path(folder) / "cache")
        for _ in range(data.draw(st.integers(2, 8))):
            (fleet.root / "sites/broken.yaml").unlink(missing_ok=True)
            edit(fleet, data)
            assert plan_fleet(request, renders) == plan_fleet(replace(request, cache=Path(folder) / "no seal"))


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[tuple[FleetFolder, subprocess.Popen[str]]]:
    fleet = fleet_in(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "margo_gitops", "render", "--watch", "--output", "json"],
        cwd=fleet.root,
        env={**GIT_ENVIRONMENT, "MARGO_GITOPS_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield fleet, process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def next_plan(process: subprocess.Popen[str]) -> dict[str, dict[str, object]]:
    assert process.stdout
    return json.loads(process.stdout.readline())


def saved_until_seen(fleet: FleetFolder, process: subprocess.Popen[str], path: str, content: str) -> dict[str, object]:
    """Save a file and return the plan that shows it."""
    fleet.put(path, content)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        shown = next_plan(process)
        if path in shown["saved"]:
            return shown["plan"]
    raise AssertionError("no plan within a minute")


@pytest.mark.timeout(120)
def test_a_save_shows_the_plan_errors_go_by_and_an_interrupt_ends_it(
    watching: tuple[FleetFolder, subprocess.Popen[str]],
):
    fleet, process = watching
    assert next_plan(process)["plan"]["devices"] == []
    before = sorted((fleet.root.parent / "state.git").iterdir())
    sound = (fleet.root / "sites/north.yaml").read_text()
    changed = saved_until_seen(
        fleet, process, "sites/north.yaml", sound.replace('"parameters": {}', '"parameters": {"p": "new"}')
    )
    assert [each["device"] for each in changed["devices"]] == ["a", "b", "gw"]
    refused = saved_until_seen(fleet, process, "sites/north.yaml", "x: [")
    assert refused["refusals"][0]["file"] == "sites/north.yaml"
    assert saved_until_seen(fleet, process, "sites/north.yaml", sound)["devices"] == []
    assert sorted((fleet.root.parent / "state.git").iterdir()) == before
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
