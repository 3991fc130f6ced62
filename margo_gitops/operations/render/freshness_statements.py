"""Renew, show and export statements of freshness, without the fleet repo: a schedule needs the state repo and a key."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

from margo_gitops.documents.freshness import FreshnessStatement, parse_moment
from margo_gitops.documents.state_layout import FLEET_REF
from margo_gitops.errors import FreshnessMissing, Location
from margo_gitops.operations.fleet_input import BUCKET, only_read, open_state
from margo_gitops.state_repo.freshness_refs import Renewal, Renewed, current_statement, device_proof, is_due, renew
from margo_gitops.values import dataclass

Standing: TypeAlias = Literal["valid", "stale", "expired"]
"""Of a state repo's statement: it speaks of the newest state; of an older one; its time is over."""


@dataclass(frozen=True, slots=True)
class ShownStatement:
    """The statement that a state repo holds."""

    statement: FreshnessStatement
    standing: Standing
    due: bool


def renew_statement(location: str, cache: Path, renewal: Renewal) -> Renewed:
    """Replace the statement of the state repo at a path or URL; push it where it is a URL.

    Raises:
        StateRepoUnusable, StateUnreachable, StateTampered, StateMoved: nothing was changed.
    """
    if location.startswith(BUCKET):
        raise only_read(location)
    with open_state(location, cache, create=False) as target:
        renewed = renew(target.repo, target.repo.refs.read(), renewal)
        if target.remote is not None:
            target.remote.push()
    return renewed


def show_statement(location: str, cache: Path, now: datetime) -> ShownStatement:
    """Return the statement of the state repo at a path or URL; nothing of it is verified.

    Raises:
        FreshnessMissing: it holds none.
        StateRepoUnusable, StateUnreachable, StateTampered: it cannot be read.
    """
    with open_state(location, cache, create=False) as target:
        values = target.repo.refs.read()
        statement = current_statement(target.repo, values)
        due = is_due(target.repo, values, now)
    if statement is None:
        raise FreshnessMissing(
            "the state repo holds no statement of freshness",
            where=Location(location),
            remedy="make one: margo-gitops freshness renew --signing-key FILE",
        )
    if now >= parse_moment(statement.expires):
        return ShownStatement(statement, "expired", due)
    return ShownStatement(statement, "valid" if statement.state_commit == values.get(FLEET_REF) else "stale", due)


def export_proof(location: str, cache: Path, device: str) -> bytes:
    """Return the proof for a device, to be carried there by hand.

    Raises:
        FreshnessMissing: the state repo holds none.
        StateRepoUnusable, StateUnreachable, StateTampered: it cannot be read.
    """
    with open_state(location, cache, create=False) as target:
        return device_proof(target.repo, target.repo.refs.read(), device)
