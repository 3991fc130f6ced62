"""What became of a release's objects: whether each is there, is ready, and is as helm made it.

DRIFT-1  The server itself compares: it lays the manifest over what is there in a dry run, and completes both alike.
         Only fields that the manifest names count; what others add stays unseen.
DRIFT-2  An object that was found as asked for is compared again only when its generation, or its version, is another.
DRIFT-3  Where an autoscaler of the release decides on replicas, their number does not count.
DRIFT-4  Charts write secrets into other objects than Secrets, and a look does not know them: of texts, only images are
         shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from margo_gitops.appliers.applier import Observed, RunningImage
from margo_gitops.appliers.helm.releases import DEPLOYED, Release
from margo_gitops.appliers.kubernetes.client import ClusterClient
from margo_gitops.appliers.kubernetes.kstatus import State, pod_problem, status_of
from margo_gitops.appliers.kubernetes.looking import PODS, images_of
from margo_gitops.appliers.kubernetes.manifests import FIELD_MANAGER, without_scaled_replicas
from margo_gitops.documents.kubernetes_objects import (
    FieldDifference,
    Fields,
    KubernetesObject,
    ObjectId,
    field_differences,
    mapping_at,
    pod_path,
    text_at,
)
from margo_gitops.errors import ApplyError, EngineUnavailable, KindMissing, StepInterrupted
from margo_gitops.errors.base import listed
from margo_gitops.values import dataclass

APPLY_PATCH: Final = "application/apply-patch+yaml"
_SERVERS: Final = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid")
_MOST_SHOWN: Final = 3
_LONGEST: Final = 500
_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Found:
    """What became of an object.

    Attributes:
        state: missing, or what its status means.
        reason: why it is not ready.
        changed: which fields are not as helm made them, for people; empty where all are.
    """

    what: str
    state: State | Literal["missing"]
    reason: str = ""
    changed: str = ""


@dataclass(eq=False)
class ReleaseObjects:
    """Looks at objects of releases."""

    client: ClusterClient

    def __post_init__(self) -> None:
        self._clean: dict[tuple[ObjectId, str], str] = {}

    def look(self, objects: Iterable[KubernetesObject], namespace: str) -> list[Found]:
        """Return what became of objects (ApplyError: the server does not say).

        Args:
            namespace: of those that name none.
        """
        return [self._found(each, namespace) for each in without_scaled_replicas(objects)]

    def try_out(self, objects: Sequence[KubernetesObject], namespace: str) -> None:
        """Let the server check objects without keeping them (ApplyError: it refuses one, and says why).

        Those of kinds that the objects bring themselves are left out.
        """
        brought = {
            (text_at(each.body, "spec", "group"), text_at(each.body, "spec", "names", "kind"))
            for each in objects
            if each.kind == "CustomResourceDefinition"
        }
        spaces = {each.name for each in objects if each.kind == "Namespace"}
        for each in objects:
            if (each.group, each.kind) not in brought and each.namespace not in spaces:
                self._laid_over(each, namespace)

    def wait_until_gone(
        self, objects: Iterable[KubernetesObject], namespace: str, deadline: float, interrupted: Callable[[], bool]
    ) -> list[str]:
        """Wait for objects that are being deleted; return those that still are (ApplyError: the server does not say).

        Helm waits too, but Helm 4.3 was seen to end while a Deployment and its pods were still there.
        """
        left = list(objects)
        while left := [each for each in left if self._is_ending(each, namespace)]:
            if time.monotonic() > deadline:
                break
            if interrupted():
                raise StepInterrupted("not all objects of the release were gone")
            time.sleep(_LOOK_SECONDS)
        return listed(f"{each.kind} {each.name} is being deleted" for each in left)

    def _is_ending(self, obj: KubernetesObject, namespace: str) -> bool:
        try:
            resource = self.client.resource_of(obj)
        except KindMissing:
            return False
        there = self.client.ask(resource.path(obj.namespace or namespace, obj.name))
        return "deletionTimestamp" in mapping_at(there, "metadata")

    def _found(self, obj: KubernetesObject, namespace: str) -> Found:
        what = f"{obj.kind} {obj.name}"
        try:
            resource = self.client.resource_of(obj)
        except KindMissing:
            return Found(what, "missing", "its kind is gone")
        there = self.client.ask(resource.path(obj.namespace or namespace, obj.name))
        if not isinstance(there, dict):
            return Found(what, "missing", "is missing")
        there = {**there, "apiVersion": obj.api_version, "kind": obj.kind}
        status = status_of(there)
        reason = status.reason
        if status.state != "ready":
            reason = self._problem(there, text_at(there, "metadata", "namespace")) or reason
        return Found(what, status.state, reason, self._changed(obj, namespace, there))

    def _changed(self, obj: KubernetesObject, namespace: str, there: Fields) -> str:
        metadata = mapping_at(there, "metadata")
        place = (obj.identity, text_at(metadata, "uid"))
        version = str(metadata.get("generation") or text_at(metadata, "resourceVersion"))
        if self._clean.get(place) == version:
            return ""
        try:
            wanted = self._laid_over(obj, namespace)
        except EngineUnavailable:
            raise
        except ApplyError:
            return ""  # the server cannot compare: a webhook without dry runs, a field that cannot change
        found = field_differences(_comparable(there), _comparable(wanted))
        if not found:
            self._clean[place] = version
            return ""
        shown = [changed_text(each) for each in found[:_MOST_SHOWN]]
        return "; ".join([*shown, *(["…"] if len(found) > _MOST_SHOWN else [])])

    def _laid_over(self, obj: KubernetesObject, namespace: str) -> Fields:
        resource = self.client.resource_of(obj)
        body = obj.with_metadata(namespace=obj.namespace or namespace).body if resource.namespaced else obj.body
        answer = self.client.request(
            "PATCH",
            resource.path(obj.namespace or namespace, obj.name),
            body=body,
            query={"dryRun": "All", "fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Ignore"},
            content_type=APPLY_PATCH,
            about=str(obj.identity),
        )[1]
        return answer if isinstance(answer, dict) else {}

    def images(self, objects: Iterable[KubernetesObject], namespace: str) -> list[RunningImage]:
        """Return the images that the pods of objects run, sorted by part (ApplyError: the server does not say)."""
        found = (
            image
            for each in objects
            for pod in self._pods(each.body, each.namespace or namespace)
            for image in images_of(pod)
        )
        return sorted(found, key=lambda each: each.part)

    def _problem(self, there: Fields, namespace: str) -> str:
        """Return why a pod of an object does not run; empty where no pod says so."""
        try:
            pods = self._pods(there, namespace)
        except EngineUnavailable:
            raise
        except ApplyError:
            return ""  # this agent may not list pods
        problems = (
            f"pod {text_at(each, 'metadata', 'name')}: {pod_problem(each)}" for each in pods if pod_problem(each)
        )
        return next(problems, "")

    def _pods(self, obj: Fields, namespace: str) -> list[Fields]:
        """Return the pods that an object selects, or itself."""
        if text_at(obj, "kind") == "Pod":
            pod = self.client.ask(PODS.path(namespace, text_at(obj, "metadata", "name")))
            return [mapping_at(pod)] if pod else []
        labels = mapping_at(obj, "spec", "selector", "matchLabels")
        if text_at(obj, "kind") == "Job":
            labels = {"batch.kubernetes.io/job-name": text_at(obj, "metadata", "name")}
        if not labels or pod_path(KubernetesObject(obj)) is None:
            return []
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return list(self.client.list_objects(PODS, namespace, selector=selector))


def changed_text(field: FieldDifference) -> str:
    """Return how a field differs from what the chart made of it, for people (DRIFT-4)."""
    if field.path.endswith(".image") or not any(set(value or "") & set('"[{') for value in (field.before, field.after)):
        return f"{field.path}: {field.before} instead of {field.after}"
    return f"{field.path} has another value"


def _comparable(body: Fields) -> Fields:
    metadata = {key: value for key, value in mapping_at(body, "metadata").items() if key not in _SERVERS}
    return {**{key: value for key, value in body.items() if key != "status"}, "metadata": metadata}


def observed(release: Release, looks: Sequence[Found]) -> Observed:
    """Return what the cluster says of a release, from what became of its objects."""
    if release.status != DEPLOYED:
        return Observed(release.key, None, "degraded", f"the release {release.name} is {release.status}")
    missing = [f"{each.what} {each.reason}" for each in looks if each.state == "missing"]
    changed = [f"{each.what}: {each.changed}" for each in looks if each.changed]
    waits = [f"{each.what}: {each.reason}" for each in looks if each.state not in ("ready", "missing")]
    by_hand = "; ".join([*missing, *changed])[:_LONGEST]
    condition: Literal["running", "starting", "degraded"] = "starting" if waits else "running"
    if by_hand or any(each.state == "failed" for each in looks):
        condition = "degraded"
    detail = "; ".join(waits or [f"{len(looks)} objects in {release.namespace}"])[:_LONGEST]
    return Observed(release.key, release.digest, condition, by_hand or detail, by_hand)
