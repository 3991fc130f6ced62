"""What goes out, and when: shared by reports over HTTP and by git push (`reporter.py`, REPORT-2 to REPORT-7)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from margo_gitops import __version__
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.recorded import retry_pause
from margo_gitops.agent.pull.trusted_store import TrustedStore
from margo_gitops.agent.settings.loading import capabilities_unusable, read_capabilities
from margo_gitops.disk.stamps import boot_id
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.errors import MargoGitopsError
from margo_gitops.trust.git_commit import parse_commit
from margo_gitops.trust.git_objects import COMMIT, object_id
from margo_gitops.trust.ssh_signature import parse_signature
from margo_gitops.values import dataclass

LONGEST_SENDING: Final = 30.0
"""Seconds that one sending takes at most (REPORT-2)."""


Origin: TypeAlias = Callable[[], Mapping[str, Json]]


def state_origin(store: TrustedStore) -> dict[str, Json]:
    """Return where a device's reports come from: what cannot be read is left out (REPORT-7)."""
    origin: dict[str, Json] = {"agentVersion": __version__}
    if boot := boot_id():
        origin["bootId"] = boot
    with contextlib.suppress(MargoGitopsError, ValueError):
        snapshot = store.load()
        if snapshot is not None and snapshot.commit is not None:
            origin["stateCommit"] = object_id(COMMIT, snapshot.commit)
            if armor := parse_commit(snapshot.commit).signature:
                origin["signer"] = parse_signature(armor).key.fingerprint
    return origin


def with_origin(document: bytes, origin: Mapping[str, Json]) -> bytes:
    """Return a status document that names its origin, as an extension."""
    return write_json({**json.loads(document), OWN_EXTENSION: dict(origin)}) if origin else document


@dataclass(eq=False)
class Attempts:
    """When the next sending is due, and what the events say of failures (REPORT-3).

    Attributes:
        timer: seconds since some moment; never jumps.
    """

    record: Record
    timer: Callable[[], float]
    _failures: int = 0
    _not_before: float = 0.0

    @property
    def due(self) -> bool:
        """Whether something may be sent now."""
        return self.timer() >= self._not_before

    def failed(self, error: MargoGitopsError) -> None:
        """Note a failure."""
        self._failures += 1
        pause = max(retry_pause(self._failures), getattr(error, "retry_after", None) or 0.0)
        self._not_before = self.timer() + pause
        self.record(Event.of(Reason.REPORT_FAILED, error))

    def worked(self) -> None:
        """Note that everything arrived, or that nothing waits."""
        if self._failures:
            self._failures = 0
            self.record(Event(Reason.REPORT_RECOVERED, "the server takes reports again"))


def own_capabilities(path: Path, device: str) -> tuple[str, bytes]:
    """Return the id of this device, or of a child of it, and the document that a file has of it, as it is sent.

    Raises:
        AgentMisconfigured: it cannot be read, or is of another device.
    """
    document = read_capabilities(path)
    owner = document.properties.id
    if owner != device and not owner.startswith(f"{device}/"):
        raise capabilities_unusable(path, f"it describes {owner}, this device is {device}")
    return owner, write_json(write(document))
