"""The names in a fleet repo, from its file names alone: fast enough for a shell that completes a word.

Nothing is checked here; what cannot be read has no names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from margo_gitops.documents.device_id import decode_device_id

_FLEET_FILE = "margo-gitops.yaml"
_NAME = re.compile(r"^[ \t]+[\"']?name[\"']?:[ \t]*[\"']?(?P<name>[^\s\"'#,]+)", re.MULTILINE)
_HEAD = 4096
_MOST_FILES = 50_000
_DESCRIPTION_BYTES = 1024 * 1024


def fleet_root(start: Path) -> Path | None:
    """Return the fleet repo that a folder lies in; None where it lies in none."""
    folder = start.absolute()
    return next((each for each in (folder, *folder.parents) if (each / _FLEET_FILE).is_file()), None)


def device_names(root: Path) -> Iterator[str]:
    """Yield the ids of devices."""
    for path, stem in _documents(root / "devices"):
        if "/" not in stem:
            yield _decoded(stem)
        else:
            # The folder may be part of the id, or not: only the file knows.
            yield _name_in(path) or stem


def site_names(root: Path) -> Iterator[str]:
    """Yield the names of sites."""
    return (stem.rpartition("/")[2] for _, stem in _documents(root / "sites"))


def deployment_names(root: Path) -> Iterator[str]:
    """Yield the names of deployments."""
    return (stem.rpartition("/")[2] for _, stem in _documents(root / "deployments"))


def application_ids(root: Path) -> Iterator[str]:
    """Yield the ids of applications."""
    return _folders(root / "applications")


def application_versions(root: Path, application: str) -> Iterator[str]:
    """Yield the versions of an application."""
    return _folders(root / "applications" / application) if _is_name(application) else iter(())


def parameter_names(root: Path, application: str, version: str | None) -> Iterator[str]:
    """Yield the parameters of an application; without a version, of its newest one."""
    from margo_gitops.documents.kinds import read_source

    content = _description(root, application, version)
    node = read_source(content, "margo.yaml").root.get("parameters") if content else None
    yield from node.value if node is not None and isinstance(node.value, dict) else ()


def profile_ids(root: Path, application: str, version: str | None) -> Iterator[str]:
    """Yield the profiles of an application; without a version, of its newest one."""
    from margo_gitops.documents.kinds import read_source

    content = _description(root, application, version)
    node = read_source(content, "margo.yaml").root.get("deploymentProfiles") if content else None
    for profile in node.value if node is not None and isinstance(node.value, list) else ():
        if name := profile.text("id"):
            yield name


def label_keys(root: Path) -> Iterator[str]:
    """Yield the keys of labels, of the first devices and sites."""
    from margo_gitops.documents.kinds import read_source

    seen: set[str] = set()
    for path, _ in [*islice(_documents(root / "devices"), 20), *islice(_documents(root / "sites"), 20)]:
        node = read_source(path.read_bytes()[:_DESCRIPTION_BYTES], path.name).root.get("metadata", "labels")
        for key in node.value if node is not None and isinstance(node.value, dict) else ():
            if key not in seen:
                seen.add(key)
                yield key


def _documents(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every document of a folder, with its path inside and without the suffix."""
    count = 0
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            count += 1
            if count > _MOST_FILES:
                return
            if name.endswith(".yaml"):
                path = Path(parent, name)
                yield path, path.relative_to(folder).as_posix().removesuffix(".yaml")


def _decoded(stem: str) -> str:
    try:
        return decode_device_id(stem)
    except ValueError:
        return stem


def _name_in(path: Path) -> str | None:
    with path.open(encoding="utf-8", errors="replace") as file:
        match = _NAME.search(file.read(_HEAD))
    return match["name"] if match else None


def _folders(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")


def _is_name(text: str) -> bool:
    return bool(text) and "/" not in text and text not in (".", "..")


def _description(root: Path, application: str, version: str | None) -> bytes | None:
    from margo_gitops.documents.versions import newest

    versions = list(application_versions(root, application))
    chosen = version if version in versions else newest(versions) if versions else None
    if chosen is None:
        return None
    with (root / "applications" / application / chosen / "margo.yaml").open("rb") as file:
        return file.read(_DESCRIPTION_BYTES)
