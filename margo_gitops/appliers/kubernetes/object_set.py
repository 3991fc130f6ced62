"""The objects of one component in a cluster, as an ApplySet: applied, awaited, pruned and removed.

SET-1  The parent, a ConfigMap in the agent's own namespace, is written before the first object and after the last. Its
       annotation `org.margo-gitops.digest` is missing in between: what was cut off is seen, and done again.
SET-2  An object that is there and does not have this component's labels belongs to others: it is never changed. One of
       ours is applied with `force` only where the caller repairs what was changed by hand.
SET-3  Namespaces are first, then CRDs, until they are established, then the rest as Helm installs. Deletion is the
       other way round, and waits until all is gone.
SET-4  Nothing is pruned before the new objects are ready, so that the old ones are there when they are not.
SET-5  Claims of volumes are kept unless the device says otherwise; so is a CRD with objects, and a namespace with
       anything of others. They lose the label of the set alone. System namespaces and the agent's own are never
       deleted.
SET-6  A dry run of all objects finds mistakes before the first is changed. Where their namespace does not exist yet,
       they are tried in `default` under another name; objects of CRDs that come with them are not tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from margo_gitops import __version__
from margo_gitops.appliers.applier import never
from margo_gitops.appliers.kubernetes.client import METADATA, ClusterClient, Resource
from margo_gitops.appliers.kubernetes.kstatus import PLAIN_KINDS, pod_problem, status_of
from margo_gitops.appliers.kubernetes.looking import MAY_GO, PARENT, PODS, live_objects, refused_pods
from margo_gitops.appliers.kubernetes.manifests import (
    DEVICE,
    DIGEST,
    FIELD_MANAGER,
    PART_OF,
    SetOwner,
    SetRecord,
    apply_order,
    is_system_namespace,
    label_value,
    labelled,
    own_fields,
    parent_body,
    without_scaled_replicas,
)
from margo_gitops.appliers.kubernetes.namespaces import (
    delete_options,
    drop_namespaces,
    find_namespace,
    is_empty,
    make_namespace,
)
from margo_gitops.documents.kubernetes_objects import (
    Fields,
    KubernetesObject,
    ObjectId,
    list_at,
    mapping_at,
    text_at,
)
from margo_gitops.errors import (
    ApplyError,
    ClusterRefusesObject,
    FieldImmutable,
    ManifestInvalid,
    ObjectMissing,
    ObjectOfOthers,
    RemoveFailed,
    StepInterrupted,
)
from margo_gitops.errors.base import listed
from margo_gitops.values import KW_ONLY, dataclass, field

APPLY_PATCH: Final = "application/apply-patch+yaml"
MERGE_PATCH: Final = "application/merge-patch+json"

_CRD = "CustomResourceDefinition.apiextensions.k8s.io"
_RUNS = ("Pending", "Running", "Unknown")
_POLL_SECONDS = 0.5
_ESTABLISH_SECONDS = 60.0


@dataclass(eq=False)
class ObjectSet:
    """The objects of a component.

    Attributes:
        namespace: for objects whose manifests name no namespace.
        remove_volumes: whether claims of volumes are deleted too.
        interrupted: whether the agent was asked to stop; ends every wait.
    """

    client: ClusterClient
    owner: SetOwner
    namespace: str
    _: KW_ONLY
    remove_volumes: bool = False
    interrupted: Callable[[], bool] = field(default=never)

    @property
    def set_id(self) -> str:
        """The ApplySet's id, which its members have as a label."""
        return self.owner.set_id(self.client.home)

    def record(self) -> SetRecord | None:
        """Return what the parent says; None where it is missing (ObjectOfOthers: the name is taken)."""
        found = mapping_at(self.client.ask(PARENT.path(self.client.home, self.owner.parent)))
        if found and not self.owner.owns(found):
            raise _of_others(f"ConfigMap {self.client.home}/{self.owner.parent}", found)
        return SetRecord.of(found) if found else None

    def live(self, record: SetRecord | None) -> dict[ObjectId, Fields]:
        """Return the objects of this set that are in the cluster, those without a status as metadata only.

        What only has their label is not of the set: a person copied one of them, or a controller its labels.
        """
        members = record.members if record else {}
        wanted = {(each.group, each.kind, each.namespace) for each in members}
        found = live_objects(self.client, wanted, f"{PART_OF}={self.set_id}")
        return {each: body for each, body in found.items() if each in members}

    def planned(self, objects: Iterable[KubernetesObject], digest: str = "") -> list[tuple[KubernetesObject, Resource]]:
        """Return objects as they are applied, in order (KindMissing, ManifestInvalid: one cannot be applied)."""
        every = list(objects)
        brought = _brought(every)
        found: dict[ObjectId, tuple[KubernetesObject, Resource]] = {}
        for each in every:
            resource = brought.get((each.api_version, each.kind)) or self.client.resource_of(each)
            made = each.with_metadata(namespace=(each.namespace or self.namespace) if resource.namespaced else None)
            if resource.kind == "Namespace" and is_system_namespace(made.name):
                raise ManifestInvalid(f"the namespace {made.name} is the cluster's own", where=each.place)
            if found.setdefault(made.identity, (made, resource))[0] is not made:
                raise ManifestInvalid(f"{made.identity} appears twice", where=each.place, remedy="remove one")
        scaled = without_scaled_replicas(made for made, _ in found.values())
        ready = [labelled(each, self.owner, self.set_id) for each in scaled]
        if digest:
            ready = [each.with_metadata(annotations={DIGEST: digest}) for each in ready]
        resources = [resource for _, resource in found.values()]
        return sorted(zip(ready, resources, strict=True), key=lambda pair: apply_order(pair[0]))

    def check(self, objects: Sequence[KubernetesObject], *, force: bool = False) -> None:
        """Find what the server would refuse, without changing anything (SET-6).

        Raises:
            ObjectOfOthers: one is there, and is not ours.
            ApplyError: the server refuses one.
        """
        self.record()
        brought = _brought(objects)
        spaces = {"default": True}
        for each, resource in self.planned(objects):
            space = each.namespace
            if space and space not in spaces:
                spaces[space] = find_namespace(self.client, space) is not None
            if (each.api_version, each.kind) in brought and brought[each.api_version, each.kind] is resource:
                continue
            if not space or spaces[space]:
                self._refuse_foreign(each, resource)
            else:
                each = each.with_metadata(namespace="default", name=label_value(f"try {each.identity}").lower())
            try:
                self._apply(each, resource, force=force, dry=True)
            except FieldImmutable:
                if each.kind != "Job":  # a job is replaced
                    raise

    def apply(
        self, objects: Sequence[KubernetesObject], digest: str, known: SetRecord | None, *, force: bool = False
    ) -> dict[ObjectId, str]:
        """Apply objects, and return what of them is ours, for `finish`.

        Args:
            known: what `record` says.
            force: whether fields that others took are taken back (SET-2).

        Raises:
            ApplyError: one was refused; those before it are changed.
        """
        planned = self.planned(objects, digest)
        members = {each.identity: "" for each, _ in planned}
        for space in sorted({self.client.home, *(each.namespace for each in members if each.namespace)}):
            if not any(each.kind == "Namespace" and each.name == space for each, _ in planned):
                make_namespace(self.client, space, self.owner.device)
        self._write_parent({**(known.members if known else {}), **members}, "")
        there = self.live(known)
        is_established = True
        for each, resource in planned:
            self._check_interrupted()
            if each.identity.group_kind != _CRD and not is_established:
                self._await_established([one for one, _ in planned if one.identity.group_kind == _CRD])
                is_established = True
            if each.identity not in there:
                self._refuse_foreign(each, resource)
            members[each.identity] = self._applied(each, resource, force=force)
            is_established = is_established and each.identity.group_kind != _CRD
        if not is_established:
            self._await_established([one for one, _ in planned if one.identity.group_kind == _CRD])
        return members

    def wait(self, members: Collection[ObjectId], deadline: float) -> list[str]:
        """Wait until objects are ready; return why they are not, in words.

        Args:
            deadline: of `time.monotonic`.

        Raises:
            StepInterrupted: the agent was asked to stop.
        """
        wanted = {(each.group, each.kind, each.namespace) for each in members if each.group_kind not in PLAIN_KINDS}
        selector = f"{PART_OF}={self.set_id}"
        while True:
            found = live_objects(self.client, wanted, selector) if wanted else {}
            status = {each: status_of(body) for each, body in found.items() if each in members}
            failed = [f"{each}: {told.reason}" for each, told in sorted(status.items()) if told.state == "failed"]
            needed = (each for each in sorted(members) if each.group_kind not in {*PLAIN_KINDS, "Job.batch"})
            waiting = [f"{each}: was removed" for each in needed if each not in found]
            waiting += [f"{each}: {told.reason}" for each, told in sorted(status.items()) if told.state != "ready"]
            if not waiting:
                return []
            if failed or time.monotonic() > deadline:
                late = [] if failed else ["it did not become ready in time"]
                pods = [*self._pod_problems(members), *refused_pods(self.client, members)]
                return listed([*late, *(failed or waiting), *pods])
            self._check_interrupted()
            time.sleep(_POLL_SECONDS)

    def finish(self, members: Mapping[ObjectId, str], digest: str) -> None:
        """Note that these objects, and no others, are the set, and which workload they are."""
        self._write_parent(members, digest)

    def prune(self, keep: Collection[ObjectId], deadline: float) -> None:
        """Delete the objects of the set other than some (RemoveFailed: one is still there; SET-3, SET-5)."""
        gone = {each: body for each, body in self.live(self.record()).items() if each not in keep}
        self._delete(gone, deadline)

    def remove(self, deadline: float) -> None:
        """Delete everything of the set, and its parent last (RemoveFailed: something is still there)."""
        record = self.record()
        if record is None:
            return
        self._write_parent(record.members, "")
        self._delete(self.live(record), deadline)
        spaces = {each.namespace for each in record.members} | {self.namespace}
        drop_namespaces(self.client, spaces, self.owner.device)
        self._send("DELETE", PARENT.path(self.client.home, self.owner.parent))

    def _write_parent(self, members: Mapping[ObjectId, str], digest: str) -> None:
        tool = f"{FIELD_MANAGER}/v{__version__}"
        body = parent_body(self.owner, self.client.home, members, tool=tool, digest=digest)
        self._apply(KubernetesObject(body), PARENT, force=True)

    def _applied(self, obj: KubernetesObject, resource: Resource, *, force: bool) -> str:
        try:
            answer = self._apply(obj, resource, force=force)
        except FieldImmutable:
            if obj.kind != "Job":
                raise
            live = self.client.ask(resource.path(obj.namespace, obj.name))
            self._delete({obj.identity: mapping_at(live)}, time.monotonic() + _ESTABLISH_SECONDS)
            answer = self._apply(obj, resource, force=force)
        ends = obj.kind == "Job" and mapping_at(obj.body, "spec").get("ttlSecondsAfterFinished") is not None
        return MAY_GO if ends else own_fields(answer)

    def _apply(self, obj: KubernetesObject, resource: Resource, *, force: bool, dry: bool = False) -> Fields:
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": str(force).lower()}
        if dry:
            query["dryRun"] = "All"
        metadata: Fields = {key: each for key, each in mapping_at(obj.body, "metadata").items() if each is not None}
        body: Fields = {**obj.body, "metadata": metadata}
        path = resource.path(obj.namespace, obj.name)
        try:
            answer = self.client.request(
                "PATCH", path, body=body, query=query, content_type=APPLY_PATCH, about=str(obj.identity)
            )[1]
        except ApplyError as error:
            error.where = error.where or obj.place
            if isinstance(error, ObjectMissing):  # or KindMissing: its CRD was removed
                self.client.forget_kinds()
                self.client.resource_of(obj)
            raise
        return mapping_at(answer)

    def _refuse_foreign(self, obj: KubernetesObject, resource: Resource) -> None:
        live = mapping_at(self.client.ask(resource.path(obj.namespace, obj.name), accept=METADATA))
        if live and not self.owner.owns(live):
            raise _of_others(str(obj.identity), live, obj)

    def _await_established(self, kinds: Sequence[KubernetesObject]) -> None:
        problem = self.wait({each.identity for each in kinds}, time.monotonic() + _ESTABLISH_SECONDS)
        if problem:
            raise ClusterRefusesObject("CRDs are not established", why=problem, remedy="correct the CRDs")
        self.client.forget_kinds()

    def _delete(self, objects: Mapping[ObjectId, Fields], deadline: float) -> None:
        left = dict(objects)
        order = sorted(objects, key=lambda each: apply_order(KubernetesObject(objects[each])), reverse=True)
        for each in order:
            body = objects[each]
            resource = self.client.resource(text_at(body, "apiVersion"), each.kind)
            path = resource.path(each.namespace, each.name)
            if self._is_kept(each):
                self._send("PATCH", path, {"metadata": {"labels": {PART_OF: None}}}, MERGE_PATCH)
                del left[each]
            else:
                self._send("DELETE", path, delete_options(body))
        uids = {each: text_at(body, "metadata", "uid") for each, body in left.items()}
        while left:
            there = live_objects(
                self.client, {(each.group, each.kind, each.namespace) for each in left}, f"{PART_OF}={self.set_id}"
            )
            left = {k: v for k, v in there.items() if k in uids and text_at(v, "metadata", "uid") == uids[k]}
            if left and time.monotonic() > deadline:
                held = [f"{each}: {_held(body)}" for each, body in sorted(left.items())]
                raise RemoveFailed(
                    f"{self.owner.component} of {self.owner.deployment_id} is still there",
                    why=listed(held),
                    remedy="see what its finalizers wait for: `kubectl get KIND NAME -o yaml`",
                )
            if left:
                self._check_interrupted()
                time.sleep(_POLL_SECONDS)

    def _is_kept(self, each: ObjectId) -> bool:
        if each.group_kind == "PersistentVolumeClaim":
            return not self.remove_volumes
        if each.group_kind == "Namespace":
            return each.name == self.client.home or not is_empty(self.client, each.name)
        if each.group_kind != _CRD:
            return False
        plural, _, group = each.name.partition(".")
        version = next(iter(self.client.versions(group)), "")
        resource = Resource(version, "", plural, namespaced=False, verbs=())
        return bool(version) and bool(self.client.first(resource))

    def _send(self, method: str, path: str, body: Fields | None = None, content_type: str = "application/json") -> None:
        """Send a change that may find nothing any more."""
        try:
            self.client.request(method, path, body=body, content_type=content_type)
        except ObjectMissing:
            return

    def wait_for_no_pods(self, members: Collection[ObjectId], deadline: float) -> list[str]:
        """Wait until no pod of this component runs; return those that run still (StepInterrupted)."""
        while True:
            running = [each for each in self._pods(members) if text_at(each, "status", "phase") in _RUNS]
            if not running or time.monotonic() > deadline:
                return [f"pod {text_at(each, 'metadata', 'name')}" for each in running]
            self._check_interrupted()
            time.sleep(_POLL_SECONDS)

    def _pod_problems(self, members: Collection[ObjectId]) -> list[str]:
        pods = self._pods(members)
        return [f"pod {text_at(each, 'metadata', 'name')}: {why}" for each in pods if (why := pod_problem(each))]

    def _pods(self, members: Collection[ObjectId]) -> list[Fields]:
        selector = ",".join(f"{name}={value}" for name, value in self.owner.labels.items())
        return [
            pod
            for space in sorted({each.namespace for each in members if each.namespace})
            for pod in self.client.list_objects(PODS, space, selector=selector)
        ]

    def _check_interrupted(self) -> None:
        if self.interrupted():
            raise StepInterrupted("the objects were not all applied")


def _brought(objects: Iterable[KubernetesObject]) -> dict[tuple[str, str], Resource]:
    """Return the kinds that CRDs among the objects bring."""
    found: dict[tuple[str, str], Resource] = {}
    for each in objects:
        if each.identity.group_kind != _CRD:
            continue
        spec = mapping_at(each.body, "spec")
        names, space = mapping_at(spec, "names"), text_at(spec, "scope") != "Cluster"
        for version in list_at(spec, "versions"):
            if mapping_at(version).get("served") is True:
                api = f"{text_at(spec, 'group')}/{text_at(version, 'name')}"
                kind = text_at(names, "kind")
                found[api, kind] = Resource(api, kind, text_at(names, "plural"), space, ())
    return found


def _held(body: Fields) -> str:
    finalizers = [str(each) for each in list_at(body, "metadata", "finalizers")]
    return f"waits for {', '.join(finalizers)}" if finalizers else "is being deleted"


def _of_others(name: str, live: Fields, obj: KubernetesObject | None = None) -> ObjectOfOthers:
    managers = [text_at(each, "manager") for each in list_at(live, "metadata", "managedFields")]
    device = mapping_at(live, "metadata", "labels").get(DEVICE)
    who = [f"it is of the device {device}"] if device else []
    return ObjectOfOthers(
        f"{name} is there already, and is not of this component",
        where=obj.place if obj else None,
        why=[*who, f"its fields are managed by {', '.join(dict.fromkeys(managers)) or 'unknown'}"],
        remedy="give it another name or namespace, or delete it if it is not needed",
    )
