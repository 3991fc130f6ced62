"""The content of a device by digest: files that are whole, files that are still coming, and who needs them.

    <folder>/files/<sha256>            a whole, verified file; read-only, and never changed
    <folder>/indexes/<sha256>          the chunk index of that file, where it came with one
    <folder>/coming/<sha256>           the beginning of a file, as far as it was fetched
    <folder>/coming/<sha256>.boot      how much of it surely is on the disk, and in which boot of the device
    <folder>/pins.json                 what each owner needs

STORE-1  A file appears under its digest in one step, after all its bytes were verified and written to the disk.
STORE-2  What was fetched stays until no owner needs it: a kill, a reset or a full disk costs no byte of it. After a
         loss of power the beginning ends where the disk surely has it.
STORE-3  What an owner has pinned is never collected. An owner is pinned before the first byte is fetched for it.
STORE-4  Room is asked for before and while bytes are written: what runs keeps `keep_free` bytes of the disk.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import file_digest
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import BinaryIO, Final

from margo_gitops.content.chunks import LARGEST_INDEX, ChunkIndex, read_index
from margo_gitops.digests import Digest
from margo_gitops.disk.files import disk_errors, read_bounded, replace_file, sync_folder
from margo_gitops.disk.stamps import boot_id
from margo_gitops.errors import ContentNoRoom, ContentRefused, StorageFailed
from margo_gitops.values import dataclass, field
from margo_gitops.wording import byte_count

KEEP_FREE: Final = 256 * 1024 * 1024
"""Bytes of the disk that are left to what runs."""
_SYNC: Final = 16 * 1024 * 1024
_PIECE: Final = 256 * 1024
_MOST_BASES: Final = 8
_LARGEST_PINS: Final = 1024 * 1024


@dataclass(eq=False)
class ContentStore:
    """Keeps files by digest below a folder, which is made when needed.

    Attributes:
        keep_free: bytes of the disk that it leaves free.
    """

    folder: Path
    keep_free: int = KEEP_FREE

    def place(self, digest: Digest) -> Path:
        """Return where a file is once it is whole."""
        return self.folder / "files" / _name(digest)

    def has(self, digest: Digest, *, verified: bool = False) -> bool:
        """Return whether a file is there and whole.

        Args:
            verified: whether to read all of it; one that is damaged is deleted then.
        """
        path = self.place(digest)
        if not verified or not path.is_file():
            return path.is_file()
        with self._storing(), path.open("rb") as file:
            if _name(digest) == file_digest(file, "sha256").hexdigest():
                return True
            path.unlink()
            return False

    def coming(self, digest: Digest) -> int:
        """Return how many bytes of a file are on the device that is still fetched."""
        try:
            return self._coming(digest).stat().st_size
        except OSError:
            return 0

    @contextmanager
    def begin(self, digest: Digest, size: int, index: ChunkIndex | None = None) -> Iterator[Incomplete]:
        """Yield the beginning of a file, to continue with it.

        Args:
            index: of the file; with it, the beginning ends where a chunk does.

        Raises:
            ContentNoRoom: the rest has no room.
            StorageFailed: the disk refuses.
        """
        path = self._coming(digest)
        with self._storing():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            with path.open("r+b", 0) as file:
                incomplete = Incomplete(self, digest, size, path, file, index)
                self.check_room(size - incomplete.length)
                yield incomplete

    def check_room(self, size: int) -> None:
        """Refuse more bytes than the disk has room for (STORE-4, ContentNoRoom)."""
        room = os.statvfs(self.folder)
        free = room.f_bavail * room.f_frsize
        if size > 0 and free - size < self.keep_free:
            raise ContentNoRoom(
                f"there is no room for {byte_count(size)} more",
                why=[f"{byte_count(free)} are free, of which {byte_count(self.keep_free)} are kept for what runs"],
                remedy=f"free space on the disk of {self.folder}",
            )

    def index(self, digest: Digest, size: int) -> ChunkIndex | None:
        """Return the index that came with a file; None where it has no index, or a damaged one."""
        try:
            return read_index(read_bounded(self._index(digest), LARGEST_INDEX), size)
        except (OSError, ValueError):
            return None

    def keep_index(self, digest: Digest, content: bytes) -> None:
        """Keep the index of a file, for what changes next."""
        path = self._index(digest)
        with self._storing():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(path, content)

    def bases(self) -> list[tuple[Path, ChunkIndex]]:
        """Return the newest whole files that have an index: others can be put together from them."""
        found = []
        with self._storing():
            for path in (self.folder / "indexes").glob("*"):
                place = self.folder / "files" / path.name
                if place.is_file():
                    found.append((place.stat().st_mtime_ns, place))
        newest = [path for _, path in sorted(found, reverse=True)[:_MOST_BASES]]
        held = ((path, self.index(Digest(f"sha256:{path.name}"), path.stat().st_size)) for path in newest)
        return [(path, index) for path, index in held if index is not None]

    def pins(self) -> Mapping[str, Collection[Digest]]:
        """Return what each owner needs."""
        try:
            pins = json.loads(read_bounded(self.folder / "pins.json", _LARGEST_PINS))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StorageFailed(
                "the list of needed artifacts cannot be read", why=[str(error)], remedy="delete the file pins.json"
            ) from error
        return {str(owner): [Digest(str(each)) for each in digests] for owner, digests in pins.items()}

    def pin(self, owner: str, digests: Collection[Digest]) -> None:
        """Note what an owner needs (STORE-3); writes nothing where that is known."""
        pins = self.pins()
        if sorted(pins.get(owner, ())) != sorted(digests):
            self._write_pins({**pins, owner: digests})

    def keep(self, owners: Collection[str]) -> list[Digest]:
        """Forget all owners but these, delete what none of them needs, and return what was deleted."""
        pins = self.pins()
        left = {owner: digests for owner, digests in pins.items() if owner in owners}
        if left != pins:
            self._write_pins(left)
        needed = {_name(digest) for digests in left.values() for digest in digests}
        gone = []
        with self._storing():
            for folder in ("files", "indexes", "coming"):
                for path in list((self.folder / folder).glob("*")):
                    name = path.name.partition(".")[0]
                    if name not in needed:
                        path.unlink(missing_ok=True)
                        gone += [Digest(f"sha256:{name}")] if folder == "files" else []
        return sorted(gone)

    def _write_pins(self, pins: Mapping[str, Collection[Digest]]) -> None:
        text = json.dumps({owner: sorted(pins[owner]) for owner in sorted(pins)}, indent=2)
        with self._storing():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self.folder / "pins.json", text.encode())

    def _coming(self, digest: Digest) -> Path:
        return self.folder / "coming" / _name(digest)

    def _index(self, digest: Digest) -> Path:
        return self.folder / "indexes" / _name(digest)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        what, remedy = "the store of artifacts cannot be used", "free space on its disk, or correct its permissions"
        with disk_errors(self.folder, what=what, error=StorageFailed, remedy=remedy):
            yield


@dataclass(eq=False)
class Incomplete:
    """The beginning of a file, which grows at its end. What `begin` yields.

    Attributes:
        length: how much there is.
    """

    store: ContentStore
    digest: Digest
    size: int
    path: Path
    file: BinaryIO
    index: ChunkIndex | None = None
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self._synced = 0
        self._note = self.path.with_name(f"{self.path.name}.boot")
        self._state = sha256_of()
        self.length = 0
        sure = self._sure()
        self.cut(sure if self.index is None else max((each.end for each in self.index if each.end <= sure), default=0))

    def append(self, data: bytes) -> None:
        """Add bytes; where the disk is full, as many as it takes (OSError, ContentNoRoom)."""
        view = memoryview(data)
        while view:
            done = self.file.write(view) or 0
            if not done:
                raise OSError(errno.ENOSPC, "no space left on device", str(self.path))
            self._state.update(view[:done])
            self.length += done
            view = view[done:]
        if self.length - self._synced >= _SYNC:
            self._sync()
            self.store.check_room(self.size - self.length)

    def cut(self, length: int) -> None:
        """Let the file end here, at the latest."""
        if length != self.length or not length:
            self.file.truncate(length)
            self.file.seek(0)
            self._state = sha256_of()
            self.length = 0
            while self.length < length and (piece := self.file.read(min(_PIECE, length - self.length))):
                self._state.update(piece)
                self.length += len(piece)
            self._synced = min(self._synced, self.length)

    def finish(self) -> Path:
        """Make it a whole file, and return where it is (ContentRefused: it is not what its digest says; it is gone)."""
        if f"sha256:{self._state.hexdigest()}" != self.digest or self.length != self.size:
            found = f"sha256:{self._state.hexdigest()}, {self.length} bytes"
            self.drop()
            raise ContentRefused(
                "the bytes that came are not those that the deployment promises",
                why=[f"expected {self.digest}, {self.size} bytes", f"found    {found}"],
                remedy="publish the promised file again, or add the new one: margo-gitops artifact add",
            )
        os.fchmod(self.file.fileno(), 0o444)
        os.fsync(self.file.fileno())
        place = self.store.place(self.digest)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        self.path.replace(place)
        sync_folder(place.parent)
        self._note.unlink(missing_ok=True)
        return place

    def drop(self) -> None:
        """Delete it."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _sure(self) -> int:
        """Return how much of what is there surely is what was written: after a loss of power, what was synced."""
        there = self.file.seek(0, os.SEEK_END)
        try:
            boot, _, synced = read_bounded(self._note, 100).decode().partition(" ")
            self._synced = min(int(synced), there)
        except (OSError, ValueError):
            boot = ""
        if boot == boot_id():
            return min(there, self.size)
        replace_file(self._note, f"{boot_id()} {self._synced}".encode())
        return min(self._synced, self.size)

    def _sync(self) -> None:
        os.fdatasync(self.file.fileno())
        self._synced = self.length
        replace_file(self._note, f"{boot_id()} {self._synced}".encode())


def _name(digest: Digest) -> str:
    return digest.removeprefix("sha256:")
