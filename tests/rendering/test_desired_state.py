"""What a render gives each device: exact bytes, stable ids, and a version that only goes up."""

import io
import json
import tarfile
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder, Held, documents, parameter, profile, values

from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import OWN_EXTENSION, component_format
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION, write_bundle, write_manifest
from margo_gitops.documents.workload_identity import own_extension, workload_contents
from margo_gitops.errors import RenderingRefused, StateTampered
from margo_gitops.rendering.changes import NOTHING_KNOWN, download, needed
from margo_gitops.rendering.desired_state import desired_state
from margo_gitops.rendering.line_origins import DocumentOrigins
from margo_gitops.rendering.render import place
from margo_gitops.rendering.resolution import deployment_id, resolve


@pytest.fixture
def small(fleet: FleetFolder) -> FleetFolder:
    fleet.device("a", setting=1)
    fleet.device("b", setting=2)
    fleet.application(parameters={"setting": parameter(value=0)})
    fleet.deployment("web")
    return fleet


def test_rendering_twice_gives_the_same_bytes(small: FleetFolder):
    assert small.render() == small.render()


def test_the_order_in_which_files_were_written_does_not_matter(small: FleetFolder, tmp_path: Path):
    other = FleetFolder(tmp_path / "other")
    for path in sorted((path for path in small.root.rglob("*") if path.is_file()), reverse=True):
        other.put(str(path.relative_to(small.root)), path.read_bytes())
    assert other.render() == small.render()


def test_ids_are_uuid_v5_of_fleet_device_and_deployment(small: FleetFolder):
    (name,) = small.render()["a"].deployments
    assert uuid.UUID(name).version == 5
    assert name == deployment_id("plant", "a", "web")


def test_the_ids_of_a_fleet_never_change():
    assert deployment_id("plant", "press-01", "web") == str(
        uuid.uuid5(uuid.UUID("8a2d2b0e-3f0a-5c39-9f2c-6f0d4be0a6a1"), "plant\npress-01\nweb")
    )


NAMES = st.from_regex(r"[a-z0-9-]{1,4}", fullmatch=True)


@given(st.sets(st.tuples(NAMES, NAMES, NAMES), min_size=2, max_size=20))
def test_different_deployments_have_different_ids(triples: set[tuple[str, str, str]]):
    assert len({deployment_id(*triple) for triple in triples}) == len(triples)


def test_a_new_device_starts_with_version_1_and_an_unchanged_one_keeps_its_version(small: FleetFolder):
    first = small.render()
    assert {state.version for state in first.values()} == {1}
    second = small.render(first)
    assert [(state.version, state.changed) for state in second.values()] == [(1, False), (1, False)]
    assert second["a"].manifest == first["a"].manifest


def test_only_the_device_that_changed_gets_a_new_version(small: FleetFolder):
    first = small.render()
    small.device("a", setting=5)
    second = small.render(first)
    assert (second["a"].version, second["a"].changed) == (2, True)
    assert (second["b"].version, second["b"].changed) == (1, False)


def test_taking_a_change_back_raises_the_version_again_and_never_lowers_it(small: FleetFolder):
    first = small.render()
    small.device("a", setting=5)
    second = small.render(first)
    small.device("a", setting=1)
    third = small.render(second)
    assert third["a"].version == 3
    assert third["a"].deployments == first["a"].deployments


@given(st.lists(st.sets(st.sampled_from("abc")), min_size=1, max_size=8))
def test_versions_never_repeat_and_rise_exactly_with_each_change(history: list[set[str]]):
    state = None
    for wanted in history:
        before = state
        content = {deployment_id("f", "d", name): name.encode() for name in wanted}
        state = desired_state("d", None, content, Held(before) if before else None)
        if before is None:
            assert (state.version, state.changed) == (1, True)
        else:
            assert state.changed == (before.deployments != content)
            assert state.version == before.version + state.changed


def test_a_device_without_deployments_gets_a_manifest_without_bundle(fleet: FleetFolder):
    fleet.device("a")
    state = fleet.render()["a"]
    assert json.loads(state.manifest) == {"manifestVersion": 1, "bundle": None, "deployments": []}
    assert state.deployments == {}
    assert state.changed


def test_the_manifest_states_digest_size_and_url_of_every_deployment_and_of_the_bundle(small: FleetFolder):
    small.deployment("other")
    state = small.render()["a"]
    read = json.loads(state.manifest)
    assert set(read) == {"manifestVersion", "bundle", "deployments"}
    assert [each["deploymentId"] for each in read["deployments"]] == sorted(state.deployments)
    for each in read["deployments"]:
        content = state.deployments[each["deploymentId"]]
        assert (each["digest"], each["sizeBytes"]) == (sha256(content), len(content))
        assert each["url"] == f"/api/v1/deployments/{each['deploymentId']}/{each['digest']}"
    bundle = write_bundle(state.deployments)
    assert (read["bundle"]["digest"], read["bundle"]["sizeBytes"]) == (sha256(bundle), len(bundle))
    assert read["bundle"]["mediaType"] == "application/vnd.margo.bundle.v1+tar+gzip"
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        assert sorted(archive.getnames()) == sorted(f"{name}.yaml" for name in state.deployments)


def test_the_manifest_is_canonical_json(small: FleetFolder):
    content = small.render()["a"].manifest
    assert content == json.dumps(json.loads(content), sort_keys=True, separators=(",", ":")).encode()


def test_children_of_a_gateway_are_rendered_into_the_gateways_state(fleet: FleetFolder):
    for name in ("gw", "gw/a", "gw/b"):
        fleet.device(name)
    fleet.application(parameters={"setting": parameter()})
    fleet.deployment("web", on=["gw/a", "gw/b"], parameters={"setting": "{{ device.id }}"})
    states = fleet.render()
    assert list(states) == ["gw"]
    found = documents(states["gw"])
    assert {name: each.spec.parameters["setting"].value for name, each in found.items()} == {
        "gw/a web": "gw/a",
        "gw/b web": "gw/b",
    }


def test_a_deployment_waits_only_for_those_on_the_same_device(fleet: FleetFolder):
    fleet.device("a")
    fleet.device("b")
    fleet.application()
    fleet.deployment("base", on=["a"])
    fleet.deployment("web", after=["base"])
    states = fleet.render()

    def after(device: str) -> object:
        return documents(states[device])[f"{device} web"].spec.extensions

    assert deployment_id("plant", "a", "base") in str(after("a"))
    assert deployment_id("plant", "a", "base") not in str(after("b"))
    assert "'after': ['" not in str(after("b"))


def test_a_removed_deployment_vanishes_from_the_state(small: FleetFolder):
    first = small.render()
    small.remove("deployments/web.yaml")
    second = small.render(first)
    assert (second["a"].version, second["a"].deployments) == (2, {})


NO_MANIFESTS = [
    b"",
    b"{}",
    b'{"manifestVersion":0}',
    b'{"manifestVersion":-1}',
    b'{"manifestVersion":1.5}',
    b'{"manifestVersion":01}',
    b'{"manifestVersion":18446744073709551616}',
    b'{"manifestVersion":' + b"9" * 5000 + b"}",
    b'{"manifestVersion":1}\n',
]


@pytest.mark.parametrize("content", NO_MANIFESTS, ids=lambda content: content[:40].decode())
def test_what_was_before_must_be_a_manifest_of_a_renderer(content: bytes):
    class Broken:
        manifest = content

        def deployment(self, _deployment_id: str) -> None:
            return None

    with pytest.raises(StateTampered, match="not written by a renderer"):
        desired_state("a", None, {}, Broken())


def test_a_version_that_cannot_be_raised_is_an_error_and_no_overflow():
    class Last:
        manifest = write_manifest(MAX_MANIFEST_VERSION, {deployment_id("f", "a", "web"): b""})

        def deployment(self, _deployment_id: str) -> None:
            return None

    with pytest.raises(StateTampered, match="cannot be raised"):
        desired_state("a", None, {}, Last())


def test_every_change_of_the_manifest_is_seen(small: FleetFolder):
    first = small.render()
    small.fleet(namespace="other")
    assert all(state.changed for state in small.render(first).values())
    assert values(small.render()["b"], "web") == {"setting": 2}


NIGHTS = {"timeZone": "Europe/Berlin", "windows": [{"days": "FREQ=DAILY", "start": "02:00", "duration": "1h"}]}


def test_a_deployment_gets_the_calendar_of_its_device_or_else_of_its_site_and_its_own(fleet: FleetFolder):
    fleet.site("north", maintenance=NIGHTS)
    for device in ("a", "a2", "a3"):
        fleet.device(device, site="north")
    for device in ("b", "b2"):
        fleet.device(device, site="north", maintenance=NIGHTS)
    for device in ("c", "c2", "c3"):
        fleet.device(device)
    fleet.application()
    fleet.deployment("plain")
    fleet.deployment("own", maintenance=NIGHTS)
    fleet.deployment("urgent", maintenance=NIGHTS, urgent=True)
    whose = {
        name: [calendar.of for calendar in own_extension(document).maintenance]
        for state in fleet.render().values()
        for name, document in documents(state).items()
    }
    places = {"a": ["site north"], "b": ["device b"], "b2": ["device b2"], "c": []}
    places |= {"a2": places["a"], "a3": places["a"], "c2": [], "c3": []}
    expected = {"plain": [], "own": ["deployment own"]}
    assert whose == {
        **{f"{device} {name}": [*place, *own] for device, place in places.items() for name, own in expected.items()},
        **{f"{device} urgent": [] for device in places},
    }


def test_polling_hours_and_downtime_of_a_place_come_with_each_deployment(fleet: FleetFolder):
    hours = {"timeZone": "Europe/Berlin", "polling": NIGHTS["windows"]}
    fleet.site("north", maintenance=hours)
    fleet.site("south", maintenance={**NIGHTS, "downtime": [{"from": "2026-12-24", "until": "2026-12-26"}]})
    for device in ("a", "a2", "a3"):
        fleet.device(device, site="north")
    fleet.device("b", site="south")
    fleet.device("gw")
    fleet.device("gw/child", site="north")
    fleet.application()
    fleet.deployment("plain")
    fleet.deployment("urgent", urgent=True)
    found = {
        name: own_extension(document)
        for state in fleet.render().values()
        for name, document in documents(state).items()
    }
    contacts = {name: (each.contact.of, len(each.contact.windows)) for name, each in found.items() if each.contact}
    places = {"a": ("site north", 1), "a2": ("site north", 1), "a3": ("site north", 1), "b": ("site south", 0)}
    assert contacts == {f"{device} {name}": of for device, of in places.items() for name in ("plain", "urgent")}
    assert [each.of for each in found["b plain"].maintenance] == ["site south"]
    assert found["a plain"].maintenance == (), "polling hours alone close nothing"
    assert found["gw/child plain"].contact is None, "the gateway polls"


def test_a_deployment_gets_the_locks_of_its_device_and_its_own_unless_they_yield(fleet: FleetFolder):
    batch, lunch = {"name": "batch", "file": "batch"}, {"name": "lunch", "flock": "lunch", "yields": True}
    fleet.device("a", locks=[batch, lunch])
    for device in ("b", "b2", "b3"):
        fleet.device(device)
    fleet.application()
    fleet.deployment("web", locks=[batch], hooks={"before": ["drain"]})
    fleet.deployment("now", urgent=True, locks=[lunch])
    found = {
        name: [f"{lock.name} of {lock.of}" for lock in own_extension(document).locks]
        for state in fleet.render().values()
        for name, document in documents(state).items()
    }
    own = ["batch of deployment web"]
    assert found == {
        "a web": ["batch of device a", "lunch of device a", *own],
        "a now": ["batch of device a"],
        **{f"{device} web": own for device in ("b", "b2", "b3")},
        **{f"{device} now": [] for device in ("b", "b2", "b3")},
    }


def test_a_lock_is_traced_to_the_device_or_the_deployment_that_has_it(fleet: FleetFolder):
    fleet.device("a", locks=[{"name": "lunch", "file": "lunch"}])
    fleet.application()
    fleet.deployment("web", locks=[{"name": "batch", "file": "batch"}], health={"tcp": "127.0.0.1:502"})
    intent = fleet.read()
    resolved, _ = resolve(intent, place(intent)["a"]["web"])
    origins = DocumentOrigins(intent, resolved, ["web"])
    found = {
        path: origins.of(("spec", OWN_EXTENSION, *path))
        for path in (("locks", 0, "name"), ("locks", 1, "file"), ("health", "tcp"))
    }
    assert [(each.layer, each.place.file, each.place.line is not None) for each in found.values()] == [
        ("device a", "devices/a.yaml", True),
        ("deployment web", "deployments/web.yaml", True),
        ("deployment web", "deployments/web.yaml", True),
    ]


def test_another_calendar_changes_no_workload(small: FleetFolder):
    before = documents(small.render()["a"])["a web"]
    small.deployment("web", maintenance=NIGHTS)
    after = documents(small.render()["a"])["a web"]
    assert before != after
    assert [each.digest for each in workload_contents(before, own_extension(before))] == [
        each.digest for each in workload_contents(after, own_extension(after))
    ]


def test_one_description_has_a_profile_for_each_kind_of_device(fleet: FleetFolder):
    """The same parameters, each at its place in the profile that the device gets, with the content of that profile."""
    fleet.fleet(artifacts={"baseUrl": "file:///srv/"})
    types = {"press": "compose", "cell": "helm", "cluster": "custom"}
    for name, kind in types.items():
        fleet.device(name, properties={"supportedDeploymentTypes": [kind]}, port=8080 if kind == "helm" else 80)
    profiles = [profile("web", kind) | {"id": f"web-{kind}"} for kind in types.values()]
    chart = profiles[1]["components"][0]
    chart["name"] = "web-chart"
    for kind, each in zip(types.values(), profiles, strict=True):
        each["components"][0][OWN_EXTENSION] = {"artifact": {"path": kind}}
    profiles[2]["components"][0][OWN_EXTENSION]["format"] = "kubernetes"
    places = [{"pointer": "PORT", "components": ["web"]}, {"pointer": "service.port", "components": ["web-chart"]}]
    fleet.put("applications/app/1.0.0/compose/compose.yaml", "services: {web: {image: web}}\n")
    fleet.put("applications/app/1.0.0/helm/Chart.yaml", "apiVersion: v2\nname: web-chart\nversion: 1.0.0\n")
    fleet.put("applications/app/1.0.0/custom/web.yaml", "{}\n")
    fleet.application(deploymentProfiles=profiles, parameters={"port": {"value": 1, "targets": places}})
    fleet.deployment("web")
    for name, state in fleet.render().items():
        document = documents(state)[f"{name} web"]
        (content,) = workload_contents(document, own_extension(document))
        assert content.artifact is not None
        assert content.artifact.url == f"file:///srv/app/1.0.0/{types[name]}"
        assert content.values == ({"service.port": 8080} if name == "cell" else {"PORT": 80})
        assert component_format(content.component) == ("kubernetes" if name == "cluster" else None)
        assert content.component.extensions.keys() <= {OWN_EXTENSION}


MODEL = {"name": "model.onnx", "urls": ["https://x.example/m"], "digest": f"sha256:{5:064x}", "sizeBytes": 5}


def test_large_artifacts_reach_the_device_and_are_traced_to_their_deployment(small: FleetFolder):
    before = documents(small.render()["a"])["a web"]
    small.deployment("web", artifacts=[MODEL])
    after = documents(small.render()["a"])["a web"]
    assert after.spec.extensions[OWN_EXTENSION]["largeArtifacts"] == [MODEL]
    old, new = (workload_contents(each, own_extension(each))[0] for each in (before, after))
    assert (old.digest != new.digest, [each.name for each in new.large]) == (True, ["model.onnx"])
    intent = small.read()
    resolved, _ = resolve(intent, place(intent)["a"]["web"])
    origin = DocumentOrigins(intent, resolved, ["web"]).of(("spec", OWN_EXTENSION, "largeArtifacts", 0, "digest"))
    assert (origin.place.file, origin.place.line is not None) == ("deployments/web.yaml", True)


def test_what_a_device_downloads_counts_an_artifact_once(small: FleetFolder):
    small.deployment("web", artifacts=[MODEL])
    small.deployment("second", artifacts=[MODEL])
    found = needed(documents(small.render()["a"]).values(), NOTHING_KNOWN)
    assert download(found, NOTHING_KNOWN).bytes == 5
    assert found.without(found).empty


def test_artifacts_that_no_component_can_get_are_refused_with_their_line(small: FleetFolder):
    small.deployment("web", artifacts=[{**MODEL, "components": ["compos"]}])
    with pytest.raises(RenderingRefused) as caught:
        small.render()
    assert "[MG2025]" in str(caught.value)
    assert "did you mean compose?" in str(caught.value)
    small.deployment("web", artifacts=[MODEL])
    small.device("a", properties={"supportedDeploymentTypes": ["helm"]})
    small.device("b", properties={"supportedDeploymentTypes": ["helm"]})
    small.application(deploymentProfiles=[profile("web", "helm")])
    with pytest.raises(RenderingRefused, match="runs in a cluster") as caught:
        small.render()
    assert "deployments/web.yaml:" in str(caught.value)
