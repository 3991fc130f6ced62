"""A plan is the difference of two states: what changes, where each new value is written, what restarts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.fleet import Document, FleetFolder, States, documents, merged, parameter, profile

from margo_gitops.agent.apply.steps import make_plan as make_steps
from margo_gitops.agent.apply.workloads import DesiredDeployment, desired_deployments
from margo_gitops.agent.memory.recorded import RecordedWorkload
from margo_gitops.appliers.applier import Observed
from margo_gitops.documents.records import write
from margo_gitops.documents.schemas import json_schema
from margo_gitops.rendering.changes import DeploymentChange, DeviceChange, Plan, make_plan
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.rendering.difference import difference, rendered_fleet

ROOT = Path(__file__).parents[2]


@pytest.fixture
def line(fleet: FleetFolder) -> FleetFolder:
    """Two devices in one site; `web` with two components on both."""
    parts = [{"name": name, "properties": profile(name)["components"][0]["properties"]} for name in ("ui", "api")]
    fleet.application(
        deploymentProfiles=[profile() | {"components": parts}],
        parameters={
            "greeting": parameter("ui", value="Hello", pointer="GREETING"),
            "port": parameter("ui", "api", value=80, pointer="PORT"),
        },
    )
    fleet.site("north")
    for name in ("a", "b"):
        fleet.device(name, site="north")
    fleet.deployment("web")
    return fleet


def changes(fleet: FleetFolder, before: States) -> list[DeviceChange]:
    """Return what changes between a rendered state and the fleet as it is now."""
    states = sorted(fleet.render(before).values(), key=lambda state: state.device)
    return list(difference(rendered_fleet(before.values()), states, fleet.read()))


def change_of(fleet: FleetFolder, before: States, device: str = "a") -> DeploymentChange:
    (found,) = [each for each in changes(fleet, before) if each.device == device]
    (deployment,) = found.deployments
    return deployment


def test_nothing_changes_where_nothing_was_changed(line: FleetFolder):
    assert changes(line, line.render()) == []


def test_a_new_fleet_is_all_added_with_every_value_and_its_origin(line: FleetFolder):
    first, second = changes(line, {})
    assert (first.device, first.change, first.version_before, first.version_after) == ("a", "added", None, 1)
    assert second.device == "b"
    (web,) = first.deployments
    assert web.change == "added"
    assert {each.field: each.after for each in web.fields} == {
        "application.id": "app",
        "application.version": "1.0.0",
        "profile.id": "compose",
        "profile.type": "compose",
    }
    assert [(each.name, each.before, each.after) for each in web.parameters] == [
        ("greeting", None, "Hello"),
        ("port", None, 80),
    ]
    assert {(each.component, each.effect) for each in web.workloads} == {("ui", "starts"), ("api", "starts")}


def test_a_changed_value_says_which_layer_file_and_line_it_comes_from(line: FleetFolder):
    before = line.render()
    line.device("a", site="north", greeting="Grüezi {{ device.id }}")
    web = change_of(line, before)
    (greeting,) = web.parameters
    assert (greeting.before, greeting.after) == ("Hello", "Grüezi a")
    origin = greeting.origin
    assert origin
    assert (origin.layer, origin.file, origin.written) == ("device a", "devices/a.yaml", "Grüezi {{ device.id }}")
    shown = (line.root / "devices/a.yaml").read_text().splitlines()[origin.line - 1]
    assert shown[origin.column - 1 :].startswith('"Grüezi')
    assert web.fields == ()


def test_a_value_that_falls_back_names_the_layer_that_holds_again(line: FleetFolder):
    line.device("a", site="north", greeting="mine")
    before = line.render()
    line.device("a", site="north")
    (greeting,) = change_of(line, before).parameters
    assert (greeting.before, greeting.after) == ("mine", "Hello")
    assert greeting.origin
    assert greeting.origin.layer == "application default"


def test_only_the_components_that_a_parameter_goes_to_restart(line: FleetFolder):
    before = line.render()
    line.site("north", greeting="Hi")
    web = change_of(line, before)
    assert [(each.component, each.effect) for each in web.workloads] == [("ui", "restarts")]


def test_one_and_true_and_the_text_1_are_different_values(fleet: FleetFolder):
    fleet.application(parameters={"p": parameter(value="1")})
    fleet.device("a")
    fleet.deployment("web")
    for value in (1, True, 1.0):
        before = fleet.render()
        fleet.device("a", p=value)
        (changed,) = change_of(fleet, before).parameters
        assert changed.after is value or changed.after == value


def test_an_upgrade_shows_version_and_revisions(line: FleetFolder):
    before = line.render()
    parts = [
        {"name": n, "properties": {"repository": f"oci://r.example.com/{n}", "revision": "2.0.0"}} for n in ("ui",)
    ]
    line.application("app", "2.0.0", deploymentProfiles=[profile() | {"components": parts}])
    line.deployment("web", version="2.0.0")
    web = change_of(line, before)
    fields = {each.field: (each.before, each.after) for each in web.fields}
    assert fields["application.version"] == ("1.0.0", "2.0.0")
    assert fields["profile.components.ui.properties.revision"] == ("1.0.0", "2.0.0")
    assert {(each.component, each.effect) for each in web.workloads} == {("ui", "restarts"), ("api", "stops")}
    assert {(each.name, each.after) for each in web.parameters} == {("greeting", None), ("port", None)}


def test_a_deployment_taken_off_a_device_stops_there(line: FleetFolder):
    before = line.render()
    line.deployment("web", on=["b"])
    web = change_of(line, before)
    assert web.change == "removed"
    assert {each.effect for each in web.workloads} == {"stops"}


def test_order_alone_restarts_nothing(line: FleetFolder):
    line.deployment("db")
    before = line.render()
    line.deployment("web", after=["db"])
    web = change_of(line, before)
    assert [each.field for each in web.fields] == ["after"]
    assert web.workloads == ()


def test_a_device_that_leaves_stops_nothing_and_one_that_comes_back_goes_on(line: FleetFolder):
    before = line.render()
    gone = dict(before)
    line.remove("devices/a.yaml")
    (leaving,) = changes(line, before)
    assert (leaving.device, leaving.change, leaving.version_after, leaving.deployments) == ("a", "removed", None, ())
    assert list(leaving.files()) == []
    line.device("a", site="north")
    states = sorted(line.render(gone).values(), key=lambda state: state.device)
    without = replace(rendered_fleet(before.values()), sites={"b": "north"})
    (back,) = difference(without, states, line.read())
    assert (back.change, back.version_before, back.version_after) == ("added", 1, 1)
    assert list(back.files()) == []


def test_a_device_that_moves_to_another_site_is_named_with_both(line: FleetFolder):
    before = line.render()
    line.site("south")
    line.device("a", site="south")
    (moved,) = changes(line, before)
    assert (moved.site_before, moved.site, moved.deployments) == ("north", "south", ())


def test_a_gateway_is_named_for_its_children_and_the_child_with_the_deployment(fleet: FleetFolder):
    fleet.application(parameters={"p": parameter(value="x")})
    fleet.device("gw")
    fleet.device("gw/sensor")
    fleet.deployment("web", on=["gw/sensor"])
    before = fleet.render()
    fleet.deployment("web", on=["gw/sensor"], parameters={"p": "y"})
    (gateway,) = changes(fleet, before)
    assert gateway.device == "gw"
    (web,) = gateway.deployments
    assert web.device == "gw/sensor"
    assert web.parameters[0].origin


def parts(ui: Mapping[str, Any] = {}, api: Mapping[str, Any] = {}, *, order: Sequence[str] = ("ui", "api")) -> Document:
    """Return the profile of `line` with changes to its components, in this order."""
    more = {"ui": ui, "api": api}
    components = [merged(profile(name)["components"][0], more[name]) for name in order]
    return profile() | {"components": components}


def upgrade(fleet: FleetFolder, profile: Document | None = None, **changes: Any) -> None:
    """Move `web` to version 2.0.0, which is version 1.0.0 with these changes."""
    before = json.loads((fleet.root / "applications/app/1.0.0/margo.yaml").read_text())
    kept = {name: before[name] for name in ("parameters", "metadata")}
    kept["metadata"] = kept["metadata"] | {"version": "2.0.0"}
    fleet.application("app", "2.0.0", deploymentProfiles=[profile or parts()], **(kept | changes))
    fleet.deployment("web", version="2.0.0")


EDITS: dict[str, tuple[Callable[[FleetFolder], object], set[str]]] = {
    "a value of a site": (lambda fleet: fleet.site("north", greeting="Hi"), {"a ui restarts", "b ui restarts"}),
    "a value of two components": (
        lambda fleet: fleet.device("a", site="north", port=8080),
        {"a ui restarts", "a api restarts"},
    ),
    "a number becomes text": (
        lambda fleet: fleet.device("a", site="north", port="80"),
        {"a ui restarts", "a api restarts"},
    ),
    "off one device": (lambda fleet: fleet.deployment("web", on=["b"]), {"a ui stops", "a api stops"}),
    "another deployment": (
        lambda fleet: fleet.deployment("db", on=["a"]),
        {"a ui starts", "a api starts"},
    ),
    "only the order of deployments": (lambda fleet: fleet.deployment("other", after=["web"]), set()),
    "the namespace": (lambda fleet: fleet.fleet(namespace="other"), set()),
    "only the version": (lambda fleet: upgrade(fleet), set()),
    "a timeout": (lambda fleet: upgrade(fleet, parts({"properties": {"timeout": "9m0s"}})), set()),
    "no wait": (lambda fleet: upgrade(fleet, parts({"properties": {"wait": False}})), set()),
    "the place of a key": (
        lambda fleet: upgrade(fleet, parts({"properties": {"keyLocation": "https://keys.example/k"}})),
        set(),
    ),
    "the order of components": (lambda fleet: upgrade(fleet, parts(order=("api", "ui"))), set()),
    "an annotation of the profile": (
        lambda fleet: upgrade(fleet, parts() | {"description": "for people", "x-acme-extensions": {"note": "1"}}),
        set(),
    ),
    "an id of the profile": (lambda fleet: upgrade(fleet, parts() | {"id": "renamed"}), set()),
    "an extension member of a component": (
        lambda fleet: upgrade(fleet, parts({"x-acme-extensions": {"gpu": 1}})),
        {"a ui restarts", "b ui restarts"},
    ),
    "a revision": (
        lambda fleet: upgrade(fleet, parts(api={"properties": {"revision": "2.0.0"}})),
        {"a api restarts", "b api restarts"},
    ),
    "a component goes": (
        lambda fleet: upgrade(fleet, parts(order=("ui",)), parameters={}),
        {"a api stops", "b api stops", "a ui restarts", "b ui restarts"},
    ),
    "a parameter is renamed": (
        lambda fleet: upgrade(
            fleet,
            parameters={
                "salutation": parameter("ui", value="Hello", pointer="GREETING"),
                "port": parameter("ui", "api", value=80, pointer="PORT"),
            },
        ),
        set(),
    ),
    "a parameter goes elsewhere": (
        lambda fleet: upgrade(
            fleet,
            parameters={
                "greeting": parameter("ui", value="Hello", pointer="WELCOME"),
                "port": parameter("ui", "api", value=80, pointer="PORT"),
            },
        ),
        {"a ui restarts", "b ui restarts"},
    ),
    "a deployment gets another name, and so another id": (
        lambda fleet: (fleet.remove("deployments/web.yaml"), fleet.deployment("shop", on=["a"])),
        {"a ui stops", "a api stops", "a ui starts", "a api starts", "b ui stops", "b api stops"},
    ),
}


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_what_a_plan_announces_is_exactly_what_the_agent_does(line: FleetFolder, edit: str):
    before = line.render()
    make_edit, expected = EDITS[edit]
    make_edit(line)
    after = line.render(before)
    announced = {
        (device.device, deployment.id, workload.component, workload.effect)
        for device in changes(line, before)
        for deployment in device.deployments
        for workload in deployment.workloads
    }
    assert announced == {step for device in after for step in steps(device, before[device], after[device])}
    named = {f"{device} {component} {effect}" for device, _, component, effect in announced}
    if edit == "only the order of deployments":
        named -= {f"{device} {component} starts" for device in "ab" for component in ("ui", "api")}
    assert named == expected


def steps(device: str, before: DesiredState, after: DesiredState) -> Iterator[tuple[str, str, str, str]]:
    """Yield what the agent of a device that runs `before` does with `after`."""
    ran = [workload for item in wanted(before) for workload in item.workloads]
    recorded = [RecordedWorkload(item.key, "compose", item.digest, item.digest, "installed") for item in ran]
    observed = [Observed(item.key, item.digest, "running") for item in ran]
    plan = make_steps(wanted(after), {"compose": observed}, recorded, {"compose": "compose"})
    for change in plan.changes:
        key = change.workload.key
        yield device, key.deployment_id, key.component, {"new": "starts", "changed": "restarts"}[change.reason]
    for removal in plan.removals:
        yield device, removal.key.deployment_id, removal.key.component, "stops"


def wanted(state: DesiredState) -> tuple[DesiredDeployment, ...]:
    return desired_deployments(list(documents(state).values()))


def test_the_json_follows_the_schema_in_the_repository(line: FleetFolder):
    before = line.render()
    line.site("north", greeting="Hi")
    line.deployment("db")
    line.remove("devices/b.yaml")
    plan = make_plan("working tree", "nothing", changes(line, before), unchanged=0, notes=["one"])
    schema = json.loads((ROOT / "schemas" / "plan.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(json.dumps(write(plan))))
    declared = json_schema(Plan, schema_id=schema["$id"], title=schema["title"])
    assert json.loads(json.dumps(declared)) == schema


def test_counts_by_site_add_up(line: FleetFolder):
    line.site("south")
    before = line.render()
    line.device("c", site="south")
    line.site("north", greeting="Hi")
    plan = make_plan("working tree", "nothing", changes(line, before))
    assert [each.site for each in plan.sites] == ["north", "south"]
    assert plan.counts.devices_changed == 2
    assert plan.counts.devices_added == 1
    assert plan.counts.workloads_restarting == 2
    assert plan.counts.workloads_starting == 2
