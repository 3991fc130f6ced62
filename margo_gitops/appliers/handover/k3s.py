"""The document for the Helm controller of k3s and RKE2, a `HelmChart`, and what the controller says of it. Pure.

The controller starts a job for each change of the chart or its values. The job tells how Helm ended. It does not say
which form of the `HelmChart` it is for, so the `HelmChart` notes which job was there before.
"""

from __future__ import annotations

from typing import Final

from margo_gitops.appliers.applier import Workload
from margo_gitops.appliers.handover.forms import (
    Answer,
    Target,
    chart_values,
    condition_of,
    covers,
    document,
    is_chart,
    line_of,
    object_name,
    registry_place,
    unsupported,
)
from margo_gitops.documents.kubernetes_objects import Fields, mapping_at
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_text import write_yaml

NAMESPACE: Final = "kube-system"
READERS: Final = (("helm.cattle.io/v1", "HelmChart"),)
SOURCES: Final = ()
JOB_BEFORE: Final = "org.margo-gitops.job-before"
"""Annotation: the uid of the job that the `HelmChart` had before it changed."""


def build(workload: Workload, target: Target) -> list[Fields]:
    """Return a component's `HelmChart` (WorkloadUnsupported: not a chart, or the controller cannot get it)."""
    if not is_chart(workload, "k3s"):
        raise unsupported(workload, "its Helm controller takes charts only", "use the applier kubernetes for manifests")
    repository, tag = registry_place(workload)
    spec: dict[str, Json] = {
        "chart": repository,
        "version": tag.replace("_", "+"),
        "targetNamespace": workload.deployment.metadata.namespace,
        "createNamespace": True,
        "timeout": f"{workload.timeout_seconds}s",
        "failurePolicy": "abort",  # the other choice uninstalls what ran
        "valuesContent": write_yaml(chart_values(workload)).decode(),
    }
    return [document(READERS[0], workload, target, object_name(workload.key), spec)]


def judge(found: Fields, job: Fields | None = None) -> Answer:
    """Return what the controller says of a `HelmChart`.

    Args:
        found: the `HelmChart` as the API server has it.
        job: the job that its status names; None where that does not exist.
    """
    failed = condition_of(found, "Failed")
    before = mapping_at(found, "metadata", "annotations").get(JOB_BEFORE)
    if job is None or mapping_at(job, "metadata").get("uid") == before:
        return Answer("starting", "the Helm controller has not started its job yet")
    for name in ("Failed", "FailureTarget"):
        condition = condition_of(job, name)
        if condition.get("status") == "True":
            return Answer("degraded", line_of(condition.get("message")), is_final=True)
    if condition_of(job, "Complete").get("status") != "True":
        return Answer("starting", f"the job {mapping_at(job, 'metadata').get('name')} runs")
    if failed.get("status") == "True":
        return Answer("degraded", line_of(failed.get("message")), is_final=True)
    return Answer("running", "the Helm controller has installed it")


def noting_job(wanted: Fields, found: Fields | None, job: Fields | None) -> Fields:
    """Return a `HelmChart` to write, with a note of the job that was there before it changes."""
    before = mapping_at(found, "metadata", "annotations").get(JOB_BEFORE)
    if found and not covers(found.get("spec"), wanted["spec"]):
        before = mapping_at(job, "metadata").get("uid")
    metadata = mapping_at(wanted, "metadata")
    noted: Fields = {**mapping_at(metadata, "annotations"), JOB_BEFORE: before}
    return {**wanted, "metadata": {**metadata, "annotations": noted}} if before else wanted
