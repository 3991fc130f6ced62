"""Name large artifacts in a Deployment."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.documents.large_artifacts import LargeArtifact
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.editing.edit import Base, Edit, FileChange, make_edit
from margo_gitops.editing.named import unknown
from margo_gitops.editing.round_trip import document_and_spec, rewritten
from margo_gitops.wording import byte_count, few


def add_artifacts(base: Base, deployment: str, artifacts: Sequence[LargeArtifact]) -> Edit:
    """Return the edit that gives a Deployment artifacts, in place of those with the same names.

    Raises:
        ReferenceUnknown: there is no such Deployment.
        NotEditable: its file cannot be changed.
    """
    known = base.intent.deployments.get(deployment)
    if known is None:
        raise unknown("deployment", deployment, set(base.intent.deployments))
    document, spec = document_and_spec(known.content, known.file, "deployment")
    held = spec.get("artifacts")
    named: dict[str, Json] = {}
    for each in held if isinstance(held, list) else ():
        if isinstance(each, dict):
            named[str(each.get("name"))] = each
    for artifact in artifacts:
        before = named.get(artifact.name)
        kept = {"components": before["components"]} if isinstance(before, dict) and "components" in before else {}
        named[artifact.name] = {**write(artifact), **kept}
    spec["artifacts"] = list(named.values())
    change = FileChange(known.file, known.content, rewritten(known.content, known.file, document))
    names = [artifact.name for artifact in artifacts]
    size = sum(artifact.size_bytes for artifact in artifacts)
    note = f"each device of {deployment} fetches up to {byte_count(size)}, and less where it holds an older file"
    return make_edit(f"Give {deployment} {few(names, 3)}", ["artifact", deployment, *names], [change], [note])
