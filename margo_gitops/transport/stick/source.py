"""Where a device finds the bundle that a person brings."""

from __future__ import annotations

from typing import Annotated

from margo_gitops.documents.declarations import About
from margo_gitops.settings import FilePath
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class StickSettings:
    """A bundle that a person brings to a device without a line (docs/sticks.md)."""

    path: Annotated[
        FilePath,
        About("Where it is when the stick is plugged in: a folder, or a tar file. Not a link.", ("/media/margo",)),
    ]
