"""Namespaces of deployments: made where they are missing, deleted when nothing is left in them.

NAMESPACE-1  One that is made here has the device's label. Only such a one is deleted, and only when nothing is in it
             but what the cluster puts into each. Namespaces of the cluster and the agent's own are never deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from margo_gitops.appliers.kubernetes.client import ClusterClient, Resource
from margo_gitops.appliers.kubernetes.manifests import DEVICE, is_system_namespace, label_value
from margo_gitops.documents.kubernetes_objects import Fields, mapping_at, text_at
from margo_gitops.errors import ApplyError, ClusterRefusesObject, ObjectMissing

NAMESPACE: Final = Resource("v1", "Namespace", "namespaces", namespaced=False, verbs=())
_CLUSTERS_OWN: Final = {"ConfigMap": ("kube-root-ca.crt",), "ServiceAccount": ("default",)}
_PASSING: Final = ("Event", "Endpoints", "EndpointSlice", "PodMetrics")


def find_namespace(client: ClusterClient, name: str) -> Fields | None:
    """Return a namespace; None where it is missing (ApplyError: the server does not say)."""
    found = client.ask(NAMESPACE.path(name=name))
    return mapping_at(found) if found is not None else None


def has_namespace(client: ClusterClient, name: str) -> bool:
    """Return whether a namespace is there (ClusterRefusesObject: it is being deleted)."""
    found = find_namespace(client, name)
    if found and "deletionTimestamp" in mapping_at(found, "metadata"):
        raise ClusterRefusesObject(
            f"the namespace {name} is being deleted",
            remedy="wait until it is gone; `kubectl get namespace NAME -o yaml` shows what keeps it",
        )
    return found is not None


def make_namespace(client: ClusterClient, name: str, device: str) -> None:
    """Make a namespace if it is missing (ApplyError: the server refuses)."""
    if find_namespace(client, name) is None:
        metadata: Fields = {"name": name, "labels": {DEVICE: label_value(device)}}
        body: Fields = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        client.request("POST", NAMESPACE.path(), body=body, about=f"Namespace {name}")


def drop_namespaces(client: ClusterClient, names: Iterable[str], device: str) -> None:
    """Delete those of some namespaces that this device made and that are empty (NAMESPACE-1; ApplyError)."""
    for name in sorted({*names} - {"", client.home}):
        found = None if is_system_namespace(name) else find_namespace(client, name)
        made = found and mapping_at(found, "metadata", "labels").get(DEVICE) == label_value(device)
        if found and made and is_empty(client, name):
            try:
                client.request("DELETE", NAMESPACE.path(name=name), body=delete_options(found))
            except ObjectMissing:
                continue


def delete_options(body: Fields) -> Fields:
    """Return the options to delete an object with what it made, if it is still this one."""
    uid: Fields = {"uid": text_at(body, "metadata", "uid")}
    return {"preconditions": uid, "propagationPolicy": "Foreground"}


def is_empty(client: ClusterClient, namespace: str) -> bool:
    """Return whether nothing is in a namespace but what the cluster puts into each; False where that cannot be seen."""
    try:
        return not any(
            client.first(resource, namespace, own=_CLUSTERS_OWN.get(resource.kind, ()))
            for resource in client.every_resource()
            if resource.namespaced and "list" in resource.verbs and resource.kind not in _PASSING
        )
    except ApplyError:
        return False
