"""The standard's own examples, where they are at hand: MARGO_EXAMPLES names the folder."""

import os
from pathlib import Path

import pytest

from margo_gitops.documents.kinds import check_document, read_source

FOLDER = Path(os.environ.get("MARGO_EXAMPLES") or Path(__file__).parents[3] / "shared" / "margo-examples")

# An error report of the API, which is no document of ours to read.
OTHER_KINDS = ("ProblemDetail", "inline-problem")

# Refused by its draft, right by the current contract: amounts with a space, and one architecture for each CPU.
MENDED_BY_THE_UPGRADE = ("DeviceCapabilitiesManifest-004.json",)

SHAPES = {
    "rc3-no-kind": {"G2"},
    "rc2-top-level-id": {"G1"},
    "rc1-metadata-id": {"G1"},
    "data-model": {"G1"},
    "model-branch": {"G1"},
}

# Upstream's reason for each invalid file, and where ours stands.
REASONS = {
    "model-branch/DeploymentStatusManifest-001.json": "3:13: the kind 'WrongKind' is unknown",
    "model-branch/DeploymentStatusManifest-003.json": "1:1: deploymentId is missing",
    "model-branch/DesiredStateManifest-002.json": "4:22: bundle.mediaType: 'application/json' is not one of",
    "model-branch/DesiredStateManifest-004.json": "1:1: bundle is missing",
    "model-branch/DeviceCapabilitiesManifest-002.json": "4:19: properties: vendor is missing",
    "rc2-top-level-id/ApplicationDescription-002.yaml": "5:5: id: 'an-incorrect-id-with-special-chars**&%' is not",
    "rc2-top-level-id/DesiredState-001.yaml": "5:7: the kind 'SomethingErroneous' is unknown",
    "rc2-top-level-id/DesiredState-003.yaml": "9:20: spec.applicationId: '1234567890",
}

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not there; MARGO_EXAMPLES names another")


def examples(verdict):
    found = [path for path in sorted(FOLDER.glob(f"*/{verdict}/*")) if not path.name.startswith(OTHER_KINDS)]
    return pytest.mark.parametrize("path", found, ids=[f"{path.parts[-3]}-{path.stem}" for path in found])


def check(path):
    return check_document(read_source(path.read_bytes(), path.name))


@examples("valid")
def test_a_valid_example_is_read_through_the_upgrade(path):
    checked = check(path)
    assert [finding for finding in checked.findings if finding.severity == "error"] == []
    assert checked.value is not None
    assert checked.shape in SHAPES[path.parts[-3]]


@examples("invalid")
def test_an_invalid_example_is_refused_with_file_line_and_reason(path):
    checked = check(path)
    if path.name in MENDED_BY_THE_UPGRADE:
        assert checked.value is not None
        return
    assert checked.value is None
    expected = f"{path.name}:{REASONS[f'{path.parts[-3]}/{path.name}']}"
    assert [str(finding)[: len(expected)] for finding in checked.findings] == [expected]


def test_a_status_that_hides_a_failed_component_is_read_with_a_warning():
    checked = check(FOLDER / "model-branch" / "valid" / "DeploymentStatusManifest-001.json")
    assert [finding.severity for finding in checked.findings] == ["warning"]
