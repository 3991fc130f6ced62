"""The applier for components of the profile type `custom` whose content is Kubernetes manifests (`format: kubernetes`).

With another source of objects (`revisions`), it is the template mode of the applier `helm`.

How the promises of `applier` are kept:

APPLIER-1: `prepare` reads the manifests, judges them by the device's policy, and tries all of them in a dry run.
APPLIER-2: The set's parent has the workload's digest; if no object was touched and all are ready, nothing is sent.
APPLIER-3: What the last good objects are made of stays on disk, without secrets; they are applied again when new ones
           are not ready.
APPLIER-4: Only objects with this component's labels are touched (`object_set`).
APPLIER-5: The parent says what was begun; all of it is applied again.
APPLIER-6: `observe` reads the server (`looking`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from margo_gitops.appliers.applier import (
    ApplierContext,
    Observed,
    OpenSecrets,
    RunningImage,
    Workload,
    WorkloadKey,
    never,
    no_secrets,
    storing,
)
from margo_gitops.appliers.artifacts import ArtifactCache, create_artifact_cache
from margo_gitops.appliers.kubernetes.client import ClusterClient, connect
from margo_gitops.appliers.kubernetes.facts import OnCluster
from margo_gitops.appliers.kubernetes.kstatus import status_of
from margo_gitops.appliers.kubernetes.looking import observe, running_images, touched
from margo_gitops.appliers.kubernetes.manifests import SetOwner, SetRecord, with_autoscalers, without_pods
from margo_gitops.appliers.kubernetes.object_set import ObjectSet
from margo_gitops.appliers.kubernetes.revisions import ManifestSource, ObjectSource, Revision
from margo_gitops.appliers.programs import Secret, hiding
from margo_gitops.appliers.settings import Settings
from margo_gitops.appliers.steps import install_failed, refuse
from margo_gitops.digests import Digest
from margo_gitops.disk.files import TEMPORARY_PREFIX
from margo_gitops.disk.folders import discard, point_link, sweep
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.kubernetes_objects import Fields, KubernetesObject
from margo_gitops.documents.pod_policy import refused_by
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.errors import (
    ApplyError,
    EngineUnavailable,
    RemoveFailed,
    StepInterrupted,
    StopFailed,
)
from margo_gitops.errors.base import listed
from margo_gitops.values import KW_ONLY, dataclass, field

_REMOVE_SECONDS = 120.0


def create(context: ApplierContext) -> KubernetesApplier:
    """Return the applier, from the settings kubeconfig, context, namespace, removeVolumes, caFile, maxArtifactBytes.

    Raises:
        ApplierUnusable: unknown or wrong settings, or the package `kubernetes` is missing.
    """
    settings = Settings("kubernetes", context.settings, context.base)
    client = connect(context, settings)
    remove_volumes = settings.flag("removeVolumes")
    artifacts = create_artifact_cache(context, settings)
    settings.finish()
    return applier_of(context, client, artifacts, ManifestSource(), remove_volumes=remove_volumes)


def applier_of(
    context: ApplierContext,
    client: ClusterClient,
    artifacts: ArtifactCache,
    source: ObjectSource,
    *,
    remove_volumes: bool,
) -> KubernetesApplier:
    """Return the applier for what a source makes objects of."""
    return KubernetesApplier(
        context.device,
        context.folder,
        client,
        artifacts,
        source=source,
        remove_volumes=remove_volumes,
        interrupted=context.interrupted,
        policy=context.workloads,
        secrets=context.secrets,
    )


@dataclass(eq=False)
class KubernetesApplier(OnCluster):
    """Runs components as sets of Kubernetes objects.

    Attributes:
        device: this device's id; objects carry it as a label.
        source: makes the objects of a component's content.
        remove_volumes: whether removing a workload deletes its claims of volumes too.
        interrupted: whether the agent was asked to stop; ends every wait.
        policy: what a workload may do to this device.
    """

    delivers_secrets: ClassVar[bool] = True
    device: str
    folder: Path
    client: ClusterClient
    artifacts: ArtifactCache
    _: KW_ONLY
    source: ObjectSource = field(default_factory=ManifestSource)
    remove_volumes: bool = False
    interrupted: Callable[[], bool] = never
    policy: WorkloadPolicy = field(default_factory=WorkloadPolicy)
    secrets: OpenSecrets = no_secrets

    @property
    def profile_types(self) -> Sequence[str]:
        """The one profile type whose content the source reads."""
        return (self.source.profile_type,)

    def prepare(self, workload: Workload) -> None:
        """Read the manifests, judge them, and try them on the server, which changes nothing."""
        objects_set = self._set(workload.key, workload.deployment.metadata.namespace)
        record = self._record(objects_set, workload.key)
        with self._wanted(workload) as objects:
            objects_set.check(objects, force=_takes_back(objects_set, record, workload))

    def install(self, workload: Workload) -> None:
        """Apply the objects; with `wait`, return when they are ready; then delete those that are no longer wanted.

        Raises:
            InstallFailed: they did not become ready, or not in time; `reinstated` says whether what ran before is back.
            ApplyError: what `prepare` raises, or the server refused one.
        """
        deadline = time.monotonic() + workload.timeout_seconds
        objects_set = self._set(workload.key, workload.deployment.metadata.namespace)
        record = self._record(objects_set, workload.key)
        if workload.ready is None and _is_as_asked(objects_set, record, workload):
            self._made_current(workload)
            return
        with self._wanted(workload) as objects:
            objects_set.check(objects, force=_takes_back(objects_set, record, workload))
            try:
                problem = self._install(objects_set, objects, workload, record, deadline)
            except (EngineUnavailable, RemoveFailed, StepInterrupted) as error:
                error.reinstated = False  # it is not known what runs, or it is the new one, and an old object stays
                raise
            except ApplyError as error:
                error.reinstated = self._reinstate(objects_set, workload, record)
                raise
            if not problem:
                self._made_current(workload)
                return
            reinstated = self._reinstate(objects_set, workload, record)
        raise install_failed(workload, problem, reinstated=reinstated, first=record is None)

    def _install(
        self,
        objects_set: ObjectSet,
        objects: Sequence[KubernetesObject],
        workload: Workload,
        record: SetRecord | None,
        deadline: float,
    ) -> list[str]:
        """Apply, wait and prune; return why the objects are not ready, in words."""
        before = self._current(workload.key)
        is_update = record and before and record.digest == before.digest != workload.digest
        if before and is_update and _takes_back(objects_set, record, workload):
            # An update takes nothing from others; what they took is put back before it.
            with self._opened(workload.key, before) as healed:
                objects_set.apply(healed, before.digest, record, force=True)
        force = record is not None and record.digest in ("", workload.digest) and _heals(workload, record)
        members = objects_set.apply(objects, workload.digest, record, force=force)
        if workload.component.properties.wait and (problem := objects_set.wait(members, deadline)):
            return problem
        if workload.ready is not None:

            def failed() -> Sequence[str]:
                return [
                    f"{each}: {told.reason}"
                    for each, body in objects_set.live(objects_set.record()).items()
                    if (told := status_of(body)).state == "failed"
                ]

            if problem := workload.ready.wait(failed, self.interrupted):
                return problem
        objects_set.prune(members, time.monotonic() + _REMOVE_SECONDS)
        objects_set.finish(members, workload.digest)
        return []

    def remove(self, key: WorkloadKey) -> None:
        """Delete the objects of a workload, and what was made for it (RemoveFailed: something is still there)."""
        current = self._current(key)
        self._set(key, current.namespace if current else "").remove(time.monotonic() + _REMOVE_SECONDS)
        with storing(self.folder):
            sweep(self.folder)
            discard(self._place(key), self.folder)
            with suppress(OSError):
                self._place(key).parent.rmdir()
        self._prune_artifacts()

    def stop(self, key: WorkloadKey) -> None:
        """Scale what runs to nothing (StopFailed: a pod runs still); jobs end by themselves."""
        self._turn(key, stop=True)

    def start(self, key: WorkloadKey) -> None:
        """Scale what was stopped to what it was (StopFailed: it is not known what it was)."""
        self._turn(key, stop=False)

    def _turn(self, key: WorkloadKey, *, stop: bool) -> None:
        current = self._current(key)
        objects_set = self._set(key, current.namespace if current else "")
        record = self._record(objects_set, key)
        if record is None:
            return
        if current is None:
            raise StopFailed(
                f"it is not known what runs of component {key.component}",
                why=["the agent's folder was lost"],
                remedy="deploy it once more",
            )
        with self._opened(key, current) as objects:
            stopped = without_pods(objects)
            chosen = stopped if stop else with_autoscalers(objects, {each.identity for each in stopped})
            members = objects_set.apply(chosen, current.digest, record, force=True)
        if record.digest == current.digest:  # else a change of it has not ended
            objects_set.finish({**record.members, **members}, current.digest)
        deadline = time.monotonic() + _REMOVE_SECONDS
        if stop and (left := objects_set.wait_for_no_pods(record.members, deadline)):
            raise StopFailed(
                f"component {key.component} runs still", why=listed(left), remedy="see what keeps its pods"
            )

    def observe(self) -> Sequence[Observed]:
        """Return what the cluster holds for this device, sorted by key."""
        return observe(self.client, self.device, self.source.name)

    def images(self) -> Mapping[WorkloadKey, Sequence[RunningImage]]:
        """Return the images of the containers, as the cluster has them."""
        return running_images(self.client, self.device, self.source.name)

    def _reinstate(self, objects_set: ObjectSet, workload: Workload, record: SetRecord | None) -> bool:
        """Apply again what ran before, or delete all where nothing did; return whether that is so now.

        Args:
            record: what was there at first.
        """
        current = self._current(workload.key)
        try:
            if current is None:
                if record and record.digest:
                    return False  # the agent's folder was lost: it is not known what ran
                objects_set.remove(time.monotonic() + _REMOVE_SECONDS)
                return True
            if current.digest == workload.digest:
                return False
            deadline = time.monotonic() + current.seconds
            with self._opened(workload.key, current) as objects:
                members = objects_set.apply(objects, current.digest, objects_set.record(), force=True)
                if objects_set.wait(members, deadline):
                    return False
            objects_set.prune(members, time.monotonic() + _REMOVE_SECONDS)
            objects_set.finish(members, current.digest)
        except StepInterrupted:
            raise  # the next start takes all of it up
        except ApplyError:
            return False
        return True

    @contextmanager
    def _wanted(self, workload: Workload) -> Iterator[Sequence[KubernetesObject]]:
        """Yield the objects of a workload that the device's policy allows; what makes them is kept on disk."""
        path = self._place(workload.key) / _file_name(workload.digest)
        found = Revision.read(path)
        if found is None or found.digest != workload.digest:
            found = Revision.of(workload, self.source.artifact(workload))
            with storing(self.folder):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._forget(workload.key, workload.keeps)
                found.write(path)
        with self._opened(workload.key, found) as objects:
            refuse(workload, refused_by(self.policy, objects, found.namespace), {}, self.source.what)
            yield objects

    @contextmanager
    def _opened(self, key: WorkloadKey, revision: Revision) -> Iterator[Sequence[KubernetesObject]]:
        """Yield a revision's objects with the values of its secrets, which no error inside shows."""
        values = self.secrets(revision.secrets) if revision.secrets else {}
        with hiding({pointer: Secret(value.decode(errors="replace")) for pointer, value in values.items()}):
            with storing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                sweep(self.folder)
                with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=self.folder) as scratch:
                    self.artifacts.place(revision.artifact, Path(scratch), seconds=revision.seconds)
                    objects = self.source.objects(key, revision, Path(scratch), values)
            yield objects

    def _set(self, key: WorkloadKey, namespace: str) -> ObjectSet:
        owner = SetOwner(self.device, key.deployment_id, key.component, self.source.name)
        return ObjectSet(
            self.client, owner, namespace, remove_volumes=self.remove_volumes, interrupted=self.interrupted
        )

    def _place(self, key: WorkloadKey) -> Path:
        return self.folder / "workloads" / key.deployment_id / key.component

    def _current(self, key: WorkloadKey) -> Revision | None:
        return Revision.read(self._place(key) / "current")

    def _record(self, objects_set: ObjectSet, key: WorkloadKey) -> SetRecord | None:
        """Return what the parent says; what it says that runs is current, also where a kill came before the link."""
        record, current = objects_set.record(), self._current(key)
        if record and record.digest and (current is None or current.digest != record.digest):
            name = _file_name(record.digest)
            with storing(self.folder):
                if (self._place(key) / name).exists():
                    point_link(self._place(key) / "current", name)
        return record

    def _made_current(self, workload: Workload) -> None:
        place, name = self._place(workload.key), _file_name(workload.digest)
        with storing(self.folder):
            if (place / name).exists():
                point_link(place / "current", name)
                self._forget(workload.key, workload.keeps)
        self._prune_artifacts()

    def _prune_artifacts(self) -> None:
        """Delete content that no revision needs any more."""
        kept = (Revision.read(path) for path in (self.folder / "workloads").glob("*/*/*.json"))
        self.artifacts.prune({each.artifact.digest for each in kept if each})

    def _forget(self, key: WorkloadKey, keeps: Digest | None) -> None:
        """Delete the revisions of a workload but the current one and the one that the device may go back to."""
        place = self._place(key)
        with suppress(OSError):
            kept = {(place / "current").readlink().name}
            kept |= {_file_name(keeps)} if keeps else set()
            for path in place.glob("*.json"):
                if path.name not in kept:
                    path.unlink()


def _file_name(digest: str) -> str:
    return f"{digest.removeprefix('sha256:')}.json"


def _heals(workload: Workload, record: SetRecord | None) -> bool:
    """Return whether what others changed is taken back: where the deployment says so, or a person asked for it."""
    own: Fields = {}
    if isinstance(found := workload.deployment.spec.extensions.get(OWN_EXTENSION), dict):
        own = found
    is_same = record is not None and record.digest == workload.digest
    return record is not None and (is_same or own.get("onDrift", "repair") == "repair")


def _takes_back(objects_set: ObjectSet, record: SetRecord | None, workload: Workload) -> bool:
    """Return whether fields that others own now are taken back (SET-2)."""
    if record is None or not _heals(workload, record):
        return False
    return record.digest in ("", workload.digest) or bool(touched(record, objects_set.live(record)))


def _is_as_asked(objects_set: ObjectSet, record: SetRecord | None, workload: Workload) -> bool:
    if record is None or record.digest != workload.digest:
        return False
    live = objects_set.live(record)
    return not touched(record, live) and all(status_of(body).state == "ready" for body in live.values())
