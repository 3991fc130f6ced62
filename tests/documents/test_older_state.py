"""A state in the older shape, and back: the upgrade is the inverse (DOWNGRADE-1 to DOWNGRADE-3)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from documents.document_text import check, example
from documents.test_yaml_round_trip import texts, values
from hypothesis import given
from hypothesis import strategies as st
from support.deployments import ID, URL, deployment, packaged

from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import write_bundle, write_manifest
from margo_gitops.documents.upgrade import current_deployment, older_deployment, older_state
from margo_gitops.documents.yaml_text import read_yaml, write_yaml


def older(document: dict[str, Any]) -> Any:
    return read_yaml(older_deployment(write_yaml(document)), "older.yaml").root.plain()


def test_a_deployment_gets_what_a_client_of_the_older_contract_looks_for() -> None:
    found = older(packaged(deployment(wait=False)))
    assert list(found)[:3] == ["apiVersion", "kind", "id"]
    assert (found["apiVersion"], found["kind"]) == ("application.margo.org/v1alpha1", "ApplicationDeployment")
    assert found["metadata"]["annotations"] == {"id": ID, "applicationId": "com-acme-hmi"}
    assert "applicationId" not in found["spec"]
    assert found["spec"]["deploymentProfile"]["components"][0]["properties"] == {
        "repository": "oci://registry.example.com/hmi",
        "revision": "1.0.0",
        "wait": "false",
        "packageLocation": URL,
    }
    assert older(deployment("helm"))["spec"]["deploymentProfile"]["type"] == "helm.v3"
    for no_package in (packaged(deployment(), "file:///srv/hmi.tar.gz"), packaged(deployment("helm"))):
        component = older(no_package)["spec"]["deploymentProfile"]["components"][0]
        assert "packageLocation" not in component["properties"]


@st.composite
def deployments(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a deployment that holds whatever a current one may."""
    more = {name: draw(st.booleans()) for name in ("wait", "timeout", "labels", "artifact", "constraints")}
    document = deployment(draw(st.sampled_from(["helm", "compose", "custom"])))
    properties = document["spec"]["deploymentProfile"]["components"][0]["properties"]
    if more["wait"]:
        properties["wait"] = draw(st.booleans())
    if more["timeout"]:
        properties["timeout"] = "8m30s"
    if more["labels"]:
        document["metadata"]["labels"] = draw(st.dictionaries(texts, texts, max_size=2))
    if more["constraints"]:
        rule = {"key": "/vendor", "operator": "In", "values": draw(st.lists(texts, min_size=1, max_size=2))}
        constraint = {"eligibilityRules": [{"propertySelector": {"matchExpressions": [rule]}}]}
        document["spec"]["deploymentProfile"]["deviceConstraints"] = constraint
    scalar = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e9, 1e9) | texts
    for name in draw(st.lists(texts.filter(bool), max_size=3, unique=True)):
        value, target = draw(scalar | st.lists(scalar, max_size=3)), {"pointer": "A", "components": ["hmi"]}
        document["spec"]["parameters"][name] = {"value": value, "targets": [target]}
    document["spec"]["x-acme-extensions"] = draw(st.dictionaries(texts, values, max_size=2))
    return packaged(document) if more["artifact"] else document


@given(deployments())
def test_the_upgrade_gives_back_the_very_bytes(document: dict[str, Any]) -> None:
    content = write_yaml(document)
    converted = older_deployment(content)
    assert converted != content
    assert current_deployment(converted) == content
    current, upgraded = check(content.decode()), check(converted.decode())
    assert (current.shape, upgraded.shape) == ("G2", "G1")
    assert upgraded.value == current.value


NOT_CONVERTED = {
    "not a deployment": b"a: 1\n",
    "not YAML": b"services: [",
    "a list": b"- a\n",
    "older already": example("ApplicationDeployment/g1-hello-world.yaml").encode(),
    "in another spelling": json.dumps(deployment()).encode(),
    "with a comment": write_yaml(deployment()) + b"# a comment\n",
    "with a package of its own": write_yaml(packaged(deployment(packageLocation=URL))),
}


@pytest.mark.parametrize("name", NOT_CONVERTED)
def test_what_the_upgrade_would_not_give_back_stays_as_it_is(name: str) -> None:
    assert older_deployment(NOT_CONVERTED[name]) == NOT_CONVERTED[name]


def test_a_manifest_has_the_digests_of_what_the_client_gets() -> None:
    version = 2**64 - 1
    content = write_yaml(deployment())
    manifest, documents = older_state(version, {ID: content}, "c-1")
    read = json.loads(manifest)
    assert read["manifestVersion"] == version
    digest = sha256(older_deployment(content))
    assert documents == {ID: older_deployment(content)}
    assert read["deployments"][0]["digest"] == digest
    assert read["deployments"][0]["url"] == f"/api/v1/clients/c-1/deployments/{ID}/{digest}"
    assert read["bundle"]["digest"] == sha256(write_bundle(documents))
    assert read["bundle"]["url"] == f"/api/v1/clients/c-1/bundles/{read['bundle']['digest']}"
    assert check(manifest.decode()).shape == "G1"
    assert older_state(3, {}, "c-1") == (write_manifest(3, {}), {})
