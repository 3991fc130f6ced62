"""Render a fleet commit into the state repo, or say whether it already is there."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from margo_gitops import __version__
from margo_gitops.catalog.fleet_repo import FleetCommit
from margo_gitops.documents.device_id import FLEET_REF
from margo_gitops.errors import MAX_SHOWN, FleetCommitOlder, SigningKeyUnusable, StateTampered
from margo_gitops.renderer.fleet_input import FleetInput, StateTarget, open_state, read_fleet_commit
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.rendering.render import render
from margo_gitops.state_repo.publication import Provenance, Publication, differences, publish
from margo_gitops.trust.git_commit import Ident
from margo_gitops.trust.ssh_signing_key import SigningKey


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """What to render.

    Attributes:
        fleet: a folder in the fleet repo.
        revision: the commit.
        state: where the state repo is; None: as the fleet says.
        cache: a folder for mirrors of remote state repos.
        key: signs the commits.
        allow_older: render a commit that the state repo is ahead of.
    """

    fleet: Path
    revision: str
    state: str | None
    cache: Path
    key: SigningKey | None = None
    allow_older: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a render did.

    Attributes:
        commit: of the fleet repo.
        location: of the state repo.
        publication: what is new there.
        uncommitted: files that differ from the fleet repo's HEAD, and were not rendered.
    """

    commit: FleetCommit
    location: str
    publication: Publication
    uncommitted: tuple[str, ...]


def render_fleet(request: RenderRequest) -> Rendered:
    """Render a fleet commit, and push the result where the state repo has a URL.

    Raises:
        MargoGitopsError: of MG11xx to MG13xx; nothing was written.
    """
    with _without_collections():
        fleet = read_fleet_commit(request.fleet, request.revision)
    if request.key is None and fleet.intent.fleet.value.spec.signing.required:
        raise SigningKeyUnusable(
            "this fleet wants signed state, and no signing key was given",
            where=fleet.intent.fleet.at("spec", "signing", "required"),
            remedy="pass --signing-key FILE, or set MARGO_GITOPS_SIGNING_KEY to the file's path",
        )
    location = fleet.state_location(request.state)
    target = open_state(location, request.cache, create=True)
    values = target.repo.refs.read()
    if not request.allow_older:
        _refuse_older(fleet, target, values)
    states = _states(fleet, target, values)
    publication = publish(target.repo, states, values, _provenance(fleet), request.key)
    if target.remote is not None and publication.fleet_commit is not None:
        target.remote.push()
    return Rendered(fleet.commit, location, publication, tuple(fleet.repo.uncommitted()))


def check_fleet(request: RenderRequest) -> list[str]:
    """Return how the state repo differs from what a fleet commit renders to; empty: not at all.

    Raises:
        MargoGitopsError: of MG11xx to MG13xx.
    """
    fleet = read_fleet_commit(request.fleet, request.revision)
    target = open_state(fleet.state_location(request.state), request.cache, create=False)
    values = target.repo.refs.read()
    return differences(target.repo, _states(fleet, target, values), values)


def _states(fleet: FleetInput, target: StateTarget, values: dict[str, str]) -> tuple[DesiredState, ...]:
    tampered = list(target.repo.tampered(values))
    if len(tampered) == 1:
        raise tampered[0]
    if tampered:
        more = [f"and {len(tampered) - MAX_SHOWN} more"] if len(tampered) > MAX_SHOWN else []
        raise StateTampered(
            f"{len(tampered)} branches of the state repo were changed by somebody else",
            why=[*(error.what for error in tampered[:MAX_SHOWN]), *more],
            remedy=tampered[0].remedy,
        )
    with _without_collections():
        return render(fleet.intent, lambda device: target.repo.held(device, values))


@contextmanager
def _without_collections() -> Iterator[None]:
    """Switch the search for cyclic garbage off: a render makes millions of objects and no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _provenance(fleet: FleetInput) -> Provenance:
    commit = fleet.commit
    author = Ident(_plain(commit.author_name), _plain(commit.author_email), commit.time, commit.offset)
    rendered_by = f"margo-gitops {__version__}"
    return Provenance(commit.id, _plain(commit.subject), author, rendered_by, fleet.intent.applications_lock)


_MAX_PLAIN = 500
"""Characters; a commit that devices fetch has bounds, and a subject may be as long as somebody likes."""


def _plain(text: str) -> str:
    """Return text without what has a meaning in a commit's headers, or none to people; not too much of it."""
    kept = "".join(character for character in text if character.isprintable() and character not in "<>").strip()
    return kept if len(kept) <= _MAX_PLAIN else f"{kept[: _MAX_PLAIN - 3]}..."


def _refuse_older(fleet: FleetInput, target: StateTarget, values: dict[str, str]) -> None:
    """Refuse to undo a newer render, as a slow pipeline of an older commit would.

    A pipeline's clone may not have the newer commit; then the dates decide.
    """
    tip = values.get(FLEET_REF)
    if tip is None:
        return
    state = target.repo.commit(tip)
    rendered = state.trailers.get("Fleet-Commit", "")
    if rendered == fleet.commit.id:
        return
    if fleet.repo.knows(rendered):
        older = fleet.repo.is_ancestor(fleet.commit.id, rendered)
        why = f"{rendered[:12]} comes after {fleet.commit.id[:12]}"
    else:
        older = fleet.commit.time < state.committed_at
        why = f"{rendered[:12]} is not in this clone, and has a later date than {fleet.commit.id[:12]}"
    if older:
        raise FleetCommitOlder(
            f"the state repo is ahead: it was rendered from {rendered[:12]}",
            why=[why],
            remedy="render the newer commit; to go back, revert in the fleet repo; or pass --allow-older",
        )
