"""ApplicationDescription: fields, rules between fields, and findings with line and column."""

import pytest
from documents.document_text import changed, check, example, findings

from margo_gitops.documents.records import write
from margo_gitops.documents.yaml_text import read_yaml

LINE_VISION = example("ApplicationDescription/line-vision.yaml")


def test_a_description_becomes_a_typed_value():
    value = check(LINE_VISION).value
    gpu, helm = value.deployment_profiles
    assert (value.id, value.metadata.version) == ("com-acme-line-vision", "2.1.0")
    assert (gpu.type, gpu.components[0].properties.timeout) == ("compose", "8m30s")
    assert helm.components[0].properties.wait is True
    assert gpu.device_constraints.capacity_requirements.cpu.architectures == ("amd64", "arm64")
    assert value.parameters["confidence"].value == 0.8
    assert value.configuration.schema[2].options == ("north", "south", "top")
    assert value.extensions == {"x-acme-extensions": {"supportLevel": "gold"}}


def test_a_description_is_written_as_it_was_read_but_for_defaults():
    written = write(check(LINE_VISION).value)
    original = read_yaml(LINE_VISION.encode(), "x.yaml").root.plain()
    del original["deploymentProfiles"][0]["components"][0]["properties"]["wait"]  # true is the default
    assert written == original


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("id: com-acme-line-vision", "id: com_acme", "2:5: id: 'com_acme' is not an application id"),
        ("id: com-acme-line-vision", f"id: {'a' * 201}", "2:5: id: 'aaaa"),
        ("id: com-acme-line-vision", "id: 7", "2:5: id: must be text, is an integer (7) (quote it)"),
        ("id: com-acme-line-vision", "id:", "2:4: id: must be text, is empty (give it a value, or remove the key)"),
        ("apiVersion: v1", "apiVersion: v2", "1:13: apiVersion: 'v2' is not one of v1"),
        ("  version: 2.1.0", "  version: 2.1", "6:12: metadata.version: must be text, is a number (2.1) (quote it)"),
        ("  version: 2.1.0\n", "", "4:3: metadata: version is missing (add version)"),
        ("name: Acme Vision", "nam: Acme Vision", "20:9: metadata.catalog.organization[0]: name is missing (add name)"),
        ("ada@acme.example", "Ada", "18:16: metadata.catalog.author[0].email: 'Ada' is not an e-mail address"),
        (
            "type: compose",
            "type: docker",
            "23:11: deploymentProfiles[0].type: 'docker' is not one of helm, compose, custom",
        ),
        ("name: line-vision\n", "name: Line_Vision\n", "'Line_Vision' is not a component name"),
        ("revision: 2.1.0\n          wait", "revision: v2.1.0\n          wait", "is not a SemVer version"),
        ("1.4.2-rc.1_build.7", "1.4.2+build.7", "'1.4.2+build.7' is not a SemVer version"),
        ("oci://registry.acme.example/compose/line-vision", "https://x/y", "'https://x/y' is not an OCI repository"),
        ("wait: true", 'wait: "yes"', "properties.wait: must be true or false, is a string ('yes')"),
        ("timeout: 8m30s", "timeout: 5m", "'5m' is not a time-out of the form 8m30s"),
        ("memory: 4Gi", "memory: 4 Gi", "'4 Gi' is not an amount like 512Mi (Ki, Mi, Gi; no space)"),
        ("memory: 4Gi", "memory: 4Ti", "'4Ti' is not an amount like 512Mi"),
        ("cores: 2", "cores: -1", "cpu.cores: must be at least 0, is -1"),
        ("[amd64, arm64]", "[x86_64]", "architectures[0]: 'x86_64' is not one of amd64, arm64, arm, riscv64, other"),
        ("operator: Exists", "operator: Exist", "operator: 'Exist' is not one of In, NotIn, Exists"),
        (
            "id: cluster-helm",
            "id: gpu-compose",
            "58:9: deploymentProfiles[1].id: the profile id gpu-compose appears twice",
        ),
        (
            "name: line-vision-chart",
            "name: line-vision-database",
            "components[1].name: the component line-vision-database",
        ),
        (
            "[line-vision-chart]",
            "[chart]",
            "parameters.greeting.targets[1].components[0]: no profile has a component chart",
        ),
        ("  greeting:\n", "  gree ting:\n", "the key 'gree ting' is not a parameter name (no spaces or braces)"),
        ("schema: ratio", "schema: ration", "there is no schema ration (name one of configuration.schema)"),
        ("parameter: cameras", "parameter: camera", "there is no parameter camera (name one of parameters)"),
        ("name: ratio", "name: shortText", "schema[1].name: the schema shortText appears twice"),
        (
            '"[A-Za-z ,!]+"',
            '"[A-Z"',
            "regexMatch: not a pattern that can be used: unterminated character set at character 1",
        ),
        ("dataType: double", "dataType: float", "dataType: 'float' is not one of string, integer, double"),
        ("maxLength: 45", "maxLength: 4.5", "maxLength: must be a whole number, is a number (4.5)"),
        ("  supportLevel: gold", "  - gold", "x-acme-extensions: an extension must be a mapping, is a list"),
        ("x-acme-extensions:", "x-Acme-extensions:", "unknown key 'x-Acme-extensions'"),
        (
            "deploymentProfiles:",
            "deploymentprofiles:",
            "unknown key 'deploymentprofiles' (did you mean deploymentProfiles?)",
        ),
        ("    immutable", "    Immutable", "unknown key 'Immutable' (did you mean immutable?)"),
    ],
)
def test_a_fault_is_found_where_it_stands(old, new, finding):
    found = findings(changed(LINE_VISION, old, new))
    assert any(finding in text for text in found), found
    assert check(changed(LINE_VISION, old, new)).value is None


def test_all_faults_are_found_in_one_run():
    text = changed(LINE_VISION, "id: com-acme-line-vision", "id: A")
    text = changed(text, "memory: 4Gi", "memory: lots")
    text = changed(text, "dataType: double", "dataType: float")
    assert len(findings(text)) == 3


def test_an_unknown_key_without_a_near_one_lists_what_is_known():
    found = findings(changed(LINE_VISION, "tagline: See", "zzz: See"))
    assert any("unknown key 'zzz' (known here: descriptionFile, icon, licenseFile" in text for text in found), found


def test_a_profile_needs_a_component_and_a_description_a_profile():
    text = example("ApplicationDescription/g0-hello-world.yaml").partition("deploymentProfiles:")[0]
    assert "deploymentProfiles: must have at least 1 items, has 0" in findings(text + "deploymentProfiles: []\n")[0]


def test_a_compose_component_may_name_its_package_by_url_and_else_needs_repository_and_revision():
    old = "          repository: oci://registry.acme.example/compose/line-vision\n          revision: 2.1.0\n"
    assert check(changed(LINE_VISION, old, "          packageLocation: https://x/y.tar.gz\n")).value is not None
    found = findings(changed(LINE_VISION, old, ""))
    assert [text.partition(": ")[2] for text in found] == [
        "deploymentProfiles[0].components[0].properties: repository is missing (add repository)",
        "deploymentProfiles[0].components[0].properties: revision is missing (add revision)",
    ]


@pytest.mark.parametrize("value", ["text", '"no"', "7", "0.5", "true", "[a, b]", "[1, 2.5, true]"])
def test_a_parameter_holds_a_scalar_or_a_list_of_scalars(value):
    assert check(changed(LINE_VISION, "value: Hello", f"value: {value}")).value is not None


@pytest.mark.parametrize("value", ["{a: 1}", "[[1]]", "", "[null]"])
def test_a_parameter_holds_nothing_else(value):
    assert "parameters.greeting.value" in findings(changed(LINE_VISION, "value: Hello", f"value: {value}"))[0]
