"""A component's compose file, as Compose itself understands it. Pure, except that it looks which files there are.

Source: Margo application registry, compose archive: one top-level folder that holds `compose.yaml`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from margo_gitops.documents.nodes import Json
from margo_gitops.errors import ComposeInvalid
from margo_gitops.values import dataclass

# Margo knows the first name only; the others are what older packages hold, in the order in which Compose looks.
_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")


def compose_file_in(content: Path, component: str) -> Path:
    """Return the compose file: in the content's root, or in its one top-level folder (ComposeInvalid: neither)."""
    folders = [path for path in content.iterdir() if path.is_dir() and not path.is_symlink()]
    for folder in [content, *(folders if len(folders) == 1 else [])]:
        for name in _NAMES:
            path = folder / name
            if path.is_file() and not path.is_symlink():
                return path
    raise ComposeInvalid(
        f"the content of component {component} holds no compose.yaml",
        remedy="put compose.yaml into the one top-level folder of the archive",
    )


@dataclass(frozen=True, slots=True)
class UsedPath:
    """A file or folder of this device that a compose file uses, the part of it that does, and whether it may write."""

    path: Path
    user: str
    writable: bool


@dataclass(frozen=True, slots=True)
class ComposeModel:
    """The compose file as Compose resolved it.

    Attributes:
        whole: everything that Compose printed.
        services: by name.
        images: every image to be had before starting, with its platform where one is asked for, and what Compose does
            to have it (pull_policy); sorted.
        paths: files and folders of this device that are used.
    """

    whole: Json
    services: Mapping[str, Json]
    images: tuple[tuple[str, str, str], ...]
    paths: tuple[UsedPath, ...]

    def check_images(self, component: str, secrets: Mapping[str, str]) -> None:
        """Refuse a secret in the name of an image: it would be an argument of the engine's client.

        Args:
            secrets: their values, by variable.
        """
        for variable, value in secrets.items():
            if value and any(value in image for image, _, _ in self.images):
                raise ComposeInvalid(
                    f"component {component} has the secret {variable} in the name of an image",
                    remedy="name images without secrets; credentials of a registry are the engine's matter "
                    "(docker login)",
                )

    def check_paths(self, folder: Path, content: Path, component: str) -> None:
        """Refuse paths of the applier's folder that are not content, or that may be written: an update replaces them.

        Args:
            folder: of the applier.
            content: of this revision, below it.
            component: for messages.

        Raises:
            ComposeInvalid: there is one.
        """
        folder, content = folder.resolve(), content.resolve()
        for used in self.paths:
            path = used.path.resolve()
            if not path.is_relative_to(folder):
                continue
            shown = path.relative_to(content) if path.is_relative_to(content) else path
            who = f"{used.user} of component {component}"
            if not path.is_relative_to(content) or not path.exists():
                raise ComposeInvalid(
                    f"{who} uses {shown}, which is not in its content",
                    remedy="keep data in a named volume, and put configuration files into the content",
                )
            if used.writable:
                raise ComposeInvalid(
                    f"{who} may write to {shown} in its content; the next update replaces it, and its data is lost",
                    remedy="mount it read-only (:ro), or keep the data in a named volume",
                )


def read_model(output: str, component: str) -> ComposeModel:
    """Return what `docker compose config --format json` printed (ComposeInvalid: not understood, or no services)."""
    try:
        model: Json = json.loads(output.replace("$$", "$"))  # Compose writes what it could read again
    except ValueError:
        model = None
    services = _mapping(model, "services")
    if not services:
        raise ComposeInvalid(f"the compose file of component {component} has no services", remedy="add a service")
    images = set()
    for service in services.values():
        image = text(service, "image")
        if image and "build" not in plain(service):
            images.add((image, text(service, "platform"), text(service, "pull_policy")))
    return ComposeModel(model, services, tuple(sorted(images)), tuple(_paths(model, services)))


def _paths(model: Json, services: Mapping[str, Json]) -> Iterator[UsedPath]:
    for name, service in services.items():
        volumes = plain(service).get("volumes")
        for volume in volumes if isinstance(volumes, list) else []:
            if text(volume, "type") == "bind" and (source := text(volume, "source")):
                yield UsedPath(Path(source), f"service {name}", plain(volume).get("read_only") is not True)
    for name, entry in _mapping(model, "volumes").items():
        if source := text(plain(entry).get("driver_opts"), "device"):
            yield UsedPath(Path(source), f"volume {name}", writable=True)
    for kind in ("configs", "secrets"):
        for name, entry in _mapping(model, kind).items():
            if source := text(entry, "file"):
                yield UsedPath(Path(source), f"{kind[:-1]} {name}", writable=False)


def plain(value: Json) -> Mapping[str, Json]:
    """Return a mapping as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def _mapping(value: Json, name: str) -> Mapping[str, Json]:
    return plain(plain(value).get(name))


def text(value: Json | Mapping[str, Json], name: str) -> str:
    """Return the text that a mapping has under a name; empty where it has none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""
