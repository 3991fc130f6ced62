"""A capabilities document that the configuration names: for the device's own eligibility, and for its server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from margo_gitops.agent.durable import disk_errors
from margo_gitops.documents.capabilities import DeviceCapabilities
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.errors import (
    AgentMisconfigured,
    InvalidDocument,
    Location,
    MargoGitopsError,
    UnreadableDocument,
)

_LARGEST_FILE: Final = 1024 * 1024


def read_capabilities(path: Path) -> DeviceCapabilities:
    """Return what a file says, in any shape of the standard, JSON or YAML.

    Raises:
        AgentMisconfigured: it cannot be read, is too large, or is no capabilities document.
    """
    try:
        with disk_errors(path), path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except MargoGitopsError as error:
        raise capabilities_unusable(path, error.what.partition(": ")[2]) from error
    if len(content) > _LARGEST_FILE:
        raise capabilities_unusable(path, f"it is larger than {_LARGEST_FILE} bytes")
    try:
        document = read_as(DeviceCapabilities, read_source(content, str(path)))
    except (InvalidDocument, UnreadableDocument) as error:
        raise capabilities_unusable(path, *str(error).splitlines()) from error
    if not isinstance(document, DeviceCapabilities):
        raise TypeError(f"capabilities were asked for, not {type(document).__name__}")
    return document


def capabilities_unusable(path: Path, *why: str) -> AgentMisconfigured:
    """Return the error for a file that cannot be used."""
    return AgentMisconfigured(
        "the device's capabilities cannot be used",
        where=Location(str(path)),
        why=why,
        remedy="correct the document, or `capabilities` in the agent's configuration; "
        "`margo-gitops document check FILE` shows every mistake",
    )
