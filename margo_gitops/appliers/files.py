"""The applier for other tools: writes what the device must run into a folder, and calls a hook on every change.

    <folder>/<deployment id>/<component>/
        deployment.yaml     the trusted deployment
        values.json         parameter values of this component, by pointer
        secrets/            a file for each secret of this component, by pointer, readable for the agent's user alone
        values.env          the same for shells and systemd (EnvironmentFile), where every pointer is a variable's name
        workload.json       deployment id, component, digest, device
        content/            the unpacked content, where the deployment names any
        artifacts/          large artifacts, by name: files that no one may change
        handover.yaml       documents for another controller, where the setting `format` names one
        quadlet/            units for Podman, with the format `quadlet`

`<component>` is a symbolic link that moves from one revision to the next in one step. The hook is called as
`<hook> <event> <folder>` with the event `installed` or `removed`; when it fails, the previous revision is put back.
What is stopped for a while stays in place, and the hook is called with `stopped`, and later with `started`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from margo_gitops.appliers.applier import (
    ApplierContext,
    Observed,
    OpenSecrets,
    Workload,
    WorkloadKey,
    no_secrets,
    read_record,
    storing,
)
from margo_gitops.appliers.artifacts import ArtifactCache, create_artifact_cache
from margo_gitops.appliers.programs import Secret, run_program
from margo_gitops.appliers.settings import Settings
from margo_gitops.appliers.written import edited, note_written
from margo_gitops.digests import Digest
from margo_gitops.disk.files import TEMPORARY_PREFIX, write_synced
from margo_gitops.disk.folders import discard, new_folder, point_link, sweep
from margo_gitops.documents import records
from margo_gitops.documents.compose_variables import parameter_text
from margo_gitops.documents.declarations import DigestText
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.errors import ApplierUnusable, InstallFailed, RemoveFailed, StopFailed, WorkloadUnsupported
from margo_gitops.values import KW_ONLY, dataclass
from margo_gitops.wording import how_it_ended

HandOver: TypeAlias = Callable[[Workload, Path], Mapping[str, bytes]]
"""Gets a workload and its unpacked content, and returns files (WorkloadUnsupported: it cannot be handed over)."""

_INHERITED = ("PATH", "HOME")
_REVISIONS = ".revisions"
_RECORD = "workload.json"
_DONE = ".installed"
_STOPPED = ".stopped"
_SECRETS = "secrets"  # a folder's name
_ARTIFACTS = "artifacts"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")
_LARGEST_RECORD = 64 * 1024
_HOOK_SECONDS = 60
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED = re.compile(r'["\\$`]')


@dataclass(frozen=True, slots=True)
class _Record:
    """What `workload.json` holds."""

    deployment_id: str
    component: str
    digest: DigestText
    device: str
    artifact: DigestText | None


def create(context: ApplierContext) -> FilesApplier:
    """Return the applier, from its settings (docs/appliers.md).

    Raises:
        ApplierUnusable: unknown or wrong settings, or no folder.
    """
    settings = Settings("files", context.settings, context.base)
    folder = settings.path("folder")
    hook = settings.arguments("hook")
    hook_seconds = settings.number("hookTimeoutSeconds", _HOOK_SECONDS)
    name = settings.text("format")
    hand_over = _hand_over(name, context.device, settings) if name else None
    artifacts = create_artifact_cache(context, settings)
    settings.finish()
    if folder is None:
        raise ApplierUnusable("the applier files has no folder", remedy="set folder to the path where it writes")
    return FilesApplier(
        context.device,
        folder,
        artifacts,
        hook=hook,
        hook_seconds=hook_seconds,
        secrets=context.secrets,
        hand_over=hand_over,
    )


def _hand_over(name: str, device: str, settings: Settings) -> HandOver:
    from margo_gitops.appliers.handover.formats import files_for  # loaded where it is configured

    return files_for(name, device, settings)


@dataclass(eq=False)
class FilesApplier:
    """Writes workloads into a folder.

    Attributes:
        folder: where to write; several devices never share one.
        hook: program and arguments to run after a change; event and folder are added.
        hand_over: returns what another controller gets, by path in the component's folder; None: nothing.
    """

    profile_types: ClassVar[Sequence[str]] = ("helm", "compose", "custom")
    delivers_secrets: ClassVar[bool] = True
    delivers_artifacts: ClassVar[bool] = True
    device: str
    folder: Path
    artifacts: ArtifactCache
    _: KW_ONLY
    hook: Sequence[str] | None = None
    hook_seconds: float = _HOOK_SECONDS
    secrets: OpenSecrets = no_secrets
    hand_over: HandOver | None = None

    def prepare(self, workload: Workload) -> None:
        """Write the new revision next to the one in place."""
        place = self._place(workload.key, workload.digest)
        if not _record(place):
            self._make(workload, place)

    def _make(self, workload: Workload, place: Path) -> None:
        with storing(self.folder):
            for folder in (self.folder / _REVISIONS, self._link(workload.key).parent, place.parent):
                sweep(folder)
            with new_folder(place) as folder:
                self._write(workload, folder)

    def install(self, workload: Workload) -> None:
        """Put the revision in place, and call the hook.

        Raises:
            InstallFailed: the hook failed; the previous revision is in place again.
            ApplyError: what `prepare` raises, when preparing was left out.
        """
        self.prepare(workload)
        key = workload.key
        place = self._place(key, workload.digest)
        if edited(place):
            self._make(workload, place)
        link = self._link(key)
        if _target(link) == place and (place / _DONE).exists() and not (place / _STOPPED).exists():
            self._tidy(workload, place)
            return
        with storing(self.folder):
            # A revision that was kept is done only when its hook has been called again.
            (place / _DONE).unlink(missing_ok=True)
            point_link(link, os.path.relpath(place, link.parent))
        if problem := self._call("installed", link):
            reinstated = self._put_back(key, place)
            error = InstallFailed(
                f"the hook refused component {key.component} of {workload.deployment.metadata.name}",
                why=problem,
                remedy="the hook's own output says why; the previous revision "
                + ("is in place" if reinstated else "could not be put back"),
            )
            error.reinstated = reinstated
            raise error
        with storing(self.folder):
            (place / _DONE).touch()
            (place / _STOPPED).unlink(missing_ok=True)
        self._tidy(workload, place)

    def remove(self, key: WorkloadKey) -> None:
        """Take a workload's folder away, and call the hook.

        Raises:
            RemoveFailed: the hook failed; the folder is gone all the same and the next removal calls it again.
            StorageFailed: the disk does not take it.
        """
        link = self._link(key)
        if self._is_foreign(_target(link)):
            return
        revisions = self.folder / _REVISIONS / key.deployment_id / key.component
        if not link.is_symlink() and not revisions.exists():
            return
        with storing(self.folder):
            link.unlink(missing_ok=True)
        # Revisions go last: as long as they are there, a removal that was cut off is taken up again.
        if problem := self._call("removed", link):
            raise RemoveFailed(f"the hook failed when {key} was removed", why=problem, remedy="correct the hook")
        with storing(self.folder):
            discard(revisions, self.folder / _REVISIONS)
            for folder in (revisions.parent, link.parent):
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()
        self.artifacts.prune(set(self._used()))

    def stop(self, key: WorkloadKey) -> None:
        """Call the hook with `stopped` (StopFailed: it failed)."""
        self._turn(key, "stopped")

    def start(self, key: WorkloadKey) -> None:
        """Call the hook with `started` where the workload was stopped (StopFailed: it failed)."""
        self._turn(key, "started")

    def _turn(self, key: WorkloadKey, event: Literal["stopped", "started"]) -> None:
        place = _target(self._link(key))
        if place is None or self._is_foreign(place) or not place.exists():
            return
        mark = place / _STOPPED
        with storing(self.folder):
            if event == "started" and not mark.exists():
                return
            mark.touch()  # before its hook: one that was cut off is called again
        if problem := self._call(event, self._link(key)):
            raise StopFailed(f"the hook failed when {key} was {event}", why=problem, remedy="correct the hook")
        if event == "started":
            with storing(self.folder):
                mark.unlink()

    def observe(self) -> Sequence[Observed]:
        """Return what is in the folder, sorted by key."""
        found = []
        with storing(self.folder):
            for link in self.folder.glob("*/*"):
                if link.parent.name == _REVISIONS or not link.is_symlink() or link.name.startswith(TEMPORARY_PREFIX):
                    continue
                place = _target(link)
                record = _record(place) if place else None
                key = WorkloadKey(link.parent.name, link.name)
                if self._is_foreign(place):
                    continue
                if place is None or record is None:
                    found.append(Observed(key, None, "degraded", "its record cannot be read"))
                else:
                    digest = record.digest if (place / _DONE).exists() else None
                    name = edited(place)
                    by_hand = f"{name} was edited" if name else ""
                    is_stopped = (place / _STOPPED).exists()
                    condition: Literal["degraded", "unknown"] = "degraded" if name or is_stopped else "unknown"
                    found.append(Observed(key, digest, condition, "stopped" if is_stopped else str(link), by_hand))
        return sorted(found, key=lambda item: item.key)

    def _write(self, workload: Workload, folder: Path) -> None:
        folder.chmod(0o755)
        values: dict[str, Json] = {
            pointer: list(value) if isinstance(value, tuple) else value for pointer, value in workload.values.items()
        }
        artifact = workload.artifact.digest if workload.artifact else None
        record = _Record(workload.key.deployment_id, workload.key.component, workload.digest, self.device, artifact)
        if workload.artifact:
            content = folder / "content"
            content.mkdir()
            self.artifacts.place(workload.artifact, content, seconds=workload.timeout_seconds)
        for name, text in self.hand_over(workload, folder / "content").items() if self.hand_over else ():
            (folder / name).parent.mkdir(exist_ok=True)
            write_synced(folder / name, text, mode=0o600)
        # All three hold the parameters' values, which may be secrets.
        write_synced(folder / "deployment.yaml", write_yaml(records.write(workload.deployment)), mode=0o600)
        write_synced(folder / "values.json", write_json(values), mode=0o600)
        lines = [f"{name}={_quoted(parameter_text(value))}\n" for name, value in workload.values.items()]
        if all(_VARIABLE.fullmatch(name) for name in workload.values):
            write_synced(folder / "values.env", "".join(lines).encode(), mode=0o600)
        self._write_secrets(workload, folder / _SECRETS)
        (folder / _RECORD).write_bytes(write_json(records.write(record)))
        self._link_artifacts(workload, folder / _ARTIFACTS)
        note_written(folder, folder / _SECRETS, folder / _ARTIFACTS)

    def _link_artifacts(self, workload: Workload, folder: Path) -> None:
        if workload.artifacts:
            folder.mkdir(mode=0o755)
        for each in workload.artifacts:
            place = folder / each.wanted.name
            try:
                place.hardlink_to(each.path)
            except OSError:
                place.symlink_to(each.path)  # another disk: who reads it needs the agent's folder

    def _write_secrets(self, workload: Workload, folder: Path) -> None:
        if not workload.secrets:
            return
        for pointer in workload.secrets:
            if not _FILE_NAME.fullmatch(pointer):
                raise WorkloadUnsupported(
                    f"the pointer {pointer} of component {workload.component.name} is a secret, and no name of a file",
                    remedy="choose another pointer in the application description: letters, digits, and . _ - inside",
                )
        folder.mkdir(mode=0o700)
        for pointer, value in self.secrets(workload.secrets).items():
            write_synced(folder / pointer, value, mode=0o400)

    def _put_back(self, key: WorkloadKey, failed: Path) -> bool:
        link = self._link(key)
        with storing(self.folder):
            # Not what the link led to: that may be a revision whose hook was cut off. An older one may be kept.
            done = [path for path in failed.parent.glob(f"*/{_DONE}") if path.parent != failed]
            before = max(done, key=lambda path: path.stat().st_mtime_ns).parent if done else None
            if before is None:
                link.unlink(missing_ok=True)
                return not self._call("removed", link)
            point_link(link, os.path.relpath(before, link.parent))
            (before / _STOPPED).unlink(missing_ok=True)
        return not self._call("installed", link)

    def _call(self, event: str, folder: Path) -> list[str]:
        """Return why the hook failed; nothing if it did not."""
        if self.hook is None:
            return []
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        secrets = self._secrets_of(folder)
        started = time.monotonic()
        try:
            done = run_program([*self.hook, event, str(folder)], environment, seconds=self.hook_seconds)
        except OSError as error:
            return [f"{self.hook[0]}: {error.strerror or error}"]
        if done.status is None:
            return [f"it did not end within {time.monotonic() - started:.0f} s", *done.last_lines(secrets)]
        return [*dict.fromkeys([how_it_ended(done.status), *done.last_lines(secrets)])] if done.status else []

    def _secrets_of(self, link: Path) -> dict[str, str]:
        """Return what a hook can read and may print when it fails: the secrets of all revisions that are there."""
        secrets: dict[str, str] = {}
        for path in (self.folder / _REVISIONS / link.parent.name / link.name).glob(f"*/{_SECRETS}/*"):
            name, value = path.name, Secret(path.read_text(errors="replace"))
            while secrets.get(name, value) != value:
                name += "'"
            secrets[name] = value
        return secrets

    def _tidy(self, workload: Workload, place: Path) -> None:
        kept = self._place(workload.key, workload.keeps) if workload.keeps else place
        with storing(self.folder):
            sweep(self._link(workload.key).parent)
            sweep(place.parent)
            for folder in list(place.parent.iterdir()):
                if folder not in (place, kept):
                    discard(folder)
        self.artifacts.prune(set(self._used()))

    def _used(self) -> Iterator[Digest]:
        for place in (self.folder / _REVISIONS).glob("*/*/*"):
            record = _record(place)
            if record and record.artifact:
                yield record.artifact

    def _place(self, key: WorkloadKey, digest: Digest) -> Path:
        name = digest.removeprefix("sha256:")
        return self.folder / _REVISIONS / key.deployment_id / key.component / name

    def _link(self, key: WorkloadKey) -> Path:
        return self.folder / key.deployment_id / key.component

    def _is_foreign(self, place: Path | None) -> bool:
        record = _record(place) if place else None
        return record is not None and record.device != self.device


def _target(link: Path) -> Path | None:
    try:
        return Path(os.path.normpath(link.parent / link.readlink()))
    except OSError:
        return None


def _record(place: Path) -> _Record | None:
    return read_record(_Record, place / _RECORD, _LARGEST_RECORD)


def _quoted(text: str) -> str:
    return '"' + _QUOTED.sub(lambda match: "\\" + match.group(), text) + '"'
