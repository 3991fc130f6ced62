"""From deployments to workloads: rules ORDER-1 to ORDER-5 of agent.apply.workloads, ELIGIBLE-1 to ELIGIBLE-3."""

import json
from pathlib import Path

import pytest
from device_world import deployment_bytes, deployment_id, parsed
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.agent.apply.workloads import DeviceLimits, Eligibility, desired_deployments, read_eligibility
from margo_gitops.appliers.applier import LONGEST_TIMEOUT_SECONDS
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import AgentMisconfigured


def order(*documents: bytes) -> list[str]:
    return [item.document.metadata.name for item in desired_deployments([parsed(content) for content in documents])]


def refusals(*documents: bytes) -> dict[str, str]:
    items = desired_deployments([parsed(content) for content in documents])
    return {item.document.metadata.name: str(item.refusal) for item in items if item.refusal}


def test_the_manifest_order_holds_where_nothing_waits() -> None:
    assert order(deployment_bytes(3), deployment_bytes(1), deployment_bytes(2)) == ["app-3", "app-1", "app-2"]


def test_a_deployment_comes_after_those_it_waits_for_and_ties_keep_the_manifest_order() -> None:
    documents = (deployment_bytes(1, after=[4]), deployment_bytes(2), deployment_bytes(3), deployment_bytes(4))
    assert order(*documents) == ["app-2", "app-3", "app-4", "app-1"]


def test_ids_are_compared_whatever_their_case() -> None:
    first = deployment_bytes(1, extension={"after": [deployment_id(2).upper()]})
    assert order(first, deployment_bytes(2)) == ["app-2", "app-1"]


def test_cycles_are_refused_and_those_outside_are_not() -> None:
    documents = (
        deployment_bytes(1, after=[2]),
        deployment_bytes(2, after=[1]),
        deployment_bytes(3, after=[1]),
        deployment_bytes(4),
    )
    found = refusals(*documents)
    assert sorted(found) == ["app-1", "app-2"]
    assert all("MG1707" in text for text in found.values())
    assert order(*documents)[0] == "app-4"


def test_waiting_for_what_the_device_does_not_have_is_refused() -> None:
    assert list(refusals(deployment_bytes(1, after=[9]), deployment_bytes(2))) == ["app-1"]


@pytest.mark.parametrize(
    "extension",
    [
        {"surprise": 1},
        {"artifacts": [{"component": "other", "url": "file:///a", "digest": "sha256:" + "0" * 64}]},
        {"artifacts": [{"component": "web", "url": "ftp://a", "digest": "sha256:" + "0" * 64}]},
    ],
)
def test_an_extension_that_this_agent_does_not_understand_is_refused(extension: dict[str, Json]) -> None:
    assert list(refusals(deployment_bytes(1, extension=extension))) == ["app-1"]


def test_a_component_gets_the_values_whose_targets_name_it() -> None:
    content = deployment_bytes(
        1,
        components=("web", "data"),
        values={"GREETING": "hello"},
        parameters={"port": {"value": 80, "targets": [{"pointer": "PORT", "components": ["web"]}]}},
    )
    (item,) = desired_deployments([parsed(content)])
    assert [dict(workload.values) for workload in item.workloads] == [
        {"GREETING": "hello", "PORT": 80},
        {"GREETING": "hello"},
    ]


def test_two_parameters_that_write_one_place_differently_are_refused() -> None:
    def port(value: Json) -> bytes:
        parameter: Json = {"value": value, "targets": [{"pointer": "GREETING", "components": ["web"]}]}
        return deployment_bytes(1, values={"GREETING": "1"}, parameters={"other": parameter})

    assert refusals(port("1")) == {}
    assert "GREETING" in refusals(port(1))["app-1"]


def digest(**changes: object) -> str:
    (item,) = desired_deployments([parsed(deployment_bytes(1, **changes))])  # type: ignore[arg-type]
    return item.workloads[0].digest


values = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"]), max_size=8),
    st.integers(-(2**53), 2**53),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
)


@given(values, values)
def test_values_have_one_digest_exactly_if_they_are_the_same_value(one: Json, other: Json) -> None:
    same = type(one) is type(other) and repr(one) == repr(other)
    assert (digest(values={"X": one}) == digest(values={"X": other})) == same


def test_where_the_artifact_lies_does_not_count_but_its_content_does() -> None:
    def with_artifact(url: str, character: str) -> str:
        artifact: Json = {"component": "web", "url": url, "digest": "sha256:" + character * 64}
        return digest(extension={"artifacts": [artifact]})

    assert with_artifact("file:///a", "0") == with_artifact("https://b.example/a.tar.gz", "0")
    assert with_artifact("file:///a", "0") != with_artifact("file:///a", "1")
    assert digest(kind="compose") != digest(kind="helm")


def test_a_digest_stays_the_same_over_versions_of_the_agent() -> None:
    """A change of this value restarts every component of every device."""
    content = deployment_bytes(
        1,
        values={"GREETING": "hello", "RATE": 0.5, "PORT": 80, "ON": True, "LIST": ["a", "b"]},
        extension={"artifacts": [{"component": "web", "url": "file:///a", "digest": "sha256:" + "0" * 64}]},
    )
    (item,) = desired_deployments([parsed(content)])
    assert item.workloads[0].digest == "sha256:f64d181502225e6a3a27cc74a8b9471c5805140377422aba6a3ce0022b81b1ab"


@pytest.mark.parametrize("line", [b"timeout: 8m30s", b"timeout: 0m1s", b"wait: false"])
def test_how_installing_is_done_restarts_nothing(line: bytes) -> None:
    changed = deployment_bytes(1).replace(b'revision: "1.0.0"\n', b'revision: "1.0.0"\n          ' + line + b"\n")
    assert b"\n          " + line in changed
    (item,) = desired_deployments([parsed(changed)])
    assert item.workloads[0].digest == digest()


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(None, 600), ("8m30s", 510), ("60m0s", LONGEST_TIMEOUT_SECONDS), ("99999m0s", LONGEST_TIMEOUT_SECONDS)],
)
def test_a_time_out_counts_as_far_as_the_device_lets_it(timeout: str | None, seconds: int) -> None:
    content = deployment_bytes(1)
    if timeout:
        content = content.replace(b'revision: "1.0.0"\n', f'revision: "1.0.0"\n          timeout: {timeout}\n'.encode())
    (item,) = desired_deployments([parsed(content)])
    assert item.workloads[0].timeout_seconds == seconds
    (item,) = desired_deployments([parsed(content)], DeviceLimits(longest_seconds=60))
    assert item.workloads[0].timeout_seconds == 60


@pytest.mark.parametrize("digits", [7, 25, 5000])
def test_a_time_out_that_no_clock_has_is_cut_as_well(digits: int) -> None:
    timeout = "9" * digits
    content = deployment_bytes(1).replace(
        b'revision: "1.0.0"\n', f'revision: "1.0.0"\n          timeout: {timeout}m0s\n'.encode()
    )
    (item,) = desired_deployments([parsed(content)])
    assert item.workloads[0].timeout_seconds == LONGEST_TIMEOUT_SECONDS


# Eligibility


def with_constraints(device: str = "press-07", *, zone: str | None = None, memory: str | None = None) -> bytes:
    constraints = "    deviceConstraints:\n"
    if memory:
        constraints += f"      capacityRequirements:\n        memory: {memory}\n"
    if zone:
        constraints += (
            "      eligibilityRules:\n        - labelSelector:\n            matchExpressions:\n"
            f"              - key: zone\n                operator: In\n                values: [{zone}]\n"
        )
    content = deployment_bytes(1, device=device)
    return content.replace(b"    type: compose\n", b"    type: compose\n" + constraints.encode())


def capabilities_file(folder: Path, device: str = "press-07", zone: str = "hall", **changes: Json) -> Path:
    path = folder / f"{device.replace('/', '-')}.json"
    properties: dict[str, Json] = {
        "id": device,
        "vendor": "v",
        "modelNumber": "m",
        "serialNumber": "s",
        "memory": "4 Gi",
        "storage": "64 Gi",
        "cpus": [{"cores": 4, "architecture": "amd64"}],
        "peripherals": [],
        "interfaces": [],
        "otelCollector": False,
        "supportedRuntimes": ["oci"],
        "supportedDeploymentTypes": ["compose"],
    }
    path.write_text(json.dumps({"properties": {**properties, **changes}, "labels": {"zone": zone}}))
    return path


def refused(content: bytes, eligibility: Eligibility) -> str:
    (item,) = desired_deployments([parsed(content)], DeviceLimits(eligibility))
    assert bool(item.workloads) == (item.refusal is None)
    return str(item.refusal) if item.refusal else ""


def test_rules_are_evaluated_on_the_device(tmp_path: Path) -> None:
    eligibility = read_eligibility("press-07", [capabilities_file(tmp_path)])
    assert refused(with_constraints(zone="hall"), eligibility) == ""
    answer = refused(with_constraints(zone="explosion-proof"), eligibility)
    assert "MG1711" in answer
    assert "zone In explosion-proof needed, the device has 'hall'" in answer


def test_rules_without_capabilities_are_met_by_nobody() -> None:
    answer = refused(with_constraints(zone="hall"), Eligibility("press-07"))
    assert "MG1711" in answer
    assert "`capabilities`" in answer, "the remedy does not say what to do"


def test_capacity_counts_where_it_is_known(tmp_path: Path) -> None:
    eligibility = read_eligibility("press-07", [capabilities_file(tmp_path)])
    assert refused(with_constraints(memory="4Gi"), eligibility) == ""
    assert "8Gi needed, the device has 4 Gi" in refused(with_constraints(memory="8Gi"), eligibility)
    assert refused(with_constraints(memory="8Gi"), Eligibility("press-07")) == ""


def test_a_child_is_held_against_its_own_capabilities(tmp_path: Path) -> None:
    files = [capabilities_file(tmp_path), capabilities_file(tmp_path, "press-07/arm", "cold")]
    eligibility = read_eligibility("press-07", files)
    assert refused(with_constraints("press-07/arm", zone="cold"), eligibility) == ""
    assert refused(with_constraints("press-07/arm", zone="hall"), eligibility)
    assert "press-07/leg" in refused(with_constraints("press-07/leg", zone="hall"), eligibility)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no such file"),
        ("{", "press-07.json"),
        ('{"properties": {"id": "press-07"}}', "vendor"),
        ('{"manifestVersion": 1, "bundle": null, "deployments": []}', "DeviceCapabilities"),
        ("{" + " " * 2_000_000 + "}", "larger"),
    ],
)
def test_capabilities_that_cannot_be_used_are_told_with_their_place(
    tmp_path: Path, content: str | None, why: str
) -> None:
    path = tmp_path / "press-07.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AgentMisconfigured, match=why) as caught:
        read_eligibility("press-07", [path])
    assert str(path) in str(caught.value)


def test_capabilities_are_of_this_device_first_and_then_of_its_children(tmp_path: Path) -> None:
    own, child = capabilities_file(tmp_path), capabilities_file(tmp_path, "press-07/arm")
    other = capabilities_file(tmp_path, "press-08")
    for files in ([other], [child, own], [own, other], [own, own], [own, child, child]):
        with pytest.raises(AgentMisconfigured, match="describes"):
            read_eligibility("press-07", files)
