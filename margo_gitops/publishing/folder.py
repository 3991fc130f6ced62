"""A folder as the target: what nginx, Caddy or any other web server hands out.

    <target>/<encoded device>/api/v1/deployments/manifest       a link to ../../../manifests/<digest>
    <target>/<encoded device>/api/v1/deployments/<id>/<digest>
    <target>/<encoded device>/api/v1/bundles/<digest>
    <target>/<encoded device>/api/v1/commits/<digest of the manifest>
    <target>/<encoded device>/manifests/<digest>
    <target>/<encoded device>/api/v1/freshness                  a link to ../../../_freshness/<shard>.json

FOLDER-1  Each file is written next to its place, synced, then renamed into it; the link is replaced by a rename.
FOLDER-2  A manifest's time of change is the second it was published in, and later than its predecessor's: web servers
          that make ETags of time and size never give two manifests the same one.
FOLDER-3  A folder that holds files of somebody else is refused: publishing collects garbage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

from margo_gitops.digests import sha256
from margo_gitops.disk.files import TEMPORARY_PREFIX, disk_errors, read_bounded, replace_file, sync_folder
from margo_gitops.disk.folders import point_link
from margo_gitops.disk.locks import LockTaken, take_lock
from margo_gitops.documents.device_id import is_encoded_device_id
from margo_gitops.documents.freshness import MAX_PROOF_BYTES
from margo_gitops.errors import Location, PublishBusy, PublishTargetUnusable
from margo_gitops.publishing.layout import (
    BUNDLES,
    COMMITS,
    DEPLOYMENTS,
    FRESHNESS,
    MANIFEST_LINK,
    MANIFESTS,
    MAX_MANIFEST_BYTES,
    TRUST,
    DatedManifest,
    PublishedObject,
    PublishTarget,
)

LOCK_FILE: Final = ".margo-gitops-publish"
"""In every target; what starts with a dot is not a device."""
_PROOFS: Final = "_freshness"


class FolderTarget(PublishTarget):
    """A folder that one publisher at a time writes, and any number of web servers read."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """Use a folder; nothing is made before `exclusive`.

        Args:
            clock: returns seconds since 1970.
        """
        self.where = Location(str(folder))
        self._folder = folder
        self.clock = clock

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder's lock; the kernel drops it when the process ends, however it ends."""
        with _disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            # Without a name in it: a run with nothing new writes nothing.
            try:
                held = take_lock(self._folder / LOCK_FILE, mode=0o644, named=False)
            except LockTaken as error:
                raise PublishBusy(
                    "another publisher works on this target",
                    where=self.where,
                    remedy="let it finish, then publish again",
                ) from error
        with held:
            yield

    def devices(self) -> Iterable[str]:
        with _disk_errors(self._folder):
            return [
                entry.name for entry in self._folder.iterdir() if is_encoded_device_id(entry.name) and entry.is_dir()
            ]

    def manifest(self, device: str) -> bytes | None:
        return self._read(self._folder / device / MANIFEST_LINK, MAX_MANIFEST_BYTES)

    def objects(self, device: str) -> frozenset[str]:
        folder = self._folder / device
        with _disk_errors(folder):
            places = (f"{DEPLOYMENTS}/*/*", f"{BUNDLES}/*", f"{COMMITS}/*")
            files = (path for place in places for path in folder.glob(place))
            return frozenset(
                str(path.relative_to(folder)) for path in files if not path.name.startswith(TEMPORARY_PREFIX)
            )

    def read(self, device: str, path: str) -> bytes | None:
        return self._read(self._folder / device / path, None)

    def put(self, device: str, wanted: PublishedObject, content: bytes) -> None:
        path = self._folder / device / wanted.path
        with _disk_errors(path):
            _write(path, content)

    def switch(self, device: str, manifest: bytes) -> None:
        digest = sha256(manifest)
        link = self._folder / device / MANIFEST_LINK
        with _disk_errors(link):
            now = int(self.clock())
            current = self._current(device)
            if current is not None:
                now = max(now, int(current.published) + 1)
                for each in self.manifests(device):
                    if each.published > current.published:  # a publisher died before the device was told of it
                        self.delete(device, f"{MANIFESTS}/{each.digest}")
            _write(self._folder / device / MANIFESTS / digest, manifest, time=now)
            _point(link, Path(*[".."] * MANIFEST_LINK.count("/"), MANIFESTS, digest))

    def proof(self, device: str) -> bytes | None:
        return self._read(self._folder / device / FRESHNESS, MAX_PROOF_BYTES)

    def put_proof(self, device: str, shard: str, content: bytes) -> None:
        path = self._folder / _PROOFS / f"{shard}.json"
        link = self._folder / device / FRESHNESS
        wanted = Path(*[".."] * (FRESHNESS.count("/") + 1), _PROOFS, path.name)
        with _disk_errors(path):
            if self._read(path, MAX_PROOF_BYTES) != content:
                _write(path, content)
            if not link.is_symlink() or link.readlink() != wanted:
                _point(link, wanted)

    def collect(self, device: str, keep: float) -> int:
        # A publisher that died left these.
        with _disk_errors(self._folder / device):
            for place in (f"{DEPLOYMENTS}/*", DEPLOYMENTS, BUNDLES, COMMITS, TRUST, MANIFESTS):
                for path in (self._folder / device).glob(f"{place}/{TEMPORARY_PREFIX}*"):
                    path.unlink()
        return super().collect(device, keep)

    def delete(self, device: str, path: str) -> None:
        place = self._folder / device / path
        with _disk_errors(place):
            place.unlink()
            if path.startswith(f"{DEPLOYMENTS}/"):
                with suppress(OSError):  # other revisions of the deployment are there
                    place.parent.rmdir()

    def manifests(self, device: str) -> list[DatedManifest]:
        folder = self._folder / device / MANIFESTS
        with _disk_errors(folder):
            return [DatedManifest(path.name, path.stat().st_mtime) for path in folder.glob("sha256:*")]

    def _current(self, device: str) -> DatedManifest | None:
        link = self._folder / device / MANIFEST_LINK
        try:
            return DatedManifest(link.readlink().name, link.stat().st_mtime)
        except FileNotFoundError:
            return None

    def _read(self, path: Path, limit: int | None) -> bytes | None:
        with _disk_errors(path):
            try:
                return path.read_bytes() if limit is None else read_bounded(path, limit)
            except FileNotFoundError:
                return None

    def _refuse_foreign(self) -> None:
        entries = {entry.name for entry in self._folder.iterdir()}
        if LOCK_FILE not in entries and entries - {"lost+found"}:
            raise PublishTargetUnusable(
                "this folder holds other files, and publishing removes what it does not know",
                where=self.where,
                remedy="name an empty folder, or one that does not exist yet",
            )


def _disk_errors(path: Path) -> AbstractContextManager[None]:
    return disk_errors(
        path,
        what="the target cannot be used",
        error=PublishTargetUnusable,
        remedy="see that the disk is not full and the folder is yours; publish again, nothing is half done",
    )


def _write(path: Path, content: bytes, time: int | None = None) -> None:
    _make_folder(path.parent)
    replace_file(path, content, mode=0o644, time=time)


def _point(link: Path, target: Path) -> None:
    _make_folder(link.parent)
    point_link(link, target)


def _make_folder(path: Path) -> None:
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)
