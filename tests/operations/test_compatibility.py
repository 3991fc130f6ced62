"""What the catalog says of a device is what a render does with it; and it stays short for a large fleet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder, profile

from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.documents.fleet_kinds import Deployment, Device
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.records import write
from margo_gitops.errors import AmbiguousProfile, NotPlaceable
from margo_gitops.operations.application_catalog import constraint_words
from margo_gitops.operations.catalog_text import compatibility_lines
from margo_gitops.operations.compatibility import Compatibility, compatibility
from margo_gitops.rendering.intent import Application, Intent, Located
from margo_gitops.rendering.render import find_placements

SCHEMAS = Path(__file__).parents[2] / "schemas"

MEMORIES = ("1 Gi", "2 Gi", "4 Gi")
TYPES = ("compose", "helm", "custom")


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    """One device, and an application with two profiles."""
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.site("north")
    fleet.device("press-01", site="north")
    needs = {"capacityRequirements": {"memory": "2Gi"}}
    fleet.application(deploymentProfiles=[profile(deviceConstraints=needs), profile("chart", "helm")])
    fleet.deployment("web")
    return fleet


def the_application(intent: Intent) -> Application:
    (application,) = intent.applications.values()
    return application


def device_like(intent: Intent, name: str, site: str | None, memory: str, types: tuple[str, ...]) -> Located[Device]:
    """Return the fleet's one device under another name, with other capabilities."""
    known = next(iter(intent.devices.values()))
    properties = replace(
        known.value.spec.capabilities.properties, memory=memory, supported_deployment_types=types or None
    )
    capabilities = replace(known.value.spec.capabilities, properties=properties)
    spec = replace(known.value.spec, site=site, capabilities=capabilities)
    return replace(known, value=replace(known.value, metadata=replace(known.value.metadata, name=name), spec=spec))


def with_profiles(application: Application, needs: list[tuple[str, str]]) -> Application:
    """Return an application whose profiles have these types and need so much memory."""
    document = application.description
    raw = read_source(document.content, document.file).root.plain()
    raw["deploymentProfiles"] = [
        profile(f"p{at}", kind, deviceConstraints={"capacityRequirements": {"memory": memory.replace(" ", "")}})
        for at, (kind, memory) in enumerate(needs)
    ]
    content = json.dumps(raw).encode()
    value = read_as(ApplicationDescription, read_source(content, document.file))
    return replace(application, description=Located(value, document.file, content))


DEVICES = st.tuples(st.sampled_from(MEMORIES), st.lists(st.sampled_from(TYPES), unique=True).map(tuple))
PROFILES = st.lists(st.tuples(st.sampled_from(TYPES), st.sampled_from(MEMORIES)), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Intent:
    fleet = FleetFolder.empty(tmp_path_factory.mktemp("base") / "fleet")
    fleet.device("press-01")
    fleet.application()
    fleet.deployment("web")
    return fleet.read()


@given(devices=st.lists(DEVICES, min_size=1, max_size=4), profiles=PROFILES)
def test_a_device_is_compatible_exactly_if_a_deployment_can_be_placed_there(
    base: Intent, devices: list[tuple[str, tuple[str, ...]]], profiles: list[tuple[str, str]]
):
    application = with_profiles(the_application(base), profiles)
    described = {
        f"d{at}": device_like(base, f"d{at}", None, memory, types) for at, (memory, types) in enumerate(devices)
    }
    intent = replace(base, devices=described, applications={("app", "1.0.0"): application})
    deployment = base.deployments["web"]
    for judged in compatibility(intent, application).devices:
        placements, errors = find_placements(replace(intent, deployments={"web": on(deployment, judged.device)}))
        if errors:
            (error,) = errors
            assert isinstance(error, AmbiguousProfile if judged.compatible else NotPlaceable)
            assert len(judged.profiles) != 1
            assert judged.compatible or error.why == judged.reasons
        else:
            assert judged.profiles == (placements[judged.device]["web"].profile.id,)


def on(deployment: Located[Deployment], device: str) -> Located[Deployment]:
    spec = replace(deployment.value.spec, placement=DeviceSelector(devices=(device,)))
    return replace(deployment, value=replace(deployment.value, spec=spec))


def large(fleet: FleetFolder, devices: int) -> Intent:
    """Return a fleet of many devices at two sites; every second one is too small, every tenth supports nothing."""
    intent = fleet.read()
    described = {}
    for number in range(devices):
        name = f"d{number:04}"
        memory = MEMORIES[0] if number % 2 else MEMORIES[2]
        types = () if number % 10 == 0 else ("compose",)
        described[name] = device_like(intent, name, "north" if number < devices // 4 else None, memory, types)
    return replace(intent, devices=described)


def judged(intent: Intent, **filters: frozenset[str]) -> Compatibility:
    return compatibility(intent, the_application(intent), **filters)


def test_five_thousand_devices_are_told_in_a_screen_and_counted_by_site(fleet: FleetFolder):
    found = judged(large(fleet, 5000))
    text = list(compatibility_lines(found))
    assert len(text) < 45
    assert text[0] == "app 1.0.0: 2000 of 5000 devices could take it, 5000 have it"
    assert [" ".join(line.split()) for line in text[2:6]] == [
        "site devices could take it has it compose",
        "north 1250 500 1250 500",
        "(no site) 3750 1500 3750 1500",
        "all sites 5000 2000 5000 2000",
    ]
    at = text.index("cannot take it")
    assert text[at + 1 : at + 4] == [
        "  2500 devices: north/d0001, north/d0003, north/d0005 and 2497 more",
        '    profile "compose": memory: 2Gi needed, the device has 1 Gi',
        '    profile "chart": the type is helm, the device supports compose',
    ]
    assert text[at + 4].startswith("  500 devices: north/d0000, ")
    assert text[-1] == "  and 4980 more devices: see them with --details"
    assert sum(line.startswith("  north/d") for line in compatibility_lines(found, details=True)) == 1250


def test_filters_let_through_what_they_name(fleet: FleetFolder):
    intent = large(fleet, 40)
    assert {each.device for each in judged(intent, sites=frozenset({"north"})).devices} == {
        f"d{number:04}" for number in range(10)
    }
    both = judged(intent, sites=frozenset({"north"}), devices=frozenset({"d0002", "d0020"}))
    assert [each.device for each in both.devices] == ["d0002"]
    assert (both.counts.devices, both.counts.compatible, len(both.sites)) == (1, 1, 1)


def test_what_a_device_has_now_is_told_in_any_version(fleet: FleetFolder):
    fleet.device("press-02")
    fleet.application("app", "2.0.0")
    fleet.application("other")
    fleet.deployment("newer", version="2.0.0", on=["press-01"])
    fleet.deployment("elsewhere", "other")
    intent = fleet.read()
    has = {each.device: each.deployments for each in compatibility(intent, intent.applications["app", "2.0.0"]).devices}
    assert has == {"press-01": ("newer", "web"), "press-02": ("web",)}


def test_a_device_that_fits_several_profiles_could_run_any_of_them(fleet: FleetFolder):
    fleet.application(deploymentProfiles=[profile("small"), profile("large")])
    (device,) = judged(fleet.read()).devices
    assert (device.compatible, device.profiles, device.reasons) == (True, ("small", "large"), ())
    assert any("small or large" in line for line in compatibility_lines(judged(fleet.read())))


def test_the_document_follows_its_schema(fleet: FleetFolder):
    document = json.loads(json.dumps(write(judged(large(fleet, 12)))))
    schema = json.loads((SCHEMAS / "compatibility.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    del document["counts"]
    assert not jsonschema.Draft202012Validator(schema).is_valid(document)


def test_constraints_are_told_in_words(fleet: FleetFolder):
    vendor = {"key": "/vendor", "operator": "In", "values": ["Acme", "Northstar"]}
    gpu = {
        "key": "/peripherals",
        "operator": "ContainsAny",
        "itemSelector": {"matchExpressions": [{"key": "/type", "operator": "In", "values": ["gpu"]}]},
    }
    constraints = {
        "capacityRequirements": {"cpu": {"cores": 0.5, "architectures": ["amd64", "arm64"]}, "storage": "1Gi"},
        "eligibilityRules": [
            {"propertySelector": {"matchExpressions": [vendor, gpu]}},
            {"labelSelector": {"matchExpressions": [{"key": "wet", "operator": "DoesNotExist"}]}},
        ],
    }
    fleet.application(deploymentProfiles=[profile(deviceConstraints=constraints)])
    (described,) = the_application(fleet.read()).description.value.deployment_profiles
    assert constraint_words(described.device_constraints) == (
        "one CPU with 0.5 cores of amd64 or arm64",
        "storage of 1Gi",
        "either property /vendor In Acme, Northstar and property /peripherals ContainsAny (/type In gpu)",
        "or label wet DoesNotExist",
    )
    assert constraint_words(None) == ()
