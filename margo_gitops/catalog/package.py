"""An application package in a folder: its description, resources and components, checked and pinned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from margo_gitops.catalog.component_content import component_contents
from margo_gitops.catalog.file_tree import FileTree, TreeFile, plain_files
from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.folder_digest import folder_digest
from margo_gitops.documents.kinds import check_document, read_source
from margo_gitops.documents.nodes import SourceText
from margo_gitops.errors import Finding, Location, PackageInvalid
from margo_gitops.rendering.intent import Application, Located

DESCRIPTION_FILE = "margo.yaml"
MAX_FILES = 2_000
MAX_BYTES = 64 * 1024 * 1024

_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""What an OCI tag may be (OCI distribution specification); Margo wants tag and version to be equal."""

_RESOURCES = ("descriptionFile", "icon", "licenseFile", "releaseNotes")


@dataclass(frozen=True, slots=True)
class Package:
    """A package that may be used.

    Attributes:
        application: what the renderer needs of it.
        files: every file, by path.
        findings: warnings.
    """

    application: Application
    files: dict[str, TreeFile]
    findings: tuple[Finding, ...]


def read_package(tree: FileTree, file_prefix: str = "") -> Package:
    """Return the package in a folder.

    Args:
        tree: the folder.
        file_prefix: what stands before file names in messages, with a slash at its end.

    Raises:
        PackageInvalid: with every finding.
    """
    files = plain_files(tree, "", most=MAX_FILES, largest=MAX_BYTES, file_prefix=file_prefix)
    if DESCRIPTION_FILE not in files:
        raise PackageInvalid(
            f"the package holds no {DESCRIPTION_FILE}",
            where=Location(f"{file_prefix}{DESCRIPTION_FILE}"),
            remedy="name the folder that holds the application description",
        )
    name = f"{file_prefix}{DESCRIPTION_FILE}"
    content = files[DESCRIPTION_FILE].read()
    source = read_source(content, name)
    checked = check_document(source)
    findings = list(checked.findings)
    description = checked.value
    if description is not None and not isinstance(description, ApplicationDescription):
        findings.append(Finding(f"is a {checked.kind}, expected is an ApplicationDescription", Location(name)))
    if not isinstance(description, ApplicationDescription):
        raise _invalid(name, findings)

    findings += _version_findings(description, source)
    findings += _resource_findings(source, files)
    folder = package_folder(description)
    contents, found = component_contents(source, files, folder)
    findings += found
    if any(finding.severity == "error" for finding in findings):
        raise _invalid(name, findings)
    application = Application(Located(description, name, content), package_digest(files), contents)
    return Package(application, files, tuple(findings))


def package_folder(description: ApplicationDescription) -> str:
    """Return where a package is vendored, relative to `applications/`."""
    return f"{description.id}/{description.metadata.version}"


def package_digest(files: dict[str, TreeFile]) -> Digest:
    """Return the digest that pins a package.

    Raises:
        PackageInvalid: a file has a name that cannot be pinned.
    """
    try:
        return folder_digest({path: sha256(file.read()) for path, file in files.items()})
    except ValueError as error:
        raise PackageInvalid(str(error), remedy="rename the file") from error


def _invalid(name: str, findings: list[Finding]) -> PackageInvalid:
    error = PackageInvalid("the package cannot be used", where=Location(name), why=[str(each) for each in findings])
    error.findings = tuple(findings)
    return error


def _version_findings(description: ApplicationDescription, source: SourceText) -> Iterator[Finding]:
    version = description.metadata.version
    if not _VERSION.fullmatch(version):
        node = source.root.get("metadata", "version") or source.root
        message = f"{version!r} is no OCI tag (letters, digits, and . _ - inside, at most 128)"
        yield Finding(message, Location(source.file, node.line, node.column), "metadata.version")


def _resource_findings(source: SourceText, files: dict[str, TreeFile]) -> Iterator[Finding]:
    for resource in _RESOURCES:
        path = ("metadata", "catalog", "application", resource)
        node = source.root.get(*path)
        if node is None or not isinstance(node.value, str) or "://" in node.value:
            continue
        if node.value.removeprefix("./") not in files:
            where = Location(source.file, node.line, node.column)
            remedy = "add the file to the package, or remove the key"
            yield Finding(f"the package has no file {node.value}", where, ".".join(path), remedy)
