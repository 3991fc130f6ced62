"""`validate` and `plan` say beforehand what devices will refuse, by the policy in the Device documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.fleet import FleetFolder, parameter, profile
from support.host_attacks import FILE, HARMLESS, READS, SERVICE

from margo_gitops.operations.plan.planning import PlanRequest, plan_fleet
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.operations.validate.fleet_validation import ValidateRequest, validate_fleet
from margo_gitops.operations.validate.rule_findings import RuleFinding

PRIVILEGED = "services:\n  web:\n    image: a\n    privileged: ${PRIVILEGED:-true}\n    ports: ['80:80']\n"


def fleet_of(tmp_path: Path, compose: str, files: dict[str, bytes] | None = None, **devices: Any) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path / "fleet")
    content = profile()["components"][0] | {"x-margo-gitops-extensions": {"artifact": {"path": "content"}}}
    parts = {"privileged": parameter(content["name"], pointer="PRIVILEGED", value="true")}
    profiles = [profile() | {"components": [content]}]
    folder = fleet.application(deploymentProfiles=profiles, parameters=parts, pin=False)
    for name, data in {"compose.yaml": compose.encode(), **(files or {})}.items():
        fleet.put(f"{folder}/content/{name}", data)
    fleet.pin()
    fleet.fleet(artifacts={"baseUrl": "file:///srv/applications/"})
    for name, policy in devices.items():
        fleet.device(name, workloads=policy)
    fleet.deployment("web")
    fleet.commit()
    return fleet


def refused(fleet: FleetFolder) -> list[RuleFinding]:
    request = ValidateRequest(fleet.root, revision=None, since=None, state=None, cache=fleet.root.parent / "cache")
    return [each for each in validate_fleet(request).findings if each.rule == "MG1610"]


def test_what_a_device_says_is_an_error_and_what_the_default_says_a_warning_at_the_line_of_the_file(tmp_path):
    fleet = fleet_of(
        tmp_path, PRIVILEGED, press1={}, press2=None, press3={"privileged": True}, press4={"hostPorts": ["81-65535"]}
    )
    found = [(each.severity, each.place.rpartition("/")[2], each.devices) for each in refused(fleet)]
    assert sorted(found) == [
        ("error", "compose.yaml:4:17", 2),
        ("error", "compose.yaml:5:13", 1),
        ("warning", "compose.yaml:4:17", 1),
    ]
    error = next(each for each in refused(fleet) if each.devices == 2)
    assert error.message == "component compose: service web: privileged: true"
    assert "`workloads.privileged: true`" in error.remedy


def test_the_values_of_a_devices_parameters_are_judged(tmp_path):
    fleet = fleet_of(tmp_path, PRIVILEGED, press1={}, press2={})
    fleet.device("press1", workloads={}, privileged="false")
    assert {(each.device, each.devices) for each in refused(fleet)} == {("press2", 1)}


@pytest.mark.parametrize("text", list(SERVICE)[::6] + list(FILE)[::4] + list(READS)[::4])
def test_what_the_device_refuses_is_seen_before_the_merge(tmp_path, text):
    compose = f"services: {{web: {{image: a, {text}}}}}" if text in SERVICE else text
    compose = f"services: {{web: {{image: a}}}}\n{text}" if text in FILE else compose
    assert any(each.severity == "error" for each in refused(fleet_of(tmp_path, compose, press1={})))


def test_what_applications_need_is_no_finding(tmp_path):
    files = {"conf/a": b"x", "app.ini": b"x", "x.env": b"A=b"}
    assert (
        refused(fleet_of(tmp_path, HARMLESS.replace("init: true", "env_file: x.env"), files, press1={}, press2=None))
        == []
    )


def test_a_render_leaves_the_refusal_to_the_device_and_the_plan_tells_it(tmp_path):
    fleet = fleet_of(tmp_path, PRIVILEGED, press1={}, press2={"privileged": True})
    request = PlanRequest(fleet.root, revision=None, base=None, state=str(tmp_path / "s.git"), cache=tmp_path / "cache")
    notes = [note for note in plan_fleet(request).notes if "MG1610" in note]
    assert len(notes) == 1
    assert notes[0].startswith("device press1 will refuse component compose: service web: privileged: true")
    render_fleet(RenderRequest(fleet.root, "HEAD", state=str(tmp_path / "s.git"), cache=tmp_path / "cache"))
    assert [note for note in plan_fleet(request).notes if "MG1610" in note] == []  # nothing changes there
