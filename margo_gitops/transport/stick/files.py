"""The files of a bundle: in a folder, such as a stick, or in one tar file. An attacker may have made it.

STICK-1  Nothing outside of the bundle is reached: its names are fixed, and no link is followed in any part of a path.
STICK-2  Only plain files are read. A pipe, a socket or a device in a file's place is an error, and no one waits for it.
STICK-3  Each read is bounded in bytes and time; a file that ends early or grows is an error.
STICK-4  A tar file has plain headers, at most 100,000 files, and no name twice. Nothing is unpacked.
STICK-5  What cannot be read, such as a stick that was pulled out, is `SourceUnreachable`: nothing changes.
STICK-6  Nothing stays open between two pulls, so a stick can be taken out at any time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from margo_gitops.digests import Digest
from margo_gitops.disk.files import TEMPORARY_PREFIX, reason
from margo_gitops.documents.site_bundle import blob_path
from margo_gitops.documents.tar import BLOCK, read_header
from margo_gitops.errors import Location, SourceMisbehaved, SourceUnreachable
from margo_gitops.values import dataclass
from margo_gitops.web.metering import Deadline

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE: Final = 256 * 1024
_SECONDS: Final = 60.0
_MOST_ENTRIES: Final = 100_000
_NOT_PLAIN: Final = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR})


@dataclass(eq=False)
class Content:
    """The bytes of one file, read from front to back."""

    descriptor: int
    size: int
    at: int
    deadline: Deadline

    def read(self, most: int) -> bytes:
        """Return the next bytes; none at the end.

        Raises:
            SourceMisbehaved: the file ends before its size.
            SourceUnreachable: it cannot be read, or takes too long.
        """
        self.deadline.left()
        wanted = min(most, self.size)
        with _reading(Path("a file of the bundle")):
            piece = os.pread(self.descriptor, wanted, self.at)
        if wanted and not piece:
            raise SourceMisbehaved("a file of the bundle ends early")
        self.at += len(piece)
        self.size -= len(piece)
        return piece


class Bundle(Protocol):
    """An open bundle."""

    def open(self, path: str) -> AbstractContextManager[Content | None]:
        """Open a file; None if it does not exist."""


def read_file(bundle: Bundle, path: str, most: int) -> bytes | None:
    """Return the content of a small file; None if it does not exist.

    Raises:
        SourceMisbehaved: it is larger, or no plain file.
        SourceUnreachable: it cannot be read.
    """
    with _reading(Path(path)), bundle.open(path) as content:
        if content is None:
            return None
        if content.size > most:
            raise SourceMisbehaved(f"{path} is longer than the {most} bytes it may have")
        return b"".join(iter(lambda: content.read(_PIECE), b""))


@contextmanager
def opened_bundle(place: Path, deadline: Deadline) -> Iterator[Bundle | None]:
    """Open a bundle, a folder or a tar file; None where nothing is there.

    Raises:
        SourceMisbehaved: it is neither, or a damaged tar file.
        SourceUnreachable: it cannot be read.
    """
    bundle = None
    with _reading(place), suppress(FileNotFoundError):
        descriptor = os.open(place, _FILE)
        try:
            bundle = _bundle(descriptor, place, deadline)
        except BaseException:
            os.close(descriptor)
            raise
    if bundle is None:
        yield None
        return
    with closing(bundle):
        yield bundle


def _bundle(descriptor: int, place: Path, deadline: Deadline) -> _Folder | _TarFile:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        return _Folder(descriptor, deadline)
    if stat.S_ISREG(mode):
        return _TarFile(descriptor, deadline)
    raise SourceMisbehaved("a bundle is a folder or a file", where=Location(str(place)))


@contextmanager
def opened_blob(place: Path, digest: Digest, deadline: Deadline) -> Iterator[Callable[[int], bytes] | None]:
    """Yield what reads a content of a bundle, not verified yet; None if it does not have it (as `opened_bundle`)."""
    with ExitStack() as opening:
        bundle = opening.enter_context(opened_bundle(place, deadline))
        found = None
        if bundle is not None:
            with _reading(place):
                found = opening.enter_context(bundle.open(blob_path(digest)))
        yield found.read if found is not None else None


class _Folder:
    def __init__(self, descriptor: int, deadline: Deadline) -> None:
        self._root = descriptor
        self._deadline = deadline

    def close(self) -> None:
        os.close(self._root)

    @contextmanager
    def open(self, path: str) -> Iterator[Content | None]:
        try:
            descriptor = self._descriptor(path)
        except FileNotFoundError:
            yield None
            return
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _not_plain(path)
            yield Content(descriptor, status.st_size, 0, self._deadline)
        finally:
            os.close(descriptor)

    def _descriptor(self, path: str) -> int:
        *above, name = path.split("/")
        folder = self._root
        try:
            for part in above:
                below = os.open(part, _FOLDER, dir_fd=folder)
                if folder != self._root:
                    os.close(folder)
                folder = below
            return os.open(name, _FILE, dir_fd=folder)
        except OSError as error:
            if error.errno in _NOT_PLAIN:
                raise _not_plain(path) from error
            raise
        finally:
            if folder != self._root:
                os.close(folder)


class _TarFile:
    def __init__(self, descriptor: int, deadline: Deadline) -> None:
        self._descriptor = descriptor
        self._deadline = deadline
        try:
            self._places = self._scan(os.fstat(descriptor).st_size)
        except ValueError as error:
            raise SourceMisbehaved(
                f"the bundle cannot be read: {error}", remedy="copy it again, or make it again"
            ) from error

    def close(self) -> None:
        os.close(self._descriptor)

    @contextmanager
    def open(self, path: str) -> Iterator[Content | None]:
        place = self._places.get(path.encode())
        yield Content(self._descriptor, place[1], place[0], self._deadline) if place else None

    def _scan(self, end: int) -> dict[bytes, tuple[int, int]]:
        """Return where each file begins, and its size (STICK-4)."""
        places: dict[bytes, tuple[int, int]] = {}
        at = 0
        while at + BLOCK <= end:
            entry = read_header(os.pread(self._descriptor, BLOCK, at))
            if entry is None:
                return places
            self._deadline.left()
            at += BLOCK
            if at + entry.size > end:
                break
            if not entry.is_file or entry.name in places:
                raise ValueError("it holds other things than files, or a file twice")
            if len(places) == _MOST_ENTRIES:
                raise ValueError(f"it holds more than {_MOST_ENTRIES} files")
            places[entry.name] = at, entry.size
            at += entry.size + -entry.size % BLOCK
        raise ValueError("it is cut off")


def read_home(place: Path, folder: str, name: str, most: int) -> bytes | None:
    """Return a file that goes home on a stick; None if it does not exist, or nothing can be read there."""
    with suppress(SourceUnreachable, SourceMisbehaved), opened_bundle(place, Deadline(_SECONDS, _SECONDS)) as bundle:
        return read_file(bundle, f"{folder}/{name}", most) if bundle is not None else None
    return None


def write_home(place: Path, folder: str, name: str, content: bytes) -> None:
    """Write a file into a folder on a stick, whole or not at all; no link is followed.

    Raises:
        OSError: it cannot be written, `place` is not a folder, or something else is in the way.
    """
    opened = [os.open(place, _FOLDER)]
    try:
        with suppress(FileExistsError):
            os.mkdir(folder, dir_fd=opened[0])
        opened.append(os.open(folder, _FOLDER, dir_fd=opened[0]))
        made = TEMPORARY_PREFIX + name
        with suppress(FileNotFoundError):
            os.unlink(made, dir_fd=opened[1])
        file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=opened[1])
        opened.append(file)
        view = memoryview(content)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
        os.rename(made, name, src_dir_fd=opened[1], dst_dir_fd=opened[1])
        os.fsync(opened[1])
    finally:
        for descriptor in opened:
            os.close(descriptor)


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    """Turn every `OSError` inside into `SourceUnreachable` (STICK-5)."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_plain(str(place)) from error
        raise SourceUnreachable(
            f"the bundle cannot be read: {reason(error)}",
            where=Location(str(place)),
            remedy="plug the stick in again, or see who may read it. What runs keeps running",
        ) from error


def _not_plain(path: str) -> SourceMisbehaved:
    return SourceMisbehaved(f"{path} is not a plain file in the bundle, such as a link to elsewhere")
