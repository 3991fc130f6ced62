"""A state repo belongs to one fleet; turning signing on, and changing keys, reach every device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.fleet import FleetFolder, write_signing_key

from margo_gitops.errors import StateForeign
from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.operations.render.fleet_render import RenderRequest, check_fleet, render_fleet


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit()
    return fleet


@pytest.fixture
def request_(fleet: FleetFolder, tmp_path: Path) -> RenderRequest:
    return RenderRequest(fleet.root, "HEAD", str(tmp_path / "state.git"), tmp_path / "cache")


def keyed(request: RenderRequest, path: Path, seed: int = 1) -> RenderRequest:
    write_signing_key(path, seed)
    return replace(request, key=read_signing_key(path))


def versions(request: RenderRequest) -> set[int]:
    return {change.version for change in render_fleet(request).publication.changes}


def test_another_fleet_or_name_is_refused_as_all_workloads_would_be_installed_anew(
    fleet: FleetFolder, request_: RenderRequest
):
    render_fleet(request_)
    fleet.change("margo-gitops.yaml", "name: my-fleet", "name: other")
    fleet.commit()
    with pytest.raises(StateForeign, match="my-fleet"):
        render_fleet(request_)
    with pytest.raises(StateForeign):
        check_fleet(request_)


def test_a_repository_that_no_renderer_wrote_is_refused(request_: RenderRequest, git, tmp_path: Path):
    foreign = git("foreign")
    foreign.init()
    foreign.commit({"a": "b"}, "theirs")
    foreign.run("branch", "--move", "fleet")
    foreign.run("clone", "--quiet", "--bare", ".", str(tmp_path / "foreign.git"))
    with pytest.raises(StateForeign, match="not written by a renderer"):
        render_fleet(replace(request_, state=str(tmp_path / "foreign.git")))


def test_turning_signing_on_signs_every_device_with_a_new_version(request_: RenderRequest, tmp_path: Path):
    assert versions(request_) == {1}
    signed = keyed(request_, tmp_path / "one")
    assert versions(signed) == {2}
    assert versions(signed) == set()


def test_another_key_signs_anew_only_where_that_is_asked_for(request_: RenderRequest, tmp_path: Path):
    render_fleet(keyed(request_, tmp_path / "one"))
    second = keyed(request_, tmp_path / "two", 2)
    assert versions(second) == set()
    assert versions(replace(second, resign=True)) == {2}
    assert versions(replace(second, resign=True)) == set()


def test_check_names_unsigned_devices_where_signing_is_required(
    fleet: FleetFolder, request_: RenderRequest, tmp_path: Path
):
    render_fleet(request_)
    fleet.change("margo-gitops.yaml", "spec:", "spec:\n  signing:\n    required: true")
    fleet.commit()
    assert "press-01 is not signed" in check_fleet(request_).differences
    signed = keyed(request_, tmp_path / "one")
    render_fleet(signed)
    assert not check_fleet(signed).differences


@pytest.mark.parametrize("time", ["-100", "99999999999999"])
def test_odd_author_times_are_no_obstacle(fleet: FleetFolder, request_: RenderRequest, time: str):
    raw = fleet.git.run_bytes("cat-file", "commit", "HEAD").split(b"\n")
    raw = [b"author a <a@b> %b +0000" % time.encode() if line.startswith(b"author") else line for line in raw]
    commit = fleet.git.run("hash-object", "-t", "commit", "-w", "--stdin", "--literally", content=b"\n".join(raw))
    assert render_fleet(replace(request_, revision=commit)).publication.changes
