"""Kubernetes manifests that a package brings along, read and checked without a cluster.

MANIFEST-1  The content can be read as the device reads it (OBJECT-1 to OBJECT-3), and has an object.
MANIFEST-2  Each parameter's pointer leads to a field of an object (POINT-1 to POINT-3). A secret's Secret is made where
            it is missing, so the pointer of a parameter without a default may name one that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator

from margo_gitops.catalog.file_tree import FileTree, content_at
from margo_gitops.catalog.package import packaged_path
from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.charts import content_files
from margo_gitops.documents.deployment import component_format
from margo_gitops.documents.kubernetes_objects import MANIFEST_SUFFIXES, MOST_BYTES, KubernetesObject, read_objects
from margo_gitops.documents.kubernetes_pointers import parse_pointer, with_secrets, with_values
from margo_gitops.errors import Finding, ManifestInvalid, UnreadableDocument
from margo_gitops.rendering.intent import Application, Located
from margo_gitops.values import replace


def read_manifests(tree: FileTree, path: str, *, is_folder: bool) -> tuple[KubernetesObject, ...]:
    """Return the objects of a component's content.

    Args:
        tree: where the content is.
        path: of the content in it, a folder or a tar.gz.
        is_folder: which of the two.

    Raises:
        ManifestInvalid: a manifest has a mistake.
        UnreadableDocument: it cannot be looked into.
    """
    files = content_files(content_at(tree, path, is_folder=is_folder), path, MOST_BYTES)
    return read_objects((f"{path}/{name}", files[name]) for name in sorted(files) if name.endswith(MANIFEST_SUFFIXES))


def manifest_findings(tree: FileTree, application: Application, file_prefix: str) -> Iterator[Finding]:
    """Yield what is wrong with the manifests of an application, and with the pointers into them.

    Args:
        tree: the package.
        application: as read from it.
        file_prefix: what precedes file names in messages.
    """
    description = application.description
    seen: set[str] = set()
    for index, profile in enumerate(description.value.deployment_profiles):
        for at, component in enumerate(profile.components if profile.type == "custom" else ()):
            content = application.contents.get(("custom", component.name))
            if component_format(component) != "kubernetes" or component.name in seen:
                continue
            seen.add(component.name)
            path = packaged_path(content, description.value)
            if content is None or path is None:
                continue
            where = description.at("deploymentProfiles", index, "components", at)
            try:
                objects = read_manifests(tree, path, is_folder=content.is_folder)
            except (ManifestInvalid, UnreadableDocument) as error:
                if error.where is not None:
                    where = replace(error.where, file=f"{file_prefix}{error.where.file}")
                yield Finding("; ".join([error.what, *error.why]), where, remedy=error.remedy, rule="R221")
                continue
            if not objects:
                remedy = f"put files into it that end with {', '.join(MANIFEST_SUFFIXES)}"
                yield Finding(f"{path} has no manifests", where, remedy=remedy, rule="R221")
                continue
            yield from _of_pointers(description, component.name, objects)


def _of_pointers(
    description: Located[ApplicationDescription], component: str, objects: tuple[KubernetesObject, ...]
) -> Iterator[Finding]:
    for name, parameter in description.value.parameters.items():
        for at, target in enumerate(parameter.targets):
            if component not in target.components:
                continue
            try:
                if parameter.value is None and parse_pointer(target.pointer).kind == "Secret":
                    objects = with_secrets(objects, {target.pointer: b""})
                else:
                    value = "" if parameter.value is None else parameter.value
                    objects = with_values(objects, {target.pointer: value})
            except ManifestInvalid as error:
                where = description.at("parameters", name, "targets", at, "pointer")
                message = "; ".join([f"{error.what} (parameter {name})", *error.why])
                yield Finding(message, where, remedy=error.remedy, rule="R222")
