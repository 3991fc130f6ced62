"""The revisions of a workload on disk: the content it runs from, and what it takes to run it again.

    <folder>/<deployment id>/<component>/
        revisions/<digest>/content/...      the unpacked artifact, this workload's own copy
        revisions/<digest>/override.yaml    labels
        revisions/<digest>/artifacts.yaml   mounts of large artifacts, where it has some
        revisions/<digest>/revision.json    compose file, parameters, time-out (mode 0600)
        current -> revisions/<digest>       the last one that ran as asked for

`current` moves only after an installation has succeeded, so that it always names what to reinstate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from margo_gitops.appliers.applier import WorkloadKey, read_record, storing
from margo_gitops.digests import Digest
from margo_gitops.disk.folders import discard, point_link, sweep
from margo_gitops.documents.declarations import DigestText
from margo_gitops.documents.records import write
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.values import dataclass, field

CONTENT = "content"
OVERRIDE = "override.yaml"
ARTIFACTS = "artifacts.yaml"
_RECORD = "revision.json"
_LARGEST_RECORD = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RevisionRecord:
    """What `revision.json` holds.

    Attributes:
        digest: of the workload.
        artifact: of its content.
        compose_file: relative to the revision's folder.
        timeout_seconds: how long it may take to start.
        secrets: by variable, without their values.
    """

    digest: DigestText
    artifact: DigestText
    compose_file: str
    environment: Mapping[str, str]
    timeout_seconds: int
    secrets: Mapping[str, WantedSecret] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the record into a revision's folder."""
        path = folder / _RECORD
        path.touch(mode=0o600)
        path.write_text(json.dumps(write(self), indent=2), encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> RevisionRecord | None:
        """Return a revision's record, or None where it is missing or damaged: then the revision is made again."""
        record = read_record(RevisionRecord, folder / _RECORD, _LARGEST_RECORD)
        whole = record and (folder / record.compose_file).is_file() and (folder / OVERRIDE).is_file()
        return record if whole else None


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision that can run: its folder, its record, and the values of its secrets by variable."""

    folder: Path
    record: RevisionRecord
    secrets: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that its compose file gets; a secret that is not open is a word, so that it can be removed."""
        return {**self.record.environment, **dict.fromkeys(self.record.secrets, "not-open"), **self.secrets}

    @property
    def own_files(self) -> list[str]:
        """The arguments that name its compose files, without what mounts artifacts: the policy judges these."""
        return ["--file", str(self.folder / self.record.compose_file), "--file", str(self.folder / OVERRIDE)]

    @property
    def files(self) -> list[str]:
        """The arguments that name its compose files."""
        mounts = self.folder / ARTIFACTS
        return [*self.own_files, *(["--file", str(mounts)] if mounts.exists() else [])]

    @property
    def working_folder(self) -> Path:
        """Where Compose runs: it takes some names in an included file from there (READS-5)."""
        return (self.folder / self.record.compose_file).parent


class Revisions:
    """The revisions of all workloads of an applier; `StorageFailed` where their folder cannot be written.

    Args:
        folder: where they are; made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, key: WorkloadKey, digest: Digest) -> Path:
        """Return the folder of a revision, whether it is there or not."""
        return self._of(key) / "revisions" / digest.removeprefix("sha256:")

    def find(self, key: WorkloadKey, digest: Digest) -> Revision | None:
        """Return a revision that is there, whole and readable."""
        folder = self.place(key, digest)
        record = RevisionRecord.read(folder)
        return Revision(folder, record) if record and record.digest == digest else None

    def current(self, key: WorkloadKey) -> Revision | None:
        """Return the last revision that ran as asked for, if it is known."""
        folder = self.current_folder(key)
        record = RevisionRecord.read(folder) if folder else None
        return Revision(folder, record) if folder and record else None

    def current_folder(self, key: WorkloadKey) -> Path | None:
        """Return the folder of the last revision that ran as asked for, if it is known."""
        try:
            return self._of(key) / (self._of(key) / "current").readlink()
        except OSError:
            return None

    def make_current(self, key: WorkloadKey, revision: Revision, keeps: Digest | None) -> None:
        """Remember that this revision runs as asked for, and delete all others but that with the digest `keeps`."""
        with storing(self._folder):
            point_link(self._of(key) / "current", f"revisions/{revision.folder.name}")
            self._keep(key, {revision.folder, *self._kept(key, keeps)})

    def forget_prepared(self, key: WorkloadKey, keeps: Digest | None) -> None:
        """Delete what was prepared for a workload but never ran, and what a killed process left."""
        current = self.current(key)
        with storing(self._folder):
            sweep(self._folder)
            sweep(self._of(key))
            self._keep(key, {*self._kept(key, keeps), *([current.folder] if current else [])})

    def remove(self, key: WorkloadKey) -> None:
        """Delete everything of a workload."""
        with storing(self._folder):
            sweep(self._folder)
            discard(self._of(key), self._folder)
            with suppress(OSError):
                self._of(key).parent.rmdir()

    def artifacts(self) -> set[Digest]:
        """Return the digests of the content that revisions were made of."""
        folders = self._folder.glob("*/*/revisions/*")
        return {record.artifact for folder in folders if (record := RevisionRecord.read(folder))}

    def _kept(self, key: WorkloadKey, keeps: Digest | None) -> set[Path]:
        return {self.place(key, keeps)} if keeps else set()

    def _keep(self, key: WorkloadKey, folders: set[Path]) -> None:
        revisions = self._of(key) / "revisions"
        sweep(revisions)
        for folder in list(revisions.iterdir()) if revisions.exists() else []:
            if folder not in folders:
                discard(folder)

    def _of(self, key: WorkloadKey) -> Path:
        return self._folder / key.deployment_id / key.component
