"""The device's policy, held against the content of a component: its files, then what Compose made of them.

GUARD-1 to GUARD-4 and READS-1 to READS-4 are in `margo_gitops.documents`; this module only knows the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from margo_gitops.appliers.applier import Workload
from margo_gitops.appliers.compose.project import project_name
from margo_gitops.appliers.compose.source import ComposeModel
from margo_gitops.appliers.steps import refuse
from margo_gitops.disk.files import read_bounded
from margo_gitops.documents.compose_policy import refused_by
from margo_gitops.documents.compose_reads import refused_reads
from margo_gitops.documents.workload_judge import ENGINE_SOCKETS, Surroundings
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.errors import ComposeInvalid, Location, UnreadableDocument
from margo_gitops.values import dataclass, field

NO_REMOTE_FILES: Final[Mapping[str, str]] = {
    "COMPOSE_EXPERIMENTAL_GIT_REMOTE": "false",
    "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "false",
}
"""Keeps Compose from fetching what `include` and `extends` name (READS-1)."""

_LARGEST_FILE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ComposePolicy:
    """What a workload may do to this device, through Compose.

    Attributes:
        sockets: where the engine listens, other than the usual places.
    """

    workloads: WorkloadPolicy = field(default_factory=WorkloadPolicy)
    sockets: tuple[str, ...] = ()

    def check_files(self, workload: Workload, content: Path, compose_file: Path) -> None:
        """Refuse compose files that let Compose read what is not the component's, before Compose reads any.

        Raises:
            WorkloadForbidden: there is one.
            ComposeInvalid: a compose file is not YAML.
        """
        content = content.resolve()

        def read(name: str) -> bytes | None:
            try:
                path = (content / name).resolve()
                return read_bounded(path, _LARGEST_FILE) if path.is_relative_to(content) else None
            except FileNotFoundError:
                return None
            except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
                raise UnreadableDocument(f"cannot be read: {error}", where=Location(name)) from error

        file = compose_file.resolve().relative_to(content).as_posix()
        try:
            refused = list(refused_reads(self.workloads, file, read, self._surroundings(workload, content)))
        except UnreadableDocument as error:
            raise ComposeInvalid(
                f"this agent refuses the compose file of component {workload.component.name}: it cannot judge it",
                why=str(error).splitlines(),
                remedy="write plain YAML: one document, no tags but !reset and !override",
            ) from error
        refuse(workload, refused, {}, "the compose file")

    def check_model(
        self, workload: Workload, content: Path, model: ComposeModel, environment: Mapping[str, str]
    ) -> None:
        """Refuse what this device does not allow (WorkloadForbidden: each reason, without values of parameters)."""
        refused = refused_by(self.workloads, model.whole, self._surroundings(workload, content))
        refuse(workload, refused, environment, "the compose file")

    def _surroundings(self, workload: Workload, content: Path) -> Surroundings:
        sockets = (*ENGINE_SOCKETS, *self.sockets)
        return Surroundings(str(content), project_name(workload.key), _real, sockets)


def _real(path: str) -> str:
    return path if "\0" in path else os.path.realpath(path)
