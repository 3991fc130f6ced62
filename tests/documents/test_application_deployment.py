"""ApplicationDeployment: what a device gets."""

import pytest
from documents.document_text import changed, check, example, findings

from margo_gitops import __version__
from margo_gitops.documents.deployment import FIRST_AGENTS, OWN_EXTENSION, DeploymentExtension
from margo_gitops.documents.nodes import Node, SourceText
from margo_gitops.documents.records import find, iterate_fields, write
from margo_gitops.documents.versions import version_key
from margo_gitops.documents.yaml_text import write_yaml

LINE_VISION = example("ApplicationDeployment/line-vision.yaml")


def test_a_deployment_becomes_a_typed_value():
    value = check(LINE_VISION).value
    assert value.metadata.device_id == "press-07"
    assert value.spec.deployment_profile.type == "compose"
    assert value.spec.parameters["greeting"].value == "no"
    assert value.spec.parameters["cameras"].value == ("north", "south")


def test_a_deployment_that_is_written_and_read_again_is_the_same():
    value = check(LINE_VISION).value
    content = write_yaml(write(value))
    assert check(content.decode()).value == value
    assert write_yaml(write(check(content.decode()).value)) == content


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("id: a3e2f5dc-912e-494f-8395-52cf3769bc06", "id: 7", "1:5: id: must be text"),
        ("id: a3e2f5dc-912e-494f-8395-52cf3769bc06", "id: a3e2f5dc", "1:5: id: 'a3e2f5dc' is not a UUID"),
        (
            "  name: line-vision\n  namespace",
            '  name: ""\n  namespace',
            "metadata.name: must have 1 or more characters",
        ),
        ("deviceId: press-07", "deviceId: press 07", "metadata.deviceId: 'press 07' is not a device id"),
        ("deviceId: press-07", "deviceId: gw/*/a", "'gw/*/a' is not a device id"),
        ("  deviceId: press-07\n", "", "metadata: deviceId is missing"),
        ("team: quality", "team: 7", "metadata.labels.team: must be text, is an integer (7) (quote it)"),
        (
            "applicationId: com",
            "applicationId: Com",
            "spec.applicationId: 'Com-acme-line-vision' is not an application id",
        ),
        ("type: compose", "type: composed", "(did you mean compose?)"),
        ('value: "no"', "values: 1", "spec.parameters.greeting: value is missing"),
        ("  x-margo-gitops-extensions:", "  xtra:", "unknown key 'xtra'"),
    ],
)
def test_a_fault_is_found_where_it_stands(old, new, finding):
    found = findings(changed(LINE_VISION, old, new))
    assert any(finding in text for text in found), found


@pytest.mark.parametrize("device", ["press-07", "gw-1/press-07", "gw-1/*", "A.b_c~d"])
def test_a_device_a_child_or_any_child_can_be_meant(device):
    assert check(changed(LINE_VISION, "press-07", device)).value.metadata.device_id == device


def test_keys_at_the_top_that_the_standard_leaves_open_are_kept():
    value = check(LINE_VISION + "vendorNote: hello\n").value
    assert value.others == {"vendorNote": "hello"}
    assert write(value)["vendorNote"] == "hello"


def test_extensions_of_others_are_kept_and_do_not_fail():
    value = check(LINE_VISION + "  x-other-extensions:\n    deep: {list: [1, null]}\n").value
    assert value.spec.extensions["x-other-extensions"] == {"deep": {"list": [1, None]}}
    assert write(value)["spec"]["x-other-extensions"] == {"deep": {"list": [1, None]}}


def test_our_own_extension_is_typed_too():
    plain = check(LINE_VISION).value.spec.extensions[OWN_EXTENSION]
    value, found = find(DeploymentExtension, SourceText("x", Node.of(plain)))
    assert (value.profile, value.artifacts, found) == ("gpu-compose", (), [])


def test_an_artifact_needs_a_file_or_https_url_and_a_digest():
    plain = {
        "deployment": "d",
        "applicationVersion": "1",
        "profile": "p",
        "artifacts": [{"component": "c", "url": "http://x/y", "digest": "md5:0"}],
    }
    _, found = find(DeploymentExtension, SourceText("x", Node.of(plain)))
    assert [finding.path for finding in found] == ["artifacts[0].url", "artifacts[0].digest"]


def test_every_member_of_the_extension_has_the_first_agent_that_obeys_it():
    assert [wire for wire, _, _ in iterate_fields(DeploymentExtension)] == list(FIRST_AGENTS)
    newest = max(FIRST_AGENTS.values(), key=version_key)
    assert version_key(newest) <= version_key(__version__), "a new member comes with the version that obeys it"
