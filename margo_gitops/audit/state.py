"""Open the two repos that an audit compares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from margo_gitops.catalog.fleet import read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.documents.state_layout import FLEET_REF
from margo_gitops.errors import AuditUnusable
from margo_gitops.operations.fleet_input import named_location, open_state, state_location_of
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.trust.state_commit import StateCommit


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """Which repos to look at.

    Attributes:
        fleet: a folder in the fleet repo.
        state: where the state repo is; None: as the fleet says.
        cache: a folder for mirrors of remote state repos, and for what was verified.
    """

    fleet: Path
    state: str | None
    cache: Path


@contextmanager
def opened(request: AuditRequest) -> Iterator[tuple[FleetRepo, StateObjects, str]]:
    """Return the fleet repo, the state repo, and where that is; nothing is ever written to either.

    Raises:
        MargoGitopsError: one of them is not there or cannot be read.
    """
    fleet = FleetRepo.find(request.fleet)
    if request.state is None:
        location = state_location_of(fleet.root, read_fleet_document(fleet.tree("HEAD")).value)
    else:
        location = named_location(request.state)
    target = open_state(location, request.cache, create=False, reports=True)
    try:
        yield fleet, StateObjects(target.repo.folder), location
    finally:
        target.release()


def resolved_since(objects: StateObjects, revision: str, chain: tuple[str, ...] | None = None) -> str:
    """Return the commit of the branch `fleet` that a revision of the state repo, or of the fleet repo, names.

    Args:
        objects: the state repo.
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
        f"{revision} is no commit of the branch fleet, and none that was rendered into it",
        remedy="list them: margo-gitops audit log",
    )
