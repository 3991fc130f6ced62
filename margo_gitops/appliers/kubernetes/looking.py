"""What is in a cluster: the objects of sets, what runs, and what a person changed.

LOOK-1  A look asks for the parents of this device's sets, and then once for each kind and namespace in use, by label.
        Of kinds without a status it reads the metadata only, so values of Secrets are not read.
LOOK-2  An object that is missing was removed. One of which the agent owns other fields than it applied was changed by
        another manager: the server notes who owns each field. Drift names these fields, without values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final, Literal

from margo_gitops.appliers.applier import Observed, RunningImage, WorkloadKey
from margo_gitops.appliers.kubernetes.client import ClusterClient, Resource
from margo_gitops.appliers.kubernetes.kstatus import PLAIN_KINDS, status_of
from margo_gitops.appliers.kubernetes.manifests import (
    COMPONENT,
    DEPLOYMENT,
    DEVICE,
    PART_OF,
    SET_ID,
    SetRecord,
    label_value,
    last_change,
    own_fields,
)
from margo_gitops.digests import Digest, parse_digest
from margo_gitops.documents.kubernetes_objects import (
    Fields,
    KubernetesObject,
    ObjectId,
    list_at,
    mapping_at,
    text_at,
)
from margo_gitops.errors import ApplyError
from margo_gitops.wording import shortened

PARENT: Final = Resource("v1", "ConfigMap", "configmaps", namespaced=True, verbs=())
PODS: Final = Resource("v1", "Pod", "pods", namespaced=True, verbs=())
_MOST_FIELDS: Final = 3
_LONGEST: Final = 500
MAY_GO: Final = "may go"
"""Instead of a digest of fields: the object deletes itself when it is done."""


def records_of(client: ClusterClient, device: str, source: str) -> list[SetRecord]:
    """Return what the parents of a device's sets say, of one source of objects."""
    selector = f"{DEVICE}={label_value(device)},{SET_ID}"
    told = [(each, SetRecord.of(each)) for each in client.list_objects(PARENT, client.home, selector=selector)]
    found = [record for body, record in told if record.owner.is_parent(body)]
    return [each for each in found if (each.owner.device, each.owner.source) == (device, source)]


def observe(client: ClusterClient, device: str, source: str = "") -> list[Observed]:
    """Return what a cluster holds of a device, sorted by key (LOOK-1, LOOK-2)."""
    records = records_of(client, device, source)
    wanted = {(each.group, each.kind, each.namespace) for record in records for each in record.members}
    found = live_objects(client, wanted, f"{DEVICE}={label_value(device)}")
    return sorted((_observed(record, client.home, found) for record in records), key=lambda each: each.key)


def _observed(record: SetRecord, home: str, found: Mapping[ObjectId, Fields]) -> Observed:
    set_id = record.owner.set_id(home)
    key = WorkloadKey(record.owner.deployment_id, record.owner.component)
    ours = {each: body for each in record.members if _part_of(body := found.get(each, {})) == set_id}
    if not record.digest:
        return Observed(key, None, "starting", "a change of it has not ended")
    status = {each: status_of(body) for each, body in ours.items()}
    told = {
        state: [f"{each}: {one.reason}" for each, one in sorted(status.items()) if one.state == state]
        for state in ("failed", "progressing")
    }
    by_hand = touched(record, ours)
    condition: Literal["running", "starting", "degraded"] = "running"
    if by_hand or told["failed"]:
        condition = "degraded"
    elif told["progressing"]:
        condition = "starting"
    detail = next(iter([*told["failed"], *told["progressing"]]), f"{len(ours)} objects")
    return Observed(key, Digest(record.digest), condition, by_hand or detail, by_hand)


def touched(record: SetRecord, live: Mapping[ObjectId, Fields]) -> str:
    """Return what others did to the objects of a set since they were installed; empty where they did nothing."""
    for each, fields in sorted(record.members.items()):
        body = live.get(each)
        if body is None or text_at(body, "metadata", "deletionTimestamp"):
            if fields != MAY_GO:
                return f"{each} was removed"
        elif fields not in ("", MAY_GO, own_fields(body)):
            who, paths = last_change(body)
            shown = [*paths[:_MOST_FIELDS], *(["…"] if len(paths) > _MOST_FIELDS else [])]
            told = f"{each} was changed by {who or 'an unknown manager'}"
            return shortened(f"{told}: {', '.join(shown)}" if shown else told, _LONGEST)
    return ""


def _part_of(body: Fields) -> str:
    return text_at(body, "metadata", "labels", PART_OF)


def running_images(client: ClusterClient, device: str, source: str = "") -> dict[WorkloadKey, list[RunningImage]]:
    """Return the images that containers of a device's pods run, by component, sorted by part."""
    found: dict[WorkloadKey, list[RunningImage]] = {}
    for record in records_of(client, device, source):
        owner = record.owner
        selector = ",".join(f"{name}={owner.labels[name]}" for name in (DEVICE, DEPLOYMENT, COMPONENT))
        images = [
            image
            for space in sorted({each.namespace for each in record.members if each.namespace})
            for pod in client.list_objects(PODS, space, selector=selector)
            for image in images_of(pod)
        ]
        found[WorkloadKey(owner.deployment_id, owner.component)] = sorted(images, key=lambda each: each.part)
    return found


def images_of(pod: Fields) -> list[RunningImage]:
    """Return the images that the containers of a pod run."""
    found = []
    for each in list_at(pod, "status", "containerStatuses"):
        if mapping_at(each, "state", "running"):
            name = f"{text_at(pod, 'metadata', 'name')}/{text_at(mapping_at(each), 'name')}"
            identity = text_at(mapping_at(each), "imageID").rpartition("@")[2].rpartition("//")[2]
            try:
                digest = parse_digest(identity)
            except ValueError:
                continue
            is_named = "@" in text_at(mapping_at(each), "imageID")
            image = text_at(mapping_at(each), "image")
            found.append(RunningImage(name, image, digest, digest if is_named else None))
    return found


def live_objects(
    client: ClusterClient, wanted: Collection[tuple[str, str, str]], selector: str
) -> dict[ObjectId, Fields]:
    """Return objects with some labels: one list for each group, kind and namespace; kinds that are gone have none."""
    found: dict[ObjectId, Fields] = {}
    for group, kind, space in sorted(wanted):
        resource = client.resource_for(ObjectId(group, kind, space, ""))
        if resource is None:
            continue
        plain = ObjectId(group, kind, "", "").group_kind in PLAIN_KINDS
        for body in client.list_objects(resource, space, selector=selector, metadata_only=plain):
            found[KubernetesObject(body).identity] = body
    return found


def refused_pods(client: ClusterClient, members: Collection[ObjectId]) -> list[str]:
    """Return why the cluster lets objects make no pods (a quota, a policy), as far as its events may be read."""
    found: dict[ObjectId, str] = {}
    for space in sorted({each.namespace for each in members if each.namespace}):
        query = {"fieldSelector": "type=Warning,reason=FailedCreate", "limit": "100"}
        with suppress(ApplyError):
            answer = client.request("GET", f"/api/v1/namespaces/{space}/events", query=query)[1]
            for each in list_at(answer, "items"):
                about = mapping_at(each, "involvedObject")
                group = text_at(about, "apiVersion").rpartition("/")[0]
                found[ObjectId(group, text_at(about, "kind"), space, text_at(about, "name"))] = text_at(each, "message")
    return [f"{each}: {why}" for each, why in sorted(found.items()) if each in members]
