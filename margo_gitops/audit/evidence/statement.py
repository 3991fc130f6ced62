"""The in-toto statement that an evidence file holds, as a document: for its reader and its schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from margo_gitops.audit.evidence.predicate import Evidence, Subject
from margo_gitops.documents.declarations import About, Items, Wire


@dataclass(frozen=True, slots=True)
class EvidenceStatement:
    """An in-toto statement (v1) about states of devices; the payload of an evidence file's envelope."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Wire("_type"), About("What this is.")]
    subject: Annotated[tuple[Subject, ...], Items(minimum=1), About("What it is about, sorted by name.")]
    predicate_type: Annotated[Literal["urn:margo-gitops:evidence:v1"], About("What the predicate is.")]
    predicate: Evidence
