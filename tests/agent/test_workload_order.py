"""From deployments to workloads: the rules W-1 to W-5 of margo_gitops.agent.workloads."""

import pytest
from device_world import deployment_bytes, deployment_id, parsed
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.agent.workloads import desired_deployments
from margo_gitops.documents.nodes import Json


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
