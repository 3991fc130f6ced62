"""A plan says what devices download: content by its digest, once, and what is of unknown size as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.fleet import FleetFolder, parameter, write_signing_key

from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.operations.plan.plan_text import as_text
from margo_gitops.operations.plan.planning import PlanRequest, plan_fleet
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.rendering.changes import Download, Plan

COMPOSE = {"services": {"ui": {"image": "ghcr.io/acme/ui:1"}, "db": {"image": "ghcr.io/acme/db:1"}}}


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path / "fleet", artifacts={"baseUrl": "file:///srv/"})
    for site in ("north", "south"):
        fleet.site(site)
        fleet.device(f"{site}-1", site=site)
    vendored(fleet, "1.0.0", COMPOSE)
    fleet.deployment("web")
    fleet.commit()
    return fleet


def vendored(fleet: FleetFolder, version: str, compose: dict[str, Any], *, more: bytes = b"") -> int:
    """Vendor an application with content of its own; returns the content's size."""
    folder = f"applications/app/{version}"
    size = fleet.put(f"{folder}/content/compose.yaml", compose).stat().st_size
    if more:
        size += fleet.put(f"{folder}/content/more", more).stat().st_size
    application(fleet, version, {"path": "content"})
    return size


def application(fleet: FleetFolder, version: str, artifact: dict[str, Any]) -> None:
    component = {
        "name": "ui",
        "properties": {"repository": "oci://registry.example.com/ui", "revision": "1.0.0"},
        "x-margo-gitops-extensions": {"artifact": artifact},
    }
    profiles = [{"type": "compose", "id": "ui", "components": [component]}]
    fleet.application("app", version, deploymentProfiles=profiles, parameters={"p": parameter("ui", value="x")})


def plan(fleet: FleetFolder, **more: Any) -> Plan:
    return plan_fleet(PlanRequest(fleet.root, None, None, None, fleet.root.parent / "cache", **more))


def render(fleet: FleetFolder, **more: Any) -> None:
    fleet.commit()
    render_fleet(RenderRequest(fleet.root, "HEAD", None, fleet.root.parent / "cache", **more))


def downloads(made: Plan) -> dict[str, Download]:
    return {each.device: each.download for each in made.devices}


def test_a_new_device_downloads_its_content_and_the_images_in_it(fleet: FleetFolder):
    size = (fleet.root / "applications/app/1.0.0/content/compose.yaml").stat().st_size
    made = plan(fleet)
    assert downloads(made) == {name: Download(size, 2) for name in ("north-1", "south-1")}
    assert made.counts.download == Download(2 * size, 4)
    assert f"to download: {2 * size} bytes and 4 images or charts of unknown size" in list(as_text(made))


def test_content_that_a_device_holds_already_is_not_counted(fleet: FleetFolder):
    render(fleet)
    fleet.deployment("web", parameters={"p": "new"})
    assert set(downloads(plan(fleet)).values()) == {Download(0, 0)}
    fleet.deployment("again")
    assert set(downloads(plan(fleet)).values()) == {Download(0, 0)}, "another deployment of the same content"


def test_of_a_new_version_only_what_is_new_is_counted(fleet: FleetFolder):
    render(fleet)
    services = COMPOSE["services"] | {"db": {"image": "ghcr.io/acme/db:2"}}
    size = vendored(fleet, "2.0.0", {"services": services}, more=b"x" * 1_000_000)
    fleet.deployment("web", version="2.0.0", on=["north-1"])
    made = plan(fleet)
    assert downloads(made) == {"north-1": Download(size, 1), "south-1": Download(0, 0)}
    assert any("downloads 1.0 MB and 1 image or chart of unknown size" in line for line in as_text(made))


@pytest.mark.parametrize(("stated", "expected"), [(18_230, Download(18_230, 0)), (None, Download(0, 1))])
def test_content_at_a_url_has_the_size_that_the_package_states(
    fleet: FleetFolder, stated: int | None, expected: Download
):
    render(fleet)
    artifact = {"url": "https://files.example.com/ui.tar.gz", "digest": f"sha256:{'0' * 64}"}
    application(fleet, "2.0.0", artifact | ({} if stated is None else {"sizeBytes": stated}))
    fleet.deployment("web", version="2.0.0", on=["north-1"])
    assert downloads(plan(fleet))["north-1"] == expected


def test_charts_of_a_registry_are_of_unknown_size_until_they_are_held(fleet: FleetFolder):
    render(fleet)
    fleet.application("chart", parameters={"p": parameter(value="x")})
    fleet.deployment("chart", "chart", on=["north-1"])
    assert downloads(plan(fleet)) == {"north-1": Download(0, 1)}
    render(fleet)
    fleet.deployment("chart", "chart", on=["north-1"], parameters={"p": "y"})
    assert downloads(plan(fleet)) == {"north-1": Download(0, 0)}


def test_a_plan_with_a_key_shows_the_versions_that_signing_raises(fleet: FleetFolder):
    keys = [read_signing_key(write_signing_key(fleet.root.parent / f"key{seed}", seed)) for seed in (1, 2)]
    render(fleet)
    assert plan(fleet).empty
    signing = plan(fleet, key=keys[0])
    assert {(each.version_before, each.version_after) for each in signing.devices} == {(1, 2)}
    assert signing.counts.download == Download(0, 0)
    render(fleet, key=keys[0])
    assert plan(fleet, key=keys[0]).empty
    assert plan(fleet, key=keys[1]).empty
    anew = plan(fleet, key=keys[1], resign=True)
    assert {(each.version_before, each.version_after) for each in anew.devices} == {(2, 3)}
    render(fleet, key=keys[1], resign=True)
    assert plan(fleet, key=keys[1], resign=True).empty


def test_devices_that_cannot_take_it_are_told_by_site(fleet: FleetFolder):
    for name, site in (("north-2", "north"), ("lone", None), ("south-1", "south")):
        fleet.device(name, site=site, properties={"supportedDeploymentTypes": ["helm"], "supportedRuntimes": ["oci"]})
    made = plan(fleet)
    assert [(each.site, each.devices) for each in made.cannot_take] == [
        (None, ("lone",)),
        ("north", ("north-2",)),
        ("south", ("south-1",)),
    ]
    text = "\n".join(as_text(made))
    assert "cannot take it\n  (no site): 1 device: lone\n  north: 1 device: north-2\n" in text
