"""Which kind and shape a file is, also when it is broken."""

import pytest
from documents.document_text import changed, check, example, findings

from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.fleet_kinds import Site
from margo_gitops.documents.kinds import OWN_KINDS, read_as, read_source
from margo_gitops.errors import InvalidDocument


@pytest.mark.parametrize(
    ("text", "kind", "shape"),
    [
        ("deploymentProfiles: []", "ApplicationDescription", "G2"),
        ("kind: ApplicationDescription", "ApplicationDescription", "G1"),
        ("kind: application", "ApplicationDescription", "G0"),
        ("kind: ApplicationDescription\ndeploymentProfiles: [{type: docker-compose}]", "ApplicationDescription", "G0"),
        ("metadata: {catalog: {}}", "ApplicationDescription", "G2"),
        ("spec: {deploymentProfile: {}}", "ApplicationDeployment", "G2"),
        ("spec: {applicationId: x}", "ApplicationDeployment", "G2"),
        ("metadata: {deviceId: x}", "ApplicationDeployment", "G2"),
        ("kind: ApplicationDeployment", "ApplicationDeployment", "G1"),
        ("kind: DeviceCapabilitiesManifest", "DeviceCapabilities", "G1"),
        ("kind: DeviceCapabilities", "DeviceCapabilities", "G0"),
        ("properties: {}", "DeviceCapabilities", "G2"),
        ("kind: DeploymentStatusManifest", "DeploymentStatus", "G1"),
        ("kind: DeploymentStatus", "DeploymentStatus", "G0"),
        ("status: {state: installed}", "DeploymentStatus", "G2"),
        ("adoptedManifestVersion: 1", "DeploymentStatus", "G2"),
        ("manifestVersion: 1", "StateManifest", "G2"),
        ("deployments: []", "StateManifest", "G2"),
        ("manifestVersion: 1\nbundle: {url: /api/v1/clients/1/bundles/x}", "StateManifest", "G1"),
        ("kind: Site", "Site", "v1"),
        ("apiVersion: margo-gitops/v1\nkind: Fleet", "Fleet", "v1"),
        ("apiVersion: apps/v1\nkind: Deployment", None, None),
        ("openapi: 3.1.0", None, None),
    ],
)
def test_a_document_is_recognised_by_its_kind_or_by_the_fields_only_its_kind_has(text, kind, shape):
    checked = check(text)
    assert (checked.kind, checked.shape, checked.value) == (kind, shape, None)
    assert checked.findings


def test_a_tag_that_is_named_like_an_old_profile_type_does_not_make_a_document_older():
    text = changed(example("ApplicationDescription/g1-hello-world.yaml"), "name: Hello world", "name: docker-compose")
    assert check(text).shape == "G1"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("- 1", "1:1: a document must be a mapping"),
        ("text", "1:1: a document must be a mapping"),
        ("a: 1", "1:1: no document of Margo or of this project (see docs/documents.md for what each needs)"),
        ("kind: Site", "1:1: apiVersion is missing (add apiVersion: margo-gitops/v1)"),
        ("apiVersion: margo-gitops/v1", "1:1: kind is missing"),
        (
            "apiVersion: margo-gitops/v1\nkind: Devise",
            f"2:7: the kind 'Devise' is not one of {', '.join(OWN_KINDS)} (did you mean Device?)",
        ),
        (
            "apiVersion: margo-gitops/v2\nkind: Site",
            "1:13: 'margo-gitops/v2' is not known to this version (write margo-gitops/v1)",
        ),
        (
            "kind: Wrong\ndeploymentId: x",
            (
                "1:7: the kind 'Wrong' is unknown; by its fields this is meant to be DeploymentStatus "
                "(remove kind or write DeploymentStatusManifest or write DeploymentStatus)"
            ),
        ),
        (
            "kind: Manifest\nmanifestVersion: 1",
            "1:7: the kind 'Manifest' is unknown; by its fields this is meant to be StateManifest (remove kind)",
        ),
    ],
)
def test_what_cannot_be_recognised_is_refused_with_a_remedy(text, finding):
    assert findings(text) == [finding]


def test_a_document_that_must_be_of_one_kind_is_read_in_any_shape():
    source = read_source(example("ApplicationDescription/g0-hello-world.yaml").encode(), "margo.yaml")
    assert read_as(ApplicationDescription, source).id == "com-acme-hello-world"


def test_a_document_of_another_kind_is_refused():
    source = read_source(example("Site/north.yaml").encode(), "margo.yaml")
    with pytest.raises(InvalidDocument, match=r"margo\.yaml:1:1: this is Site, expected is ApplicationDescription"):
        read_as(ApplicationDescription, source)


def test_a_document_with_findings_is_refused_with_all_of_them():
    source = read_source(b"apiVersion: margo-gitops/v1\nkind: Site\nmetadata: {}\nspecs: {}\n", "north.yaml")
    with pytest.raises(InvalidDocument) as caught:
        read_as(Site, source)
    assert str(caught.value).splitlines() == [
        "north.yaml: not a valid Site [MG1001]",
        "  north.yaml:3:11: metadata: name is missing (add name)",
        "  north.yaml:4:1: specs: unknown key 'specs' (did you mean spec?)",
    ]


@pytest.mark.parametrize(
    ("content", "file", "is_json"),
    [(b"{}", "x", True), (b" \n{}", "<stdin>", True), (b"[]", "x.json", True), (b"a: 1", "x", False)],
)
def test_json_is_read_as_json_by_name_or_by_its_first_brace(content, file, is_json):
    assert (read_source(content, file).root.plain() in ({}, [])) == is_json
