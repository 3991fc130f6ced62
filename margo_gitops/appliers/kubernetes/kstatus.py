"""Whether an object of a cluster does what it was made for: ready, in progress, or failed, with a reason. Pure.

Source: kstatus of the Kubernetes SIG CLI (sigs.k8s.io/cli-utils), which Flux and others use too: its rules by kind, and
for other kinds `observedGeneration` and the conditions Ready, Reconciling and Stalled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from margo_gitops.documents.kubernetes_objects import Fields, list_at, mapping_at, text_at
from margo_gitops.documents.nodes import Json
from margo_gitops.values import dataclass
from margo_gitops.wording import counted

State: TypeAlias = Literal["ready", "progressing", "failed"]


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """What an object's status means, and why it is not ready, in a few words."""

    state: State
    reason: str = ""


READY: Final = ObjectStatus("ready")


def status_of(body: Fields) -> ObjectStatus:
    """Return the status of an object as the server has it; one without a status is ready."""
    if text_at(body, "metadata", "deletionTimestamp"):
        return _progressing("is being deleted")
    seen, now = mapping_at(body, "status").get("observedGeneration"), mapping_at(body, "metadata").get("generation")
    if seen is not None and now is not None and seen != now:
        return _progressing("its controller has not seen the last change")
    if text_at(body, "kind") != "Deployment" and _condition(body, "Stalled") == "True":
        return _failed(_why(body, "Stalled"))
    if _condition(body, "Reconciling") == "True":
        return _progressing(_why(body, "Reconciling"))
    group = text_at(body, "apiVersion").rpartition("/")[0]
    rule = _RULES.get((group, text_at(body, "kind")))
    return rule(body) if rule else _other(body)


def _other(body: Fields) -> ObjectStatus:
    ready = _condition(body, "Ready")
    return READY if ready in ("", "True") else _progressing(_why(body, "Ready"))


def _deployment(body: Fields) -> ObjectStatus:
    if text_at(_conditions(body).get("Progressing", {}), "reason") == "ProgressDeadlineExceeded":
        return _failed(_why(body, "Progressing"))
    told = _replicas(body, _wanted(body), "updatedReplicas", "availableReplicas")
    if told.state != "ready" and _condition(body, "ReplicaFailure") == "True":
        return _progressing(_why(body, "ReplicaFailure"))  # such as a quota: there is no pod that could say so
    return told


def _replica_set(body: Fields) -> ObjectStatus:
    if _condition(body, "ReplicaFailure") == "True":
        return _progressing(_why(body, "ReplicaFailure"))
    return _replicas(body, _wanted(body), "fullyLabeledReplicas", "availableReplicas")


def _replicas(body: Fields, wanted: int, updated: str, available: str) -> ObjectStatus:
    status = mapping_at(body, "status")
    if "observedGeneration" not in status:
        return _progressing("its controller has not seen it")
    for name, what in ((updated, "updated"), (available, "available"), ("readyReplicas", "ready")):
        if _count(status, name) < wanted:
            return _progressing(f"{_count(status, name)} of {wanted} replicas are {what}")
    if _count(status, "replicas") > wanted:
        return _progressing(f"{counted(_count(status, 'replicas') - wanted, 'old replica')} still running")
    return READY


def _stateful_set(body: Fields) -> ObjectStatus:
    strategy, status, wanted = mapping_at(body, "spec", "updateStrategy"), mapping_at(body, "status"), _wanted(body)
    if text_at(strategy, "type") == "OnDelete":
        return READY
    if _count(status, "readyReplicas") < wanted or "observedGeneration" not in status:
        return _progressing(f"{_count(status, 'readyReplicas')} of {wanted} replicas are ready")
    if _count(status, "replicas") > wanted:
        return _progressing(f"{_count(status, 'replicas') - wanted} replicas too many still run")
    partition = _count(mapping_at(strategy, "rollingUpdate"), "partition")
    if partition:
        done = _count(status, "updatedReplicas") >= wanted - partition
    else:
        done = text_at(status, "currentRevision") == text_at(status, "updateRevision")
    return READY if done else _progressing(f"{_count(status, 'updatedReplicas')} replicas are updated")


def _daemon_set(body: Fields) -> ObjectStatus:
    status = mapping_at(body, "status")
    wanted = _count(status, "desiredNumberScheduled")
    if "observedGeneration" not in status:
        return _progressing("its controller has not seen it")
    for name in ("currentNumberScheduled", "updatedNumberScheduled", "numberAvailable", "numberReady"):
        if _count(status, name) < wanted:
            return _progressing(f"{_count(status, name)} of {wanted} nodes run it as asked for")
    return READY


def _job(body: Fields) -> ObjectStatus:
    if _condition(body, "Failed") == "True":
        return _failed(_why(body, "Failed"))
    started = text_at(body, "status", "startTime") or _condition(body, "Complete") == "True"
    suspended = mapping_at(body, "spec").get("suspend") is True
    return READY if started or suspended else _progressing("has not started")


def _volume_claim(body: Fields) -> ObjectStatus:
    phase = text_at(body, "status", "phase")
    return READY if phase == "Bound" else _progressing(f"is {phase or 'not bound'}")


def _custom_kind(body: Fields) -> ObjectStatus:
    if _condition(body, "NamesAccepted") == "False":
        return _failed(_why(body, "NamesAccepted"))
    return READY if _condition(body, "Established") == "True" else _progressing("is not established")


def _service(body: Fields) -> ObjectStatus:
    spec = mapping_at(body, "spec")
    waits = text_at(spec, "type") == "LoadBalancer" and not text_at(spec, "clusterIP")
    return _progressing("has no address") if waits else READY


def _pod(body: Fields) -> ObjectStatus:
    phase = text_at(body, "status", "phase")
    waiting = pod_problem(body)
    if phase == "Failed" or (phase == "Running" and waiting.startswith("CrashLoopBackOff")):
        return _failed(waiting or text_at(body, "status", "reason") or "has failed")
    if phase == "Succeeded" or (phase == "Running" and _condition(body, "Ready") == "True"):
        return READY
    return _progressing(waiting or _why(body, "PodScheduled") or f"is {phase or 'Pending'}")


def pod_problem(body: Fields) -> str:
    """Return why a container of a pod does not run; empty where all do."""
    status = mapping_at(body, "status")
    for each in [*list_at(status, "initContainerStatuses"), *list_at(status, "containerStatuses")]:
        waiting = mapping_at(each, "state", "waiting")
        reason = text_at(waiting, "reason")
        if reason and reason not in ("PodInitializing", "ContainerCreating"):
            ended = mapping_at(each, "lastState", "terminated").get("exitCode")
            tail = f" (ended with {ended})" if ended else ""
            return f"{reason}{tail}: {text_at(waiting, 'message')}".rstrip(": ")
    return ""


def _namespace(body: Fields) -> ObjectStatus:
    phase = text_at(body, "status", "phase")
    return READY if phase in ("", "Active") else _progressing(f"is {phase}")


_RULES: Final[Mapping[tuple[str, str], Callable[[Fields], ObjectStatus]]] = {
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replica_set,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("batch", "Job"): _job,
    ("", "PersistentVolumeClaim"): _volume_claim,
    ("", "Service"): _service,
    ("", "Pod"): _pod,
    ("", "Namespace"): _namespace,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _custom_kind,
}
PLAIN_KINDS: Final = frozenset(
    [
        "ConfigMap",
        "Secret",
        "ServiceAccount",
        "LimitRange",
        "PriorityClass.scheduling.k8s.io",
        "NetworkPolicy.networking.k8s.io",
        "Role.rbac.authorization.k8s.io",
        "RoleBinding.rbac.authorization.k8s.io",
        "ClusterRole.rbac.authorization.k8s.io",
        "ClusterRoleBinding.rbac.authorization.k8s.io",
    ]
)
"""Kinds without a status: their metadata is enough, and values of Secrets are not read."""


def _conditions(body: Fields) -> dict[str, Fields]:
    found = [mapping_at(each) for each in list_at(body, "status", "conditions")]
    return {text_at(each, "type"): each for each in found}


def _condition(body: Fields, name: str) -> str:
    return text_at(_conditions(body).get(name, {}), "status")


def _why(body: Fields, name: str) -> str:
    found = _conditions(body).get(name, {})
    return f"{text_at(found, 'reason')}: {text_at(found, 'message')}".strip(": ") or (
        f"its condition is {name}" if found else ""
    )


def _wanted(body: Fields) -> int:
    spec = mapping_at(body, "spec")
    return _count(spec, "replicas") if spec.get("replicas") is not None else 1


def _count(holder: Json, name: str) -> int:
    value = mapping_at(holder).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _progressing(reason: str) -> ObjectStatus:
    return ObjectStatus("progressing", reason)


def _failed(reason: str) -> ObjectStatus:
    return ObjectStatus("failed", reason)
