"""What another manager's program may write: members that the standard leaves open, and numbers of other libraries."""

import json
from typing import Any

import pytest

from margo_gitops.documents.deployment import ApplicationDeployment
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import StateManifest
from margo_gitops.documents.nodes import exact
from margo_gitops.errors import InvalidDocument, UnreadableDocument

ID = "00000001-1111-5111-8111-111111111111"
DIGEST = "sha256:" + "0" * 64
MANIFEST: dict[str, Any] = {
    "manifestVersion": 1,
    "bundle": {
        "mediaType": "application/vnd.margo.bundle.v1+tar+gzip",
        "digest": DIGEST,
        "url": f"/api/v1/bundles/{DIGEST}",
    },
    "deployments": [{"deploymentId": ID, "digest": DIGEST, "url": f"/api/v1/deployments/{ID}/{DIGEST}"}],
}
DEPLOYMENT: dict[str, Any] = {
    "id": ID,
    "metadata": {"name": "app", "namespace": "margo", "deviceId": "press-07"},
    "spec": {
        "applicationId": "com-example-app",
        "deploymentProfile": {
            "type": "compose",
            "components": [
                {"name": "web", "properties": {"repository": "oci://registry.example.com/app", "revision": "1.0.0"}}
            ],
            "deviceConstraints": {
                "capacityRequirements": {"cpu": {"cores": 1}},
                "eligibilityRules": [
                    {"labelSelector": {"matchExpressions": [{"key": "line", "operator": "In", "values": ["4"]}]}}
                ],
            },
        },
        "parameters": {"port": {"value": 80, "targets": [{"pointer": "PORT", "components": ["web"]}]}},
    },
}


def changed(document: dict[str, Any], path: str, key: str, value: object) -> bytes:
    copy = json.loads(json.dumps(document))
    at = copy
    for step in filter(None, path.split(".")):
        at = at[int(step)] if step.isdecimal() else at[step]
    at[key] = value
    return json.dumps(copy).encode()


@pytest.mark.parametrize("path", ["", "bundle", "deployments.0"])
@pytest.mark.parametrize("key", ["x", "x-acme-extensions", "signature"])
def test_members_that_a_manifest_leaves_open_are_skipped_in_anothers_and_refused_in_ours(path: str, key: str) -> None:
    content = changed(MANIFEST, path, key, {})
    plain = read_as(StateManifest, read_source(json.dumps(MANIFEST).encode(), "manifest.json"))
    assert read_as(StateManifest, read_source(content, "manifest.json", foreign=True)) == plain
    with pytest.raises(InvalidDocument, match="unknown key"):
        read_as(StateManifest, read_source(content, "manifest.json"))


@pytest.mark.parametrize(
    "path",
    [
        "metadata",
        "spec.deploymentProfile.components.0.properties",
        "spec.deploymentProfile.deviceConstraints",
        "spec.deploymentProfile.deviceConstraints.capacityRequirements",
        "spec.deploymentProfile.deviceConstraints.capacityRequirements.cpu",
        "spec.deploymentProfile.deviceConstraints.eligibilityRules.0",
        "spec.deploymentProfile.deviceConstraints.eligibilityRules.0.labelSelector",
        "spec.deploymentProfile.deviceConstraints.eligibilityRules.0.labelSelector.matchExpressions.0",
        "spec.parameters.port",
        "spec.parameters.port.targets.0",
    ],
)
def test_members_that_a_deployment_leaves_open_are_skipped_in_anothers_and_refused_in_ours(path: str) -> None:
    content = changed(DEPLOYMENT, path, "vendorNote", 1)
    plain = read_as(ApplicationDeployment, read_source(json.dumps(DEPLOYMENT).encode(), "d.json"))
    assert read_as(ApplicationDeployment, read_source(content, "d.json", foreign=True)) == plain
    with pytest.raises(InvalidDocument, match="unknown key"):
        read_as(ApplicationDeployment, read_source(content, "d.json"))


@pytest.mark.parametrize("path", ["spec", "spec.deploymentProfile", "spec.deploymentProfile.components.0"])
def test_members_that_the_schema_closes_are_refused_from_everybody_but_extensions_are_kept(path: str) -> None:
    with pytest.raises(InvalidDocument, match="unknown key"):
        read_as(ApplicationDeployment, read_source(changed(DEPLOYMENT, path, "vendorNote", 1), "d.json", foreign=True))
    extended = changed(DEPLOYMENT, path, "x-acme-extensions", {"a": 1})
    assert "x-acme-extensions" in repr(read_as(ApplicationDeployment, read_source(extended, "d.json", foreign=True)))


@pytest.mark.parametrize(
    ("spelling", "value"),
    [
        ("1e+06", 1_000_000),
        ("1.6777216e+07", 16_777_216),
        ("-1e+06", -1_000_000),
        ("1E+06", 1_000_000),
        ("1.0E7", 10_000_000),
        ("1.e+21", 1e21),
        ("1e-07", 1e-07),
        ("2.5e+00", 2.5),
        ("1.5", 1.5),
        ("2.0", 2.0),
        ("9.007199254740993e+15", 9_007_199_254_740_992),
        ("1.8446744073709552e+19", 1.8446744073709552e19),
    ],
)
def test_numbers_as_libraries_of_other_languages_write_them(spelling: str, value: float) -> None:
    read = read_source(f"value: {spelling}\n".encode(), "d.yaml", foreign=True).root.get("value")
    assert read is not None
    assert exact(read.plain()) == exact(value)


@pytest.mark.parametrize("spelling", ["12e7", "1234e56", "1_000", "1:30", "012", "1e+999", ".inf", "no"])
def test_what_may_be_text_stays_refused_from_everybody(spelling: str) -> None:
    with pytest.raises(UnreadableDocument):
        read_source(f"value: {spelling}\n".encode(), "d.yaml", foreign=True)


def test_our_own_files_stay_strict() -> None:
    with pytest.raises(UnreadableDocument, match=r"1e\+06 means different things"):
        read_source(b"value: 1e+06\n", "d.yaml")
    own = read_source(b"value: 1.6777216e+07\n", "d.yaml").root.get("value")
    assert own is not None
    assert exact(own.plain()) == exact(16_777_216.0)
