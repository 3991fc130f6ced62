"""Files to read, from a commit or from a folder: one interface, so that every check runs on both."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, Protocol

from margo_gitops.disk.files import read_bounded
from margo_gitops.errors import Location, PackageInvalid, UnreadableDocument
from margo_gitops.values import dataclass, replace

if TYPE_CHECKING:  # it loads what reads archives
    from margo_gitops.documents.charts import Content

FileKind = Literal["file", "link", "special"]

MAX_DEPTH = 100
"""Folders in folders; real trees have fewer, and each level costs stack."""
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Of one file: as much as a whole package may have."""


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One entry that is not a folder.

    Attributes:
        path: relative to the tree, with `/` between names.
        kind: "link" for a symbolic link, "special" for a submodule, device, socket or pipe.
        size: bytes.
        content: reads it, without a limit of size.
    """

    path: str
    kind: FileKind
    size: int
    content: Callable[[], bytes]

    def read(self, most: int = MAX_FILE_BYTES) -> bytes:
        """Return the content; the size is known before any of it is in memory.

        Raises:
            UnreadableDocument: it is larger than `most` bytes, or cannot be read.
        """
        if self.size > most:
            raise UnreadableDocument(f"has {self.size} bytes, {most} are possible", where=Location(self.path))
        return self.content()


class FileTree(Protocol):
    """A tree of files."""

    def files(self, folder: str) -> Iterator[TreeFile]:
        """Yield every file below `folder`, which may not exist; "" is the tree itself."""
        ...

    def file(self, path: str) -> TreeFile | None:
        """Return one entry that is not a folder; None if it does not exist."""
        ...


class RootTree(FileTree, Protocol):
    """The tree of a whole repository."""

    def paths(self, folder: str) -> Iterator[str]:
        """Yield the path of every file below `folder`, without a look at the files."""
        ...

    def names(self) -> list[str]:
        """Return the names in its root, folders too."""
        ...


class DiskTree:
    """A folder on disk, read as a commit of it: links are reported, never followed; `.git` is left out."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def files(self, folder: str) -> Iterator[TreeFile]:
        """Yield every file below a folder, sorted by name at each level."""
        return map(self._entry, self._below(folder))

    def paths(self, folder: str) -> Iterator[str]:
        """Yield the path of every file below a folder, sorted by name at each level."""
        return self._below(folder)

    def is_behind_link(self, path: str) -> bool:
        """Return whether a path, or a folder on the way, is a link."""
        places = (path, *map(str, PurePosixPath(path).parents))
        return any((self.root / each).is_symlink() for each in places if each not in ("", "."))

    def _below(self, folder: str) -> Iterator[str]:
        return iter(()) if self.is_behind_link(folder) else self._walk(folder)

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _unreadable(folder, error) from error
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name == ".git":
                continue
            if entry.is_dir(follow_symlinks=False):
                check_depth(path)
                yield from self._walk(path)
            else:
                yield path

    def file(self, path: str) -> TreeFile | None:
        """Return one file."""
        place = self.root / path
        if self.is_behind_link(path.rpartition("/")[0]):
            return None
        if not os.path.lexists(place) or (place.is_dir() and not place.is_symlink()):
            return None
        return self._entry(path)

    def names(self) -> list[str]:
        """Return the names in the folder."""
        try:
            return sorted(path.name for path in self.root.iterdir())
        except OSError as error:
            raise _unreadable(".", error) from error

    def _entry(self, path: str) -> TreeFile:
        place = self.root / path
        try:
            status = place.lstat()
        except OSError as error:
            raise _unreadable(path, error) from error
        kind: FileKind = "special"
        if stat.S_ISLNK(status.st_mode):
            kind = "link"
        elif stat.S_ISREG(status.st_mode):
            kind = "file"
        return TreeFile(path, kind, status.st_size, lambda: _read(place, path))


def check_depth(folder: str) -> None:
    """Refuse folders that are too deep (UnreadableDocument)."""
    if folder.count("/") >= MAX_DEPTH:
        raise UnreadableDocument(
            f"is in more than {MAX_DEPTH} folders", where=Location("/".join(folder.split("/")[:4]))
        )


def _read(place: Path, path: str) -> bytes:
    try:
        # A link or a pipe that took the file's place meanwhile is not opened.
        return read_bounded(place, MAX_FILE_BYTES, follow_links=False)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> UnreadableDocument:
    return UnreadableDocument("cannot be read", where=Location(path), why=[error.strerror or str(error)])


class SubTree:
    """A folder of another tree, seen as a tree of its own."""

    def __init__(self, tree: FileTree, folder: str) -> None:
        self._tree = tree
        self._folder = folder

    def files(self, folder: str) -> Iterator[TreeFile]:
        """Yield every file below a folder."""
        for file in self._tree.files(f"{self._folder}/{folder}" if folder else self._folder):
            yield replace(file, path=file.path[len(self._folder) + 1 :])

    def file(self, path: str) -> TreeFile | None:
        """Return one file."""
        found = self._tree.file(f"{self._folder}/{path}")
        return found and replace(found, path=path)


class HeldTree:
    """Files that are in memory, by path."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def files(self, folder: str) -> Iterator[TreeFile]:
        """Yield every file below a folder."""
        for path in sorted(self._files):
            if not folder or path.startswith(f"{folder}/"):
                yield held_file(path, self._files[path])

    def file(self, path: str) -> TreeFile | None:
        """Return one file."""
        return held_file(path, self._files[path]) if path in self._files else None

    def paths(self, folder: str) -> Iterator[str]:
        """Yield the path of every file below a folder."""
        return (file.path for file in self.files(folder))

    def names(self) -> list[str]:
        """Return the names in the root, folders too."""
        return sorted({path.partition("/")[0] for path in self._files})


def held_file(path: str, content: bytes) -> TreeFile:
    """Return a file that is in memory."""
    return TreeFile(path, "file", len(content), lambda: content)


def plain_files(tree: FileTree, *, most: int, largest: int, file_prefix: str = "") -> dict[str, TreeFile]:
    """Return the files of a package, by path; links and special files are refused.

    Args:
        most: how many files are allowed.
        largest: how many bytes all of them together may have.
        file_prefix: what precedes file names in messages, with a slash at its end.

    Raises:
        PackageInvalid: a bound is broken, or an entry is not a plain file.
    """
    found: dict[str, TreeFile] = {}
    size = 0
    for file in tree.files(""):
        if file.kind != "file":
            raise PackageInvalid(
                f"{file.path} is a {'symbolic link' if file.kind == 'link' else 'special file'}",
                where=Location(f"{file_prefix}{file.path}"),
                remedy="packages hold plain files only; copy the file to its place",
            )
        found[file.path] = file
        size += file.size
        if len(found) > most or size > largest:
            raise PackageInvalid(
                f"a package may hold {most} files with {largest} bytes together",
                where=Location(file_prefix or "."),
                remedy="ship large content as an image or an artifact by URL",
            )
    return found


def content_at(tree: FileTree, path: str, *, is_folder: bool) -> Content:
    """Return the content of a component at a path, a folder or a tar.gz; nothing if it is missing. No link is read."""
    if not is_folder:
        file = tree.file(path)
        return file.read() if file is not None and file.kind == "file" else ()
    return [(each.path[len(path) + 1 :], each.size, each.read) for each in tree.files(path) if each.kind == "file"]
