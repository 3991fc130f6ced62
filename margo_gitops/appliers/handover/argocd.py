"""The document for Argo CD, an `Application`, and what Argo CD says of it. Pure.

Argo CD 3.1 and later read charts and manifests from an OCI repository. It fetches no tar.gz, so the content of a
deployment does not count here; the component's repository and tag do.
"""

from __future__ import annotations

from typing import Final

from margo_gitops.appliers.applier import Workload
from margo_gitops.appliers.handover.forms import (
    Answer,
    Target,
    chart_values,
    document,
    is_chart,
    line_of,
    object_name,
    refuse_values,
    registry_place,
)
from margo_gitops.documents.kubernetes_objects import Fields, list_at, mapping_at
from margo_gitops.documents.nodes import Json

NAMESPACE: Final = "argocd"
READERS: Final = (("argoproj.io/v1alpha1", "Application"),)
SOURCES: Final = ()
_FINALIZER: Final = "resources-finalizer.argocd.argoproj.io"
_SERVER: Final = "https://kubernetes.default.svc"
_FAILED: Final = ("Failed", "Error")


def build(workload: Workload, target: Target) -> list[Fields]:
    """Return a component's `Application`.

    Raises:
        WorkloadUnsupported: Argo CD cannot get its content, or has no place for its parameters.
    """
    name = object_name(workload.key)
    repository, tag = registry_place(workload)
    source: dict[str, Json] = {"repoURL": repository, "targetRevision": tag, "path": "."}
    if is_chart(workload, "Argo CD"):
        source["helm"] = {"releaseName": name, "valuesObject": chart_values(workload)}
    else:
        refuse_values(workload, "Argo CD")
        source["directory"] = {"recurse": True}
    spec: dict[str, Json] = {
        "project": "default",
        "source": source,
        "destination": {"server": _SERVER, "namespace": workload.deployment.metadata.namespace},
        "syncPolicy": {
            "automated": {"prune": True, "selfHeal": True},
            "syncOptions": ["CreateNamespace=true", "ServerSideApply=true"],
        },
    }
    found = document(READERS[0], workload, target, name, spec)
    # Without it, Argo CD forgets the application and leaves what it made.
    found["metadata"] = {**mapping_at(found, "metadata"), "finalizers": [_FINALIZER]}
    return [found]


def judge(found: Fields, _job: Fields | None = None) -> Answer:
    """Return what Argo CD says of an `Application`, as the API server has it."""
    status, source = mapping_at(found, "status"), mapping_at(found, "spec", "source")
    health, sync = mapping_at(status, "health"), mapping_at(status, "sync")
    operation = mapping_at(status, "operationState")
    conditions = [mapping_at(each) for each in list_at(status, "conditions")]
    wrong = [line_of(each.get("message")) for each in conditions if _is_error(each.get("type"))]
    detail = wrong[0] if wrong else f"sync: {sync.get('status', 'Unknown')}, health: {health.get('status', 'Unknown')}"
    if any(each.get("type") == "InvalidSpecError" for each in conditions):
        return Answer("degraded", detail, is_final=True)
    if operation.get("phase") in _FAILED and mapping_at(operation, "syncResult", "source") == source:
        return Answer("degraded", line_of(operation.get("message")) or detail, is_final=True)
    if mapping_at(sync, "comparedTo", "source") != source:
        return Answer("starting", wrong[0] if wrong else "Argo CD has not seen it yet")
    if health.get("status") == "Degraded":
        return Answer("degraded", line_of(health.get("message")) or detail, is_final=sync.get("status") == "Synced")
    is_done = (sync.get("status"), health.get("status")) == ("Synced", "Healthy")
    return Answer("running" if is_done else "starting", detail)


def _is_error(kind: Json) -> bool:
    return isinstance(kind, str) and kind.endswith("Error")
