"""Which devices get a deployment, and in which profile."""

import pytest
from support.fleet import FleetFolder, documents, profile

from margo_gitops.errors import AmbiguousProfile, NotPlaceable, RenderingRefused


def refusals(fleet: FleetFolder) -> list[Exception]:
    with pytest.raises(RenderingRefused) as caught:
        fleet.render()
    return list(caught.value.errors)


def placed(fleet: FleetFolder, **constraints: object) -> bool:
    """Whether the device of the fleet can run a profile with these constraints."""
    fleet.application(deploymentProfiles=[profile(deviceConstraints=constraints)])
    fleet.deployment("web")
    try:
        fleet.render()
    except RenderingRefused as refused:
        return not all(isinstance(error, NotPlaceable) for error in refused.errors)
    return True


SELECTORS = [
    ({"all": True}, "abc"),
    ({"devices": ["a", "c"]}, "ac"),
    ({"sites": ["north"]}, "ab"),
    ({"matchLabels": {"line": 1}}, "ac"),
    ({"matchLabels": {"line": "1"}}, ""),
    ({"matchLabels": {"country": "CH"}}, "a"),
    ({"matchExpressions": [{"key": "spare", "operator": "DoesNotExist"}]}, "ac"),
    ({"matchExpressions": [{"key": "line", "operator": "Gt", "values": [1]}]}, "b"),
    ({"sites": ["north"], "matchLabels": {"line": 1}}, "a"),
    ({"sites": ["north"], "matchLabels": {"line": 1}, "devices": ["c"]}, "ac"),
]


@pytest.mark.parametrize(("selector", "expected"), SELECTORS, ids=str)
def test_a_selector_selects_named_devices_and_those_that_meet_all_other_conditions(
    fleet: FleetFolder, selector: dict[str, object], expected: str
):
    fleet.site("north", labels={"country": "CH"})
    fleet.device("a", site="north", labels={"line": 1})
    fleet.device("b", site="north", labels={"line": 2, "country": "DE", "spare": True})
    fleet.device("c", labels={"line": 1.0})
    fleet.application()
    fleet.deployment("web", on=selector)
    if not expected:
        (error,) = refusals(fleet)
        assert isinstance(error, NotPlaceable)
        assert "selects no device" in str(error)
        return
    assert {name for name, state in fleet.render().items() if state.deployments} == set(expected)


@pytest.mark.parametrize(
    ("selector", "hint"),
    [
        ({"matchLabels": {"lnie": 1}}, "no device has the label lnie; did you mean line?"),
        ({"matchLabels": {"line": "1"}}, 'no device has the label line with the value "1"; did you mean 1?'),
        ({"matchLabels": {"plant": "bassel"}}, 'the value "bassel"; did you mean "basel"?'),
        ({"matchExpressions": [{"key": "lines", "operator": "Exists"}]}, "the label lines; did you mean line?"),
        ({"matchExpressions": [{"key": "line", "operator": "In", "values": [3]}]}, "the value 3; known: 1"),
    ],
)
def test_a_selector_that_selects_nothing_names_the_nearest_label(
    fleet: FleetFolder, selector: dict[str, object], hint: str
):
    fleet.device("a", labels={"line": 1, "plant": "basel"})
    fleet.application()
    fleet.deployment("web", on=selector)
    (error,) = refusals(fleet)
    assert hint in str(error)


def test_a_refusal_of_many_devices_is_told_once_and_names_one(fleet: FleetFolder):
    for number in (1, 2, 3):
        fleet.device(f"press-0{number}")
    fleet.application(deploymentProfiles=[profile(deviceConstraints={"capacityRequirements": {"cpu": {"cores": 9}}})])
    fleet.deployment("web")
    with pytest.raises(RenderingRefused) as caught:
        fleet.render()
    lines = [line for line in str(caught.value).splitlines() if "MG1201" in line]
    assert len(lines) == 1
    assert "device press-01 cannot run the application (and 2 more devices) [MG1201]" in lines[0]


CAPACITIES = [
    ({"cpu": {"cores": 4}}, True),
    ({"cpu": {"cores": 4.5}}, False),
    ({"cpu": {"cores": 3, "architectures": ["arm64"]}}, False),
    ({"cpu": {"cores": 2, "architectures": ["riscv64", "arm64"]}}, True),
    ({"memory": "8Gi"}, True),
    ({"memory": "8388609Ki"}, False),
    ({"storage": "64Gi"}, True),
    ({"storage": "1Ti"}, False),
]


@pytest.mark.parametrize(("needed", "fits"), CAPACITIES, ids=str)
def test_one_cpu_alone_must_have_the_cores_and_memory_and_storage_must_suffice(
    fleet: FleetFolder, needed: dict[str, object], fits: bool
):
    cpus = [{"cores": 4, "architecture": "amd64"}, {"cores": 2, "architecture": "arm64"}]
    fleet.device("a", properties={"cpus": cpus})
    assert placed(fleet, capacityRequirements=needed) is fits


def test_two_cpus_are_never_added_together(fleet: FleetFolder):
    fleet.device("a", properties={"cpus": [{"cores": 2}, {"cores": 2}]})
    assert not placed(fleet, capacityRequirements={"cpu": {"cores": 3}})


RULES = [
    ([{"propertySelector": [("/vendor", "In", ["Northstar"])]}], True),
    ([{"propertySelector": [("/vendor", "In", ["northstar"])]}], False),
    ([{"propertySelector": [("/cpus/0/cores", "Gt", [3])]}], True),
    ([{"propertySelector": [("/cpus/0/cores", "Gt", [4])]}], False),
    ([{"labelSelector": [("zone", "NotIn", ["safe"])]}], True),
    ([{"labelSelector": [("missing", "NotIn", ["safe"])]}], False),
    ([{"propertySelector": [("/vendor", "Exists", None)], "labelSelector": [("zone", "In", ["safe"])]}], False),
    ([{"labelSelector": [("zone", "In", ["safe"])]}, {"propertySelector": [("/vendor", "Exists", None)]}], True),
]


@pytest.mark.parametrize(("rules", "fits"), RULES, ids=str)
def test_rules_are_alternatives_and_everything_in_one_rule_must_hold(
    fleet: FleetFolder, rules: list[dict[str, list[tuple[str, str, list[object] | None]]]], fits: bool
):
    fleet.device("a", capability_labels={"zone": "hot"})
    written = [
        {
            name: {
                "matchExpressions": [
                    {"key": key, "operator": operator} | ({} if values is None else {"values": values})
                    for key, operator, values in expressions
                ]
            }
            for name, expressions in rule.items()
        }
        for rule in rules
    ]
    assert placed(fleet, eligibilityRules=written) is fits


@pytest.mark.parametrize(("operator", "fits"), [("ContainsAll", False), ("ContainsAny", True)])
def test_contains_looks_for_one_item_that_meets_all_or_any(fleet: FleetFolder, operator: str, fits: bool):
    fleet.device("a", properties={"peripherals": [{"type": "gpu", "model": "A"}, {"type": "camera", "model": "B"}]})
    wanted = [
        {"key": "/type", "operator": "In", "values": ["gpu"]},
        {"key": "/model", "operator": "In", "values": ["B"]},
    ]
    selector = {"key": "/peripherals", "operator": operator, "itemSelector": {"matchExpressions": wanted}}
    assert placed(fleet, eligibilityRules=[{"propertySelector": {"matchExpressions": [selector]}}]) is fits


def test_a_device_that_cannot_run_it_is_an_error_with_profile_constraint_and_what_the_device_has(fleet: FleetFolder):
    needed = {"cpu": {"cores": 8, "architectures": ["arm64"]}, "memory": "16Gi"}
    fleet.device("a")
    fleet.application(
        deploymentProfiles=[
            profile(deviceConstraints={"capacityRequirements": needed}),
            profile("chart", "helm"),
        ]
    )
    fleet.deployment("web", on=["a"])
    (error,) = refusals(fleet)
    text = str(error)
    assert text.startswith("deployments/web.yaml:")
    assert "[MG1201]" in text
    assert 'profile "compose": cpu: one CPU with 8 cores of arm64 needed, the device has 4 x amd64' in text
    assert 'profile "compose": memory: 16Gi needed, the device has 8 Gi' in text
    assert 'profile "chart": the type is helm, the device supports compose' in text
    assert "remedy:" in text


def test_rules_are_not_looked_at_where_the_capacity_is_missing(fleet: FleetFolder):
    rule = {"propertySelector": {"matchExpressions": [{"key": "/vendor", "operator": "In", "values": ["Other"]}]}}
    constraints = {"capacityRequirements": {"memory": "16Gi"}, "eligibilityRules": [rule]}
    fleet.device("a")
    fleet.application(deploymentProfiles=[profile(deviceConstraints=constraints)])
    fleet.deployment("web")
    (error,) = refusals(fleet)
    assert "memory: 16Gi" in str(error)
    assert "/vendor" not in str(error)


def test_a_gateway_that_hosts_nothing_cannot_be_chosen(fleet: FleetFolder):
    fleet.device("a")
    fleet.change(
        "devices/a.yaml", '"supportedDeploymentTypes": [\n          "compose"\n        ]', '"otelCollector": true'
    )
    assert not placed(fleet)


def both(fleet: FleetFolder, **spec: object) -> None:
    fleet.device("a", properties={"supportedDeploymentTypes": ["compose", "helm"]})
    fleet.application(deploymentProfiles=[profile(), profile("chart", "helm")])
    fleet.deployment("web", **spec)


@pytest.mark.parametrize(("preferred", "expected"), [(["chart", "compose"], "helm"), (["compose"], "compose")])
def test_the_first_preferred_profile_that_fits_is_taken(fleet: FleetFolder, preferred: list[str], expected: str):
    both(fleet, profiles=preferred)
    assert documents(fleet.render()["a"])["a web"].spec.deployment_profile.type == expected


def test_a_less_preferred_profile_is_taken_where_the_best_does_not_fit(fleet: FleetFolder):
    both(fleet, profiles=["chart", "compose"])
    fleet.device("b")
    rendered = fleet.render()
    assert documents(rendered["b"])["b web"].spec.deployment_profile.type == "compose"
    assert documents(rendered["a"])["a web"].spec.deployment_profile.type == "helm"


def test_several_profiles_that_fit_and_none_preferred_are_ambiguous(fleet: FleetFolder):
    both(fleet)
    (error,) = refusals(fleet)
    assert isinstance(error, AmbiguousProfile)
    assert "compose and chart" in str(error)
    assert "spec.profiles" in error.remedy


def test_every_device_that_cannot_be_served_is_named_in_one_run(fleet: FleetFolder):
    for name in ("a", "b", "c"):
        fleet.device(name)
    fleet.application(deploymentProfiles=[profile("chart", "helm")])
    fleet.deployment("web")
    assert {error.device for error in refusals(fleet)} == {"a", "b", "c"}
