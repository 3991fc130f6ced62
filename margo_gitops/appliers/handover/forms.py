"""What the documents of all controllers share: names that are valid everywhere, metadata, values, conditions. Pure.

HANDOVER-1  A name has at most 53 characters, what Helm accepts for a release. All controllers accept it as a label too.
HANDOVER-2  Names of different components differ: 80 bits of a digest over deployment and component are part of them.
HANDOVER-3  A component keeps its name when its content changes, so that its controller updates what is there.
HANDOVER-4  Fieldss depend on the workload and the settings alone: the same input gives the same bytes.
HANDOVER-5  A component counts as installed only when its controller says so of the newest document.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, Literal

from margo_gitops.appliers.applier import Workload, WorkloadKey
from margo_gitops.documents.deployment import component_format
from margo_gitops.documents.helm_values import PointerMistake, values_of
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.kubernetes_objects import Fields, list_at, mapping_at
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import WorkloadUnsupported
from margo_gitops.values import dataclass

DEVICE: Final = "org.margo-gitops.device"
DEPLOYMENT: Final = "org.margo-gitops.deployment-id"
COMPONENT: Final = "org.margo-gitops.component"
DIGEST: Final = "org.margo-gitops.digest"
MANAGED: Final[Mapping[str, Json]] = {"app.kubernetes.io/managed-by": "margo-gitops"}
LONGEST_NAME: Final = 53
MANIFESTS: Final = "kubernetes"
"""The format of a component whose content is a folder of manifests."""
_DIGEST_CHARACTERS: Final = 16
_LONGEST_LABEL: Final = 63


@dataclass(frozen=True, slots=True)
class Target:
    """Where a controller looks for its documents.

    Attributes:
        device: this device's id.
        namespace: of the documents.
        has_server: whether the API server gets them, with their status; otherwise they are files.
    """

    device: str
    namespace: str
    has_server: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a controller says of a component.

    Attributes:
        condition: as `Observed` has it.
        detail: the controller's own words, one line.
        is_final: it has failed, and waiting changes nothing.
    """

    condition: Literal["running", "starting", "degraded"]
    detail: str = ""
    is_final: bool = False


def object_name(key: WorkloadKey) -> str:
    """Return the name of a component's documents, and of its Helm release (HANDOVER-1 to HANDOVER-3)."""
    most = LONGEST_NAME - _DIGEST_CHARACTERS - 1
    return f"{key.component[:most].rstrip('-')}-{_short(str(key).encode(), _DIGEST_CHARACTERS)}"


def content_name(name: str, spec: Mapping[str, Json]) -> str:
    """Return the name of a source, which is another one when its content changes."""
    return f"{name}-{_short(write_json(dict(spec)), 8)}"


def document(kind: tuple[str, str], workload: Workload, target: Target, name: str, spec: Mapping[str, Json]) -> Fields:
    """Return a document; its labels and annotations tell people what it belongs to.

    Args:
        kind: `apiVersion` and `kind`.
    """
    annotations: dict[str, Json] = {
        DEVICE: target.device,
        COMPONENT: workload.key.component,
        DIGEST: workload.digest,
    }
    labels: dict[str, Json] = {
        **MANAGED,
        DEPLOYMENT: workload.key.deployment_id,
        COMPONENT: workload.key.component[:_LONGEST_LABEL].rstrip("-"),
    }
    metadata: dict[str, Json] = {
        "name": name,
        "namespace": target.namespace,
        "labels": labels,
        "annotations": annotations,
    }
    return {"apiVersion": kind[0], "kind": kind[1], "metadata": metadata, "spec": dict(spec)}


def is_chart(workload: Workload, controller: str) -> bool:
    """Return whether a component is a Helm chart, and not a folder of manifests (WorkloadUnsupported: neither)."""
    kind = workload.deployment.spec.deployment_profile.type
    if kind != "helm" and component_format(workload.component) != MANIFESTS:
        raise unsupported(
            workload,
            f"it is neither a chart nor Kubernetes manifests for {controller}",
            "use the applier of its engine",
        )
    return kind == "helm"


def registry_place(workload: Workload) -> tuple[str, str]:
    """Return a component's OCI repository and its tag (WorkloadUnsupported: it names none)."""
    properties = workload.component.properties
    if properties.repository is None or properties.revision is None:
        raise unsupported(workload, "it names no OCI repository", "name repository and revision in its description")
    return properties.repository, properties.revision


def chart_values(workload: Workload) -> dict[str, Json]:
    """Return the values of a chart (WorkloadUnsupported: pointers that do not fit)."""
    try:
        return values_of(workload.values.items())
    except PointerMistake as error:
        raise unsupported(workload, str(error), "correct the pointers in the application description") from error


def refuse_values(workload: Workload, controller: str) -> None:
    """Refuse parameters where a controller has no place for them (WorkloadUnsupported)."""
    if workload.values:
        reason = f"{controller} cannot write parameters ({', '.join(workload.values)}) into manifests"
        raise unsupported(workload, reason, "make it a Helm chart, or use the applier kubernetes")


def condition_of(found: Fields, name: str) -> dict[str, Json]:
    """Return a condition of an object's status; an empty one where it has none."""
    each = map(mapping_at, list_at(found, "status", "conditions"))
    return next((item for item in each if item.get("type") == name), {})


def covers(found: Json, wanted: Json) -> bool:
    """Return whether an object of the server has all that was written; it also has defaults and a status."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return all(name in found and covers(found[name], value) for name, value in wanted.items())
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(covers, found, wanted))
    return found == wanted


def line_of(message: Json) -> str:
    """Return what a controller says as one line of at most 500 characters."""
    return " ".join(message.split())[:500] if isinstance(message, str) else ""


def unsupported(workload: Workload, reason: str, remedy: str) -> WorkloadUnsupported:
    """Return the error that a component cannot be handed over."""
    return WorkloadUnsupported(
        f"component {workload.component.name} of {workload.deployment.metadata.name} cannot be handed over",
        why=[reason],
        remedy=remedy,
    )


def _short(content: bytes, characters: int) -> str:
    return base64.b32encode(sha256(content).digest()).decode().lower()[:characters]
