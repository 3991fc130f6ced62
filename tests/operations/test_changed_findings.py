"""`validate --since` says the same from the changed part of a fleet as from all of it (SINCE-1 to SINCE-3)."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operations.test_changed_part import DEVICES, ON, SITES, edit, fleet_in
from support.fleet import FleetFolder, parameter, profile
from support.properties import times

from margo_gitops.operations.validate import fleet_validation
from margo_gitops.operations.validate.fleet_validation import ValidateRequest, validate_fleet
from margo_gitops.operations.validate.rule_findings import Validation

SILENCED = [{"rule": rule, "files": "**", "reason": "known"} for rule in ("R202", "R206", "R109")]
COMPOSE = {"services": {"ui": {"image": "${P:-app:1}"}, "db": {"image": "db"}}}


def changed_by(fleet: FleetFolder, revision: str | None, since: str) -> Validation:
    folder = fleet.root.parent
    return validate_fleet(ValidateRequest(fleet.root, revision, since, None, folder / "cache"))


def mistake(fleet: FleetFolder, data: st.DataObject) -> None:
    """Change a fleet in a way that often has findings."""
    name, site = data.draw(st.sampled_from(DEVICES)), data.draw(st.sampled_from(SITES))
    value = data.draw(st.sampled_from(["image:1", "image", "{{ device.labels.line }}", "{{ site.name }}"]))
    files = sorted(str(path.relative_to(fleet.root)) for path in fleet.root.glob("[ds]*/**/*.yaml"))
    match data.draw(st.sampled_from(["broken", "name", "parameter", "overlay", "after", "compose", "silence", "gone"])):
        case "broken":
            fleet.put(data.draw(st.sampled_from(files)), data.draw(st.sampled_from(["{", '{"kind": "Device"}'])))
        case "name":
            path = data.draw(st.sampled_from(files))
            fleet.put(
                path, (fleet.root / path).read_text().replace('"name"', data.draw(st.sampled_from(['"nam"', '"x"'])))
            )
            fleet.put(f"devices/{site}.txt", "")
        case "parameter":
            fleet.device(name, site=data.draw(st.sampled_from([None, "west", *SITES])), **{value[0]: value})
        case "overlay":
            overlay = {"name": "o", "match": {"devices": [name]}, "parameters": {"p": value}}
            web = {"application": "app", "overlays": [overlay], "parameters": {"p": value}}
            fleet.deployment(data.draw(st.sampled_from(["db", "web"])), on=data.draw(st.sampled_from(ON)), **web)
        case "after":
            key, other = data.draw(st.sampled_from(["after", "stop"])), data.draw(st.sampled_from(["web", "ui"]))
            fleet.deployment("db", on=data.draw(st.sampled_from(ON)), **{key: [other]})
        case "compose":
            artifact = {"x-margo-gitops-extensions": {"artifact": {"path": "content"}}}
            component = profile()["components"][0] | artifact
            changes = {"deploymentProfiles": [profile() | {"components": [component]}]}
            given = {"p": parameter(value=value, pointer="P")}
            folder = fleet.application("app", "1.0.0", pin=False, parameters=given, **changes)
            fleet.put(f"{folder}/content/compose.yaml", COMPOSE)
            fleet.pin()
        case "silence":
            fleet.fleet(policy={"silenced": SILENCED[: data.draw(st.integers(1, 3))]})
        case "gone":
            (fleet.root / data.draw(st.sampled_from(files))).unlink()


@times(1)
@given(st.data())
def test_the_findings_of_a_change_are_those_of_a_check_of_everything(data: st.DataObject):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        fleet = fleet_in(Path(folder), artifacts={"baseUrl": "file:///srv/"})
        bases = [fleet.git.run("rev-parse", "HEAD")]
        for _ in range(data.draw(st.integers(1, 5))):
            for _ in range(data.draw(st.integers(1, 2))):
                data.draw(st.sampled_from([edit, mistake]))(fleet, data)
            bases.append(fleet.commit())
        change = (fleet, data.draw(st.sampled_from([None, "HEAD"])), data.draw(st.sampled_from(bases)))
        part = changed_by(*change)
        patch.setattr(fleet_validation, "findings_of_change", lambda _change: None)
        assert part == changed_by(*change)


def test_what_a_change_cannot_reach_is_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fleet = fleet_in(tmp_path)
    fleet.deployment("one", on={"matchLabels": {"line": 7}})
    fleet.device("a", site="north", labels={"line": 7})
    fleet.device("b", site="north", labels={"line": 7})
    base = fleet.commit()
    monkeypatch.setattr(fleet_validation, "findings_of_tree", None)
    for change, rules in (
        (lambda: fleet.device("a", site="south", p="new"), []),
        (lambda: fleet.device("a", site="west", q="new"), ["MG1206", "MG1206"]),
        (lambda: fleet.site("north", p="{{ nothing }}"), ["MG1203", "MG1203"]),
        (lambda: fleet.put("devices/a.yaml", "{"), ["MG1002"]),
        (lambda: fleet.device("new", site="south"), []),
        (lambda: fleet.deployment("new", on={"sites": ["north"]}, parameters={"q": 1}), ["MG1206"]),
        (lambda: fleet.remove("devices/gw.yaml"), None),
    ):
        change()
        if rules is None:  # whether another file that cannot be read holds it
            with pytest.raises(TypeError):
                changed_by(fleet, None, base)
        else:
            assert [each.rule for each in changed_by(fleet, None, base).findings] == rules
        fleet.git.run("checkout", "--quiet", ".")
        fleet.git.run("clean", "--quiet", "--force", "-d")


def test_a_deployment_that_loses_its_last_device_is_found_among_all(tmp_path: Path):
    fleet = fleet_in(tmp_path)
    fleet.deployment("one", on={"matchLabels": {"line": 7}})
    fleet.device("a", site="north", labels={"line": 7})
    base = fleet.commit()
    fleet.device("a", site="north")
    assert [each.rule for each in changed_by(fleet, None, base).findings] == ["MG1201"]
