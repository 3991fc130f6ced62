"""A package as manifests and blobs of a registry: the same folder always gives the same digests.

PARCEL-1  The package is a manifest of type `application/vnd.margo.app.v1+json` whose layers are its files: the
          description, its resources, and others. Its tag is `metadata.version` (Margo application registry).
PARCEL-2  The content of a component is a manifest of its own, at the component's `repository` with its `revision` as
          tag: a compose archive as Margo says, a chart as Helm does.
PARCEL-3  The description that is pushed names each content by digest. So who signs the package signs all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from margo_gitops.catalog.file_tree import HeldTree, content_at
from margo_gitops.catalog.package import DESCRIPTION_FILE, Package, packaged_path
from margo_gitops.catalog.vendor import archive_of
from margo_gitops.digests import Digest, sha256
from margo_gitops.disk.files import disk_errors
from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.charts import CHART_FILE, read_chart
from margo_gitops.documents.components import Component, ProfileType
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.kinds import read_source
from margo_gitops.documents.nodes import Node
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import Location, PackageInvalid, ReferenceInvalid
from margo_gitops.registry.manifests import (
    COMPONENT_TYPE,
    COMPONENT_VERSION,
    COMPOSE_COMPONENT,
    COMPOSE_LAYER,
    DESCRIPTION_LAYER,
    EMPTY_BYTES,
    HELM_CONFIG,
    HELM_LAYER,
    MANIFEST,
    PACKAGE,
    RESOURCE,
    TITLE,
    Descriptor,
    described,
    write_index,
    write_manifest,
)
from margo_gitops.registry.references import Reference, parse_reference, tag_of
from margo_gitops.rendering.intent import ComponentContent
from margo_gitops.values import dataclass

OTHER_FILE: Final = "application/octet-stream"
MANIFESTS_COMPONENT: Final = "application/vnd.margo-gitops.component.{format}.v1+json"
MANIFESTS_LAYER: Final = "application/vnd.margo-gitops.component.{format}.v1.tar+gzip"
_RESOURCES: Final = {
    "description_file": "descriptionFile",
    "icon": "icon",
    "license_file": "licenseFile",
    "release_notes": "releaseNotes",
}
_FORMATS: Final = {"md": "markdown", "jpg": "jpeg", "txt": "plain", "htm": "html", "": "plain"}
_PATH_VALUE: Final = re.compile(r"path:\s*(?:\"[^\"]*\"|'[^']*'|[^\s,}#]+)")


@dataclass(frozen=True, slots=True)
class Pushable:
    """A manifest with its blobs, and where it belongs.

    Attributes:
        name: for people, "component hmi".
    """

    name: str
    place: Reference
    manifest: bytes
    blobs: tuple[tuple[Descriptor, bytes], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What is pushed for a package: the components first, then the package."""

    components: tuple[Pushable, ...]
    package: Pushable


def lay_out(package: Package, place: Reference | None) -> Layout:
    """Return what is pushed for a package.

    Args:
        package: with its contents as files.
        place: the repository of the package; its tag is the version. None: it is not known yet.

    Raises:
        PackageInvalid: a component does not say where its content belongs.
        ReferenceInvalid: the version cannot be a tag, or `place` has another.
    """
    description = package.application.description.value
    version = tag_of(description.metadata.version)
    place = place or Reference("registry.invalid", "package")
    if place.tag not in (None, version) or place.digest is not None:
        raise ReferenceInvalid(f"the tag of {place} must be the package's version, {version}", remedy=f"{place.place}")
    files = {path: file.read() for path, file in package.files.items()}
    components: dict[str, Pushable] = {}
    inside: set[str] = set()
    for kind, component, content in _contents(package):
        path = packaged_path(content, description)
        if path is None or path in components:
            continue
        components[path] = _component(files, kind, component, path)
        inside |= {name for name in files if name == path or name.startswith(f"{path}/")}
    kept = {path: content for path, content in files.items() if path not in inside}
    kept[DESCRIPTION_FILE] = _with_digests(files[DESCRIPTION_FILE], components)
    named = dict(_resources(description))
    layers = [(_layer(path, kept[path], named), kept[path]) for path in sorted(kept, key=_description_first)]
    manifest = write_manifest(PACKAGE, tuple(layer for layer, _ in layers))
    pushed = Pushable("package", place.place.at(version), manifest, tuple(layers))
    return Layout(tuple(components.values()), pushed)


def write_layout(layout: Layout, target: Path) -> list[tuple[str, Digest]]:
    """Write an OCI image layout (OCI image, image layout); return what is in it, with digests.

    Raises:
        PackageInvalid: the folder is there, or cannot be written.
    """
    if target.exists():
        raise PackageInvalid(f"{target} is there already", remedy="name a new folder")
    every = (*layout.components, layout.package)
    listed = []
    with disk_errors(target, what="the layout cannot be written", error=PackageInvalid):
        blobs = target / "blobs/sha256"
        blobs.mkdir(parents=True)
        for each in every:
            for content in (EMPTY_BYTES, each.manifest, *(content for _, content in each.blobs)):
                (blobs / sha256(content).removeprefix("sha256:")).write_bytes(content)
            name = each.place.tag if each is layout.package else f"{each.place.repository}:{each.place.tag}"
            listed.append(described(MANIFEST, each.manifest, {"org.opencontainers.image.ref.name": str(name)}))
        (target / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
        (target / "index.json").write_bytes(write_index(tuple(listed)))
    return [(each.name, sha256(each.manifest)) for each in every]


def _contents(package: Package) -> Iterator[tuple[ProfileType, Component, ComponentContent]]:
    contents = package.application.contents
    for profile in package.application.description.value.deployment_profiles:
        for component in profile.components:
            if content := contents.get((profile.type, component.name)):
                yield profile.type, component, content


def _component(files: Mapping[str, bytes], kind: ProfileType, component: Component, path: str) -> Pushable:
    properties, what = component.properties, f"component {component.name}"
    where = Location(DESCRIPTION_FILE)
    if not properties.repository or not properties.revision:
        raise PackageInvalid(
            f"{what} does not say where its content belongs",
            where=where,
            remedy="give its properties a repository (oci://…) and a revision",
        )
    try:
        place = parse_reference(properties.repository).place.at(tag_of(properties.revision))
    except ReferenceInvalid as error:
        raise PackageInvalid(f"{what}: {error.what}", where=where, why=error.why, remedy=error.remedy) from error
    if kind == "helm":
        return _chart(files, place, what, path)
    archive = files.get(path) or _archived(files, path, top=path.rpartition("/")[2] if kind == "compose" else "")
    annotations = {COMPONENT_TYPE: kind, COMPONENT_VERSION: properties.revision, TITLE: f"{component.name}.tar.gz"}
    artifact_type, media_type = COMPOSE_COMPONENT, COMPOSE_LAYER
    if kind != "compose":
        own = component.extensions.get(OWN_EXTENSION)
        named = str(own.get("format", "other")) if isinstance(own, dict) else "other"
        artifact_type, media_type = MANIFESTS_COMPONENT.format(format=named), MANIFESTS_LAYER.format(format=named)
    layer = described(media_type, archive, annotations)
    return Pushable(what, place, write_manifest(artifact_type, (layer,)), ((layer, archive),))


def _chart(files: Mapping[str, bytes], place: Reference, what: str, path: str) -> Pushable:
    """Return a chart as `helm push` does, without the time (Helm, OCI registries)."""
    chart = read_chart(content_at(HeldTree(files), path, is_folder=path not in files), path)
    if chart is None:
        raise PackageInvalid(f"{what}: {path} holds no Helm chart", remedy=f"put {CHART_FILE} there")
    described_as = read_yaml(chart.files[CHART_FILE], f"{path}/{CHART_FILE}").root.plain()
    facts = described_as if isinstance(described_as, dict) else {}
    name, version = str(facts.get("name")), str(facts.get("version"))
    if tag_of(version) != place.tag:
        raise PackageInvalid(
            f"{what}: the chart's version is {version}, the revision is {place.tag}",
            where=Location(f"{path}/{CHART_FILE}"),
            remedy="make the two equal; Helm takes the version as the tag",
        )
    archive = files.get(path) or _archived(files, path, top=name)
    config = write_json(facts)
    layer, named = described(HELM_LAYER, archive), described(HELM_CONFIG, config)
    annotations = {TITLE: name, "org.opencontainers.image.version": version}
    manifest = write_manifest(None, (layer,), config=named, annotations=annotations)
    return Pushable(what, place, manifest, ((named, config), (layer, archive)))


def _archived(files: Mapping[str, bytes], folder: str, *, top: str) -> bytes:
    """Return a folder as tar.gz, below one top-level folder."""
    inside = {path[len(folder) + 1 :]: content for path, content in files.items() if path.startswith(f"{folder}/")}
    return archive_of({f"{top}/{path}" if top else path: inside[path] for path in sorted(inside)})


def _with_digests(content: bytes, components: Mapping[str, Pushable]) -> bytes:
    """Return the description with `artifact: {path: …}` as URL, digest and size; all else stays as it is (PARCEL-3)."""
    lines = content.decode().split("\n")
    profiles = read_source(content, DESCRIPTION_FILE).root.items("deploymentProfiles")
    every = [component for profile in profiles for component in profile.items("components")]
    named = [each.get(OWN_EXTENSION, "artifact", "path") for each in every]
    for node in sorted((each for each in named if each), key=lambda each: (each.line, each.column), reverse=True):
        if (pushed := components.get(str(node.value))) is not None:
            lines[node.key_line - 1] = _replaced(lines[node.key_line - 1], node, pushed)
    return "\n".join(lines).encode()


def _replaced(line: str, node: Node, pushed: Pushable) -> str:
    before, after = line[: node.key_column - 1], line[node.key_column - 1 :]
    layer, content = pushed.blobs[-1]
    facts = [f'url: "{pushed.place}"', f'digest: "{layer.digest}"', f"sizeBytes: {len(content)}"]
    found = _PATH_VALUE.match(after)
    if found is None or node.line != node.key_line:
        raise PackageInvalid(
            "the path of an artifact is written in a way that is not known here",
            where=Location(DESCRIPTION_FILE, node.key_line, node.key_column),
            remedy="write it as `path: components/hmi` on one line",
        )
    # In braces the facts stay on the line; otherwise each has a line of its own.
    separator = ", " if "{" in before else "\n" + " " * len(before)
    return before + separator.join(facts) + after[found.end() :]


def _resources(description: ApplicationDescription) -> Iterator[tuple[str, str]]:
    """Yield the files that are resources, and as what."""
    application = description.metadata.catalog.application
    for attribute, name in _RESOURCES.items():
        path = getattr(application, attribute, None)
        if isinstance(path, str) and "://" not in path:
            yield path.removeprefix("./"), name


def _layer(path: str, content: bytes, resources: Mapping[str, str]) -> Descriptor:
    if path == DESCRIPTION_FILE:
        return described(DESCRIPTION_LAYER, content, {TITLE: path})
    if path not in resources:
        return described(OTHER_FILE, content, {TITLE: path})
    ending = PurePosixPath(path).suffix.removeprefix(".").lower()
    media_type = f"application/vnd.margo.app.{resources[path]}.v1+{_FORMATS.get(ending, ending)}"
    return described(media_type, content, {RESOURCE: resources[path], TITLE: path})


def _description_first(path: str) -> tuple[bool, str]:
    return path != DESCRIPTION_FILE, path
