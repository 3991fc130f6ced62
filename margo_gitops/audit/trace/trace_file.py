"""One deployed file of a device, each value back to the line of the fleet repo that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from margo_gitops.audit.trace.history import Leaves, Lines, ValueHistory, leaves, scalar
from margo_gitops.audit.trace.traced import TracedFile, TracedValue
from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import ApplicationDeployment
from margo_gitops.documents.kinds import read_source
from margo_gitops.documents.nodes import FieldPath, dotted, exact
from margo_gitops.documents.state_layout import DEPLOYMENT_SUFFIX, DEPLOYMENTS_FOLDER, MANIFEST_FILE, deployment_path
from margo_gitops.errors import AuditUnusable, MargoGitopsError, StateTampered, UnreadableDocument
from margo_gitops.rendering.desired_state import DocumentWriter
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.line_origins import DocumentOrigins, LineOrigin
from margo_gitops.rendering.render import PlacementsByDevice, document_of
from margo_gitops.rendering.resolution import Resolved
from margo_gitops.state_repo.objects import DeviceTree
from margo_gitops.trust.git_objects import BLOB
from margo_gitops.values import dataclass

ALL_DEPLOYMENTS: Final = "all deployments"
"""What version and bundle of a manifest follow from."""


@dataclass(frozen=True, slots=True)
class Source:
    """What the fleet commit says of a device.

    Attributes:
        resolved: the deployments of the device and its children that could be resolved, by id.
    """

    intent: Intent
    placements: PlacementsByDevice
    resolved: dict[str, Resolved]


def path_of(asked: str, files: Mapping[str, str], documents: list[ApplicationDeployment], device: str) -> str:
    """Return the path of the file that somebody asked for by its path, its name, or the id in it.

    Args:
        asked: as written.
        files: blob ids of the device's files, by path.

    Raises:
        AuditUnusable: there is no such file.
    """
    for path in (asked, f"{DEPLOYMENTS_FOLDER}/{asked}", deployment_path(asked)):
        if path in files:
            return path
    names = {deployment_path(each.id): each.metadata.name for each in documents}
    raise AuditUnusable(
        f"{device} had no file {asked} then",
        why=[f"{path} ({names[path]})" if path in names else path for path in sorted(files)],
        remedy="name one of these",
    )


def trace_file(
    path: str,
    held: DeviceTree,
    device: str,
    source: Source | None,
    lines: Lines,
    history: ValueHistory,
    notes: list[str],
) -> TracedFile:
    """Return a file of a device's tree, each value back to its line.

    Args:
        source: what the fleet commit says; None: no line is known.
        lines: who wrote them.
        notes: gets what could not be traced.

    Raises:
        StateTampered: an object is missing.
        StateTampered: no renderer wrote this file.
    """
    content = held.objects.read(held.files[path], BLOB)
    try:
        values = leaves(read_source(content, path).root)
    except UnreadableDocument as error:
        raise StateTampered(f"no renderer wrote {path}", why=[error.what]) from error
    deployment_id = path.removeprefix(f"{DEPLOYMENTS_FOLDER}/").removesuffix(DEPLOYMENT_SUFFIX)
    resolved = source.resolved.get(deployment_id) if source else None
    if source is None:
        origins: dict[FieldPath, LineOrigin] = {}
    elif path == MANIFEST_FILE:
        origins = _of_manifest(values, source)
    elif resolved is None:
        origins = {}
        notes.append(f"{path}: the fleet commit says nothing of it; see margo-gitops audit verify")
    else:
        origins = _of_document(values, content, source, resolved, notes)
    since = history.of_values(path, values)
    traced = []
    for at, node in values.items():
        origin = origins.get(at)
        traced.append(
            TracedValue(
                path=dotted(at),
                value=scalar(node),
                line=node.line,
                layer=origin.layer if origin else ALL_DEPLOYMENTS if path == MANIFEST_FILE else None,
                file=origin.place.file if origin else None,
                file_line=origin.place.line if origin else None,
                line_commit=lines.written_by(origin.place) if origin else None,
                since=since[at],
            )
        )
    return TracedFile(
        path=path,
        digest=sha256(content),
        deployment=resolved.deployment.value.metadata.name if resolved else None,
        device=resolved.target.id if resolved else device,
        since=history.of_file(path),
        lines=tuple(content.decode("utf-8", "replace").splitlines()),
        values=tuple(traced),
    )


def _of_document(
    values: Leaves, content: bytes, source: Source, resolved: Resolved, notes: list[str]
) -> dict[FieldPath, LineOrigin]:
    """Return the origins of a document's values, without those that the fleet commit says otherwise."""
    placements = source.placements[resolved.target.id]
    try:
        again = DocumentWriter().write(document_of(source.intent, resolved, placements))
    except MargoGitopsError as error:
        notes.append(f"{resolved.deployment.value.metadata.name}: no line is known: {error.what}")
        return {}
    said = values if again == content else leaves(read_source(again, "deployment.yaml").root)
    origins = DocumentOrigins(source.intent, resolved, placements)
    found = {}
    for path, node in values.items():
        other = said.get(path)
        if other is not None and exact(other.plain()) == exact(node.plain()):
            found[path] = origins.of(path)
        else:
            notes.append(f"{dotted(path)}: the fleet commit says otherwise; see margo-gitops audit verify")
    return found


def _of_manifest(values: Leaves, source: Source) -> dict[FieldPath, LineOrigin]:
    """Return what brings each deployment of a manifest; version and bundle follow from all of them together."""
    ids = {at[1]: scalar(node) for at, node in values.items() if at[0] == "deployments" and at[2:] == ("deploymentId",)}
    found = {}
    for path in values:
        resolved = source.resolved.get(str(ids.get(path[1]))) if path[0] == "deployments" and len(path) > 1 else None
        if resolved is not None:
            name = resolved.deployment.value.metadata.name
            found[path] = LineOrigin(f"deployment {name}", resolved.deployment.at("metadata", "name"))
    return found
