"""What a render refuses before it computes anything: the wrong state repo, and a commit that would undo a newer one."""

from __future__ import annotations

from collections.abc import Mapping

from margo_gitops.documents.state_layout import FLEET_REF
from margo_gitops.errors import FleetCommitOlder, StateForeign
from margo_gitops.operations.fleet_input import FleetInput, StateTarget
from margo_gitops.trust.state_commit import StateCommit


def refuse_foreign(fleet: FleetInput, target: StateTarget, values: Mapping[str, str]) -> None:
    """Refuse the state repo of another fleet, or one that no renderer wrote.

    Raises:
        StateForeign: it is.
    """
    tip = values.get(FLEET_REF)
    if tip is None:
        return
    name = fleet.intent.fleet.value.metadata.name
    owner = StateCommit.of(target.repo.commit(tip)).fleet
    if owner != name:
        raise StateForeign(
            f"the state repo is not the fleet {name}'s",
            where=fleet.intent.fleet.at("metadata", "name"),
            why=[f"it is the fleet {owner}'s" if owner else "its branch fleet was not written by a renderer"],
            remedy="name the right state repo with --state or in spec.stateRepo, or put the fleet's name back",
        )


def refuse_older(fleet: FleetInput, target: StateTarget, values: Mapping[str, str]) -> None:
    """Refuse what does not build on the rendered commit, as a slow pipeline of an older one does not.

    Raises:
        FleetCommitOlder: it does not, or this clone cannot tell.
    """
    tip = values.get(FLEET_REF)
    rendered = StateCommit.of(target.repo.commit(tip)).fleet_commit if tip else None
    if not rendered or rendered == fleet.commit.id or fleet.repo.is_ancestor(rendered, fleet.commit.id):
        return
    if fleet.repo.knows(rendered):
        why = f"{fleet.commit.id[:12]} does not build on {rendered[:12]}"
        remedy = "render a commit that does; to go back, revert in the fleet repo; or pass --allow-older"
    else:
        why = f"{rendered[:12]} is not in this clone"
        remedy = "fetch the whole history (git fetch --unshallow; fetch-depth: 0 in a pipeline), or pass --allow-older"
    raise FleetCommitOlder(
        f"the state repo was rendered from {rendered[:12]}, which this commit may undo", why=[why], remedy=remedy
    )
