"""The one step from older shapes to the current one, rule by rule (margo_gitops.documents.upgrade)."""

import json
import re

import pytest
import yaml
from documents.document_text import changed, check, example, findings

from margo_gitops.documents.kinds import check_document, read_source

G1_DESCRIPTION = example("ApplicationDescription/g1-hello-world.yaml")
G0_DESCRIPTION = example("ApplicationDescription/g0-hello-world.yaml")
G1_DEPLOYMENT = example("ApplicationDeployment/g1-hello-world.yaml")
G1_CAPABILITIES = json.loads(example("DeviceCapabilities/g1-press.json"))
G1_STATUS = json.loads(example("DeploymentStatus/g1-installed.json"))


def capabilities(**properties):
    return check(json.dumps(G1_CAPABILITIES | {"properties": G1_CAPABILITIES["properties"] | properties})).value


@pytest.mark.parametrize("text", [G1_DESCRIPTION, G0_DESCRIPTION])
def test_u_1_kind_goes_and_the_api_version_of_a_description_becomes_v1(text):
    assert check(text).value.api_version == "v1"


def test_u_1_api_version_and_kind_of_other_documents_go():
    assert check(G1_DEPLOYMENT).value.others == {}
    assert check(json.dumps(G1_STATUS)).value.others == {}
    assert check(json.dumps(G1_CAPABILITIES)).value.extensions == {}


def test_u_2_the_id_of_a_description_moves_from_its_metadata_to_the_top():
    assert check(G1_DESCRIPTION).value.id == "com-acme-hello-world"


def test_u_2_the_id_of_a_deployment_moves_from_its_annotations_to_the_top():
    assert check(G1_DEPLOYMENT).value.id == "ad9b614e-8912-45f4-a523-372358765def"


def test_u_2_an_id_at_the_top_stays():
    top = "id: a3e2f5dc-912e-494f-8395-52cf3769bc06\n"
    assert check(top + G1_DEPLOYMENT).value.id == "a3e2f5dc-912e-494f-8395-52cf3769bc06"


def test_u_3_the_application_id_moves_from_the_annotations_to_the_spec():
    value = check(G1_DEPLOYMENT).value
    assert value.spec.application_id == "com-acme-hello-world"
    assert value.metadata.labels == {}


def test_u_3_empty_annotations_go_too():
    text = changed(G1_DEPLOYMENT, "annotations:\n    id: ad9b614e-8912-45f4-a523-372358765def\n", "annotations: {}\n")
    text = changed(text, "    applicationId: com-acme-hello-world\n", "")
    text = changed(text, "spec:\n", "id: ad9b614e-8912-45f4-a523-372358765def\nspec:\n  applicationId: hello\n")
    assert check(text).value is not None


def test_u_3_annotations_that_are_no_mapping_are_refused():
    text = changed(G1_DEPLOYMENT, "annotations:\n    id: ad9b614e-8912-45f4-a523-372358765def\n", "annotations: none\n")
    text = changed(text, "    applicationId: com-acme-hello-world\n", "")
    assert any("metadata.annotations: unknown key" in finding for finding in findings(text))


def test_u_4_old_profile_types_are_renamed():
    assert [profile.type for profile in check(G1_DESCRIPTION).value.deployment_profiles] == ["helm", "compose"]
    assert check(G0_DESCRIPTION).value.deployment_profiles[0].type == "compose"
    renamed = changed(G1_DEPLOYMENT, "type: compose", "type: docker-compose")
    assert check(renamed).value.spec.deployment_profile.type == "compose"


def test_u_5_the_prefix_env_goes_and_helm_paths_stay():
    targets = check(G1_DESCRIPTION).value.parameters["greeting"].targets
    assert [target.pointer for target in targets] == ["global.greeting", "GREETING"]
    assert check(G1_DEPLOYMENT).value.spec.parameters["greeting"].targets[0].pointer == "GREETING"


def test_u_6_required_resources_become_capacity_and_a_rule_that_asks_for_every_item():
    constraints = check(G1_DESCRIPTION).value.deployment_profiles[0].device_constraints
    capacity = constraints.capacity_requirements
    assert (capacity.cpu.cores, capacity.cpu.architectures) == (1.5, ("amd64",))
    assert (capacity.memory, capacity.storage) == ("1024Mi", "10Gi")
    (rule,) = constraints.eligibility_rules
    gpu, ethernet = rule.property_selector.match_expressions
    # One peripheral must have all that the item lists: a GPU of another maker beside a display of NVIDIA is none.
    assert (gpu.key, gpu.operator) == ("/peripherals", "ContainsAll")
    inner = [(item.key, item.operator, item.values) for item in gpu.item_selector.match_expressions]
    assert inner == [("/type", "In", ("gpu",)), ("/manufacturer", "In", ("NVIDIA",))]
    assert (ethernet.key, ethernet.item_selector.match_expressions[0].values) == ("/interfaces", ("ethernet",))


def test_u_6_what_the_old_shape_does_not_know_is_refused_at_its_line():
    text = changed(G1_DESCRIPTION, "      memory: 1024Mi", "      memmory: 1024Mi")
    line = text.splitlines().index("      memmory: 1024Mi") + 1
    (finding,) = findings(text)
    assert finding.startswith(f"{line}:7: deploymentProfiles[0].deviceConstraints.capacityRequirements.memmory")
    assert "did you mean memory?" in finding


def test_u_6_resources_that_are_no_mapping_are_refused():
    text = G0_DESCRIPTION + "    requiredResources: lots\n"
    assert "deviceConstraints: must be a mapping, is a string ('lots')" in findings(text)[0]


def test_u_6_old_and_new_spelling_in_one_profile_are_refused():
    text = G0_DESCRIPTION + "    requiredResources: {}\n    deviceConstraints: {}\n"
    assert "unknown key 'requiredResources'" in findings(text)[0]


def test_u_7_resources_are_spread_out_and_roles_go():
    properties = check(json.dumps(G1_CAPABILITIES)).value.properties
    assert (properties.memory, properties.storage) == ("8Gi", "64Gi")
    assert [peripheral.type for peripheral in properties.peripherals] == ["gpu"]
    assert [interface.type for interface in properties.interfaces] == ["ethernet"]
    assert properties.others == {}


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ({"cores": 24, "architectures": ["x86_64"]}, [(24, "amd64")]),
        ({"cores": 2.4, "architecture": "amd64"}, [(2.4, "amd64")]),
        ([{"cores": 2, "architecture": "aarch64"}, {"cores": 4}], [(2, "arm64"), (4, None)]),
        ({"cores": 1}, [(1, None)]),
    ],
)
def test_u_7_cpu_becomes_cpus_with_current_architecture_names(cpu, expected):
    value = capabilities(resources={"cpu": cpu})
    assert [(item.cores, item.architecture) for item in value.properties.cpus] == expected


@pytest.mark.parametrize(("text", "expected"), [('"true"', True), ('"false"', False), ("true", True), ("false", False)])
def test_u_8_wait_as_text_becomes_a_boolean(text, expected):
    value = check(changed(G1_DEPLOYMENT, 'wait: "false"', f"wait: {text}")).value
    assert value.spec.deployment_profile.components[0].properties.wait is expected


def test_u_8_holds_for_the_current_shape_too_because_published_examples_do_it():
    text = changed(example("ApplicationDeployment/line-vision.yaml"), "timeout: 8m30s", 'wait: "true"')
    checked = check(text)
    assert (checked.shape, checked.value is not None) == ("G2", True)


def test_an_older_document_may_lack_what_only_the_current_shape_requires():
    assert check(G1_DEPLOYMENT).value.metadata.device_id is None
    assert check(json.dumps(G1_STATUS)).value.adopted_manifest_version is None


def test_findings_point_to_the_line_in_the_older_file():
    text = changed(G1_DESCRIPTION, "  id: com-acme-hello-world", "  id: Hello")
    line = text.splitlines().index("  id: Hello") + 1
    assert findings(text) == [
        f"{line}:7: id: 'Hello' is not an application id (1 to 200 lower-case letters, digits, dashes)"
    ]


def test_checking_a_document_twice_gives_the_same():
    source = read_source(G1_DESCRIPTION.encode(), "x.yaml")
    assert check_document(source) == check_document(source)


def test_u_9_an_older_description_gets_what_the_current_shape_requires_with_a_warning_for_each():
    document = {
        "apiVersion": "margo.org/v1-alpha1",
        "kind": "ApplicationDescription",
        "metadata": {
            "id": "com-example-dashboard",
            "name": "Dashboard",
            "version": "1.2.0",
            "catalog": {"organization": [{"name": "Example"}]},
        },
        "deploymentProfiles": [
            {
                "type": "compose",
                "components": [{"name": "a", "properties": {"packageLocation": "https://example.com/a.tar.gz"}}],
            },
            {
                "type": "compose",
                "components": [
                    {"name": "b", "properties": {"repository": "registry.example.com/b", "timeout": timeout}}
                    for timeout in ("1h30s",)
                ],
            },
        ],
    }
    checked = check(json.dumps(document))
    first, second = checked.value.deployment_profiles
    assert (first.id, second.id) == ("compose", "compose-2")
    found = second.components[0].properties
    assert (found.repository, found.revision, found.timeout) == ("oci://registry.example.com/b", "1.2.0", "60m30s")
    assert [each.severity for each in checked.findings] == ["warning"] * 5


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({"repository": "https://charts.example.com/b", "revision": "1.0.0"}, "is not an OCI repository"),
        ({"repository": "oci://registry.example.com/b", "revision": "latest"}, "'latest' is not SemVer"),
        ({"repository": "oci://registry.example.com/b"}, "'2024' is not SemVer"),
    ],
)
def test_u_11_a_profile_of_an_older_description_that_cannot_be_rendered_does_not_refuse_the_others(properties, why):
    document = yaml.safe_load(G1_DESCRIPTION)
    document["metadata"]["version"] = "2024"
    helm, _ = document["deploymentProfiles"]
    helm["components"][0]["properties"] = properties
    checked = check(json.dumps(document))
    assert [profile.id for profile in checked.value.deployment_profiles] == ["hello-compose"]
    assert [target.components for target in checked.value.parameters["greeting"].targets] == [("hello-stack",)]
    (warning,) = [finding for finding in checked.findings if "left out" in str(finding)]
    assert (warning.severity, why in str(warning)) == ("warning", True)
    alone = check(json.dumps({**document, "deploymentProfiles": [helm], "parameters": {}}))
    assert alone.value is None
    assert not any("left out" in str(finding) for finding in alone.findings)


def test_u_9_the_current_shape_is_not_completed():
    text = re.sub(r"(?m)^    id: .*\n", "", example("ApplicationDescription/line-vision.yaml"))
    assert any("id is missing" in finding for finding in findings(text))


@pytest.mark.parametrize("roles", ["x", [1], [""], {"a": 1}])
def test_u_7_roles_are_checked_before_they_go(roles):
    properties = G1_CAPABILITIES["properties"] | {"roles": roles}
    assert (
        "properties.roles: must be a list of texts"
        in findings(json.dumps(G1_CAPABILITIES | {"properties": properties}))[0]
    )
