"""DeviceCapabilities and DeploymentStatus: what devices say."""

import itertools
import json

import pytest
from documents.document_text import check, example, findings

from margo_gitops.documents.records import write
from margo_gitops.documents.status import SEVERITY, most_severe

PRESS = json.loads(example("DeviceCapabilities/press.json"))
FAILED = json.loads(example("DeploymentStatus/failed.json"))


def with_property(name, value):
    return json.dumps(PRESS | {"properties": PRESS["properties"] | {name: value}})


def test_capabilities_become_a_typed_value_and_are_written_back():
    value = check(json.dumps(PRESS)).value
    assert value.properties.cpus[0].cores == 4
    assert value.labels == {"line": "3", "acme.example/tested": True, "slots": (1, 2)}
    assert write(value) == PRESS


@pytest.mark.parametrize("missing", ["id", "vendor", "modelNumber", "serialNumber"])
def test_four_properties_are_always_needed(missing):
    properties = {key: value for key, value in PRESS["properties"].items() if key != missing}
    assert f"properties: {missing} is missing (add {missing})" in findings(json.dumps({"properties": properties}))[0]


@pytest.mark.parametrize(
    ("name", "value", "finding"),
    [
        ("id", "press 07", "'press 07' is not a device id"),
        ("cpus", {"cores": 4}, "properties.cpus: must be a list, is a mapping"),
        ("cpus", [{"architecture": "amd64"}], "cores is missing"),
        ("cpus", [{"cores": 1, "architecture": "x86_64"}], "'x86_64' is not one of amd64, arm64, arm"),
        ("memory", 8, "must be text, is an integer (8) (quote it)"),
        ("peripherals", [{"type": "lidar"}], "'lidar' is not one of gpu"),
        ("interfaces", ["ethernet"], "interfaces[0]: must be a mapping, is a string ('ethernet')"),
        ("supportedRuntimes", [], "must have at least 1 items, has 0"),
        ("supportedDeploymentTypes", ["docker-compose"], "'docker-compose' is not one of helm, compose, custom"),
        ("otelCollector", "true", "must be true or false"),
    ],
)
def test_a_fault_in_capabilities_is_found(name, value, finding):
    found = findings(with_property(name, value))
    assert any(finding in text for text in found), found


@pytest.mark.parametrize("memory", ["8Gi", "8 Gi", "59 Gi", "1.5Gi"])
def test_amounts_may_have_a_space_here(memory):
    assert findings(with_property("memory", memory)) == []


def test_an_amount_that_no_placement_can_use_is_a_warning():
    checked = check(with_property("memory", "plenty"))
    assert checked.value is not None
    assert [(finding.severity, finding.remedy) for finding in checked.findings] == [("warning", "write it like 8 Gi")]


def test_nothing_else_stands_at_the_top_but_extensions():
    assert "unknown key 'apiversion'" in findings(json.dumps(PRESS | {"apiversion": "x"}))[0]


@pytest.mark.parametrize("label", [{"a": 1}, [True], [["x"]], None])
def test_a_label_is_a_scalar_or_a_list_of_text_and_numbers(label):
    assert "labels.x" in findings(json.dumps(PRESS | {"labels": {"x": label}}))[0]


def test_a_status_becomes_a_typed_value_and_is_written_back():
    value = check(json.dumps(FAILED)).value
    assert value.status.error.code == "MG1604"
    assert write(value) == FAILED


@pytest.mark.parametrize(
    ("field", "value", "finding"),
    [
        ("adoptedManifestVersion", 0, "must be at least 1"),
        ("adoptedManifestVersion", 1.0, "must be a whole number"),
        ("status", {"state": "Installed"}, "(did you mean installed?)"),
        ("status", {}, "state is missing"),
        ("components", [{"state": "failed"}], "name is missing"),
        ("deploymentId", "", "must have 1 or more characters"),
    ],
)
def test_a_fault_in_a_status_is_found(field, value, finding):
    found = findings(json.dumps(FAILED | {field: value}))
    assert any(finding in text for text in found), found


def test_the_overall_state_is_that_of_the_most_severe_component():
    assert SEVERITY == ("failed", "removing", "installing", "pending", "removed", "installed")
    for one, other in itertools.combinations(SEVERITY, 2):
        assert most_severe([other, one]) == most_severe([one, other]) == one
    assert most_severe([]) == "installed"


def test_an_overall_state_that_hides_a_failure_is_a_warning():
    checked = check(json.dumps(FAILED | {"status": {"state": "installed"}}))
    assert checked.value is not None
    assert [str(finding.severity) for finding in checked.findings] == ["warning"]
