"""Status documents: the rules DEPLOYED-1 to DEPLOYED-5 of agent.memory.recorded."""

from margo_gitops.agent.memory.recorded import RecordedDeployment, RecordedWorkload, deployment_status
from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.kinds import read_as
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION
from margo_gitops.documents.records import write
from margo_gitops.documents.status import DeploymentStatus, State

DEPLOYMENT = RecordedDeployment("1", "line-vision", "press-07", MAX_MANIFEST_VERSION)


def workload(name: str, state: State, message: str = "") -> RecordedWorkload:
    return RecordedWorkload(WorkloadKey("1", name), "compose", None, None, state, "MG1604" if message else "", message)


def test_a_deployment_has_the_state_and_the_error_of_its_most_severe_component() -> None:
    status = deployment_status(
        DEPLOYMENT,
        [workload("web", "installed"), workload("data", "failed", "does not start"), workload("x", "pending")],
    )
    assert status.status.state == "failed"
    assert status.status.error is not None
    assert (status.status.error.source, status.status.error.code) == ("line-vision", "MG1604")
    assert [component.state for component in status.components] == ["installed", "failed", "pending"]
    assert status.components[1].error is not None
    assert status.components[1].error.source == "data"
    assert status.components[0].error is None


def test_the_adopted_version_keeps_every_digit_and_the_document_is_valid() -> None:
    status = deployment_status(DEPLOYMENT, [workload("web", "installed")])
    encoded = write_json(write(status))
    assert f'"adoptedManifestVersion":{MAX_MANIFEST_VERSION}'.encode() in encoded
    assert read_as(DeploymentStatus, read_json(encoded, "status.json")) == status


def test_only_the_deployment_of_a_child_device_names_its_device() -> None:
    child = RecordedDeployment("1", "line-vision", "gateway/press-07", 1)
    assert deployment_status(child, [workload("web", "installed")]).device_id == "gateway/press-07"
    assert deployment_status(DEPLOYMENT, [workload("web", "installed")]).device_id is None
