"""The applier `handover`: gives another controller its documents over the API server, and reads the status back.

The last set of documents that the controller was content with is kept in the applier's folder, because that is what is
applied again when an update fails. All other state is in the cluster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import ClassVar, Final

from margo_gitops.appliers.applier import ApplierContext, Observed, Workload, WorkloadKey, never, storing
from margo_gitops.appliers.handover.formats import Controller, controller_of
from margo_gitops.appliers.handover.forms import (
    COMPONENT,
    DEPLOYMENT,
    DEVICE,
    DIGEST,
    MANAGED,
    Answer,
    Target,
    covers,
    object_name,
)
from margo_gitops.appliers.kubernetes.client import ClusterClient, connect
from margo_gitops.appliers.kubernetes.manifests import FIELD_MANAGER
from margo_gitops.appliers.settings import Settings
from margo_gitops.digests import Digest
from margo_gitops.disk.files import read_bounded, replace_file
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.kubernetes_objects import Fields, mapping_at, text_at
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import (
    ApplyError,
    EngineUnavailable,
    InstallFailed,
    KindMissing,
    ObjectMissing,
    RemoveFailed,
    StepInterrupted,
)
from margo_gitops.values import dataclass

_APPLY: Final = "application/apply-patch+yaml"
_PAUSES: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between two looks; the last one repeats."""
_REMOVAL_SECONDS: Final = 300.0
_LARGEST_RECORD: Final = 4 * 1024 * 1024


def create(context: ApplierContext) -> HandoverApplier:
    """Return the applier, from its settings (docs/hand-over.md; ApplierUnusable: one is wrong)."""
    settings = Settings("handover", context.settings, context.base)
    controller = controller_of(settings.text("format"), settings)
    target = Target(context.device, settings.text("controllerNamespace") or controller.NAMESPACE, has_server=True)
    client = connect(context, settings)
    settings.finish()
    return HandoverApplier(client, controller, target, context.folder, context.interrupted)


@dataclass(eq=False)
class HandoverApplier:
    """Lets another controller run charts and manifests.

    Attributes:
        folder: where the last good documents of each component are.
    """

    profile_types: ClassVar[Sequence[str]] = ("helm", "custom/kubernetes")
    client: ClusterClient
    controller: Controller
    target: Target
    folder: Path
    interrupted: Callable[[], bool] = never

    def prepare(self, workload: Workload) -> None:
        """Let the API server check the documents, and change nothing.

        Raises:
            WorkloadUnsupported: the component cannot be handed over.
            ApplyError: the server refuses a document, or does not have the controller's kinds.
        """
        for document in self.controller.build(workload, self.target):
            self._write(document, dryRun="All")

    def install(self, workload: Workload) -> None:
        """Write the documents, and wait until the controller says that the component runs (HANDOVER-5).

        Raises:
            InstallFailed: the controller says that it failed, or says nothing in time; the documents are as before.
            StepInterrupted: the agent was asked to stop.
        """
        documents = self.controller.build(workload, self.target)
        reader = documents[-1]
        found = self._ask(reader)
        is_there = found is not None and covers(found, _written(reader)) and self._judge(found).condition == "running"
        if not is_there:
            problem = self._bring(documents, workload.timeout_seconds)
            if problem is not None:
                raise self._failed(workload, problem)
        with storing(self.folder):
            replace_file(self._record(workload.key), write_json(list(documents)))
        self._prune(workload.key, documents)

    def remove(self, key: WorkloadKey) -> None:
        """Delete the documents, and wait until the controller has deleted what it made.

        Raises:
            RemoveFailed: the controller has not deleted it in time.
        """
        self._delete(key)
        with storing(self.folder):
            self._record(key).unlink(missing_ok=True)

    def observe(self) -> Sequence[Observed]:
        """Return what the controller says of each component, sorted by key."""
        return sorted(map(self._observed, self._own(self.controller.READERS)), key=lambda item: item.key)

    def _observed(self, found: Fields) -> Observed:
        annotations = mapping_at(found, "metadata", "annotations")
        key = WorkloadKey(text_at(found, "metadata", "labels", DEPLOYMENT), text_at(annotations, COMPONENT))
        answer = self._judge(found)
        good = [each for each in self._last_good(key) if each.get("kind") == found["kind"]]
        is_same = good and text_at(good[0], "metadata", "annotations", DIGEST) == annotations.get(DIGEST)
        edited = "its document was edited" if is_same and not covers(found.get("spec"), good[0].get("spec")) else ""
        digest = Digest(text_at(annotations, DIGEST)) if annotations.get(DIGEST) else None
        return Observed(key, digest, "degraded" if edited else answer.condition, answer.detail, edited)

    def _bring(self, documents: Sequence[Fields], seconds: float) -> str | None:
        """Write documents and wait; return why they do not run, None where they do."""
        for document in documents:
            self._write(document)
        for is_late in self._looks(seconds, "documents were handed over; whether the controller accepts them is open"):
            found = self._ask(documents[-1])
            answer = self._judge(found) if found else Answer("starting", "its document was deleted", is_final=True)
            if answer.condition == "running":
                return None
            if answer.is_final or is_late:
                return answer.detail or "the controller says nothing about it"
        return None

    def _looks(self, seconds: float, about: str) -> Iterator[bool]:
        """Yield for each look whether the time is over; pause between two (StepInterrupted: about what was begun)."""
        deadline = time.monotonic() + seconds
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            yield time.monotonic() > deadline
            if self.interrupted():
                raise StepInterrupted(about)
            time.sleep(pause)

    def _failed(self, workload: Workload, problem: str) -> InstallFailed:
        good = self._last_good(workload.key)
        try:
            if good:
                reinstated = self._bring(good, workload.timeout_seconds) is None
                self._prune(workload.key, good)
            else:
                self._delete(workload.key)
                reinstated = True
        except StepInterrupted:
            raise
        except ApplyError as error:
            problem, reinstated = f"{problem}; then {error.what}", False
        kind = self.controller.build(workload, self.target)[-1]["kind"]
        failed = InstallFailed(
            f"{kind} of component {workload.component.name} of {workload.deployment.metadata.name} is not ready",
            why=[problem],
            remedy="correct what its controller says; the documents "
            + ("are as before" if reinstated else "could not be put back"),
        )
        failed.reinstated = reinstated
        return failed

    def _judge(self, found: Fields) -> Answer:
        return self.controller.judge(found, self._job(found))

    def _job(self, found: Fields) -> Fields | None:
        """Return the job that a `HelmChart` of k3s names in its status; no other document names one."""
        name = text_at(found, "status", "jobName")
        namespace = text_at(found, "metadata", "namespace")
        return (
            mapping_at(self.client.ask(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")) or None if name else None
        )

    def _write(self, document: Fields, **query: str) -> None:
        if document["kind"] == "HelmChart":
            from margo_gitops.appliers.handover.k3s import noting_job

            found = self._ask(document)
            document = noting_job(document, found, self._job(found) if found else None)
        path, about = self._path(document), f"{document['kind']} {text_at(document, 'metadata', 'name')}"
        options = {"fieldManager": FIELD_MANAGER, "force": "true", **query}
        try:
            self.client.request("PATCH", path, body=_written(document), query=options, content_type=_APPLY, about=about)
        except ObjectMissing as error:
            raise EngineUnavailable(
                f"the controller has no namespace {self.target.namespace}",
                why=error.why,
                remedy="install the controller, or correct controllerNamespace",
            ) from error
        if "status" in document and not query:
            self.client.request(
                "PATCH", f"{path}/status", body=document, query=options, content_type=_APPLY, about=about
            )

    def _prune(self, key: WorkloadKey, documents: Sequence[Fields]) -> None:
        """Delete sources and readers of a component that are not in its set any more."""
        wanted = {self._path(each) for each in documents}
        for found in self._own((*self.controller.READERS, *self.controller.SOURCES), key):
            if self._path(found) not in wanted:
                self._forget(found)

    def _delete(self, key: WorkloadKey) -> None:
        # What reads goes first: to delete what it made, it may need its source.
        for kinds in (self.controller.READERS, self.controller.SOURCES):
            for found in self._own(kinds, key):
                self._forget(found)
            for is_late in self._looks(_REMOVAL_SECONDS, f"the removal of {key} has begun"):
                left = [f"{each['kind']} {text_at(each, 'metadata', 'name')}" for each in self._own(kinds, key)]
                if not left:
                    break
                if is_late:
                    raise RemoveFailed(
                        f"{key} is not removed yet: {', '.join(left)}",
                        remedy="check that its controller runs, and what it says",
                    )

    def _forget(self, found: Fields) -> None:
        try:
            self.client.request("DELETE", self._path(found), about=f"{found['kind']}")
        except ObjectMissing:
            return

    def _own(self, kinds: Sequence[tuple[str, str]], key: WorkloadKey | None = None) -> Iterator[Fields]:
        """Yield this device's documents of some kinds, of one component or of all."""
        labels = {**MANAGED, **({DEPLOYMENT: key.deployment_id} if key else {})}
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        for api_version, kind in kinds:
            try:
                resource = self.client.resource(api_version, kind)
            except KindMissing:
                continue  # this plant has not all of its controllers
            for found in self.client.list_objects(resource, self.target.namespace, selector=selector):
                annotations = mapping_at(found, "metadata", "annotations")
                is_own = annotations.get(DEVICE) == self.target.device
                if is_own and (key is None or annotations.get(COMPONENT) == key.component):
                    yield found

    def _ask(self, document: Fields) -> Fields | None:
        return mapping_at(self.client.ask(self._path(document))) or None

    def _path(self, document: Fields) -> str:
        resource = self.client.resource(text_at(document, "apiVersion"), text_at(document, "kind"))
        return resource.path(text_at(document, "metadata", "namespace"), text_at(document, "metadata", "name"))

    def _record(self, key: WorkloadKey) -> Path:
        return self.folder / f"{object_name(key)}.json"

    def _last_good(self, key: WorkloadKey) -> list[Fields]:
        try:
            found: Json = json.loads(read_bounded(self._record(key), _LARGEST_RECORD))
        except (OSError, ValueError, RecursionError):
            return []
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _written(document: Fields) -> Fields:
    return {name: value for name, value in document.items() if name != "status"}
