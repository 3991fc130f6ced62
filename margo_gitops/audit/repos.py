"""Open the two repos that an audit compares, and remember how far a history was verified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.disk.files import read_bounded, replace_file
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.state_layout import FLEET_REF
from margo_gitops.errors import AuditUnusable
from margo_gitops.operations.fleet_input import StateRequest, opened_state
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.trust.git_objects import is_object_id
from margo_gitops.trust.state_commit import StateCommit


@contextmanager
def opened(request: StateRequest) -> Iterator[tuple[FleetRepo, StateObjects, str]]:
    """Return the fleet repo, the state repo, and where that is; nothing is ever written to either.

    Raises:
        MargoGitopsError: one of them is not there or cannot be read.
    """
    fleet = FleetRepo.find(request.fleet)
    with opened_state(request) as (objects, location):
        yield fleet, objects, location


def resolved_since(objects: StateObjects, revision: str, chain: tuple[str, ...] | None = None) -> str:
    """Return the commit of the branch `fleet` that a revision of the state repo, or of the fleet repo, names.

    Args:
        revision: a commit of the state repo, or the beginning of a commit id of the fleet repo.
        chain: the commits of the branch `fleet`, oldest first; None: they are read.

    Raises:
        AuditUnusable: it names none.
    """
    if chain is None:
        tip = objects.refs().get(FLEET_REF)
        chain = objects.branch(tip) if tip else ()
    found = objects.resolve(revision)
    if found in chain:
        return found or ""
    # People know the commits of the fleet repo by heart, not those of the state repo.
    for name in reversed(chain):
        if len(revision) >= 7 and (StateCommit.of(objects.commit(name)).fleet_commit or "").startswith(revision):
            return name
    raise AuditUnusable(
        f"{revision} is not a commit of the branch fleet, and none that was rendered into it",
        remedy="list them: margo-gitops audit log",
    )


_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A small file in the cache folder, one for each state repo and set of options."""

    path: Path

    @classmethod
    def of(cls, cache: Path, *options: str) -> Checkpoint:
        """Return the checkpoint for a state repo and options."""
        key = hashlib.sha256(write_json(list(options))).hexdigest()[:32]
        return cls(cache / "audit" / f"{key}.json")

    def read(self) -> str | None:
        """Return the last commit that was verified; None where nothing is known, or the file is damaged."""
        try:
            content = json.loads(read_bounded(self.path, _MAX_BYTES))
        except (OSError, ValueError):
            return None
        commit = content.get("verified") if isinstance(content, dict) else None
        return commit if isinstance(commit, str) and is_object_id(commit) else None

    def write(self, commit: str) -> None:
        """Remember a commit; a cache that cannot be written is not a reason to fail."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, write_json({"verified": commit}) + b"\n")
        except OSError:
            return
