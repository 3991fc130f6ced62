"""Which kind of document a file holds, in which shape of the standard, and what is wrong with it.

Margo's current shape (G2) has no `kind`; the older ones have (G1: the signed REST previews, G0: the GitOps drafts of
2024). A document is recognised by its kind where it has one, otherwise by fields that only its kind has.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from margo_gitops.documents.declarations import API_VERSION
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.nodes import DEFAULT_BOUNDS, Bounds, Node, SourceText
from margo_gitops.documents.records import find
from margo_gitops.documents.upgrade import (
    older_doubts,
    upgrade_capabilities,
    upgrade_deployment,
    upgrade_description,
    upgrade_status,
)
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import Finding, InvalidDocument, Location
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import did_you_mean

if TYPE_CHECKING:
    from margo_gitops.documents.application import ApplicationDescription
    from margo_gitops.documents.capabilities import DeviceCapabilities
    from margo_gitops.documents.deployment import ApplicationDeployment
    from margo_gitops.documents.fleet_kinds import ApplicationsLock, Deployment, Device, Fleet, Site
    from margo_gitops.documents.manifest import StateManifest
    from margo_gitops.documents.status import DeploymentStatus

Shape: TypeAlias = Literal["G0", "G1", "G2", "v1"]
"""Of the standard: G0, G1, G2 (current). Of our own kinds: v1."""

Document: TypeAlias = (
    "ApplicationDescription | ApplicationDeployment | StateManifest | DeviceCapabilities | DeploymentStatus"
    " | Fleet | Site | Device | Deployment | ApplicationsLock"
)
AnyDocument = TypeVar("AnyDocument", bound=Document)


@dataclass(frozen=True, slots=True)
class MargoKind:
    """How one of Margo's kinds is recognised and read.

    Attributes:
        module: of its class, in `documents`.
    """

    name: str
    module: str
    older_kinds: dict[str, Shape]
    upgrade: Callable[[SourceText], SourceText]

    @property
    def record(self) -> type[Document]:
        """The class, loaded now: a device reads few kinds, and each costs memory and CPU at its start."""
        return _class(self.module, self.name)


DESCRIPTION = MargoKind(
    "ApplicationDescription",
    "application",
    {"ApplicationDescription": "G1", "application": "G0"},
    upgrade_description,
)
DEPLOYMENT = MargoKind("ApplicationDeployment", "deployment", {"ApplicationDeployment": "G1"}, upgrade_deployment)
CAPABILITIES = MargoKind(
    "DeviceCapabilities",
    "capabilities",
    {"DeviceCapabilitiesManifest": "G1", "DeviceCapabilities": "G0"},
    upgrade_capabilities,
)
STATUS = MargoKind(
    "DeploymentStatus",
    "status",
    {"DeploymentStatusManifest": "G1", "DeploymentStatus": "G0"},
    upgrade_status,
)
MANIFEST = MargoKind("StateManifest", "manifest", {}, lambda source: source)
MARGO_KINDS = (DESCRIPTION, DEPLOYMENT, CAPABILITIES, STATUS, MANIFEST)

OWN_KINDS: Final = ("Fleet", "Site", "Device", "Deployment", "ApplicationsLock")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file turned out to be.

    Attributes:
        kind: "ApplicationDeployment", "Device" ...; None where it is not known.
        shape: of the standard, or v1 for our own kinds.
        value: the document in its current shape; None where it is invalid.
        findings: everything that is wrong or doubtful.
    """

    kind: str | None
    shape: Shape | None
    value: Document | None
    findings: tuple[Finding, ...]


def read_source(content: bytes, file: str, bounds: Bounds = DEFAULT_BOUNDS, *, foreign: bool = False) -> SourceText:
    """Return a file as nodes: JSON if its name says so or it starts with a brace, otherwise YAML.

    Args:
        content, file: the bytes, and their name for messages.
        bounds: on what is read.
        foreign: whether another program may have written it (`SourceText.foreign`).

    Raises:
        UnreadableDocument: it is neither, safely.
    """
    is_json = file.endswith(".json") or content.lstrip()[:1] == b"{"
    read = read_json if is_json else read_yaml
    return read(content, file, bounds, foreign=foreign)


def check_document(source: SourceText) -> Checked:
    """Return what a document is and every finding in it."""
    root = source.root
    if not isinstance(root.value, dict):
        return Checked(None, None, None, (_finding(source, root, "a document must be a mapping"),))
    if (root.text("apiVersion") or "").startswith("margo-gitops/"):
        return _check_own(source)
    if root.text("kind") in OWN_KINDS and "apiVersion" not in root.value:
        missing = _finding(source, root, "apiVersion is missing", f"add apiVersion: {API_VERSION}")
        return Checked(root.text("kind"), "v1", None, (missing,))
    kind = _recognise(root)
    if kind is None:
        message = "no document of Margo or of this project"
        return Checked(
            None, None, None, (_finding(source, root, message, "see docs/documents.md for what each needs"),)
        )
    shape = _shape(kind, root)
    if shape is None:
        at = root.get("kind") or root
        message = f"the kind {at.plain()!r} is unknown; by its fields this is meant to be {kind.name}"
        remedy = " or ".join(["remove kind", *(f"write {older}" for older in kind.older_kinds)])
        return Checked(kind.name, None, None, (_finding(source, at, message, remedy),))
    doubts = [
        replace(_finding(source, at, message, remedy), severity=severity)
        for at, message, remedy, severity in (older_doubts(source) if shape != "G2" else ())
    ]
    value, findings = find(kind.record, kind.upgrade(source), older_shape=shape != "G2")
    if any(doubt.severity == "error" for doubt in doubts):
        value = None
    return Checked(kind.name, shape, value, (*doubts, *findings))


def read_as(record: type[AnyDocument], source: SourceText) -> AnyDocument:
    """Return a document that must be of one kind, in any shape (InvalidDocument: of another kind, or with findings)."""
    checked = check_document(source)
    if isinstance(checked.value, record):
        return checked.value
    errors = [finding for finding in checked.findings if finding.severity == "error"]
    if not errors:
        errors = [_finding(source, source.root, f"this is {checked.kind}, expected is {record.__name__}")]
    raise InvalidDocument(f"not a valid {record.__name__}", errors, where=Location(source.file))


def _check_own(source: SourceText) -> Checked:
    root = source.root
    kind = root.text("kind")
    if root.text("apiVersion") != API_VERSION:
        at = root.get("apiVersion") or root
        message = f"{root.text('apiVersion')!r} is not known to this version"
        return Checked(kind, None, None, (_finding(source, at, message, f"write {API_VERSION}"),))
    if kind not in OWN_KINDS:
        at = root.get("kind") or root
        wrong = f"the kind {at.plain()!r} is not one of {', '.join(OWN_KINDS)}"
        message = wrong if "kind" in root.entries() else "kind is missing"
        remedy = did_you_mean(kind or "", OWN_KINDS, "")
        return Checked(None, "v1", None, (_finding(source, at, message, remedy),))
    value, findings = find(_class("fleet_kinds", kind), source)
    return Checked(kind, "v1", value, tuple(findings))


def _class(module: str, name: str) -> type[Document]:
    record: type[Document] = getattr(import_module(f"margo_gitops.documents.{module}"), name)
    return record


def _recognise(root: Node) -> MargoKind | None:
    named = root.text("kind")
    for kind in MARGO_KINDS:
        if named is not None and named in kind.older_kinds:
            return kind
    marks: tuple[tuple[MargoKind, tuple[str, ...]], ...] = (
        (DESCRIPTION, ("deploymentProfiles",)),
        (DEPLOYMENT, ("spec", "deploymentProfile")),
        (DEPLOYMENT, ("spec", "applicationId")),
        (MANIFEST, ("manifestVersion",)),
        (STATUS, ("status", "state")),
        (STATUS, ("deploymentId",)),
        (MANIFEST, ("deployments",)),
        (CAPABILITIES, ("properties",)),
        # Documents that lack what their kind is known by: still worth findings of their own.
        (DESCRIPTION, ("metadata", "catalog")),
        (DEPLOYMENT, ("metadata", "deviceId")),
        (STATUS, ("adoptedManifestVersion",)),
    )
    return next((kind for kind, path in marks if root.get(*path) is not None), None)


def _shape(kind: MargoKind, root: Node) -> Shape | None:
    """Return the shape, or None where the document names a kind that is not its own."""
    named = root.text("kind")
    if kind is MANIFEST and named is None:
        urls = [root.text("bundle", "url"), *(item.text("url") for item in root.items("deployments"))]
        return "G1" if any("/clients/" in (url or "") for url in urls) else "G2"
    if "kind" in root.entries():
        shape = kind.older_kinds.get(named or "")
        places = [root.get("spec", "deploymentProfile"), *root.items("deploymentProfiles")]
        older_type = any(place is not None and place.text("type") == "docker-compose" for place in places)
        return "G0" if shape and older_type else shape
    return "G2"


def _finding(source: SourceText, node: Node, message: str, remedy: str = "") -> Finding:
    return Finding(message, Location(source.file, node.line or None, node.column or None), "", remedy)
