"""The applier for components of the profile type `custom` whose content is Kubernetes manifests (`format: kubernetes`).

How the promises of `applier` are kept:

APPLIER-1: `prepare` reads the manifests, judges them by the device's policy, and tries all of them in a dry run.
APPLIER-2: The set's parent has the workload's digest; if no object was touched and all are ready, nothing is sent.
APPLIER-3: The last good objects stay on disk, without secrets; they are applied again when new ones are not ready.
APPLIER-4: Only objects with this component's labels are touched (`object_set`).
APPLIER-5: The parent says what was begun; all of it is applied again.
APPLIER-6: `observe` reads the server (`looking`).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Final

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
from margo_gitops.appliers.kubernetes.client import ClusterClient, OnCluster, connect
from margo_gitops.appliers.kubernetes.kstatus import status_of
from margo_gitops.appliers.kubernetes.looking import observe, running_images, touched
from margo_gitops.appliers.kubernetes.manifests import SetOwner, SetRecord
from margo_gitops.appliers.kubernetes.object_set import ObjectSet
from margo_gitops.appliers.programs import hiding
from margo_gitops.appliers.settings import Settings
from margo_gitops.appliers.steps import install_failed, refuse
from margo_gitops.digests import Digest
from margo_gitops.disk.files import TEMPORARY_PREFIX, read_bounded, write_synced
from margo_gitops.disk.folders import discard, point_link, sweep
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.kubernetes_objects import BOUNDS, MOST_BYTES, Fields, KubernetesObject, read_objects
from margo_gitops.documents.kubernetes_pointers import secret_pointer, with_secrets, with_values
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.pod_policy import refused_by
from margo_gitops.documents.records import write
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.errors import (
    ApplyError,
    EngineUnavailable,
    ManifestInvalid,
    RemoveFailed,
    StepInterrupted,
    WorkloadUnsupported,
)
from margo_gitops.values import KW_ONLY, dataclass, field

_SUFFIXES: Final = (".yaml", ".yml", ".json")
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
    return KubernetesApplier(
        context.device,
        context.folder,
        client,
        artifacts,
        remove_volumes=remove_volumes,
        interrupted=context.interrupted,
        policy=context.workloads,
        secrets=context.secrets,
    )


@dataclass(frozen=True, slots=True)
class _Revision:
    """What it takes to apply a workload again: its objects without secrets, and which secrets go where."""

    digest: str
    namespace: str
    seconds: int
    objects: tuple[KubernetesObject, ...]
    secrets: Mapping[str, WantedSecret]

    def write(self, path: Path) -> None:
        objects = [[each.body, each.file, each.line] for each in self.objects]
        secrets = {pointer: write(each) for pointer, each in self.secrets.items()}
        content = [self.digest, self.namespace, self.seconds, objects, secrets]
        write_synced(path, json.dumps(content).encode(), mode=0o600)

    @staticmethod
    def read(path: Path) -> _Revision | None:
        """Return a revision; None where it is missing or damaged."""
        try:
            digest, space, seconds, objects, secrets = json.loads(read_bounded(path, 2 * MOST_BYTES))
            return _Revision(
                digest,
                space,
                seconds,
                tuple(KubernetesObject(*each) for each in objects),
                {pointer: WantedSecret(**each) for pointer, each in secrets.items()},
            )
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return None


@dataclass(eq=False)
class KubernetesApplier(OnCluster):
    """Runs components as sets of Kubernetes objects.

    Attributes:
        device: this device's id; objects carry it as a label.
        remove_volumes: whether removing a workload deletes its claims of volumes too.
        interrupted: whether the agent was asked to stop; ends every wait.
        policy: what a workload may do to this device.
    """

    profile_types: ClassVar[Sequence[str]] = ("custom/kubernetes",)
    delivers_secrets: ClassVar[bool] = True
    device: str
    folder: Path
    client: ClusterClient
    artifacts: ArtifactCache
    _: KW_ONLY
    remove_volumes: bool = False
    interrupted: Callable[[], bool] = never
    policy: WorkloadPolicy = field(default_factory=WorkloadPolicy)
    secrets: OpenSecrets = no_secrets

    def prepare(self, workload: Workload) -> None:
        """Read the manifests, judge them, and try them on the server, which changes nothing."""
        objects_set = self._set(workload.key, workload.deployment.metadata.namespace)
        record = self._record(objects_set, workload.key)
        with self._opened(self._revision(workload)) as objects:
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
        revision = self._revision(workload)
        with self._opened(revision) as objects:
            objects_set.check(objects, force=_takes_back(objects_set, record, workload))
            try:
                problem = self._install(objects_set, objects, workload, record, deadline)
            except (EngineUnavailable, RemoveFailed, StepInterrupted) as error:
                error.reinstated = False  # it is not known what runs, or it is the new one, and an old object stays
                raise
            except ApplyError as error:
                error.reinstated = self._reinstate(objects_set, workload)
                raise
            if not problem:
                self._made_current(workload)
                return
            reinstated = self._reinstate(objects_set, workload)
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
            with self._opened(before) as healed:
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
        self.artifacts.prune(())

    def observe(self) -> Sequence[Observed]:
        """Return what the cluster holds for this device, sorted by key."""
        return observe(self.client, self.device)

    def images(self) -> Mapping[WorkloadKey, Sequence[RunningImage]]:
        """Return the images of the containers, as the cluster has them."""
        return running_images(self.client, self.device)

    def facts(self) -> Mapping[str, Json]:
        """Return what the cluster is and offers, as a part of a capabilities document."""
        from margo_gitops.appliers.kubernetes.facts import cluster_facts

        return cluster_facts(self.client)

    def _reinstate(self, objects_set: ObjectSet, workload: Workload) -> bool:
        """Apply again what ran before, or delete all where nothing did; return whether that is so now."""
        current = self._current(workload.key)
        try:
            if current is None:
                objects_set.remove(time.monotonic() + _REMOVE_SECONDS)
                return True
            if current.digest == workload.digest:
                return False
            deadline = time.monotonic() + current.seconds
            with self._opened(current) as objects:
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

    def _revision(self, workload: Workload) -> _Revision:
        """Return what to apply, and keep it on disk."""
        path = self._place(workload.key) / _file_name(workload.digest)
        found = _Revision.read(path)
        if found is None or found.digest != workload.digest:
            found = self._made(workload)
            with storing(self.folder):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._forget(workload.key, workload.keeps)
                found.write(path)
        refuse(workload, refused_by(self.policy, found.objects, found.namespace), {}, "the manifests")
        return found

    def _made(self, workload: Workload) -> _Revision:
        own = workload.component.extensions.get(OWN_EXTENSION)
        if workload.artifact is None or not isinstance(own, dict) or own.get("format") != "kubernetes":
            raise WorkloadUnsupported(
                f"component {workload.component.name} has no Kubernetes manifests",
                why=[] if workload.artifact else ["the deployment names no content for it"],
                remedy="give it content, and `format: kubernetes` in its x-margo-gitops-extensions",
            )
        for pointer in workload.secrets:
            secret_pointer(pointer)
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sweep(self.folder)
            with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=self.folder) as scratch:
                content = Path(scratch)
                self.artifacts.place(workload.artifact, content, seconds=workload.timeout_seconds)
                objects = read_objects(_files(content))
        if not objects:
            raise ManifestInvalid(f"component {workload.component.name} has no manifest in its content")
        return _Revision(
            workload.digest,
            workload.deployment.metadata.namespace,
            workload.timeout_seconds,
            with_values(objects, workload.values),
            workload.secrets,
        )

    @contextmanager
    def _opened(self, revision: _Revision) -> Iterator[Sequence[KubernetesObject]]:
        """Yield a revision's objects with the values of its secrets, which no error of it shows."""
        values = self.secrets(revision.secrets) if revision.secrets else {}
        with hiding({pointer: value.decode(errors="replace") for pointer, value in values.items()}):
            yield with_secrets(revision.objects, values)

    def _set(self, key: WorkloadKey, namespace: str) -> ObjectSet:
        owner = SetOwner(self.device, key.deployment_id, key.component)
        return ObjectSet(
            self.client, owner, namespace, remove_volumes=self.remove_volumes, interrupted=self.interrupted
        )

    def _place(self, key: WorkloadKey) -> Path:
        return self.folder / "workloads" / key.deployment_id / key.component

    def _current(self, key: WorkloadKey) -> _Revision | None:
        return _Revision.read(self._place(key) / "current")

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
        self.artifacts.prune(())

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


def _files(content: Path) -> Iterable[tuple[str, bytes]]:
    for path in sorted(content.rglob("*")):
        if path.suffix in _SUFFIXES and path.is_file() and not path.is_symlink():
            yield path.relative_to(content).as_posix(), read_bounded(path, BOUNDS.size)


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
