"""Sites and devices that come, go, move and get another name (PLACE-1 to PLACE-3)."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fleet import FleetFolder

from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.editing.edit import Edit, read_base, unified_diff
from margo_gitops.editing.landing import check_edit, write_edit
from margo_gitops.editing.places import add_site, move_device, remove_device, rename_site
from margo_gitops.errors import EditImpossible, ReferenceUnknown
from margo_gitops.scaffolding.scaffold import scaffold
from margo_gitops.scaffolding.template import Answers

POLICY = """\
  policy:
    reviews: {sites: {south: {count: 0}, north: {count: 0}}}  # who
    freezes:
      # The presses.
      - reason: Audit
        begins: "2026-01-01T00:00Z"
        ends: "2026-01-02T00:00Z"
        match: {devices: [sensor-01]}
      - reason: Audit of all
        begins: "2026-01-01T00:00Z"
        ends: "2026-01-02T00:00Z"
        match: {devices: [sensor-01], sites: [north]}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    scaffold(tmp_path / "plant", Answers("plant"))
    fleet = FleetFolder(tmp_path / "plant")
    fleet.put("margo-gitops.yaml", (fleet.root / "margo-gitops.yaml").read_text() + POLICY)
    fleet.put("devices/north/press-01.yaml", (fleet.root / "devices/press-01.yaml").read_text())
    fleet.remove("devices/press-01.yaml")
    fleet.change("deployments/greeting.yaml", "parameters:", "parameters:  # sites: [north]")
    return fleet


def land(fleet: FleetFolder, edit: Edit) -> list[str]:
    """Write an edit; returns the lines that it removed and added, and the notes."""
    base = read_base(fleet.root)
    notes = [*edit.notes, *check_edit(base, edit)]
    lines = [line for line in unified_diff(edit).splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    write_edit(base, edit)
    fleet.render()
    return lines + notes


def test_a_renamed_site_is_followed_wherever_it_is_selected(fleet: FleetFolder) -> None:
    said = land(fleet, rename_site(read_base(fleet.root), "north", "basel"))
    assert not (fleet.root / "devices/north").exists()
    assert (fleet.root / "devices/basel/press-01.yaml").exists()
    assert "# yaml-language-server: $schema=../.margo-gitops/schemas/site.schema.json" in (
        (fleet.root / "sites/basel.yaml").read_text()
    )
    assert "+    sites: [basel]" in said
    assert "+    reviews: {sites: {south: {count: 0}, basel: {count: 0}}}  # who" in said
    assert "+        match: {devices: [sensor-01], sites: [basel]}" in said
    assert said[-1] == "CODEOWNERS names north, too: look at it"
    assert {each.value.spec.site for each in fleet.read().devices.values()} == {"basel", "south"}
    assert "# sites: [north]" in (fleet.root / "deployments/greeting.yaml").read_text()


def test_a_removed_device_leaves_placements_overlays_and_freezes(fleet: FleetFolder) -> None:
    said = land(fleet, remove_device(read_base(fleet.root), "sensor-01"))
    assert not (fleet.root / "devices/sensor-01.yaml").exists()
    assert "-    - name: slow-devices" in said, "an overlay for no device goes"
    assert "  overlays:" not in (fleet.root / "deployments/line-monitor.yaml").read_text()
    policy = fleet.read().fleet.value.spec.policy
    assert policy is not None
    assert [(each.reason, each.match) for each in policy.freezes] == [
        ("Audit of all", DeviceSelector(sites=("north",)))
    ]
    assert any("nothing on sensor-01 stops" in each for each in said)
    fleet.change("deployments/greeting.yaml", "[press-01, mixer-01, cell-01]", "[cell-01]")
    with pytest.raises(EditImpossible, match="greeting goes to no device but cell-01"):
        remove_device(read_base(fleet.root), "cell-01")
    with pytest.raises(ReferenceUnknown):
        remove_device(read_base(fleet.root), "sensor-01")


def test_a_moved_device_goes_with_its_file(fleet: FleetFolder) -> None:
    assert "+  site: south" in land(fleet, move_device(read_base(fleet.root), "press-01", "south"))
    assert fleet.read().devices["press-01"].file == "devices/south/press-01.yaml"
    assert land(fleet, move_device(read_base(fleet.root), "press-01", "south")) == []
    moved = land(fleet, move_device(read_base(fleet.root), "mixer-01", "north"))
    assert moved == ["-  site: south", "+  site: north"]
    with pytest.raises(ReferenceUnknown):
        move_device(read_base(fleet.root), "press-01", "nowhere")


def test_a_new_site_is_written_as_the_others_are(fleet: FleetFolder) -> None:
    land(fleet, add_site(read_base(fleet.root), "east", {"country": "PL"}, {"greeting": "Cześć"}))
    assert (fleet.root / "sites/east.yaml").read_text() == (
        "# yaml-language-server: $schema=../.margo-gitops/schemas/site.schema.json\n"
        "apiVersion: margo-gitops/v1\nkind: Site\nmetadata:\n  name: east\n  labels:\n    country: PL\n"
        'spec:\n  parameters:\n    greeting: "Cześć"\n'
    )
    for name in ("east", "../east", "East"):
        with pytest.raises(EditImpossible):
            add_site(read_base(fleet.root), name, {}, {})
