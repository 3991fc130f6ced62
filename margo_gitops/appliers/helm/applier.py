"""The applier for the profile type `helm`: each component is a release of the program `helm`, on any Kubernetes.

How the promises of `applier` are kept:

APPLIER-1: `prepare` lets helm render with the cluster's versions, and the server try out each object in a dry run.
APPLIER-2: The release's labels have the workload's digest; if it is deployed and as helm made it, nothing is called.
APPLIER-3: Helm's own history knows what ran; it is rolled back to after the cause of the failure was read.
APPLIER-4: Only releases whose Secrets carry this device's labels are touched.
APPLIER-5: Helm holds the applier's lock while it lives. What a killed one left pending is rolled back, or taken away.
APPLIER-6: `observe` reads helm's Secrets and the objects from the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
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
from margo_gitops.appliers.helm.charts import Notes, chart_content, chart_in, check_signature, first_objects
from margo_gitops.appliers.helm.objects import ReleaseObjects, observed
from margo_gitops.appliers.helm.program import HelmProgram, chart_values, secret_values
from margo_gitops.appliers.helm.releases import (
    DEPLOYED,
    Release,
    ReleaseStore,
    WantedRelease,
    last_good,
    release_labels,
    release_name,
    rendered,
)
from margo_gitops.appliers.helm.templating import ChartSource
from margo_gitops.appliers.kubernetes.applier import KubernetesApplier, applier_of
from margo_gitops.appliers.kubernetes.client import ClusterClient, connect
from margo_gitops.appliers.kubernetes.facts import OnCluster
from margo_gitops.appliers.kubernetes.namespaces import drop_namespaces, has_namespace, make_namespace
from margo_gitops.appliers.programs import Finished, hiding
from margo_gitops.appliers.settings import Settings
from margo_gitops.appliers.steps import install_failed, locked, refuse
from margo_gitops.disk.files import TEMPORARY_PREFIX
from margo_gitops.disk.folders import sweep
from margo_gitops.disk.locks import HeldLock
from margo_gitops.documents.kubernetes_objects import KubernetesObject
from margo_gitops.documents.pod_policy import refused_by
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.errors import (
    ApplyError,
    ClusterRefusesAgent,
    ManifestInvalid,
    RemoveFailed,
    WorkloadUnsupported,
)
from margo_gitops.values import KW_ONLY, dataclass, field

_REMOVE_SECONDS: Final = 120.0
_RETURN_SECONDS: Final = 120
_KEPT_REVISIONS: Final = "5"


def create(context: ApplierContext) -> HelmApplier | KubernetesApplier:
    """Return the applier, from the settings mode, command, keyring, kubeconfig, context, caFile and maxArtifactBytes.

    With the mode `template` there are also the settings namespace and removeVolumes of the applier kubernetes.

    Raises:
        ApplierUnusable: unknown or wrong settings, or the package `kubernetes` is missing.
    """
    settings = Settings("helm", context.settings, context.base)
    mode = settings.text("mode") or "release"
    command = settings.arguments("command") or ("helm",)
    keyring = settings.path("keyring")
    client = connect(context, settings)
    artifacts = create_artifact_cache(context, settings)
    remove_volumes = mode == "template" and settings.flag("removeVolumes")
    settings.finish()
    if mode not in ("release", "template"):
        raise settings.wrong("mode", "must be release or template")
    if len(command) != 1:
        raise settings.wrong("command", 'must be one program: ["helm"]')
    helm = HelmProgram(
        command[0],
        context.folder / "helm",
        client.kubeconfig,
        client.context,
        use_proxy=context.proxy_from_environment,
        interrupted=context.interrupted,
    )
    if mode == "template":
        source = ChartSource(helm, client, keyring)
        return applier_of(context, client, artifacts, source, remove_volumes=remove_volumes)
    return HelmApplier(
        context.device,
        context.folder,
        helm,
        client,
        artifacts,
        keyring=keyring,
        interrupted=context.interrupted,
        policy=context.workloads,
        secrets=context.secrets,
    )


@dataclass(eq=False)
class HelmApplier(OnCluster):
    """Runs components as releases of helm.

    Attributes:
        device: this device's id; releases carry it as a label.
        keyring: of the keys that charts must be signed with; None: they need no signature of their own.
        interrupted: whether the agent was asked to stop.
        policy: what a workload may do to this device.
    """

    profile_types: ClassVar[Sequence[str]] = ("helm",)
    delivers_secrets: ClassVar[bool] = True
    device: str
    folder: Path
    helm: HelmProgram
    client: ClusterClient
    artifacts: ArtifactCache
    _: KW_ONLY
    keyring: Path | None = None
    interrupted: Callable[[], bool] = never
    policy: WorkloadPolicy = field(default_factory=WorkloadPolicy)
    secrets: OpenSecrets = no_secrets

    def __post_init__(self) -> None:
        self._store = ReleaseStore(self.client, self.device)
        self._objects = ReleaseObjects(self.client)
        self._notes = Notes(self.folder / "workloads")

    def prepare(self, workload: Workload) -> None:
        """Fetch the chart, let helm render it for this cluster, and let the server try it out."""
        deadline = time.monotonic() + workload.timeout_seconds
        with self._locked(deadline), self._release(workload, deadline) as release:
            self._prepare(release, deadline)

    def install(self, workload: Workload) -> None:
        """Make the release as asked for; with `wait`, return when all of it is ready.

        Raises:
            InstallFailed: it did not start, or not in time; `reinstated` says whether what ran before runs again.
            ApplyError: what `prepare` raises, when preparing was left out.
        """
        deadline = time.monotonic() + workload.timeout_seconds
        with self._locked(deadline) as held:
            history = self._history(workload)
            current = history[0] if history else None
            touched, is_right = "", False
            if current and current.status == DEPLOYED and current.digest == workload.digest:
                state = observed(current, self._objects.look(self._store.objects(current), current.namespace))
                touched, is_right = state.by_hand, state.condition == "running"
            if not (is_right and workload.ready is None):
                with self._release(workload, deadline) as release:
                    if not is_right:
                        self._prepare(release, deadline)
                    self._install(release, deadline, held, touched=touched, changes=not is_right)
            self._tidy(workload, held)

    def remove(self, key: WorkloadKey) -> None:
        """Uninstall a workload's release, and delete its namespace if this device made it and nothing is left in it."""
        with self._locked(time.monotonic() + _REMOVE_SECONDS) as held:
            spaces = self._notes.namespaces(key)
            for release in self._of(key):
                spaces.add(release.namespace)
                self._uninstall(release, held)
            drop_namespaces(self.client, spaces, self.device)
            self._notes.remove(key)
            self.artifacts.prune(self._notes.artifacts())

    def observe(self) -> Sequence[Observed]:
        """Return what the cluster has of this device, sorted by key."""
        found: dict[WorkloadKey, Observed] = {}
        for release in self._store.latest(self._notes.namespaces()):
            if release.key in found:
                found[release.key] = Observed(release.key, None, "degraded", "it is in two namespaces")
                continue
            try:
                made = self._store.objects(release)
                found[release.key] = observed(release, self._objects.look(made, release.namespace))
            except (ManifestInvalid, ClusterRefusesAgent) as error:  # its Secret, or a kind that the agent may not read
                found[release.key] = Observed(release.key, None, "degraded", error.what)
        return list(found.values())

    def images(self) -> Mapping[WorkloadKey, Sequence[RunningImage]]:
        """Return the images of the containers, as the cluster has them."""
        found: dict[WorkloadKey, Sequence[RunningImage]] = {}
        for release in self._store.latest(self._notes.namespaces()):
            with suppress(ManifestInvalid):  # it cannot be read: `observe` says so
                found[release.key] = self._objects.images(self._store.objects(release), release.namespace)
        return found

    def _prepare(self, release: WantedRelease, deadline: float) -> None:
        """Check all that can be checked without a change (APPLIER-1)."""
        is_there = has_namespace(self.client, release.namespace)
        # Helm tries out no upgrade of a release that is pending, and any installation.
        pending = bool(release.history) and release.history[0].status != DEPLOYED
        command = ["install"] if pending else ["upgrade", "--install"]
        done = self._run(release, deadline, [*command, "--dry-run=server", "--output", "json"])
        if done.status != 0:
            raise ManifestInvalid(
                f"helm cannot install the chart of component {release.workload.component.name} in this cluster",
                why=_why(done, release),
                remedy="correct the chart or the parameters; `helm upgrade --install --dry-run=server` shows the same",
            )
        objects, hooks = rendered(done.output, release.workload.component.name)
        firsts = first_objects(self.helm, release.chart, release.workload.component.name, self.policy)
        refused = refused_by(self.policy, [*objects, *hooks, *firsts], release.namespace)
        refuse(release.workload, refused, release.secrets, "the chart")
        if is_there:
            self._objects.try_out(objects, release.namespace)

    def _install(
        self,
        release: WantedRelease,
        deadline: float,
        held: HeldLock,
        *,
        touched: str,
        changes: bool,
    ) -> None:
        workload, history = release.workload, release.history
        ran = last_good(history)
        try:
            problem: list[str] = []
            if changes:
                self._notes.add(workload)
                if history and history[0].status != DEPLOYED:
                    self._settle(release, history, held)
                problem = self._changed(release, deadline, held, touched)
            if not problem and workload.ready is not None:
                problem = workload.ready.wait(lambda: self._failed(release), self.interrupted)
            if not problem:
                return
            reinstated = self._reinstate(release, ran, held)
        except ApplyError as error:
            error.reinstated = False  # helm or the server failed halfway: it is not known what runs
            raise
        raise install_failed(workload, problem, reinstated=reinstated, first=ran is None)

    def _changed(self, release: WantedRelease, deadline: float, held: HeldLock, touched: str) -> list[str]:
        """Install or upgrade, and return why it does not run; nothing if it does."""
        make_namespace(self.client, release.namespace, self.device)
        left = max(deadline - time.monotonic(), 1.0)
        arguments = [
            "--history-max",
            _KEPT_REVISIONS,
            *(self.helm.force_arguments() if touched else []),
        ]
        waits = release.workload.component.properties.wait
        arguments += self.helm.wait_arguments(left) if waits else self.helm.time_arguments(left)
        done = self._run(release, deadline, ["upgrade", "--install", *arguments], held.descriptor)
        return [] if done.status == 0 else [*self._failed(release), *_why(done, release)]

    def _failed(self, release: WantedRelease) -> list[str]:
        """Return what is not ready of what is there now, with the cause as far as the cluster knows it."""
        history = self._store.history(release.namespace, release.name)
        if not history:
            return []
        looks = self._objects.look(self._store.objects(history[0]), release.namespace)
        return [f"{each.what}: {each.reason}" for each in looks if each.state in ("failed", "missing", "progressing")]

    def _settle(self, release: WantedRelease, history: Sequence[Release], held: HeldLock) -> None:
        """Bring what a killed helm or a failed step left halfway to what ran before, or to nothing."""
        good = last_good(history)
        if good is None or history[0].status in ("uninstalling", "uninstalled"):
            self._uninstall(history[0], held)
        else:
            self._roll_back(release, good, held, wait=False)

    def _reinstate(self, release: WantedRelease, ran: Release | None, held: HeldLock) -> bool:
        """Let run what ran before; return whether it does."""
        history = self._store.history(release.namespace, release.name)
        if ran is None:
            if history:
                self._uninstall(history[0], held)
            return True
        if not history or (history[0].status == DEPLOYED and history[0].digest == ran.digest):
            return False  # it was to be repaired, and is as it was
        good = last_good(history, other_than=None if history[0].status != DEPLOYED else release.workload.digest)
        return good is not None and self._roll_back(release, good, held, wait=True)

    def _roll_back(self, release: WantedRelease, good: Release, held: HeldLock, *, wait: bool) -> bool:
        workload = release.workload  # whose time may be short for what ran before
        seconds = float(max(workload.timeout_seconds, min(_RETURN_SECONDS, workload.longest_seconds)))
        done = self.helm.run(
            "rollback",
            release.name,
            str(good.number),
            "--history-max",
            _KEPT_REVISIONS,
            *(self.helm.wait_arguments(seconds) if wait else self.helm.time_arguments(seconds)),
            *self.helm.force_arguments(),  # what ran before runs again, whoever took a field meanwhile
            namespace=release.namespace,
            seconds=seconds,
            keep_open=held.descriptor,
        )
        return done.status == 0

    def _uninstall(self, release: Release, held: HeldLock) -> None:
        deadline = time.monotonic() + _REMOVE_SECONDS
        made: Sequence[KubernetesObject] = ()
        with suppress(ManifestInvalid):  # it cannot be read: helm says what it leaves
            made = self._store.objects(release)
        done = self.helm.run(
            "uninstall",
            release.name,
            *self.helm.wait_arguments(_REMOVE_SECONDS)[:1],
            *("--cascade", "foreground"),  # until its pods are gone
            *self.helm.time_arguments(_REMOVE_SECONDS),
            namespace=release.namespace,
            seconds=_REMOVE_SECONDS,
            keep_open=held.descriptor,
        )
        if self._store.history(release.namespace, release.name):
            left = done.last_lines() if done.status is not None else ["helm did not end in time"]
        else:
            left = self._objects.wait_until_gone(made, release.namespace, deadline, self.interrupted)
        if left:
            raise RemoveFailed(
                f"the release {release.name} in {release.namespace} is still there",
                why=left,
                remedy="see what keeps its objects: `helm status` and `kubectl get` show them",
            )

    def _run(
        self, release: WantedRelease, deadline: float, command: Sequence[str], keep_open: int | None = None
    ) -> Finished:
        labels = ",".join(f"{name}={value}" for name, value in release.labels.items())
        return self.helm.run(
            *(*command, release.name, str(release.chart), "--labels", labels),
            namespace=release.namespace,
            seconds=max(deadline - time.monotonic(), 1.0),
            values=release.values,
            keep_open=keep_open,
        )

    @contextmanager
    def _release(self, workload: Workload, deadline: float) -> Iterator[WantedRelease]:
        """Yield what is wanted, with its chart unpacked and its secrets open; errors inside show no secret."""
        artifact, history = chart_content(workload), self._history(workload)
        secrets = secret_values(self.secrets(workload.secrets))
        values = chart_values(workload.component.name, workload.values, secrets)
        with storing(self.folder):
            sweep(self.folder)
            folder = TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=self.folder)
        with folder as content, hiding(secrets):
            self.artifacts.place(artifact, Path(content), seconds=deadline - time.monotonic())
            chart = chart_in(Path(content), workload.component.name, signed=self.keyring is not None)
            if self.keyring:
                check_signature(self.helm, chart, self.keyring, workload.component.name)
            yield WantedRelease(workload, history, chart, release_labels(workload, self.device), values, secrets)

    def _history(self, workload: Workload) -> list[Release]:
        """Return the revisions of a workload's release (WorkloadUnsupported: somebody else has one of this name)."""
        name, namespace = release_name(workload.key), workload.deployment.metadata.namespace
        history = self._store.history(namespace, name)
        if history and not (history[0].is_of(self.device) and history[0].key == workload.key):
            raise WorkloadUnsupported(
                f"there is a release {name} in {namespace} that this agent did not install",
                remedy="uninstall it, or give the deployment another namespace; the agent leaves it alone",
            )
        return history

    def _of(self, key: WorkloadKey) -> list[Release]:
        return [each for each in self._store.latest(self._notes.namespaces()) if each.key == key]

    def _tidy(self, workload: Workload, held: HeldLock) -> None:
        """Take away what an earlier version of a deployment left in another namespace, and content that is not used."""
        for each in self._of(workload.key):
            if each.namespace != workload.deployment.metadata.namespace:
                self._uninstall(each, held)
                drop_namespaces(self.client, [each.namespace], self.device)
        self._notes.keep(workload)
        self.artifacts.prune(self._notes.artifacts())

    def _locked(self, deadline: float) -> HeldLock:
        return locked(self.folder, deadline, self.interrupted, "helm")


def _why(done: Finished, release: WantedRelease) -> list[str]:
    lines = done.last_lines(release.secrets) if done.status is not None else ["it did not end in time"]
    return [line for line in lines if not line.startswith("level=")]  # helm 4 logs what it then says as its error
