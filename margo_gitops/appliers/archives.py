"""Unpack a component's content safely: hostile archives are refused whole.

ARCHIVE-1  The archive is a tar.gz within the bounds on its members and on its unpacked size.
ARCHIVE-2  Members are files, folders and links; no devices, no pipes, no sparse files.
ARCHIVE-3  Names are relative, without `..`, backslashes and control characters, and occur once.
ARCHIVE-4  A link leads to a place inside the folder, and nothing is written through a link.
ARCHIVE-5  Set-uid, set-gid and sticky bits, owners, and write permission for others are not kept.

Source: Margo application registry, compose archive ("before extraction"); the archive's digest was verified before.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from hashlib import sha256 as sha256_of
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from margo_gitops.digests import Digest, folder_digest
from margo_gitops.errors import ArtifactRefused
from margo_gitops.values import dataclass

if TYPE_CHECKING:  # loaded where an archive is unpacked: a device that waits has no use for them
    import gzip
    import tarfile

_CHUNK = 256 * 1024
# tarfile reads a member's extended header in one go: no honest one comes near this.
_LONGEST_READ = 1024 * 1024
_LONGEST_PATH = 1024
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class ArchiveBounds:
    """What a component's content may need.

    Attributes:
        packed: bytes of the archive.
        unpacked: bytes of all its files together.
        members: files, folders and links.
    """

    packed: int = 256 * 1024 * 1024
    unpacked: int = 1024 * 1024 * 1024
    members: int = 10_000


DEFAULT_ARCHIVE_BOUNDS = ArchiveBounds()


def unpack(archive: BinaryIO, folder: Path, bounds: ArchiveBounds = DEFAULT_ARCHIVE_BOUNDS) -> None:
    """Unpack a tar.gz into an empty folder.

    Args:
        folder: exists and is empty; on failure the caller deletes it.

    Raises:
        ArtifactRefused: a rule above is broken, or it is not a tar.gz.
        OSError: the folder cannot be written.
    """
    import gzip
    import tarfile

    with gzip.GzipFile(fileobj=archive, mode="rb") as stream:
        try:
            with tarfile.open(fileobj=_Guarded(stream, bounds), mode="r:") as tar:  # type: ignore[call-overload]
                _unpack_members(tar, folder, bounds)
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, UnicodeError, ValueError) as error:
            raise ArtifactRefused("the archive is not a valid tar.gz", why=[str(error)]) from error


def _unpack_members(tar: tarfile.TarFile, folder: Path, bounds: ArchiveBounds) -> None:
    kinds: dict[PurePosixPath, str] = {}
    size = 0
    count = 0
    for member in tar:
        count += 1
        size += max(member.size, 0)
        if count > bounds.members:
            raise ArtifactRefused(f"the archive holds more than {bounds.members} files and folders")
        if size > bounds.unpacked:
            raise ArtifactRefused(f"the archive unpacks to more than {bounds.unpacked} bytes")
        path = _path(member.name)
        if not path.parts:
            if member.isdir():
                continue
            raise ArtifactRefused(f"{_shown(member.name)} in the archive names its own folder, but is not a folder")
        _check_member(member, path, kinds)
        _write_member(tar, member, path, folder)


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: PurePosixPath, folder: Path) -> None:
    """Write a member that was checked; tarfile's own extraction filters are not in every Python 3.11."""
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if member.isdir():
        place.mkdir(exist_ok=True)
    elif member.issym():
        place.symlink_to(member.linkname)
    elif member.islnk():
        place.hardlink_to(folder / _path(member.linkname))
    else:
        content = tar.extractfile(member)
        with place.open("xb") as file:
            while content is not None and (chunk := content.read(_CHUNK)):
                file.write(chunk)
            # ARCHIVE-5: what is left is who may run it.
            os.fchmod(file.fileno(), 0o755 if member.mode & stat.S_IXUSR else 0o644)


def _check_member(member: tarfile.TarInfo, path: PurePosixPath, kinds: dict[PurePosixPath, str]) -> None:
    if member.issym() or member.islnk():
        kind = "link"
    elif member.isdir():
        kind = "folder"
    elif member.isreg() and not member.issparse():
        kind = "file"
    else:
        raise ArtifactRefused(f"{_shown(member.name)} in the archive is a device, pipe or other special file")

    for parent in path.parents:
        if parent.parts and kinds.setdefault(parent, "folder") != "folder":
            raise ArtifactRefused(f"{_shown(member.name)} in the archive is below a {kinds[parent]}")
    if path in kinds and (kind, kinds[path]) != ("folder", "folder"):
        raise ArtifactRefused(f"{_shown(member.name)} is twice in the archive")
    kinds[path] = kind

    if member.issym():
        _check_link(member, path)
    elif member.islnk():
        # A hard link names a member of the archive, from its root; it must be a file that is already there.
        if kinds.get(_path(member.linkname)) != "file":
            raise ArtifactRefused(f"{_shown(member.name)} in the archive is a hard link, but not to a file of it")
        kinds[path] = "file"


def _check_link(member: tarfile.TarInfo, path: PurePosixPath) -> None:
    target = PurePosixPath(member.linkname)
    up = 0
    while up < len(target.parts) and target.parts[up] == "..":
        up += 1
    # `..` after a name could climb out through another link, so it is allowed only in front.
    if target.is_absolute() or not target.parts or ".." in target.parts[up:] or up > len(path.parts) - 1:
        raise ArtifactRefused(
            f"{_shown(member.name)} in the archive is a link out of its folder, to {_shown(member.linkname)}"
        )


def _path(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ArtifactRefused(f"{_shown(name)} in the archive is outside its folder")
    if len(name.encode(errors="surrogateescape")) > _LONGEST_PATH or any(
        len(part.encode(errors="surrogateescape")) > _LONGEST_NAME for part in path.parts
    ):
        raise ArtifactRefused(f"{_shown(name)} in the archive is too long a name")
    if "\\" in name or any(ord(char) < 32 or ord(char) == 127 for char in name):
        raise ArtifactRefused(f"{_shown(name)} in the archive has a backslash or control character in its name")
    return path


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:100]}...")


class _Guarded:
    """A stream that gives no more than the bounds allow, in all and at once (ARCHIVE-1)."""

    def __init__(self, stream: gzip.GzipFile, bounds: ArchiveBounds) -> None:
        self._stream = stream
        # In addition to its content, every member has a header, padding, and perhaps extended headers.
        self._limit = bounds.unpacked + bounds.members * 4096 + _LONGEST_READ

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _LONGEST_READ:
            raise ArtifactRefused("the archive has an oversized header")
        if self._stream.tell() + size > self._limit:
            raise ArtifactRefused("the archive unpacks to more than it may")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset > self._limit:
            raise ArtifactRefused("the archive unpacks to more than it may")
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def copy_folder(source: Path, target: Path, bounds: ArchiveBounds = DEFAULT_ARCHIVE_BOUNDS) -> Digest:
    """Copy a folder's files, and return the digest of what was copied.

    Args:
        target: exists and is empty.

    Raises:
        ArtifactRefused: it holds links or special files, names that no folder digest can hold, or is too large.
        OSError: a folder cannot be read or written.
    """
    digests: dict[str, Digest] = {}
    size = 0
    for count, (path, name) in enumerate(_files(source), start=1):
        size += path.lstat().st_size
        if count > bounds.members or size > bounds.unpacked:
            raise ArtifactRefused(f"{source} holds more than {bounds.members} files or {bounds.unpacked} bytes")
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        digests[name] = _copy_file(path, place, bounds.unpacked)
    try:
        return folder_digest(digests)
    except ValueError as error:
        raise ArtifactRefused(f"{source} has names that cannot be used", why=[str(error)]) from error


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        with os.scandir(current) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield path, path.relative_to(folder).as_posix()
                else:
                    raise ArtifactRefused(f"{path} is a link or special file; a component's folder holds only files")


def _copy_file(source: Path, target: Path, limit: int) -> Digest:
    state = sha256_of()
    # The name may be swapped for a link between listing and opening; then opening fails.
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as reader, target.open("xb") as writer:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ArtifactRefused(f"{source} is not a file any more")
        done = 0
        while chunk := reader.read(_CHUNK):
            done += len(chunk)
            if done > limit:
                raise ArtifactRefused(f"{source} is larger than {limit} bytes")
            state.update(chunk)
            writer.write(chunk)
        os.fchmod(writer.fileno(), 0o755 if mode & stat.S_IXUSR else 0o644)
    return Digest(f"sha256:{state.hexdigest()}")
