"""Vendor a package: copy it into the fleet repo and pin its digest.

PACK-1  A packed package has a tar.gz where the description named a folder, because https fetches only those; a folder
        that holds a compose file becomes the one top-level folder of its archive (Margo application registry).
PACK-2  The bytes of an archive depend only on names and contents: no time, no owner, no compression.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from margo_gitops.catalog.file_tree import DiskTree, FileTree, HeldTree, SubTree, plain_files
from margo_gitops.catalog.fleet_repo import FLEET_FILE, FleetRepo
from margo_gitops.catalog.package import (
    COMPOSE_FILE,
    DESCRIPTION_FILE,
    LOCK_FILE,
    MAX_BYTES,
    MAX_FILES,
    Package,
    locked_applications,
    package_digest,
    package_folder,
    read_package,
    write_locked,
)
from margo_gitops.catalog.package_check import check_package
from margo_gitops.disk.files import disk_errors, replace_file
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.fleet_kinds import LockedApplication
from margo_gitops.documents.kinds import read_source
from margo_gitops.documents.manifest import gzip_stored
from margo_gitops.errors import Location, NoFleetRepo, PackageExists, PackageInvalid
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class Vendored:
    """What `app add` did.

    Attributes:
        folder: where it is, relative to the fleet repo.
        outcome: "added", "replaced" or "unchanged".
    """

    package: Package
    folder: str
    outcome: Literal["added", "replaced", "unchanged"]


def offered_package(folder: Path, *, pack: bool = False) -> Package:
    """Return the package in a folder, its content as tar.gz on request (PackageInvalid: with every finding)."""
    tree: FileTree = DiskTree(folder)
    prefix = f"{folder}/"
    if pack:
        tree = HeldTree(packed({path: file.read() for path, file in read_package(tree, prefix).files.items()}))
    return check_package(tree, prefix)


def package_of(files: Mapping[str, bytes], place: str) -> Package:
    """Return the package that some files are (PackageInvalid: with every finding).

    Args:
        place: where they come from, for messages.
    """
    return check_package(HeldTree(files), f"{place}/")


def packed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a valid package with its folders of content as tar.gz (PACK-1, PACK-2), by path."""
    made = dict(files)
    lines = files[DESCRIPTION_FILE].decode().split("\n")
    profiles = read_source(files[DESCRIPTION_FILE], DESCRIPTION_FILE).root.items("deploymentProfiles")
    components = [component for profile in profiles for component in profile.items("components")]
    named = [component.get(OWN_EXTENSION, "artifact", "path") for component in components]
    for node in sorted((each for each in named if each), key=lambda each: (each.line, each.column), reverse=True):
        folder = str(node.value)
        inside = {path: content for path, content in files.items() if path.startswith(f"{folder}/")}
        if not inside:
            continue  # it is an archive
        made = {path: content for path, content in made.items() if path not in inside}
        outside = folder.rpartition("/")[0] if f"{folder}/{COMPOSE_FILE}" in inside else folder
        made[f"{folder}.tar.gz"] = archive_of(
            {path.removeprefix(f"{outside}/"): inside[path] for path in sorted(inside)}
        )
        before, after = lines[node.line - 1][: node.column - 1], lines[node.line - 1][node.column - 1 :]
        lines[node.line - 1] = before + after.replace(folder, f"{folder}.tar.gz", 1)
    return {**made, DESCRIPTION_FILE: "\n".join(lines).encode()}


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """Return files as tar.gz, in their order (PACK-2)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip_stored(stream.getvalue())


def add_package(source: Path, fleet: FleetRepo, *, replace: bool = False, pack: bool = False) -> Vendored:
    """Copy the package in a folder into a fleet repo and pin it, as `add_offered` does."""
    if not source.is_dir():
        raise PackageInvalid(f"{source} is not a folder", remedy="name the folder that holds margo.yaml")
    return add_offered(offered_package(source, pack=pack), fleet, replace=replace)


def add_offered(package: Package, fleet: FleetRepo, *, replace: bool = False, source: str | None = None) -> Vendored:
    """Copy a package into a fleet repo and pin it; on any error nothing is left behind.

    Args:
        replace: overwrite this version if it is there with other content.
        source: the registry that it came from, for the lock file.

    Raises:
        PackageInvalid: the package has findings.
        PackageExists: this version is there with other content.
        NoFleetRepo: there is no `margo-gitops.yaml`.
        FilesNotWritten: git would not hold a file of the package as it is.
    """
    if not (fleet.root / FLEET_FILE).is_file():
        raise NoFleetRepo(
            f"there is no {FLEET_FILE} in {fleet.root}", remedy="make a fleet repo with `margo-gitops init DIR`"
        )
    description = package.application.description.value
    key = (description.id, description.metadata.version)
    folder = f"applications/{package_folder(description)}"
    target = fleet.root / folder
    tree = fleet.working_tree()
    tree.check_written({f"{folder}/{path}": file.read() for path, file in package.files.items()})

    lock = fleet.root / LOCK_FILE
    pins = _pins(lock)
    there = None
    if target.exists():
        there = package_digest(plain_files(SubTree(tree, folder), most=MAX_FILES, largest=MAX_BYTES))
    if there not in (None, package.application.digest) and not replace:
        raise PackageExists(
            f"{key[0]} {key[1]} is in this fleet repo with other content",
            where=Location(folder),
            why=[f"there: {there}", f"new: {package.application.digest}"],
            remedy="raise the version in the package, or pass --replace",
        )
    outcome: Literal["added", "replaced", "unchanged"] = "added" if there is None else "replaced"
    if there == package.application.digest:
        outcome = "unchanged"
    else:
        _put(package, target)
    entry = LockedApplication(*key, package.application.digest, source)
    if pins.get(key) != entry:
        what, remedy = "the package is copied, but cannot be pinned", "fix this, then add the package again"
        with disk_errors(lock, what=what, error=PackageInvalid, remedy=remedy):
            replace_file(lock, write_locked({**pins, key: entry}.values()), mode=0o644)
    return Vendored(package, folder, outcome)


def _pins(lock: Path) -> dict[tuple[str, str], LockedApplication]:
    try:
        return locked_applications(lock.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PackageInvalid(
            "the lock file cannot be read", where=Location(LOCK_FILE), why=[str(error)], remedy="put back the file"
        ) from error


def _put(package: Package, target: Path) -> None:
    """Write a package next to its place, then move it there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".incoming-", dir=target.parent))
    except OSError as error:
        raise PackageInvalid(f"the package cannot be copied to {target}", why=[str(error)]) from error
    try:
        fresh.chmod(0o755)
        for path, file in package.files.items():
            place = fresh / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read())
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=".outgoing-", dir=target.parent))
            target.rename(old / "package")
            fresh.rename(target)
            shutil.rmtree(old)
        else:
            fresh.rename(target)
    except OSError as error:
        raise PackageInvalid(f"the package cannot be copied to {target}", why=[str(error)]) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
