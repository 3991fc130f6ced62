"""The content of a component, from a folder or a tar.gz, within bounds; a Helm chart in it, and its calls. Pure."""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from margo_gitops.documents.compose_yaml import ComposeText, read_compose
from margo_gitops.errors import Location, UnreadableDocument
from margo_gitops.values import dataclass

Content: TypeAlias = bytes | Iterable[tuple[str, int, Callable[[], bytes]]]
"""A tar.gz; or path, size and reader of each file of a folder."""

CHART_FILE: Final = "Chart.yaml"
MAX_FILES: Final = 2_000
MAX_BYTES: Final = 8 * 1024 * 1024
"""Of all files of a chart, its subcharts and what archives unpack to; Helm's charts are far smaller."""
_DEEPEST = 4
ASK: Final = ("lookup", "getHostByName")
"""Functions that ask the cluster or the network, and find nothing where a chart is templated."""

_ACTION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_TEXT = re.compile(r"/\*.*?\*/|\"(\\.|[^\"\\])*\"|`[^`]*`", re.DOTALL)
_FUNCTION = re.compile(
    r"(?<![\w.$])(lookup|rand(AlphaNum|Alpha|Numeric|Ascii|Bytes|Int)|gen(CA|SelfSignedCert|SignedCert)(WithKey)?"
    r"|genPrivateKey|uuidv4|now|ago|shuffle|bcrypt|htpasswd|encryptAES|getHostByName)\b"
)
_SUBCHARTS = re.compile(r"(charts/[^/]+/)*")


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


def read_chart(content: Content, place: str) -> Chart | None:
    """Return the chart in some content; None if there is no Chart.yaml.

    Args:
        content: the chart itself, or a tar.gz with the chart as its one folder.
        place: of the content, for messages.

    Raises:
        UnreadableDocument: it cannot be looked into.
    """
    left = _Left(place, MAX_BYTES)
    files = _files(content, left)
    if isinstance(content, bytes):
        files = _without_top(files)
    made = Chart(dict(_with_subcharts(files, left, _DEEPEST)), place, isinstance(content, bytes))
    return made if CHART_FILE in files else None


def own_path(path: str) -> str:
    """Return a path in the chart or subchart that a file is part of."""
    return _SUBCHARTS.sub("", path, count=1)


def is_template(path: str) -> bool:
    """Return whether helm executes a file, by its own path."""
    return path.startswith("templates/")


def calls(text: str) -> Iterator[tuple[int, str]]:
    """Yield where a template calls a function whose result depends on more than values, and which one."""
    for action in _ACTION.finditer(text):
        code = _TEXT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), action[0])
        for function in _FUNCTION.finditer(code):
            yield action.start() + function.start(), function[0]


def content_files(content: Content, place: str, most_bytes: int) -> dict[str, bytes]:
    """Return the files of a component's content by their path in it (UnreadableDocument: as `read_chart`)."""
    return _files(content, _Left(place, most_bytes))


def _files(content: Content, left: _Left) -> dict[str, bytes]:
    if isinstance(content, bytes):
        return dict(_unpacked(content, left))
    files = {}
    for path, size, read in content:
        left.take(size)
        files[path] = read()
    return files


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
