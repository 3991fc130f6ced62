"""Open the two repos that an audit compares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from margo_gitops.audit.history import StateObjects
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.renderer.fleet_input import named_location, open_state, state_location


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
        location = state_location(fleet.root, read_fleet(fleet.tree("HEAD")), None)
    else:
        location = named_location(request.state)
    target = open_state(location, request.cache, create=False)
    try:
        yield fleet, StateObjects(target.repo.folder), location
    finally:
        target.release()
