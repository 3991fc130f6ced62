"""An application package in a folder, checked as a whole, and its pin in `applications.lock`.

A component may name where its content is, in its `x-margo-gitops-extensions`:

    components:
      - name: press-hmi
        properties: {...}
        x-margo-gitops-extensions:
          artifact: {path: components/press-hmi}        # a folder or a tar.gz of the package, or
          artifact: {url: https://…/hmi.tar.gz, digest: sha256:…}
          format: kubernetes                            # in a profile of type custom: it is a folder of manifests
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, cast

from margo_gitops.catalog.file_tree import MAX_FILE_BYTES, FileTree, TreeFile, plain_files
from margo_gitops.digests import DIGEST_PATTERN, Digest, folder_digest, sha256
from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.components import ContentFormat, ProfileType
from margo_gitops.documents.declarations import About, Problem, Range, Text
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.fleet_kinds import ApplicationsLock, LockedApplication
from margo_gitops.documents.kinds import check_document, read_source
from margo_gitops.documents.nodes import Node, SourceText
from margo_gitops.documents.records import find, read, write
from margo_gitops.documents.yaml_text import read_yaml, write_yaml
from margo_gitops.errors import Finding, Location, PackageInvalid, UnreadableDocument
from margo_gitops.rendering.intent import Application, ComponentContent, Located
from margo_gitops.values import dataclass, replace

DESCRIPTION_FILE = "margo.yaml"
MAX_FILES = 2_000
MAX_BYTES = MAX_FILE_BYTES

_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""What an OCI tag may be (OCI distribution specification); Margo wants tag and version to be equal."""

_RESOURCES = ("descriptionFile", "icon", "licenseFile", "releaseNotes")


@dataclass(frozen=True, slots=True)
class Package:
    """A package that may be used."""

    application: Application
    files: dict[str, TreeFile]
    findings: tuple[Finding, ...]


def read_package(tree: FileTree, file_prefix: str = "") -> Package:
    """Return the package in a folder.

    Args:
        file_prefix: what precedes file names in messages, with a slash at its end.

    Raises:
        PackageInvalid: with every finding.
    """
    files = plain_files(tree, most=MAX_FILES, largest=MAX_BYTES, file_prefix=file_prefix)
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
        raise package_invalid(name, findings)

    findings += _version_findings(description, source)
    findings += _resource_findings(source, files)
    folder = package_folder(description)
    contents, found = component_contents(source, files, folder)
    findings += found
    if any(finding.severity == "error" for finding in findings):
        raise package_invalid(name, findings)
    application = Application(Located(description, name, content), package_digest(files), contents)
    return Package(application, files, tuple(findings))


def packaged_path(content: ComponentContent | None, description: ApplicationDescription) -> str | None:
    """Return where in its package a component's content is; None where it is not in there."""
    if content is None or "://" in content.location:
        return None
    return content.location.removeprefix(f"{package_folder(description)}/")


def place_of(error: UnreadableDocument, path: str, file_prefix: str) -> Location:
    """Return where a file of a package cannot be read, as people know the place.

    Args:
        path: of the content in the package.
        file_prefix: what precedes file names in messages.
    """
    told = error.where or Location(path)
    return replace(told, file=f"{file_prefix}{told.file.removeprefix(file_prefix)}")


def package_folder(description: ApplicationDescription) -> str:
    """Return where a package is vendored, relative to `applications/`."""
    return f"{description.id}/{description.metadata.version}"


def package_digest(files: dict[str, TreeFile]) -> Digest:
    """Return the digest that pins a package (PackageInvalid: a file has a name that cannot be pinned)."""
    try:
        return folder_digest({path: sha256(file.read()) for path, file in files.items()})
    except ValueError as error:
        raise PackageInvalid(str(error), remedy="rename the file") from error


def package_invalid(name: str, findings: list[Finding]) -> PackageInvalid:
    """Return the error that shows every finding of a package, with the description's file."""
    error = PackageInvalid("the package cannot be used", where=Location(name), why=[str(each) for each in findings])
    error.findings = tuple(findings)
    return error


def _version_findings(description: ApplicationDescription, source: SourceText) -> Iterator[Finding]:
    version = description.metadata.version
    if not _VERSION.fullmatch(version):
        node = source.root.get("metadata", "version") or source.root
        message = f"{version!r} is not an OCI tag (letters, digits, and . _ - inside, at most 128)"
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


COMPOSE_FILE = "compose.yaml"
"""The one spelling that Margo allows in a compose archive (application registry, compose archive)."""
_OTHER_COMPOSE_FILES = ("compose.yml", "docker-compose.yml", "docker-compose.yaml")


@dataclass(frozen=True, slots=True)
class ComponentArtifact:
    """The content of a component: a path in the package, or a URL with its digest."""

    path: Annotated[
        str | None,
        About("A folder or a tar.gz of this package.", ("components/press-hmi",)),
        Text(
            pattern=r"^(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
            what="a relative path of letters, digits, and . _ - /",
        ),
    ] = None
    url: Annotated[
        str | None,
        About(
            "The URL of a tar.gz, or with oci://, the repository that has it.",
            ("https://files.example.com/hmi-1.4.2.tar.gz", "oci://registry.example.com/acme/hmi:1.4.2"),
        ),
        Text(pattern=r"^(file:///|(https|oci)://[^/]).+", what="a file://, https:// or oci:// URL"),
    ] = None
    digest: Annotated[
        Digest | None, About("Of the tar.gz at `url`."), Text(pattern=DIGEST_PATTERN, what="a digest, sha256:<64 hex>")
    ] = None
    size_bytes: Annotated[
        int | None, Range(0), About("Of the tar.gz at `url`, so that a plan can say what devices download.", (18_230,))
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield what does not say exactly one place."""
        if (self.path is None) == (self.url is None):
            yield Problem((), "needs exactly one of path and url")
        if (self.url is None) != (self.digest is None):
            yield Problem((), "url and digest go together", "add the digest: sha256sum FILE")
        if self.path is not None and self.size_bytes is not None:
            yield Problem(("sizeBytes",), "sizeBytes goes with url: the size of a file of the package is known")


@dataclass(frozen=True, slots=True)
class ComponentExtension:
    """What this project reads in a component's `x-margo-gitops-extensions`."""

    artifact: Annotated[ComponentArtifact | None, About("Where its content is.")] = None
    format: Annotated[ContentFormat | None, About("What the content is, in a profile of type custom.")] = None

    def problems(self) -> Iterator[Problem]:
        """Yield that nothing is said."""
        if self.artifact is None and self.format is None:
            yield Problem((), "names no artifact", "add where the content is: artifact: {path: …}")


def component_contents(
    source: SourceText, files: dict[str, TreeFile], folder: str
) -> tuple[dict[tuple[ProfileType, str], ComponentContent], list[Finding]]:
    """Return the content of every component that the package brings along, and what is wrong with it.

    Args:
        folder: of the package, relative to `applications/`.
    """
    contents: dict[tuple[ProfileType, str], ComponentContent] = {}
    findings: list[Finding] = []
    for profile in source.root.items("deploymentProfiles"):
        kind = cast("ProfileType", profile.text("type"))
        for component in profile.items("components"):
            node = component.get(OWN_EXTENSION)
            name = component.text("name")
            if not isinstance(node, Node) or name is None:
                continue
            extension, found = find(ComponentExtension, SourceText(source.file, node))
            findings += found
            if extension is None:
                continue
            if extension.format is not None and kind != "custom":
                where = Location(source.file, node.line, node.column)
                remedy = "remove it, or make the profile's type custom"
                message = f"the profile's type is {kind}, which says what the content is"
                findings.append(Finding(message, where, f"component {name}.format", remedy))
            if extension.artifact is None:
                continue
            content = _content(extension.artifact, files, folder, kind)
            if isinstance(content, tuple):
                message, remedy = content
                where = Location(source.file, node.line, node.column)
                findings.append(Finding(message, where, f"component {name}", remedy))
            elif contents.setdefault((kind, name), content) != content:
                message = f"profiles of type {kind} that share a component must name the same content"
                findings.append(Finding(message, Location(source.file, node.line, node.column), f"component {name}"))
    named = {name: content for (_, name), content in reversed(contents.items())}
    for profile in source.root.items("deploymentProfiles"):
        for name in (component.text("name") for component in profile.items("components")):
            if name in named:
                contents.setdefault((cast("ProfileType", profile.text("type")), name), named[name])
    return contents, findings


def _content(
    artifact: ComponentArtifact, files: dict[str, TreeFile], folder: str, profile_type: str | None
) -> ComponentContent | tuple[str, str]:
    """Return the content, or what is wrong with it and what to do."""
    if artifact.url is not None and artifact.digest is not None:
        return ComponentContent(artifact.url, artifact.digest, is_folder=False, size=artifact.size_bytes)
    path = artifact.path or ""
    location = f"{folder}/{path}"
    if path in files:
        if not path.endswith((".tar.gz", ".tgz")):
            return f"{path} is neither a folder nor a tar.gz", "pack the folder as a tar.gz, or name the folder"
        return ComponentContent(location, sha256(files[path].read()), is_folder=False, size=files[path].size)
    inside = {name[len(path) + 1 :]: file for name, file in files.items() if name.startswith(f"{path}/")}
    if not inside:
        return f"the package has no {path}", "name a folder or a tar.gz of the package"
    if profile_type == "compose" and COMPOSE_FILE not in inside:
        other = next((name for name in _OTHER_COMPOSE_FILES if name in inside), None)
        remedy = (
            f"rename {path}/{other} to {COMPOSE_FILE}" if other else f"put the compose file at {path}/{COMPOSE_FILE}"
        )
        return f"{path} holds no {COMPOSE_FILE}", remedy
    digests = {name: sha256(file.read()) for name, file in inside.items()}
    size = sum(file.size for file in inside.values())
    return ComponentContent(location, folder_digest(digests), is_folder=True, size=size)


LOCK_FILE = "applications.lock"

Pins = Mapping[tuple[str, str], Digest]
"""Digest of a package's file list, by (application id, version)."""


def locked_applications(content: bytes) -> dict[tuple[str, str], LockedApplication]:
    """Return the entries of a lock file (UnreadableDocument, InvalidDocument: it is not a lock file)."""
    lock = read(ApplicationsLock, read_yaml(content, LOCK_FILE))
    return {(entry.id, entry.version): entry for entry in lock.applications}


def locked_digests(content: bytes) -> dict[tuple[str, str], Digest]:
    """Return what a lock file pins (UnreadableDocument, InvalidDocument: it is not a lock file)."""
    return {key: entry.digest for key, entry in locked_applications(content).items()}


def write_lock(pins: Pins) -> bytes:
    """Return the lock file for these pins, sorted."""
    return write_locked(LockedApplication(*key, digest) for key, digest in pins.items())


def write_locked(applications: Iterable[LockedApplication]) -> bytes:
    """Return the lock file for these entries, sorted."""
    entries = tuple(sorted(applications, key=lambda each: (each.id, each.version)))
    header = b"# Written by `margo-gitops app add`: which bytes each application version has.\n"
    return header + write_yaml(write(ApplicationsLock(entries)))
