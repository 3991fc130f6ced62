"""Fieldss for Flux, and what its controllers say of them. Pure.

A Helm chart is a `HelmRelease`, a folder of manifests a `Kustomization`. Both read a source. Content that the
deployment names by https and digest is an `ExternalArtifact`: Flux fetches it and checks the digest. Only the status
of an `ExternalArtifact` says where it is, so files cannot hold one. Everything else is an `OCIRepository`, by tag.

A source has another name when its content changes, and then its reader names another source. So a reader whose newest
generation was observed has the newest content (HANDOVER-5).
"""

from __future__ import annotations

from typing import Final

from margo_gitops.appliers.applier import Workload
from margo_gitops.appliers.handover.forms import (
    Answer,
    Target,
    chart_values,
    condition_of,
    content_name,
    document,
    is_chart,
    line_of,
    object_name,
    refuse_values,
    registry_place,
    unsupported,
)
from margo_gitops.documents.kubernetes_objects import Fields, mapping_at
from margo_gitops.documents.nodes import Json

NAMESPACE: Final = "flux-system"
READERS: Final = (("kustomize.toolkit.fluxcd.io/v1", "Kustomization"), ("helm.toolkit.fluxcd.io/v2", "HelmRelease"))
SOURCES: Final = (("source.toolkit.fluxcd.io/v1", "OCIRepository"), ("source.toolkit.fluxcd.io/v1", "ExternalArtifact"))
_CHART_LAYER: Final = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_INTERVAL: Final = "10m"
_RETRY: Final = "30s"
_FINAL: Final = frozenset({"BuildFailed", "HealthCheckFailed", "InstallFailed", "UpgradeFailed", "TestFailed"})
_FINAL_AFTER: Final = frozenset({"RollbackSucceeded", "RollbackFailed", "UninstallSucceeded", "UninstallFailed"})
"""Both: reasons that no wait changes. Flux has others, for a source or a dependency that is not there yet."""


def build(workload: Workload, target: Target) -> list[Fields]:
    """Return a component's documents: its source, then what reads the source.

    Raises:
        WorkloadUnsupported: Flux cannot get its content, or has no place for its parameters.
    """
    name = object_name(workload.key)
    chart = is_chart(workload, "Flux")
    source = _source(workload, target, name, is_chart=chart)
    reference: dict[str, Json] = {"kind": source["kind"], "name": mapping_at(source, "metadata")["name"]}
    namespace = workload.deployment.metadata.namespace
    spec: dict[str, Json] = {"interval": _INTERVAL, "timeout": f"{workload.timeout_seconds}s"}
    if not chart:
        refuse_values(workload, "Flux")
        spec |= {"path": "./", "prune": True, "wait": workload.component.properties.wait, "retryInterval": _RETRY}
        spec |= {"sourceRef": reference, "targetNamespace": namespace}
        return [source, document(READERS[0], workload, target, name, spec)]
    waits: dict[str, Json] = {} if workload.component.properties.wait else {"disableWait": True}
    # Helm goes back at once, and Flux tries no second time: the agent decides what happens next.
    back: Json = {"retries": 0, "remediateLastFailure": True, "strategy": "rollback"}
    spec |= {
        "chartRef": reference,
        "releaseName": name,
        "targetNamespace": namespace,
        "storageNamespace": namespace,
        "driftDetection": {"mode": "enabled"},
        "install": {"createNamespace": True, **waits},
        "upgrade": {"remediation": back, **waits},
        "values": chart_values(workload),
    }
    return [source, document(READERS[1], workload, target, name, spec)]


def judge(found: Fields, _job: Fields | None = None) -> Answer:
    """Return what Flux says of a `Kustomization` or a `HelmRelease`, as the API server has it."""
    status, ready, stalled = mapping_at(found, "status"), condition_of(found, "Ready"), condition_of(found, "Stalled")
    generation = mapping_at(found, "metadata").get("generation")
    seen = ready.get("observedGeneration", status.get("observedGeneration"))
    if not ready or generation != seen:
        return Answer("starting", "Flux has not seen it yet")
    message = line_of(ready.get("message"))
    if ready.get("status") == "True":
        return Answer("running", message)
    if stalled.get("status") == "True":
        return Answer("degraded", message or line_of(stalled.get("message")), is_final=True)
    is_final = ready.get("status") == "False" and ready.get("reason") in _FINAL | _FINAL_AFTER
    return Answer("degraded" if is_final else "starting", message, is_final=is_final)


def _source(workload: Workload, target: Target, name: str, *, is_chart: bool) -> Fields:
    artifact = workload.artifact
    if artifact is not None and target.has_server:
        if not artifact.url.startswith("https://"):
            raise unsupported(workload, "Flux fetches no files of this device", "publish its content by https")
        found = document(SOURCES[1], workload, target, content_name(name, {"digest": artifact.digest}), {})
        revision = f"{workload.component.properties.revision or 'content'}@{artifact.digest}"
        place: dict[str, Json] = {"url": artifact.url, "path": "", "digest": artifact.digest, "revision": revision}
        # Flux wants a time; the digest alone says what the content is (HANDOVER-4).
        return found | {"status": {"artifact": {**place, "lastUpdateTime": "2000-01-01T00:00:00Z"}}}
    repository, tag = registry_place(workload)
    spec: dict[str, Json] = {"interval": _INTERVAL, "url": repository, "ref": {"tag": tag}}
    if is_chart:
        spec["layerSelector"] = {"mediaType": _CHART_LAYER, "operation": "copy"}
    return document(SOURCES[0], workload, target, content_name(name, spec), spec)
