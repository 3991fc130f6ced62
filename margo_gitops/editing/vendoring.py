"""A package and its pin as changes of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.lock import LOCK_FILE, locked_digests, write_lock
from margo_gitops.catalog.package import Package, package_folder
from margo_gitops.digests import Digest
from margo_gitops.documents.fleet_kinds import API_VERSION, ApplicationsLock, LockedApplication
from margo_gitops.documents.records import write
from margo_gitops.editing.edit import Base, Edit, FileChange, make_edit
from margo_gitops.editing.round_trip import rewritten
from margo_gitops.errors import Location, PackageExists


def add_edit(base: Base, package: Package, *, replace: bool = False) -> Edit:
    """Return the edit that vendors a package and pins it.

    Raises:
        PackageExists: this version is there with other content, and may not be replaced.
    """
    description = package.application.description.value
    name, version = description.id, description.metadata.version
    return make_edit(f"Add {name} {version}", ["add", name, version], vendored(base, package, replace=replace))


def vendored(base: Base, package: Package, *, replace: bool = False) -> list[FileChange]:
    """Return what puts a package into the fleet repo and pins it; nothing where it is there already.

    Raises:
        PackageExists: this version is there with other content, and may not be replaced.
    """
    description = package.application.description.value
    key = (description.id, description.metadata.version)
    known = base.intent.applications.get(key)
    folder = f"applications/{package_folder(description)}"
    if known is not None and known.digest != package.application.digest and not replace:
        raise PackageExists(
            f"{key[0]} {key[1]} is in this fleet repo with other content",
            where=Location(folder),
            why=[f"there: {known.digest}", f"new: {package.application.digest}"],
            remedy="raise the version in the package; a version is published once",
        )
    files = {path: file.read() for path, file in package.files.items()}
    return [*folder_changes(base.tree, folder, files), pinned(base.tree, key, package.application.digest)]


def folder_changes(tree: RootTree, folder: str, files: Mapping[str, bytes]) -> Iterator[FileChange]:
    """Yield what makes a folder hold these files and no others."""
    there = {file.path: file for file in tree.files(folder)}
    wanted = {f"{folder}/{path}": content for path, content in files.items()}
    for path in sorted(there.keys() | wanted.keys()):
        yield FileChange(path, there[path].read() if path in there else None, wanted.get(path))


def pinned(tree: RootTree, key: tuple[str, str], digest: Digest) -> FileChange:
    """Return what pins a package in `applications.lock`.

    Raises:
        UnreadableDocument, InvalidDocument: the file is no lock file.
        NotEditable: it cannot be changed.
    """
    file = tree.file(LOCK_FILE)
    if file is None:
        return FileChange(LOCK_FILE, None, write_lock({key: digest}))
    content = file.read()
    pins = {**locked_digests(content), key: digest}
    entries = tuple(LockedApplication(*each, pins[each]) for each in sorted(pins))
    value = write(ApplicationsLock(API_VERSION, "ApplicationsLock", entries))
    return FileChange(LOCK_FILE, content, rewritten(content, LOCK_FILE, value))
