"""The content of a component that a package brings along, and a Helm chart of it: from a folder or a tar.gz, bounded.

No link is read.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

from margo_gitops.catalog.file_tree import FileTree
from margo_gitops.documents.compose_yaml import ComposeText, read_compose
from margo_gitops.errors import Location, UnreadableDocument
from margo_gitops.values import dataclass

CHART_FILE: Final = "Chart.yaml"
MAX_FILES: Final = 2_000
MAX_BYTES: Final = 8 * 1024 * 1024
"""Of all files of a chart, its subcharts and what archives unpack to; Helm's charts are far smaller."""
_DEEPEST = 4


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        files: by their path in it, its subcharts' too.
        place: the folder or archive that holds it, for messages.
        in_archive: an editor can only open the archive.
    """

    files: Mapping[str, bytes]
    place: str
    in_archive: bool

    def at(self, path: str, line: int | None = None, column: int | None = None) -> Location:
        """Return where a file of it is; of an archive, the archive."""
        return Location(self.place) if self.in_archive else Location(f"{self.place}/{path}", line, column)

    def yaml(self, path: str) -> ComposeText:
        """Return a YAML file of it (UnreadableDocument: it is not YAML, or too large)."""
        return read_compose(self.files[path], self.at(path).file, in_archive=self.in_archive)

    def subcharts(self) -> dict[str, Chart]:
        """Return the charts in its `charts/`, by folder or file name."""
        found: dict[str, dict[str, bytes]] = {}
        for path, content in self.files.items():
            folder, name, rest = path.split("/", 2) if path.count("/") > 1 else ("", "", "")
            if folder == "charts":
                found.setdefault(name, {})[rest] = content
        return {
            name: Chart(files, self.place if self.in_archive else f"{self.place}/charts/{name}", self.in_archive)
            for name, files in found.items()
            if CHART_FILE in files
        }


def read_chart(tree: FileTree, path: str, *, is_folder: bool) -> Chart | None:
    """Return the chart of a component that the package brings along; None if there is no Chart.yaml.

    Args:
        tree: where the content is.
        path: of the content in it, a folder or a tar.gz with the chart itself, or with the chart as its one folder.
        is_folder: which of the two.

    Raises:
        UnreadableDocument: it cannot be looked into.
    """
    left = _Left(path, MAX_BYTES)
    files = _files(tree, path, left, is_folder=is_folder)
    if not is_folder:
        files = _without_top(files)
    return Chart(dict(_with_subcharts(files, left, _DEEPEST)), path, not is_folder) if CHART_FILE in files else None


def content_files(tree: FileTree, path: str, *, is_folder: bool, most_bytes: int) -> dict[str, bytes]:
    """Return the files of a component's content by their path in it; of a folder or a tar.gz, as in `read_chart`."""
    return _files(tree, path, _Left(path, most_bytes), is_folder=is_folder)


def _files(tree: FileTree, path: str, left: _Left, *, is_folder: bool) -> dict[str, bytes]:
    if not is_folder:
        file = tree.file(path)
        return dict(_unpacked(file.read(), left)) if file is not None and file.kind == "file" else {}
    plain = [each for each in tree.files(path) if each.kind == "file"]
    for each in plain:
        left.take(each.size)
    return {each.path[len(path) + 1 :]: each.read() for each in plain}


class _Left:
    """What one component's content may still have."""

    def __init__(self, path: str, most_bytes: int) -> None:
        self.path, self._files, self._bytes, self._most = path, MAX_FILES, most_bytes, most_bytes

    def take(self, size: int) -> None:
        self._files -= 1
        self._bytes -= size
        if self._files < 0 or self._bytes < 0:
            message = f"a component may have {MAX_FILES} files with {self._most} bytes together"
            raise UnreadableDocument(message, where=Location(self.path))


def _with_subcharts(files: Mapping[str, bytes], left: _Left, levels: int) -> Iterator[tuple[str, bytes]]:
    """Yield files, with archives in `charts/` as folders."""
    for path, content in files.items():
        folder, _, name = path.rpartition("/")
        if posixpath.basename(folder) != "charts" or not name.endswith((".tgz", ".tar.gz")):
            yield path, content
        elif levels:
            inside = _without_top(dict(_unpacked(content, left)))
            stem = name.removesuffix(".tgz").removesuffix(".tar.gz")
            yield from ((f"{folder}/{stem}/{each}", made) for each, made in _with_subcharts(inside, left, levels - 1))


def _without_top(files: Mapping[str, bytes]) -> dict[str, bytes]:
    if CHART_FILE in files:
        return dict(files)
    tops = {path.partition("/")[0] for path in files}
    return {path.partition("/")[2]: content for path, content in files.items()} if len(tops) == 1 else {}


def _unpacked(archive: bytes, left: _Left) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|gz") as tar:
            for member in tar:
                left.take(member.size)
                path = posixpath.normpath(member.name)
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None and not path.startswith(("/", "../")):
                    yield path, file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        raise UnreadableDocument("is not a tar.gz", where=Location(left.path), why=[str(error)]) from error
