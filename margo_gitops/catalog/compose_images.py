"""The images that a vendored compose file names, and how well a name pins an image."""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Mapping

from margo_gitops.catalog.file_tree import FileTree
from margo_gitops.catalog.package import COMPOSE_FILE
from margo_gitops.documents.compose_yaml import mapping, plain, read_compose
from margo_gitops.errors import Location, UnreadableDocument
from margo_gitops.rendering.intent import ComponentContent
from margo_gitops.values import dataclass

MAX_BYTES = 1024 * 1024
MAX_ARCHIVE_BYTES = 64 * 1024 * 1024
MAX_ARCHIVE_ENTRIES = 10_000

_MOVING = frozenset({"latest", "stable", "main", "master", "edge", "nightly", "dev", "develop", "current", "rolling"})
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<braced>\w+)(?::?(?P<sign>[-?+])(?P<word>[^}]*))?\}|(?P<plain>\w+))")


@dataclass(frozen=True, slots=True)
class ServiceImage:
    """What a service of a compose file runs.

    Attributes:
        image: as written, variables included; None where it is built on the device.
    """

    service: str
    image: str | None
    location: Location

    def variables(self) -> frozenset[str]:
        """Return the names of the variables in the image's name."""
        return variables_in(self.image or "")

    def named(self, environment: Mapping[str, str]) -> str:
        """Return the image's name with its variables replaced, as Compose does."""
        return interpolated(self.image or "", environment)


def variables_in(text: str) -> frozenset[str]:
    """Return the names of the variables in a value of a compose file."""
    return frozenset(name for match in _VARIABLE.finditer(text) if (name := match["braced"] or match["plain"]))


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """Return a value of a compose file with its variables replaced, as Compose does."""
    return _VARIABLE.sub(lambda match: _replaced(match, environment), text)


def _replaced(match: re.Match[str], environment: Mapping[str, str]) -> str:
    name = match["braced"] or match["plain"]
    if not name:
        return "$"
    if match["sign"] == "+":
        return match["word"] if environment.get(name) else ""
    return environment.get(name) or (match["word"] if match["sign"] == "-" else "")


def pinning_rule(image: str) -> str | None:
    """Return the rule that an image's name breaks; None for one with a digest."""
    if "@sha256:" in image:
        return None
    tag = image.rpartition("/")[2].partition(":")[2]
    return "R202" if tag and tag.lower() not in _MOVING else "R201"


@dataclass(frozen=True, slots=True)
class ComposeFile:
    """The compose file of a component.

    Attributes:
        path: of the file, or of the archive that holds it.
        in_archive: its lines count inside the archive; an editor can only open the archive itself.
    """

    path: str
    content: bytes
    in_archive: bool


def compose_file(tree: FileTree, path: str, *, is_folder: bool) -> ComposeFile | None:
    """Return the compose file of a component that the package brings along; None if there is no such file.

    Args:
        tree: where the content is.
        path: of the content in it, a folder or a tar.gz.
        is_folder: which of the two.

    Raises:
        UnreadableDocument: it cannot be looked into.
    """
    if is_folder:
        path = f"{path}/{COMPOSE_FILE}"
    file = tree.file(path)
    if file is None or file.kind != "file":
        return None
    if is_folder:
        if file.size > MAX_BYTES:
            raise UnreadableDocument(f"has more than {MAX_BYTES} bytes", where=Location(path))
        return ComposeFile(path, file.read(), in_archive=False)
    content = _in_archive(file.read(), path)
    return None if content is None else ComposeFile(path, content, in_archive=True)


def service_images(tree: FileTree, content: ComponentContent) -> list[ServiceImage]:
    """Return the images of a component that the package brings along (UnreadableDocument: no usable compose file)."""
    found = compose_file(tree, f"applications/{content.location}", is_folder=content.is_folder)
    if found is None:
        return []
    text = read_compose(found.content, found.path, in_archive=found.in_archive)
    images = []
    for name, service in mapping(text.value, "services").items():
        image = plain(service).get("image")
        if isinstance(image, str):
            images.append(ServiceImage(name, image, text.at(("services", name, "image"))))
        elif "build" in plain(service):
            images.append(ServiceImage(name, None, text.at(("services", name, "build"))))
    return images


def _in_archive(archive: bytes, path: str) -> bytes | None:
    """Return the compose file of a tar.gz; None if there is no such file."""
    left = MAX_ARCHIVE_BYTES
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|gz") as tar:
            for count, member in enumerate(tar):
                left -= member.size
                if left < 0 or count >= MAX_ARCHIVE_ENTRIES:
                    raise UnreadableDocument("the archive is too large to be looked into", where=Location(path))
                parts = [part for part in member.name.split("/") if part not in ("", ".")]
                if member.isfile() and len(parts) <= 2 and parts[-1:] == [COMPOSE_FILE] and member.size <= MAX_BYTES:
                    file = tar.extractfile(member)
                    return file.read() if file else None
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        raise UnreadableDocument("is not a tar.gz", where=Location(path), why=[str(error)]) from error
    return None
