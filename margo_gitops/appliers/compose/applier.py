"""The applier for the profile type `compose`: Docker or Podman, through Compose v2.

How the promises of `applier` are kept:

APPLIER-1: `prepare` unpacks into a new revision, lets Compose check it, and pulls images by the engine's own command.
APPLIER-2: Containers carry the workload's digest; if all of them run with it, nothing is called.
APPLIER-3: The last good revision stays on disk until a new one runs; it is started again when that one does not.
APPLIER-4: Only projects whose containers carry this device's label are touched; labels suffice to remove them.
APPLIER-5: Compose holds the applier's lock while it lives, so a restarted agent waits for what a killed one began.
APPLIER-6: `observe` is one question to the engine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
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
from margo_gitops.appliers.compose.drift import (
    added_by_hand,
    as_asked,
    changed_by_hand,
    note_running,
    stopped_by_hand,
    told,
)
from margo_gitops.appliers.compose.engine import ComposeEngine
from margo_gitops.appliers.compose.engine_socket import EngineEvents, EngineSocket, engine_socket
from margo_gitops.appliers.compose.policing import NO_REMOTE_FILES, ComposePolicy
from margo_gitops.appliers.compose.project import (
    DEVICE,
    Container,
    artifacts_file,
    environment_of,
    override_file,
    project_name,
    secret_variable,
)
from margo_gitops.appliers.compose.revision import ARTIFACTS, CONTENT, OVERRIDE, Revision, RevisionRecord, Revisions
from margo_gitops.appliers.compose.running import REMOVE_SECONDS, RunningProject
from margo_gitops.appliers.compose.source import ComposeModel, compose_file_in, read_model
from margo_gitops.appliers.programs import hiding
from margo_gitops.appliers.settings import Settings
from margo_gitops.appliers.steps import install_failed, locked
from margo_gitops.appliers.written import edited, note_written
from margo_gitops.disk.folders import new_folder
from margo_gitops.disk.locks import HeldLock
from margo_gitops.documents.compose_variables import variable_name
from margo_gitops.documents.deployment import Artifact
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.errors import (
    ApplyError,
    ArtifactUnavailable,
    ComposeInvalid,
    RemoveFailed,
    StepInterrupted,
    StorageFailed,
    WorkloadUnsupported,
)
from margo_gitops.values import KW_ONLY, dataclass, field, replace

_INHERITED = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "XDG_RUNTIME_DIR")


def create(context: ApplierContext) -> ComposeApplier:
    """Return the applier, from the settings command, dockerHost, dockerConfig, removeVolumes, caFile, maxArtifactBytes.

    Raises:
        ApplierUnusable: unknown or wrong settings.
    """
    settings = Settings("compose", context.settings, context.base)
    command = settings.arguments("command") or ("docker", "compose")
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    if host := settings.text("dockerHost"):
        environment["DOCKER_HOST"] = host
    if config := settings.path("dockerConfig"):
        environment["DOCKER_CONFIG"] = str(config)
    remove_volumes = settings.flag("removeVolumes")
    artifacts = create_artifact_cache(context, settings)
    settings.finish()
    if not context.workloads.unrestricted:
        environment |= NO_REMOTE_FILES
    listens, named = engine_socket(command[0], environment), "DOCKER_HOST" in environment
    if len(command) != 2 or command[1] != "compose":
        raise settings.wrong("command", 'must be an engine\'s client and "compose": ["docker", "compose"]')
    return ComposeApplier(
        context.device,
        context.folder,
        ComposeEngine(command, environment, EngineSocket(listens) if listens else None),
        artifacts,
        remove_volumes=remove_volumes,
        interrupted=context.interrupted,
        policy=ComposePolicy(context.workloads, (str(listens),) if named and listens else ()),
        secrets=context.secrets,
    )


@dataclass(eq=False)
class ComposeApplier:
    """Runs components as Compose projects.

    Attributes:
        device: this device's id; containers carry it as a label.
        remove_volumes: whether removing a workload deletes its named volumes too.
        interrupted: whether the agent was asked to stop; ends every wait.
        policy: what a workload may do to this device.
    """

    profile_types: ClassVar[Sequence[str]] = ("compose",)
    delivers_secrets: ClassVar[bool] = True
    delivers_artifacts: ClassVar[bool] = True
    device: str
    folder: Path
    engine: ComposeEngine
    artifacts: ArtifactCache
    _: KW_ONLY
    remove_volumes: bool = False
    interrupted: Callable[[], bool] = never
    policy: ComposePolicy = field(default_factory=ComposePolicy)
    secrets: OpenSecrets = no_secrets

    def __post_init__(self) -> None:
        self._revisions = Revisions(self.folder / "workloads")

    def prepare(self, workload: Workload) -> None:
        """Fetch the content, let Compose check it, and pull the images that are missing."""
        deadline = time.monotonic() + workload.timeout_seconds
        with self._locked(deadline):
            self._project(workload.key).containers()
            revision = self._revisions.find(workload.key, workload.digest)
            if revision is None or not edited(revision.folder):  # an edited one may run: it is made again later
                self._prepare(workload, deadline)

    def install(self, workload: Workload) -> None:
        """Make the project run as asked for; with `wait`, return when it runs and is healthy.

        Raises:
            InstallFailed: it did not start, or not in time; `reinstated` says whether what ran before runs again.
            ApplyError: what `prepare` raises, when preparing was left out.
        """
        key = workload.key
        project = self._project(key)
        deadline = time.monotonic() + workload.timeout_seconds
        with self._locked(deadline) as held:
            before = project.containers()
            current = self._revisions.current(key)
            revision = self._revisions.find(key, workload.digest)
            # What ended before its installation did may have been ended with its engine.
            sound = current == revision or all(container.state == "running" for container in before)
            ready = workload.ready
            touched = changed_by_hand(before, current.folder) if current and current == revision else ""
            added = added_by_hand(key, self._ours(key))
            if revision and sound and ready is None and not (touched or added) and as_asked(before, workload):
                if current != revision:
                    self._made_current(workload, revision)
                return

            revision = self._prepare(workload, deadline, afresh=bool(revision and edited(revision.folder)))
            run = self.engine.run_name()
            try:
                waited = before if workload.component.properties.wait else None
                problem = project.start(revision, deadline, held.descriptor, waited, ready, recreate=bool(touched))
                if not problem:
                    self.engine.check_run(run, ["what it ended may look as if it were done"])
                    self._made_current(workload, revision)
                    return
                problem += project.logs(revision.environment, of_all=ready is not None and ready.asked)
                reinstated = self._reinstate(project, revision, current, before, held.descriptor)
                # What an engine ends while it stops says nothing about the workload.
                self.engine.check_run(run, problem)
            except ApplyError as error:
                # The engine or the disk failed halfway: it is not known what runs.
                error.reinstated = False
                raise
            raise install_failed(workload, problem, reinstated=reinstated, first=not before)

    def remove(self, key: WorkloadKey) -> None:
        """Stop and delete a project, its networks and, if so configured, its volumes."""
        project = self._project(key)
        with self._locked(time.monotonic() + REMOVE_SECONDS) as held:
            project.containers()
            problem = project.down(self._revisions.current(key), held.descriptor)
            if left := project.containers():
                names = ", ".join(sorted(container.service for container in left))
                raise RemoveFailed(
                    f"{key} is still there: {names}", why=problem, remedy="stop its containers, then try again"
                )
            if self.remove_volumes:
                project.drop_volumes()
            self._revisions.remove(key)
            self.artifacts.prune(self._revisions.artifacts())

    def stop(self, key: WorkloadKey) -> None:
        """Stop a project's containers (StopFailed: one runs still)."""
        with self._locked(time.monotonic() + REMOVE_SECONDS) as held:
            self._project(key).halt(held.descriptor)

    def start(self, key: WorkloadKey) -> None:
        """Start a project's containers again (StopFailed: one does not start)."""
        with self._locked(time.monotonic() + REMOVE_SECONDS) as held:
            self._project(key).resume(held.descriptor)

    def observe(self) -> Sequence[Observed]:
        """Return what the engine runs for this device, sorted by key."""
        return told(self.engine.containers(DEVICE, self.device), self._revisions.current_folder)

    def stopped_by_hand(self, key: WorkloadKey) -> str:
        """Return what a person stopped or removed of a project."""
        return stopped_by_hand(self.engine, self._ours(key))

    def events(self) -> EngineEvents | None:
        """Connect to what the engine tells of this device's containers, and of images."""
        return self.engine.events(DEVICE, self.device)

    def facts(self) -> Mapping[str, Json]:
        """Return what the engine is and offers."""
        return self.engine.facts()

    def _ours(self, key: WorkloadKey) -> list[Container]:
        return [each for each in self.engine.containers(DEVICE, self.device) if each.key == key]

    def images(self) -> Mapping[WorkloadKey, Sequence[RunningImage]]:
        """Return the image of each service, as the engine has it."""
        return self.engine.running_images(self.engine.containers(DEVICE, self.device))

    def _prepare(self, workload: Workload, deadline: float, *, afresh: bool = False) -> Revision:
        if workload.artifact is None:
            raise WorkloadUnsupported(
                f"the deployment names no content for component {workload.component.name}",
                remedy="give the component an artifact in the fleet repo: a path, or a URL and its digest",
            )
        environment = environment_of(workload)
        secrets = self._opened({variable_name(pointer): each for pointer, each in workload.secrets.items()})
        with hiding(secrets):
            made = self._revision(workload, workload.artifact, environment, secrets, deadline, afresh=afresh)
        return replace(made, secrets=secrets)

    def _opened(self, wanted: Mapping[str, WantedSecret]) -> Mapping[str, str]:
        """Return the values of secrets, by variable (SecretUnavailable: one has none)."""
        return {variable: secret_variable(variable, value) for variable, value in self.secrets(wanted).items()}

    def _revision(
        self,
        workload: Workload,
        artifact: Artifact,
        parameters: Mapping[str, str],
        secrets: Mapping[str, str],
        deadline: float,
        *,
        afresh: bool,
    ) -> Revision:
        key, environment = workload.key, {**parameters, **secrets}
        revision = self._revisions.find(key, workload.digest)
        if revision is None or afresh:
            self._revisions.forget_prepared(key, workload.keeps)
            with storing(self.folder), new_folder(self._revisions.place(key, workload.digest)) as folder:
                content = folder / CONTENT
                content.mkdir()
                self.artifacts.place(artifact, content, seconds=deadline - time.monotonic())
                compose_file = compose_file_in(content, workload.component.name)
                model = self._model(
                    workload, content, compose_file, ["--file", str(compose_file)], environment, deadline
                )
                (folder / OVERRIDE).write_bytes(override_file(workload, self.device, model.services))
                if workload.artifacts:
                    (folder / ARTIFACTS).write_bytes(artifacts_file(workload.artifacts, model.services))
                RevisionRecord(
                    workload.digest,
                    artifact.digest,
                    str(compose_file.relative_to(folder)),
                    parameters,
                    workload.timeout_seconds,
                    {variable_name(pointer): each for pointer, each in workload.secrets.items()},
                ).write(folder)
                note_written(folder)
            revision = self._revisions.find(key, workload.digest)
            if revision is None:
                raise StorageFailed(f"the revision of {key} cannot be read back", remedy="check the disk")
        else:
            content, compose_file = revision.folder / CONTENT, revision.folder / revision.record.compose_file
            model = self._model(workload, content, compose_file, revision.own_files, environment, deadline)
        model.check_images(workload.component.name, secrets)
        self._pull(workload, model, deadline)
        return revision

    def _model(
        self,
        workload: Workload,
        content: Path,
        compose_file: Path,
        files: Sequence[str],
        environment: Mapping[str, str],
        deadline: float,
    ) -> ComposeModel:
        """Return what Compose makes of the compose file, if this device allows it."""
        self.policy.check_files(workload, content, compose_file)
        arguments = ["--project-name", project_name(workload.key), *files, "config", "--format", "json"]
        left = max(deadline - time.monotonic(), 1.0)
        done = self.engine.compose(*arguments, parameters=environment, seconds=left, folder=compose_file.parent)
        if done.status != 0:
            raise ComposeInvalid(
                f"Compose refuses the compose file of component {workload.component.name}",
                why=done.last_lines(environment),
                remedy="correct the compose file or the parameters; `docker compose config` shows the same",
            )
        model = read_model(done.output, workload.component.name)
        model.check_paths(self.folder, content, workload.component.name)
        self.policy.check_model(workload, content, model, environment)
        return model

    def _pull(self, workload: Workload, model: ComposeModel, deadline: float) -> None:
        for image, platform, policy in model.images:
            there = self.engine.has_image(image)
            if there and policy != "always":
                continue
            run = self.engine.run_name()
            if policy == "never":
                raise ArtifactUnavailable(
                    f"the image {image} of component {workload.component.name} is not on this device",
                    why=["the compose file says pull_policy: never"],
                    remedy="load the image onto the device (docker load), or remove pull_policy",
                )
            where = ["--platform", platform] if platform else []
            left = max(deadline - time.monotonic(), 1.0)
            done = self.engine.client("pull", "--quiet", *where, image, seconds=left)
            if done.status != 0 and not there:
                self.engine.check_run(run, done.last_lines())
                if "no space left" in done.complaint.lower():
                    raise StorageFailed(
                        f"there is no room for the image {image}",
                        why=done.last_lines(),
                        remedy="free space on its disk",
                    )
                raise ArtifactUnavailable(
                    f"the image {image} of component {workload.component.name} cannot be pulled",
                    why=["it took too long"] if done.status is None else done.last_lines(),
                    remedy="check the registry and this device's access to it; what runs keeps running",
                )

    def _project(self, key: WorkloadKey) -> RunningProject:
        return RunningProject(self.engine, self.device, key, self.folder, self.interrupted)

    def _made_current(self, workload: Workload, revision: Revision) -> None:
        with storing(self.folder):
            note_running(revision.folder, self._project(workload.key).containers())
        self._revisions.make_current(workload.key, revision, workload.keeps)
        self.artifacts.prune(self._revisions.artifacts())

    def _reinstate(
        self,
        project: RunningProject,
        failed: Revision,
        current: Revision | None,
        before: Sequence[Container],
        lock: int,
    ) -> bool:
        """Let run what ran before; return whether it does."""
        try:
            if current is None or current.folder == failed.folder:
                return not before and not project.down(failed, lock)
            deadline = time.monotonic() + current.record.timeout_seconds
            current = replace(current, secrets=self._opened(current.record.secrets))
            if project.start(current, deadline, lock, project.containers()):
                return False
            note_running(current.folder, project.containers())
        except OSError:
            return True  # it runs; only the note could not be written
        except StepInterrupted:
            raise  # the next start takes all of it up
        except ApplyError:
            return False
        return True

    def _locked(self, deadline: float) -> HeldLock:
        return locked(self.folder, deadline, self.interrupted, "docker")
