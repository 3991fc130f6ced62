"""The trusted snapshot on disk: what the device holds while there is no network.

stateFolder/trusted/current                     -> the generation that counts (symbolic link)
stateFolder/trusted/<digest of index.json>/
    index.json                                  revision, and the digest of every other file
    manifest.json  deployments/<id>.yaml  commit    exact bytes, as fetched

HELD-1  Only a state that passed `judge` is stored.
HELD-2  The revision is part of the generation: a device that says "I hold X" holds all of X (failure mode F2).
HELD-3  A generation appears whole, by one rename; the link moves only to a whole generation.
HELD-4  Every byte is verified when read; what is damaged or missing counts as "nothing held" (failure mode F14).
HELD-5  When the disk is full the generation before stays, untouched.
HELD-6  Another reader sees one generation or the next, never a mixture.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from margo_gitops.agent.memory.state_folder import folder_errors
from margo_gitops.digests import Digest, sha256
from margo_gitops.disk.files import TEMPORARY_PREFIX, read_bounded, reason
from margo_gitops.disk.folders import point_link, remove_tree, write_folder
from margo_gitops.documents.declarations import DigestText, Keys
from margo_gitops.documents.deployment import UUID_PATTERN
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import read_ours, write
from margo_gitops.documents.state_layout import MANIFEST_FILE, deployment_path
from margo_gitops.errors import InvalidDocument, Location, StoredStateDamaged, UnreadableDocument
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.trusted_state import TrustedState
from margo_gitops.values import dataclass

_REMEDY: Final = "nothing to do: the agent fetches the state again; look after the disk if this comes back"
_LARGEST_FILE: Final = 64 * 1024 * 1024
_MOST_REPLACED: Final = 10


@dataclass(frozen=True, slots=True)
class _Index:
    """What a generation holds."""

    format: Literal["margo-gitops-snapshot/1"]
    revision: str
    manifest: DigestText
    deployments: Annotated[Mapping[str, DigestText], Keys(UUID_PATTERN, "a UUID")]
    commit: DigestText | None


class TrustedStore:
    """Keeps one trusted snapshot in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._link = folder / "current"

    def load(self) -> Snapshot | None:
        """Return what is held; None where nothing was ever stored.

        Another reader (`agent status`) may find a generation gone that was replaced meanwhile (HELD-6).

        Raises:
            StoredStateDamaged: the folder does not hold what was stored (HELD-4).
            StateFolderUnusable: the folder cannot be read.
        """
        generation = self._current()
        for _ in range(_MOST_REPLACED):
            try:
                return self._load(generation) if generation else None
            except StoredStateDamaged:
                # Damage stays where it is; a generation that was replaced leads to another one.
                before, generation = generation, self._current()
                if generation == before:
                    raise
        return self._load(generation) if generation else None

    def _current(self) -> Path | None:
        with folder_errors(self._link):
            try:
                return self._folder / self._link.readlink().name
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.EINVAL:  # no link: nothing that this agent wrote
                    return None
                raise

    def _load(self, generation: Path) -> Snapshot:
        encoded = self._file(generation / "index.json", Digest(generation.name.replace("-", ":", 1)))
        try:
            index = read_ours(_Index, encoded, str(generation / "index.json"))
        except (UnreadableDocument, InvalidDocument) as error:
            raise StoredStateDamaged("the index is damaged", why=[str(error)], remedy=_REMEDY) from error
        return Snapshot(
            manifest=self._file(generation / MANIFEST_FILE, index.manifest),
            deployments={
                name: self._file(generation / deployment_path(name), digest)
                for name, digest in index.deployments.items()
            },
            commit=self._file(generation / "commit", index.commit) if index.commit else None,
            revision=index.revision,
        )

    def save(self, state: TrustedState) -> None:
        """Hold this state from now on, durably, instead of the one before (HELD-1 to HELD-3).

        Raises:
            StorageFull: the disk is full; the state before is still held (HELD-5).
            StateFolderUnusable: the folder cannot be written.
        """
        snapshot = state.snapshot
        index = _Index(
            "margo-gitops-snapshot/1",
            snapshot.revision,
            sha256(snapshot.manifest),
            {name: sha256(content) for name, content in snapshot.deployments.items()},
            sha256(snapshot.commit) if snapshot.commit is not None else None,
        )
        files = {"index.json": write_json(write(index)), MANIFEST_FILE: snapshot.manifest}
        files |= {deployment_path(name): content for name, content in snapshot.deployments.items()}
        if snapshot.commit is not None:
            files["commit"] = snapshot.commit
        name = sha256(files["index.json"]).replace(":", "-")
        with folder_errors(self._folder):
            # The same content may lie there damaged: it is written again, never trusted.
            write_folder(self._folder / name, files)
            point_link(self._link, name)
        self.clean()

    def clean(self) -> None:
        """Remove generations that no longer count, and what an interrupted write left behind."""
        with folder_errors(self._folder):
            if not self._folder.is_dir():
                return
            if not self._link.is_symlink():
                remove_tree(self._link)  # nothing that this agent wrote; the link could not take its place
            current = self._link.readlink().name if self._link.is_symlink() else ""
            for entry in self._folder.iterdir():
                if entry.name.startswith((TEMPORARY_PREFIX, "sha256-")) and entry.name != current:
                    remove_tree(entry)

    def _file(self, path: Path, digest: Digest | None) -> bytes:
        """Return the bytes of a file that has this digest."""
        try:
            content = read_bounded(path, _LARGEST_FILE)
        except OSError as error:
            raise StoredStateDamaged(
                f"a file cannot be read: {reason(error)}", where=Location(str(path)), remedy=_REMEDY
            ) from error
        if sha256(content) != digest:
            raise StoredStateDamaged(
                "the file is not what was stored",
                where=Location(str(path)),
                why=[f"stored was {digest}"],
                remedy=_REMEDY,
            )
        return content
