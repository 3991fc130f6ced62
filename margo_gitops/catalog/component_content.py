"""Where a component's content lies, when the package brings it along: `x-margo-gitops-extensions` of a component.

components:
  - name: press-hmi
    properties: {...}
    x-margo-gitops-extensions:
      artifact: {path: components/press-hmi}        # a folder or a tar.gz of the package, or
      artifact: {url: https://…/hmi.tar.gz, digest: sha256:…}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from margo_gitops.catalog.file_tree import TreeFile
from margo_gitops.digests import DIGEST_PATTERN, Digest, sha256
from margo_gitops.documents.declarations import About, Problem, Range, Text
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.folder_digest import folder_digest
from margo_gitops.documents.nodes import Node, SourceText
from margo_gitops.documents.records import find
from margo_gitops.errors import Finding, Location
from margo_gitops.rendering.intent import ComponentContent

COMPOSE_FILE = "compose.yaml"
"""The one spelling that Margo allows in a compose archive (application registry, compose archive)."""


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
        About("Where a tar.gz lies.", ("https://files.example.com/hmi-1.4.2.tar.gz",)),
        Text(pattern=r"^(file:///|https://[^/]).+", what="a file:// or https:// URL"),
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

    artifact: ComponentArtifact


def component_contents(
    source: SourceText, files: dict[str, TreeFile], folder: str
) -> tuple[dict[str, ComponentContent], list[Finding]]:
    """Return the content of every component that the package brings along, and what is wrong with it.

    Args:
        source: the description, for positions.
        files: of the package.
        folder: of the package, relative to `applications/`.
    """
    contents: dict[str, ComponentContent] = {}
    findings: list[Finding] = []
    profiles = source.root.get("deploymentProfiles")
    for profile in profiles.value if profiles and isinstance(profiles.value, list) else []:
        components = profile.get("components")
        for component in components.value if components and isinstance(components.value, list) else []:
            node = component.get(OWN_EXTENSION)
            name = component.text("name")
            if not isinstance(node, Node) or name is None:
                continue
            extension, found = find(ComponentExtension, SourceText(source.file, node))
            findings += found
            if extension is None:
                continue
            content = _content(extension.artifact, files, folder, profile.text("type"))
            if isinstance(content, str):
                findings.append(Finding(content, Location(source.file, node.line, node.column), f"component {name}"))
            elif contents.setdefault(name, content) != content:
                message = "profiles that share a component must name the same content"
                findings.append(Finding(message, Location(source.file, node.line, node.column), f"component {name}"))
    return contents, findings


def _content(
    artifact: ComponentArtifact, files: dict[str, TreeFile], folder: str, profile_type: str | None
) -> ComponentContent | str:
    """Return the content, or what is wrong with it."""
    if artifact.url is not None and artifact.digest is not None:
        return ComponentContent(artifact.url, artifact.digest, is_folder=False, size=artifact.size_bytes)
    path = artifact.path or ""
    location = f"{folder}/{path}"
    if path in files:
        if not path.endswith((".tar.gz", ".tgz")):
            return f"{path} is neither a folder nor a tar.gz"
        return ComponentContent(location, sha256(files[path].read()), is_folder=False, size=files[path].size)
    inside = {name[len(path) + 1 :]: file for name, file in files.items() if name.startswith(f"{path}/")}
    if not inside:
        return f"the package has no {path}"
    if profile_type == "compose" and COMPOSE_FILE not in inside:
        return f"{path} holds no {COMPOSE_FILE}"
    digests = {name: sha256(file.read()) for name, file in inside.items()}
    size = sum(file.size for file in inside.values())
    return ComponentContent(location, folder_digest(digests), is_folder=True, size=size)
