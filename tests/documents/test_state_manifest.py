"""StateManifest: complete, exact, and free of floats."""

import json

import pytest
from documents.document_text import changed, check, example, findings

from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write

ONE = example("StateManifest/one-deployment.json")
ID = "a3e2f5dc-912e-494f-8395-52cf3769bc06"


def manifest(**fields):
    return json.dumps({"manifestVersion": 1, "bundle": None, "deployments": []} | fields)


def test_the_greatest_version_is_exact():
    value = check(ONE).value
    assert value.manifest_version == 2**64 - 1
    assert b'"manifestVersion":18446744073709551615' in write_json(write(value))


def test_an_empty_manifest_means_remove_everything_and_keeps_its_bundle_key():
    value = check(manifest(manifestVersion=2)).value
    assert value.deployments == ()
    assert write_json(write(value)) == b'{"bundle":null,"deployments":[],"manifestVersion":2}'


def test_a_manifest_that_is_written_and_read_again_is_the_same():
    value = check(ONE).value
    assert check(write_json(write(value)).decode(), "x.json").value == value


@pytest.mark.parametrize("version", ["0", "-1", "18446744073709551616", "1.0", "1e3", '"1"', "true", "null"])
def test_a_version_is_a_whole_number_from_1_to_2_to_the_64_less_1(version):
    text = changed(ONE, "18446744073709551615", version)
    try:
        assert check(text).value is None
    except Exception as error:  # noqa: BLE001  # beyond 64 bits the reader itself refuses
        assert "64 bits" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        (
            '"mediaType": "application/vnd.margo.bundle.v1+tar+gzip"',
            '"mediaType": "application/json"',
            "bundle.mediaType: ",
        ),
        (f'"deploymentId": "{ID}"', '"deploymentId": "x"', "deployments[0].deploymentId: 'x' is not a UUID"),
        (f'"/api/v1/deployments/{ID}', f'"api/v1/deployments/{ID}', "is not a path that starts with a slash"),
        ('"sizeBytes": 1,', '"sizeBytes": -1,', "deployments[0].sizeBytes: must be at least 0, is -1"),
        ('"deployments": [', '"deployment": [', "unknown key 'deployment' (did you mean deployments?)"),
    ],
)
def test_a_fault_is_found_where_it_stands(old, new, finding):
    found = findings(changed(ONE, old, new))
    assert any(finding in text for text in found), found


@pytest.mark.parametrize("digest", ["sha512:" + "0" * 128, "sha256:" + "A" * 64, "sha256:" + "0" * 63, "0" * 64])
def test_another_algorithm_makes_the_whole_manifest_invalid(digest):
    plain = json.loads(ONE)
    plain["deployments"][0]["digest"] = digest
    assert "deployments[0].digest" in findings(json.dumps(plain))[0]


def test_the_bundle_key_may_not_be_absent():
    assert findings('{"manifestVersion": 1, "deployments": []}') == ["1:1: bundle is missing (add bundle)"]


def test_bundle_is_null_exactly_when_there_are_no_deployments():
    plain = json.loads(ONE)
    assert "bundle is null although there are deployments" in findings(json.dumps(plain | {"bundle": None}))[0]
    assert "bundle must be null" in findings(json.dumps(plain | {"deployments": []}))[0]


def test_a_deployment_is_listed_once_whatever_the_case_of_its_id():
    plain = json.loads(ONE)
    again = plain["deployments"][0] | {"deploymentId": ID.upper()}
    found = findings(json.dumps(plain | {"deployments": [plain["deployments"][0], again]}))
    assert found[0].endswith(f"deployments[1].deploymentId: the deployment {ID} appears twice")
