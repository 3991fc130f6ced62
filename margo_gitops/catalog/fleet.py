"""Read a whole fleet repo into an `Intent`, with every finding in one run."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from margo_gitops.catalog.file_tree import FileTree, RootTree, SubTree, TreeFile
from margo_gitops.catalog.fleet_repo import FLEET_FILE
from margo_gitops.catalog.fleet_trust import chosen_floors
from margo_gitops.catalog.package import LOCK_FILE, locked_digests, package_folder, read_package
from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.fleet_kinds import Deployment, Device, Fleet, Site
from margo_gitops.documents.forms import find_alike
from margo_gitops.documents.nodes import DEFAULT_BOUNDS
from margo_gitops.errors import (
    Finding,
    FleetInvalid,
    InvalidDocument,
    Location,
    MargoGitopsError,
    NoFleetRepo,
    PackageInvalid,
    UnreadableDocument,
)
from margo_gitops.progress import steps
from margo_gitops.rendering.intent import Application, ById, Intent, Located
from margo_gitops.values import dataclass, replace

T = TypeVar("T")

_FOLDERS = ("sites", "devices", "deployments", "applications")
_FOR_PEOPLE = re.compile(r"\..*|.*~|README|.*\.(md|txt)")
"""Files that may be next to documents."""


@dataclass(frozen=True, slots=True)
class _Kind(Generic[T]):
    """How the documents of one kind are read and named."""

    folder: str
    record: type[T]
    name: Callable[[T], str]
    fits: Callable[[str, str], bool]


def _same_name(stem: str, name: str) -> bool:
    return stem.rpartition("/")[2] == name


def _device_name(stem: str, device: str) -> bool:
    """Whether a file is named after its device: by its id, or by its one encoding for file names."""
    return stem == device or stem.endswith(f"/{device}") or stem.rpartition("/")[2] == encode_device_id(device)


_SITES = _Kind("sites", Site, lambda site: site.metadata.name, _same_name)
_DEVICES = _Kind("devices", Device, lambda device: device.metadata.name, _device_name)
_DEPLOYMENTS = _Kind("deployments", Deployment, lambda deployment: deployment.metadata.name, _same_name)


def read_fleet(tree: RootTree, devices: Collection[str] | None = None) -> Intent:
    """Return what a fleet repo says.

    Args:
        devices: the files of devices to read; None: all.

    Raises:
        NoFleetRepo: there is no `margo-gitops.yaml`.
        FleetInvalid: with every finding of every file.
    """
    intent, findings = find_fleet(tree, devices)
    refuse_findings(findings)
    if intent is None:
        raise FleetInvalid("the fleet repo cannot be read", findings)
    return intent


def read_devices(tree: FileTree, files: Collection[str]) -> dict[str, Located[Device]]:
    """Return the devices in these files, as far as they are there (FleetInvalid: with every finding)."""
    devices, findings = find_devices(tree, files)
    refuse_findings(findings)
    return devices


def find_devices(tree: FileTree, files: Collection[str]) -> tuple[dict[str, Located[Device]], list[Finding]]:
    """Return the devices in these files, as far as they can be read, and every finding."""
    findings: list[Finding] = []
    return _documents(_Chosen(tree, files), _DEVICES, findings), findings


def refuse_findings(findings: Iterable[Finding]) -> None:
    """Refuse what was read where a finding is an error (FleetInvalid: with every error)."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        noun = "finding" if len(errors) == 1 else "findings"
        raise FleetInvalid(f"the fleet repo has {len(errors)} {noun}", errors)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Some files of a tree, in the order in which they are named."""

    tree: FileTree
    paths: Collection[str]

    def files(self, folder: str) -> Iterator[TreeFile]:
        """Yield those below a folder."""
        found = (self.file(path) for path in self.paths if path.startswith(f"{folder}/"))
        return (file for file in found if file is not None)

    def file(self, path: str) -> TreeFile | None:
        """Return one."""
        return self.tree.file(path)


def read_fleet_document(tree: FileTree) -> Located[Fleet]:
    """Return `margo-gitops.yaml` alone: all that a command needs which asks where the state repo is.

    Raises:
        NoFleetRepo: it does not exist.
        FleetInvalid: with its findings.
    """
    findings: list[Finding] = []
    fleet = _fleet(tree, findings)
    errors = [finding for finding in findings if finding.severity == "error"]
    if fleet is None or errors:
        raise FleetInvalid(f"{FLEET_FILE} has {len(errors)} finding{'' if len(errors) == 1 else 's'}", errors)
    return fleet


def find_fleet(tree: RootTree, chosen: Collection[str] | None = None) -> tuple[Intent | None, list[Finding]]:
    """Return what a fleet repo says as far as it can be read, and every finding, warnings too.

    Documents with findings are left out; without a readable `margo-gitops.yaml` there is no intent.

    Args:
        chosen: the files of devices to read; None: all.

    Raises:
        NoFleetRepo: there is no `margo-gitops.yaml`.
    """
    findings: list[Finding] = list(_misplaced(tree))
    fleet = _fleet(tree, findings)
    sites = _documents(tree, _SITES, findings)
    devices = _documents(tree if chosen is None else _Chosen(tree, chosen), _DEVICES, findings)
    deployments = _documents(tree, _DEPLOYMENTS, findings)
    lock = tree.file(LOCK_FILE)
    applications = _applications(tree, lock, findings)
    if fleet is None:
        return None, findings
    digest = sha256(lock.read()) if lock and lock.kind == "file" else None
    floors = chosen_floors(tree, fleet.value.metadata.name)
    return Intent(fleet, sites, devices, deployments, applications, digest, floors=floors), findings


def _misplaced(tree: RootTree) -> Iterator[Finding]:
    """Yield what would be read as "there is nothing", and stop every workload of the fleet."""
    names = tree.names()
    for folder in _FOLDERS:
        if tree.file(folder) is not None:
            yield _not_a_folder(folder)
        for name in names:
            if name != folder and name.lower() == folder:
                yield Finding("would not be read", Location(name), remedy=f"rename it to {folder}", rule="R102")


def _not_a_folder(path: str) -> Finding:
    remedy = "links and submodules are not followed: put the files here"
    return Finding("is not a folder", Location(path), remedy=remedy, rule="R101")


def _fleet(tree: FileTree, findings: list[Finding]) -> Located[Fleet] | None:
    file = tree.file(FLEET_FILE)
    if file is None:
        raise NoFleetRepo(
            f"there is no {FLEET_FILE} here",
            remedy="change into a fleet repo, name its folder with --fleet, or make one with `margo-gitops init DIR`",
        )
    return _document(file, Fleet, findings)


def _document(file: TreeFile, record: type[T], findings: list[Finding]) -> Located[T] | None:
    """Return one document; None where it has findings."""
    if file.kind != "file":
        findings.append(
            Finding(
                "is not a plain file", Location(file.path), remedy="replace the link by the file itself", rule="R101"
            )
        )
        return None
    try:
        content = file.read(DEFAULT_BOUNDS.size)
        value, found = _found(ById(record), content, file.path)
    except UnreadableDocument as error:
        findings.append(_finding(error))
        return None
    findings += found
    return None if value is None else Located(value, file.path, content)


@lru_cache(maxsize=32_768)
def _found(record: ById[type[T]], content: bytes, path: str) -> tuple[T | None, tuple[Finding, ...]]:
    """Return what a file says; once for the same bytes, because two commits, or two saves, share most files."""
    value, findings = find_alike(record.value, content, path)
    return value, tuple(findings)


def _finding(error: MargoGitopsError) -> Finding:
    why = f": {'; '.join(error.why)}" if error.why else ""
    return Finding(f"{error.what}{why}", error.where, remedy=error.remedy, rule=error.code)


def _documents(tree: FileTree, kind: _Kind[T], findings: list[Finding]) -> dict[str, Located[T]]:
    documents: dict[str, Located[T]] = {}
    for file in steps(f"reading {kind.folder}", tree.files(kind.folder)):
        name = file.path.rpartition("/")[2]
        if file.kind == "file" and not name.endswith(".yaml"):
            if not _FOR_PEOPLE.fullmatch(name):
                remedy = f"rename it to {file.path.removesuffix(PurePosixPath(file.path).suffix)}.yaml, or move it"
                findings.append(Finding("would not be read", Location(file.path), remedy=remedy, rule="R102"))
            continue
        document = _document(file, kind.record, findings)
        if document is None:
            continue
        name = kind.name(document.value)
        if not kind.fits(file.path[len(kind.folder) + 1 : -len(".yaml")], name):
            message = f"the file is not named after what it holds, {name}"
            where = document.at("metadata", "name")
            findings.append(Finding(message, where, remedy="rename one of the two", rule="R103"))
        elif name in documents:
            message = f"{name} is in {documents[name].file} already"
            where = document.at("metadata", "name")
            findings.append(Finding(message, where, remedy="remove one of the two", rule="R104"))
        else:
            documents[name] = document
    return documents


def _applications(tree: FileTree, lock: TreeFile | None, findings: list[Finding]) -> dict[tuple[str, str], Application]:
    pinned = _pinned(lock, findings)
    applications: dict[tuple[str, str], Application] = {}
    for folder in _package_folders(tree, findings):
        try:
            package = read_package(SubTree(tree, folder), f"{folder}/")
        except PackageInvalid as error:
            findings += [replace(each, rule=error.code) for each in error.findings or [_finding(error)]]
            continue
        except MargoGitopsError as error:
            findings.append(_finding(error))
            continue
        application = package.application
        findings += package.findings
        description = application.description.value
        key = (description.id, description.metadata.version)
        if folder != f"applications/{package_folder(description)}":
            message = f"the folder of {key[0]} {key[1]} must be applications/{package_folder(description)}"
            where = Location(application.description.file)
            findings.append(Finding(message, where, remedy="add it with app add", rule="R105"))
        elif problem := _pin_problem(key, application.digest, pinned):
            remedy = "run `margo-gitops app add` on the package"
            rule = "R107" if key in pinned else "R106"
            findings.append(Finding(problem, Location(folder), remedy=remedy, rule=rule))
        else:
            applications[key] = application
    for key in pinned.keys() - applications.keys():
        if not any(finding.location and f"{key[0]}/{key[1]}" in finding.location.file for finding in findings):
            message = f"{key[0]} {key[1]} is locked, but not in applications/"
            remedy = "add the package, or remove the entry"
            findings.append(Finding(message, Location(LOCK_FILE), remedy=remedy, rule="R108"))
    return applications


def _pinned(lock: TreeFile | None, findings: list[Finding]) -> dict[tuple[str, str], Digest]:
    if lock is None:
        return {}
    try:
        return locked_digests(lock.read())
    except (UnreadableDocument, InvalidDocument) as error:
        findings.append(_finding(error))
        return {}


def _pin_problem(key: tuple[str, str], digest: Digest, pinned: dict[tuple[str, str], Digest]) -> str:
    if key not in pinned:
        return f"{key[0]} {key[1]} is not pinned in {LOCK_FILE}"
    if pinned[key] != digest:
        return f"{key[0]} {key[1]} is not what {LOCK_FILE} pins: {digest}, pinned is {pinned[key]}"
    return ""


def _package_folders(tree: FileTree, findings: list[Finding]) -> Iterator[str]:
    """Yield the folders of packages, `applications/<id>/<version>`; note links in their place."""
    seen = set()
    for file in tree.files("applications"):
        parts = file.path.split("/")
        folder = "/".join(parts[:3])
        if len(parts) <= 3 and file.kind != "file":
            findings.append(_not_a_folder(file.path))
        if len(parts) > 3 and folder not in seen:
            seen.add(folder)
            yield folder
