"""Vendor a package: copy it into the fleet repo and pin its digest."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from margo_gitops.catalog.compose_check import check_package
from margo_gitops.catalog.file_tree import DiskTree, plain_files
from margo_gitops.catalog.fleet_repo import FLEET_FILE
from margo_gitops.catalog.package import (
    LOCK_FILE,
    MAX_BYTES,
    MAX_FILES,
    Package,
    locked_digests,
    package_digest,
    package_folder,
    write_lock,
)
from margo_gitops.digests import Digest
from margo_gitops.disk.files import disk_errors, replace_file
from margo_gitops.errors import Location, NoFleetRepo, PackageExists, PackageInvalid


@dataclass(frozen=True, slots=True)
class Vendored:
    """What `app add` did.

    Attributes:
        folder: where it lies, relative to the fleet repo.
        outcome: "added", "replaced" or "unchanged".
    """

    package: Package
    folder: str
    outcome: Literal["added", "replaced", "unchanged"]


def add_package(source: Path, fleet: Path, *, replace: bool = False) -> Vendored:
    """Copy a package into a fleet repo and pin it; on any error nothing is left behind.

    Args:
        replace: overwrite this version if it is there with other content.

    Raises:
        PackageInvalid: the package has findings.
        PackageExists: this version is there with other content.
        NoFleetRepo: `fleet` is none.
    """
    if not (fleet / FLEET_FILE).is_file():
        raise NoFleetRepo(
            f"there is no {FLEET_FILE} in {fleet}", remedy="make a fleet repo with `margo-gitops init DIR`"
        )
    if not source.is_dir():
        raise PackageInvalid(f"{source} is not a folder", remedy="name the folder that holds margo.yaml")
    package = check_package(DiskTree(source), f"{source}/")
    description = package.application.description.value
    key = (description.id, description.metadata.version)
    folder = f"applications/{package_folder(description)}"
    target = fleet / folder

    lock = fleet / LOCK_FILE
    pins = _pins(lock)
    there = None
    if target.exists():
        there = package_digest(plain_files(DiskTree(target), "", most=MAX_FILES, largest=MAX_BYTES))
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
    if pins.get(key) != package.application.digest:
        what, remedy = "the package is copied, but cannot be pinned", "fix this, then add the package again"
        with disk_errors(lock, what=what, error=PackageInvalid, remedy=remedy):
            replace_file(lock, write_lock({**pins, key: package.application.digest}), mode=0o644)
    return Vendored(package, folder, outcome)


def _pins(lock: Path) -> dict[tuple[str, str], Digest]:
    try:
        return locked_digests(lock.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PackageInvalid(
            "the lock file cannot be read", where=Location(LOCK_FILE), why=[str(error)], remedy="put back the file"
        ) from error


def _put(package: Package, target: Path) -> None:
    """Write a package beside its place, then move it there."""
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
