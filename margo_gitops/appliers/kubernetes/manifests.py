"""Objects as the agent applies them: with its labels, in their order, and in their namespaces. Pure.

Source: KEP-3659 (ApplySet) for the labels and annotations of `applyset.kubernetes.io`; Helm's install order.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Final

from margo_gitops.documents.kubernetes_objects import (
    Fields,
    KubernetesObject,
    ObjectId,
    list_at,
    mapping_at,
    pod_path,
    text_at,
)
from margo_gitops.documents.kubernetes_pointers import with_plain_data
from margo_gitops.documents.nodes import Json
from margo_gitops.values import dataclass, replace

DEVICE: Final = "org.margo-gitops.device"
DEPLOYMENT: Final = "org.margo-gitops.deployment-id"
COMPONENT: Final = "org.margo-gitops.component"
DIGEST: Final = "org.margo-gitops.digest"
SOURCE: Final = "org.margo-gitops.source"
PART_OF: Final = "applyset.kubernetes.io/part-of"
SET_ID: Final = "applyset.kubernetes.io/id"
TOOLING: Final = "applyset.kubernetes.io/tooling"
GROUP_KINDS: Final = "applyset.kubernetes.io/contains-group-kinds"
NAMESPACES: Final = "applyset.kubernetes.io/additional-namespaces"
FIELD_MANAGER: Final = "margo-gitops"

STOPPED: Final = "org.margo-gitops.stopped"
"""A label that no node has."""

_SCALED: Final = (
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("apps", "ReplicaSet"),
    ("", "ReplicationController"),
)
_ORDER: Final = re.split(
    r"\s+",
    "Namespace CustomResourceDefinition PriorityClass NetworkPolicy ResourceQuota LimitRange PodDisruptionBudget "
    "ServiceAccount Secret ConfigMap StorageClass PersistentVolume PersistentVolumeClaim ClusterRole "
    "ClusterRoleBinding Role RoleBinding Service DaemonSet Pod ReplicationController ReplicaSet Deployment "
    "HorizontalPodAutoscaler StatefulSet Job CronJob IngressClass Ingress APIService",
)
_LABEL = re.compile(r"(?!.*-[0-9a-f]{16}$)[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""Of a text that stays as it is; one that looks like a shortened one could be taken for another."""
_DEEPEST: Final = 20
_SYSTEM_NAMESPACE = re.compile(r"default|kube-.*")


@dataclass(frozen=True, slots=True)
class SetOwner:
    """Whose objects they are: a component of a deployment of a device.

    Attributes:
        source: what made the objects; the sets of two sources never meet. Empty: manifests.
    """

    device: str
    deployment_id: str
    component: str
    source: str = ""

    @property
    def labels(self) -> dict[str, Json]:
        """The labels of its objects and their pods."""
        return {
            DEVICE: label_value(self.device),
            DEPLOYMENT: label_value(self.deployment_id),
            COMPONENT: label_value(self.component),
        }

    @property
    def parent(self) -> str:
        """Name of the ApplySet's parent object, a ConfigMap."""
        return f"{self.component}-{self.deployment_id}" + (f"-{self.source}" if self.source else "")

    def set_id(self, namespace: str) -> str:
        """The ApplySet's id, of which its parent's name, namespace and kind are part."""
        return applyset_id(self.parent, namespace, "ConfigMap", "")

    def owns(self, body: Fields) -> bool:
        """Return whether an object has these labels."""
        labels = mapping_at(body, "metadata", "labels")
        return all(labels.get(name) == value for name, value in self.labels.items())

    def is_parent(self, body: Fields) -> bool:
        """Return whether an object can be its sets' parent: a copy, or one that others wrote, has another name."""
        return text_at(body, "metadata", "name") == self.parent and self.owns(body)


def label_value(text: str) -> str:
    """Return a text as the value of a label; one that is too long or has other characters is shortened to a digest."""
    if _LABEL.fullmatch(text):
        return text
    return (re.sub(r"[^A-Za-z0-9]", "", text)[:40] or "x") + "-" + sha256(text.encode()).hexdigest()[:16]


def applyset_id(name: str, namespace: str, kind: str, group: str) -> str:
    """Return the id of an ApplySet by its parent (KEP-3659)."""
    digest = sha256(f"{name}.{namespace}.{kind}.{group}".encode()).digest()
    return f"applyset-{base64.urlsafe_b64encode(digest).decode().rstrip('=')}-v1"


def is_system_namespace(name: str) -> bool:
    """Return whether a namespace belongs to the cluster itself."""
    return _SYSTEM_NAMESPACE.fullmatch(name) is not None


def apply_order(obj: KubernetesObject) -> tuple[int, str, str, str]:
    """Return where an object comes when all are applied: namespaces, CRDs, then as Helm installs; other kinds last."""
    at = _ORDER.index(obj.kind) if obj.kind in _ORDER else len(_ORDER)
    return at, obj.kind, obj.namespace, obj.name


def labelled(obj: KubernetesObject, owner: SetOwner, set_id: str) -> KubernetesObject:
    """Return an object as a member of a set; its pods get the owner's labels too."""
    made = with_plain_data(obj).with_metadata(labels={**owner.labels, PART_OF: set_id})
    path = pod_path(made)
    if path is None or len(path) < 2:
        return made
    return replace(made, body=_with_labels(made.body, path[:-1], owner.labels))


def _with_labels(body: Fields, path: tuple[str, ...], labels: dict[str, Json]) -> Fields:
    if not path:
        metadata = mapping_at(body, "metadata")
        return {**body, "metadata": {**metadata, "labels": {**mapping_at(metadata, "labels"), **labels}}}
    return {**body, path[0]: _with_labels(mapping_at(body, path[0]), path[1:], labels)}


def without_scaled_replicas(objects: Iterable[KubernetesObject]) -> list[KubernetesObject]:
    """Return objects without `spec.replicas` where an autoscaler among them decides on that."""
    every = list(objects)
    scaled = {
        (text_at(target, "kind"), each.namespace, text_at(target, "name"))
        for each in every
        if each.kind == "HorizontalPodAutoscaler"
        for target in [mapping_at(each.body, "spec", "scaleTargetRef")]
    }
    return [
        replace(
            each,
            body={**each.body, "spec": {k: v for k, v in mapping_at(each.body, "spec").items() if k != "replicas"}},
        )
        if (each.kind, each.namespace, each.name) in scaled
        else each
        for each in every
    ]


def without_pods(objects: Iterable[KubernetesObject]) -> list[KubernetesObject]:
    """Return those of objects that keep pods running, as they keep none; what ends by itself is left to its end."""
    found = []
    for each in objects:
        if (each.group, each.kind) in _SCALED:
            found.append(_with_spec(each, ("spec",), {"replicas": 0}))
        elif (each.group, each.kind) == ("apps", "DaemonSet"):
            found.append(_with_spec(each, ("spec", "template", "spec"), {"nodeSelector": {STOPPED: "true"}}))
        elif (each.group, each.kind) == ("batch", "CronJob"):
            found.append(_with_spec(each, ("spec",), {"suspend": True}))
    return found


def with_autoscalers(objects: Iterable[KubernetesObject], chosen: Collection[ObjectId]) -> list[KubernetesObject]:
    """Return some of objects, and the autoscalers, without which a number of replicas would be ours."""
    return [each for each in objects if each.identity in chosen or each.kind == "HorizontalPodAutoscaler"]


def _with_spec(obj: KubernetesObject, path: tuple[str, ...], members: Fields) -> KubernetesObject:
    def changed(body: Fields, left: tuple[str, ...]) -> Fields:
        return {**body, left[0]: changed(mapping_at(body, left[0]), left[1:])} if left else {**body, **members}

    return replace(obj, body=changed(obj.body, path))


def parent_body(
    owner: SetOwner,
    namespace: str,
    members: Mapping[ObjectId, str],
    *,
    tool: str,
    digest: str,
) -> Fields:
    """Return the parent object of a set, which says what is in it.

    Args:
        members: each object, and a digest of the fields that the agent owns of it; empty: not applied yet.
        tool: name and version, `margo-gitops/v1.2.3`.
        digest: of the workload that is installed; empty: a change is under way.
    """
    kinds = sorted({each.group_kind for each in members})
    spaces = sorted({each.namespace for each in members} - {"", namespace})
    annotations: Fields = {
        TOOLING: tool,
        GROUP_KINDS: ",".join(kinds),
        NAMESPACES: ",".join(spaces),
        DEVICE: owner.device,
        DEPLOYMENT: owner.deployment_id,
        COMPONENT: owner.component,
        **({SOURCE: owner.source} if owner.source else {}),
        **({DIGEST: digest} if digest else {}),
    }
    listed: list[Json] = [
        [each.group, each.kind, each.namespace, each.name, fields] for each, fields in sorted(members.items())
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": owner.parent,
            "namespace": namespace,
            "labels": {**owner.labels, SET_ID: owner.set_id(namespace)},
            "annotations": annotations,
        },
        "data": {"members": json.dumps(listed, separators=(",", ":"))},
    }


@dataclass(frozen=True, slots=True)
class SetRecord:
    """What a parent object says.

    Attributes:
        digest: of the workload that is installed; empty: a change was begun and has not ended.
        members: each object, and a digest of the fields that the agent owned of it when it was installed.
    """

    owner: SetOwner
    digest: str
    members: Mapping[ObjectId, str]

    @staticmethod
    def of(body: Fields) -> SetRecord:
        """Read a parent object; what a person damaged counts as missing."""
        told = mapping_at(body, "metadata", "annotations")
        owner = SetOwner(*(text_at(told, name) for name in (DEVICE, DEPLOYMENT, COMPONENT, SOURCE)))
        members: dict[ObjectId, str] = {}
        try:
            listed = json.loads(text_at(body, "data", "members"))
        except (ValueError, RecursionError):
            listed = []
        for each in listed if isinstance(listed, list) else []:
            if isinstance(each, list) and len(each) == 5 and all(isinstance(part, str) for part in each):
                members[ObjectId(*each[:4])] = each[4]
        return SetRecord(owner, text_at(told, DIGEST), members)


def own_fields(body: Fields) -> str:
    """Return a digest of the fields of an object that the agent owns: it changes when somebody else takes one."""
    owned = [
        mapping_at(each).get("fieldsV1")
        for each in list_at(body, "metadata", "managedFields")
        if text_at(each, "manager") == FIELD_MANAGER and text_at(each, "operation") == "Apply"
    ]
    return sha256(json.dumps(owned, sort_keys=True).encode()).hexdigest()[:16] if owned else "none"


def last_change(body: Fields) -> tuple[str, list[str]]:
    """Return who else changed fields of an object last, other than its status, and these fields without values."""
    found = [
        (text_at(each, "time"), text_at(each, "manager"), mapping_at(each, "fieldsV1"))
        for each in list_at(body, "metadata", "managedFields")
        if text_at(each, "manager") != FIELD_MANAGER and text_at(each, "subresource") != "status"
    ]
    _, name, fields = max(found, key=lambda each: each[:2], default=("", "", {}))
    return name, list(_paths(fields, "", 0))


def _paths(fields: Fields, place: str, depth: int) -> Iterator[str]:
    """Yield the fields of a set of fields, as `spec.containers[name=web].image`."""
    for name, inner in sorted(fields.items()):
        kind, _, step = name.partition(":")
        if kind == "v":
            step = "…"  # a value, of a list that is a set
        if kind == "k":
            with suppress(ValueError):
                step = ",".join(f"{key}={value}" for key, value in mapping_at(json.loads(step)).items())
        path = f"{place}.{step}".removeprefix(".") if kind == "f" else f"{place}[{step}]"
        below = {key: value for key, value in mapping_at(inner).items() if key != "."}
        if name == ".":
            continue
        if below and depth < _DEEPEST:
            yield from _paths(below, path, depth + 1)
        else:
            yield path
