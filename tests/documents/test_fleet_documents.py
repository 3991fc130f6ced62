"""Our own kinds: Fleet, Site, Device, Deployment, ApplicationsLock."""

import pytest
from documents.document_text import changed, check, example, findings

from margo_gitops.documents.records import write
from margo_gitops.documents.yaml_text import read_yaml, write_yaml

FLEET = example("Fleet/plant.yaml")
SITE = example("Site/north.yaml")
DEVICE = example("Device/press-07.yaml")
DEPLOYMENT = example("Deployment/line-vision.yaml")
LOCK = example("ApplicationsLock/two-versions.yaml")


@pytest.mark.parametrize("text", [FLEET, SITE, DEVICE, DEPLOYMENT, LOCK])
def test_a_document_that_is_written_and_read_again_is_the_same(text):
    value = check(text).value
    assert check(write_yaml(write(value)).decode()).value == value


@pytest.mark.parametrize("text", [SITE, DEVICE, DEPLOYMENT, LOCK])
def test_what_is_written_has_every_field_that_was_given(text):
    assert write(check(text).value) == read_yaml(text.encode(), "x.yaml").root.plain()


def test_defaults_need_not_be_written():
    value = check("apiVersion: margo-gitops/v1\nkind: Fleet\nmetadata: {name: x}\nspec: {stateRepo: s}\n").value
    assert (value.spec.namespace, value.spec.signing.required, value.spec.artifacts) == ("margo", False, None)


@pytest.mark.parametrize(
    ("text", "old", "new", "finding"),
    [
        (FLEET, "../state.git", '""', "6:14: spec.stateRepo: must have 1 or more characters, has 0"),
        (FLEET, "required: true", 'required: "true"', "spec.signing.required: must be true or false"),
        (FLEET, "https://artifacts.plant.example/applications/", "https://a.example/x", "that ends with a slash"),
        (FLEET, "stateRepo", "state_repo", "(did you mean stateRepo?)"),
        (FLEET, "namespace: margo", "namespace: Margo", "spec.namespace: 'Margo' is not a name"),
        (SITE, "name: north", "name: -north", "'-north' is not a name"),
        (SITE, "name: north", f"name: {'n' * 64}", "is not a name"),
        (SITE, "    country:", "    -country:", "the key '-country' is not a label key"),
        (
            SITE,
            '    country: "NO"',
            "    country: {a: b}",
            "metadata.labels.country: must be text or a whole number or",
        ),
        (SITE, "parameters:", "parameter:", "(did you mean parameters?)"),
        (DEVICE, "name: press-07", "name: press 07", "metadata.name: 'press 07' is not a device id"),
        (DEVICE, "id: press-07", "id: press-08", "the capabilities are those of press-08, the device is press-07"),
        (DEVICE, "site: north", "site: North", "spec.site: 'North' is not a name"),
        (DEVICE, "cores: 4", "cores: four", "spec.capabilities.properties.cpus[0].cores: must be a number"),
        (DEPLOYMENT, "    id: com", "    id: Com", "spec.application.id"),
        (
            DEPLOYMENT,
            "version: 2.1.0",
            "version: 2.1",
            "spec.application.version: must be text, is a number (2.1) (quote it)",
        ),
        (DEPLOYMENT, "sites: [north]", "all: true", "spec.placement.all: all goes with no other condition"),
        (DEPLOYMENT, "devices: [press-07]", "devices: []", "spec.overlays[0].match: selects no device"),
        (DEPLOYMENT, "after: [database]", "after: database", "spec.after: must be a list, is a string ('database')"),
        (DEPLOYMENT, "after: [database]", "After: [x]", "spec.After: unknown key 'After' (did you mean after?)"),
        (LOCK, 'version: "1.1"', "version: 1.1", "applications[1].version: must be text"),
        (LOCK, "sha256:e3b0", "sha256:E3B0", "applications[1].digest: "),
    ],
)
def test_a_fault_is_found_where_it_stands(text, old, new, finding):
    broken = changed(text, old, new)
    found = findings(broken)
    assert any(finding in line for line in found), found
    assert check(broken).value is None


def test_a_label_key_may_not_end_with_a_newline():
    assert "is not a label key" in findings(changed(SITE, "    country:", '    "country\\n":'))[0]


def test_two_overlays_of_one_name_are_refused():
    overlay = "    - name: presses\n      match:\n        devices: [press-07]\n      parameters: {}\n"
    found = findings(changed(DEPLOYMENT, "  overlays:\n", "  overlays:\n" + overlay))
    assert [line.partition(": ")[2] for line in found] == ["spec.overlays[1].name: the overlay presses appears twice"]


def test_a_device_whose_encoded_name_no_file_system_takes_is_refused():
    long = "A" * 200
    found = findings(changed(changed(DEVICE, "name: press-07", f"name: {long}"), "id: press-07", f"id: {long}"))
    assert "600 characters encoded, 240 are possible" in found[0]


@pytest.mark.parametrize(
    "placement",
    [
        "{all: true}",
        "{devices: [a]}",
        "{devices: [a], sites: [b]}",
        "{matchLabels: {line: 3}}",
        "{matchExpressions: [{key: line, operator: Exists}]}",
    ],
)
def test_a_selector_says_which_devices(placement):
    text = example("Deployment/everywhere.yaml").replace("{all: true}", placement)
    assert check(text).value is not None
