"""A package checked with its content: compose files, Helm charts and manifests, without the programs that run them."""

from __future__ import annotations

from collections.abc import Iterator

from margo_gitops.catalog.chart_check import chart_findings
from margo_gitops.catalog.compose_check import compose_findings
from margo_gitops.catalog.file_tree import FileTree, SubTree
from margo_gitops.catalog.manifests import manifest_findings
from margo_gitops.catalog.package import Package, package_folder, package_invalid, read_package
from margo_gitops.errors import Finding
from margo_gitops.rendering.intent import Application
from margo_gitops.values import replace


def check_package(tree: FileTree, file_prefix: str = "") -> Package:
    """Return the package in a folder, with its content checked too (PackageInvalid: with every finding)."""
    package = read_package(tree, file_prefix)
    findings = (*package.findings, *content_findings(tree, package.application, file_prefix))
    if any(each.severity == "error" for each in findings):
        raise package_invalid(package.application.description.file, list(findings))
    return replace(package, findings=findings)


def fleet_content_findings(tree: FileTree, application: Application) -> Iterator[Finding]:
    """Yield what is wrong with the content of a vendored application, and with the pointers into it."""
    folder = f"applications/{package_folder(application.description.value)}"
    return content_findings(SubTree(tree, folder), application, f"{folder}/")


def content_findings(tree: FileTree, application: Application, file_prefix: str) -> Iterator[Finding]:
    """Yield what is wrong with the content of an application.

    Args:
        tree: the package.
        application: as read from it.
        file_prefix: what precedes file names in messages.
    """
    yield from compose_findings(tree, application, file_prefix)
    yield from chart_findings(tree, application, file_prefix)
    yield from manifest_findings(tree, application, file_prefix)
