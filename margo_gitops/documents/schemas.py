"""JSON Schemas (2020-12) of all document kinds, for editors and other tools; `scripts/generate-schemas` writes them.

The schemas say what one field may hold. What several fields say together (docs/documents.md, cross-field rules) only
the reader checks, so the reader refuses everything that a schema refuses, and more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.capabilities import DeviceCapabilities
from margo_gitops.documents.deployment import ApplicationDeployment
from margo_gitops.documents.fleet_kinds import ApplicationsLock, Deployment, Device, Fleet, Site
from margo_gitops.documents.json_text import pretty_json
from margo_gitops.documents.manifest import StateManifest
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import record_shape
from margo_gitops.documents.status import DeploymentStatus
from margo_gitops.values import dataclass

SCHEMA_VERSION = "v1"
"""Rises when a schema refuses what it accepted before."""


@dataclass(frozen=True, slots=True)
class SchemaKind:
    """A kind that has a schema file.

    Attributes:
        record: the class that declares it; its name is the kind's name.
    """

    record: type
    title: str

    @property
    def name(self) -> str:
        """The kind's name, `ApplicationDeployment`."""
        return self.record.__name__

    @property
    def stem(self) -> str:
        """The kind's name in file names and ids, `application-deployment`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", self.name).lower()

    @property
    def file(self) -> str:
        """The file's name in `schemas/`."""
        return f"{self.stem}.schema.json"

    @property
    def schema_id(self) -> str:
        """The schema's id: a name, not a place, so that a document can be checked without a network."""
        return f"urn:margo-gitops:schema:{SCHEMA_VERSION}:{self.stem}"

    def schema(self, examples: Sequence[Json] = ()) -> dict[str, Json]:
        """Return the JSON Schema, with whole documents as examples."""
        return json_schema(self.record, schema_id=self.schema_id, title=self.title, examples=tuple(examples))


DOCUMENT_SCHEMAS: tuple[SchemaKind, ...] = (
    SchemaKind(ApplicationDescription, "Margo application description (margo.yaml)"),
    SchemaKind(ApplicationDeployment, "Margo application deployment"),
    SchemaKind(StateManifest, "Margo state manifest"),
    SchemaKind(DeviceCapabilities, "Margo device capabilities"),
    SchemaKind(DeploymentStatus, "Margo deployment status"),
    SchemaKind(Fleet, "Fleet (margo-gitops.yaml)"),
    SchemaKind(Site, "Site (sites/*.yaml)"),
    SchemaKind(Device, "Device (devices/*.yaml)"),
    SchemaKind(Deployment, "Deployment (deployments/*.yaml)"),
    SchemaKind(ApplicationsLock, "Applications lock (applications.lock)"),
)


def schema_files(kinds: Sequence[SchemaKind], examples: Mapping[str, Sequence[Json]]) -> dict[str, bytes]:
    """Return the content of every schema file.

    Args:
        kinds: which; `DOCUMENT_SCHEMAS` and those of higher layers.
    """
    return {kind.file: pretty_json(kind.schema(examples.get(kind.name, ()))).encode() for kind in kinds}


def json_schema(cls: type, *, schema_id: str, title: str, examples: tuple[Json, ...] = ()) -> dict[str, Json]:
    """Return the JSON Schema (2020-12) of a document."""
    definitions: dict[str, Json] = {}
    record_shape(cls).schema(definitions)
    root = cast("dict[str, Json]", definitions.pop(cls.__name__))
    schema: dict[str, Json] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": schema_id,
        **root,
        "title": title,
    }
    if examples:
        schema["examples"] = list(examples)
    if definitions:
        schema["$defs"] = definitions
    return schema
