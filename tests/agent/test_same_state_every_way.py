"""One fleet, pulled by git, from `margo-gitops serve` and from static files: the same bytes held, the same applied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from device_world import RENDERER, World
from server.serving import ServedFleet, served_fleet, until
from support.device_states import DEVICE, RENDERS, files, held
from support.published import Plant
from support.static_server import TOKENS, nginx

from margo_gitops.documents.nodes import Json
from margo_gitops.rendering.resolution import deployment_id

pytestmark = pytest.mark.real


def device(folder: Path, source: Json) -> World:
    world = World(folder, device=DEVICE)
    (folder / "token").write_text(TOKENS[DEVICE])
    world.configure(source=source)
    return world


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[ServedFleet]:
    with served_fleet(tmp_path) as made:
        made.render({DEVICE: RENDERS[0]}, key=RENDERER)
        made.tokens[DEVICE] = TOKENS[DEVICE]
        made.write_tokens()
        yield made.start()


def states(fleet: ServedFleet) -> dict[str, str]:
    """Return what the server has committed of each deployment's state, by its name."""
    names = {deployment_id("plant", DEVICE, name): name for name in ("hmi", "mes", "opc")}
    statuses = [report for report in fleet.reports().values() if "deploymentId" in report]
    return {names[report["deploymentId"]]: report["status"]["state"] for report in statuses}


def follow(fleet: ServedFleet, worlds: list[World], plant: Plant | None = None) -> None:
    """Render one state after the other, and compare the devices after each."""
    for number, rendered in enumerate(RENDERS):
        fleet.render({DEVICE: rendered}, key=RENDERER)
        if plant is not None:
            plant.publish()
        for world in worlds:
            result = world.agent("once")
            assert result.returncode == 0, result.stderr
        first, *others = worlds
        assert len(held(first.state)) == 1 + len(rendered)
        assert number == 2 or b"hello" in b"".join(files(first.output).values())
        for other in others:
            assert held(other.state) == held(first.state)
            assert files(other.output) == files(first.output)


def test_by_git_and_from_the_server(fleet: ServedFleet, tmp_path: Path) -> None:
    by_git = device(tmp_path / "git", {"git": {"url": f"file://{tmp_path}/state.git"}})
    over_http = device(tmp_path / "http", {"http": {"url": fleet.url, "tokenFile": "token"}})
    follow(fleet, [by_git, over_http])
    until(lambda: states(fleet) == dict.fromkeys(("hmi", "mes", "opc"), "removed"))


def test_by_git_from_the_server_and_from_static_files(fleet: ServedFleet, tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.publish()
    (tmp_path / "nginx").mkdir()
    with nginx(tmp_path / "nginx", plant.folder) as server:
        static: Json = {
            "url": server.https,
            "tokenFile": "token",
            "caFile": str(server.folder / "authority.pem"),
            "reportStatus": False,
        }
        worlds = [
            device(tmp_path / "git", {"git": {"url": f"file://{tmp_path}/state.git"}}),
            device(tmp_path / "http", {"http": {"url": fleet.url, "tokenFile": "token"}}),
            device(tmp_path / "static", {"http": static}),
        ]
        follow(fleet, worlds, plant)
