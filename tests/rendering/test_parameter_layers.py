"""Where a parameter's value comes from: default, deployment, overlays in order, site, device; the last one wins."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder, documents, parameter, profile, rules, values

from margo_gitops.errors import MargoGitopsError, ParameterInvalid, ParameterMissing, RenderingRefused, TemplateInvalid
from margo_gitops.rendering.explanation import explain

LAYERS = ["application default", "deployment web", "overlay one", "overlay two", "site north", "device a"]


def written(fleet: FleetFolder, given: dict[str, Any], **application: Any) -> FleetFolder:
    """Write a fleet of one device in which exactly these layers give the parameter `setting` a value."""
    inner = {layer: {"setting": value} for layer, value in given.items()}
    fleet.site("north", **inner.get("site north", {}))
    fleet.device("a", site="north", **inner.get("device a", {}))
    fleet.application(
        parameters={"setting": parameter(value=given.get("application default"))},
        **application,
    )
    overlays = [
        {"name": name, "match": match, "parameters": inner.get(f"overlay {name}", {})}
        for name, match in (("one", {"all": True}), ("two", {"sites": ["north"]}))
    ]
    fleet.deployment("web", overlays=overlays, parameters=inner.get("deployment web", {}))
    return fleet


def refusal(fleet: FleetFolder) -> MargoGitopsError:
    with pytest.raises(RenderingRefused) as caught:
        fleet.render()
    (error,) = caught.value.errors
    return error


@pytest.mark.parametrize("strongest", range(len(LAYERS)), ids=LAYERS)
def test_each_layer_wins_over_the_weaker_ones(fleet: FleetFolder, strongest: int):
    written(fleet, {layer: layer for layer in LAYERS[: strongest + 1]})
    assert values(fleet.render()["a"], "web") == {"setting": LAYERS[strongest]}


@given(st.sets(st.sampled_from(LAYERS), min_size=1))
def test_the_last_layer_that_gives_a_value_wins_and_the_others_are_named_as_overridden(setting: set[str]):
    ordered = [layer for layer in LAYERS if layer in setting]
    with TemporaryDirectory() as folder:
        fleet = written(FleetFolder.empty(Path(folder)), {layer: layer for layer in ordered})
        (found,) = explain(fleet.read(), "a", "web").resolved.parameters
    assert found.value == ordered[-1]
    assert found.origin.layer.name == ordered[-1]
    assert [origin.layer.name for origin in found.overridden] == ordered[:-1]


def test_an_overlay_holds_for_the_devices_it_matches_only(fleet: FleetFolder):
    fleet.device("a")
    fleet.device("b")
    fleet.application(parameters={"setting": parameter(value="default")})
    fleet.deployment("web", overlays=[{"name": "o", "match": {"devices": ["b"]}, "parameters": {"setting": "mine"}}])
    states = fleet.render()
    assert values(states["a"], "web") == {"setting": "default"}
    assert values(states["b"], "web") == {"setting": "mine"}


def test_where_each_value_stands_is_known_by_file_line_and_column(fleet: FleetFolder):
    written(fleet, {layer: layer for layer in LAYERS})
    (found,) = explain(fleet.read(), "a", "web").resolved.parameters
    for origin in (found.origin, *found.overridden):
        location = origin.layer.location("setting")
        line = (fleet.root / location.file).read_text().splitlines()[location.line - 1]
        assert line[location.column - 1 :].startswith(f'"{origin.written}"')


def test_an_expression_that_a_stronger_layer_overrides_need_not_make_sense_on_this_device(fleet: FleetFolder):
    written(fleet, {"deployment web": "{{ device.labels.nowhere }}", "device a": "mine"})
    assert values(fleet.render()["a"], "web") == {"setting": "mine"}


def test_a_default_is_the_suppliers_text_and_no_expression(fleet: FleetFolder):
    written(fleet, {"application default": "{{ device.id }}"})
    assert values(fleet.render()["a"], "web") == {"setting": "{{ device.id }}"}


def test_expressions_know_device_site_fleet_application_profile_and_deployment(fleet: FleetFolder):
    text = "{{ device.id }} {{ site.name }} {{ fleet.id }} {{ application.id }} {{ profile.id }} {{ deployment.name }}"
    written(fleet, {"deployment web": text})
    assert values(fleet.render()["a"], "web") == {"setting": "a north plant app compose web"}


def test_an_expression_that_fails_names_file_line_parameter_and_device(fleet: FleetFolder):
    written(fleet, {"deployment web": "line {{ device.labels.line }}"})
    error = refusal(fleet)
    assert isinstance(error, TemplateInvalid)
    assert error.device == "a"
    assert error.where is not None
    assert error.where.file == "deployments/web.yaml"
    assert "parameter setting" in str(error)
    assert "line" in error.why[0]


def test_parameters_of_components_that_the_profile_lacks_are_left_out(fleet: FleetFolder):
    fleet.device("a")
    fleet.application(
        deploymentProfiles=[profile(), profile("chart", "helm")],
        parameters={
            "ours": parameter("compose", "chart", value=1),
            "charts": parameter("chart", value=2),
        },
    )
    fleet.deployment("web")
    document = documents(fleet.render()["a"])["a web"]
    assert list(document.spec.parameters) == ["ours"]
    assert document.spec.parameters["ours"].targets[0].components == ("compose",)


def test_a_parameter_that_must_not_be_empty_needs_a_value_in_some_layer(fleet: FleetFolder):
    written(fleet, {}, configuration=rules({"dataType": "string", "allowEmpty": False}))
    error = refusal(fleet)
    assert isinstance(error, ParameterMissing)
    assert 'parameter setting ("Setting") has no value in any layer' in str(error)


def test_a_parameter_without_value_and_rule_is_left_out(fleet: FleetFolder):
    written(fleet, {})
    assert values(fleet.render()["a"], "web") == {}


def test_a_value_outside_its_schema_names_rule_layer_file_and_line(fleet: FleetFolder):
    written(fleet, {"site north": 99}, configuration=rules({"dataType": "integer", "maxValue": 10}))
    error = refusal(fleet)
    assert isinstance(error, ParameterInvalid)
    assert error.where is not None
    assert error.where.file == "sites/north.yaml"
    assert error.where.line is not None
    assert "must be at most 10, is 99" in str(error)
    assert "layer: site north" in str(error)


def immutable(fleet: FleetFolder, value: Any) -> FleetFolder:
    return written(fleet, {"deployment web": value}, configuration=rules({"dataType": "string"}, immutable=True))


def test_an_immutable_setting_keeps_the_value_it_was_installed_with(fleet: FleetFolder):
    before = immutable(fleet, "first").render()
    assert immutable(fleet, "first").render(before)["a"].changed is False
    immutable(fleet, "second")
    with pytest.raises(RenderingRefused) as caught:
        fleet.render(before)
    (error,) = caught.value.errors
    assert isinstance(error, ParameterInvalid)
    assert "may not change any more: it was installed as 'first'" in str(error)


@pytest.mark.parametrize(
    ("kind", "before", "later", "after"),
    [
        ("integer", 1, "boolean", True),
        ("boolean", False, "integer", 0),
        ("integer", 1, "string", "1"),
        ("integer", 1, "double", 1.0),
        ("array[integer]", [1, 2], "array[double]", [1.0, 2]),
        ("array[boolean]", [True], "array[integer]", [1]),
    ],
)
def test_an_immutable_setting_keeps_its_type_as_well(
    fleet: FleetFolder, kind: str, before: Any, later: str, after: Any
):
    """An upgrade may declare another type; Python takes 1, 1.0 and true for equal, a workload does not."""

    def declared(kind: str, value: Any) -> FleetFolder:
        return written(fleet, {"deployment web": value}, configuration=rules({"dataType": kind}, immutable=True))

    installed = declared(kind, before).render()
    assert declared(kind, before).render(installed)["a"].changed is False
    declared(later, after)
    with pytest.raises(RenderingRefused) as caught:
        fleet.render(installed)
    assert "may not change any more" in str(caught.value.errors)


def test_an_immutable_setting_may_have_any_value_where_it_is_new(fleet: FleetFolder):
    before = immutable(fleet, "first").render()
    fleet.device("b", site="north")
    fleet.change("deployments/web.yaml", '"first"', "\"{{ 'first' if device.id == 'a' else 'second' }}\"")
    rendered = fleet.render(before)
    assert values(rendered["a"], "web") == {"setting": "first"}
    assert values(rendered["b"], "web") == {"setting": "second"}


def test_all_broken_parameters_of_all_devices_are_named_in_one_run(fleet: FleetFolder):
    written(fleet, {"deployment web": 99}, configuration=rules({"dataType": "integer", "maxValue": 10}))
    fleet.device("b")
    with pytest.raises(RenderingRefused) as caught:
        fleet.render()
    assert [error.device for error in caught.value.errors] == ["a", "b"]
