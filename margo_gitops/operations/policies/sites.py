"""The sites that each step of the main line changes, by rendering what the step can concern."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.errors import FleetInvalid, NoFleetRepo, RenderingRefused
from margo_gitops.rendering.affected import affected
from margo_gitops.rendering.difference import difference, rendered_fleet
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.plan import DeviceChange
from margo_gitops.rendering.policies.facts import Commit, Step
from margo_gitops.rendering.render import PlacementsByDevice, place, render


def with_sites(repo: FleetRepo, steps: Iterable[Step]) -> Iterator[Step]:
    """Yield steps with the sites that they change, by rendering both sides of each (P-3)."""
    before: _Side | None = None
    begun = False
    left: tuple[Commit, ...] = ()
    for step in steps:
        if not begun:
            parents = step.commit.parents[:1] if step.commit else (repo.commit("HEAD").id,)
            before = _side(repo, parents[0]) if parents else None
            begun = True
        after = _side(repo, step.commit.id if step.commit else None)
        sites = _changed_sites(before, after) if after else None
        step = replace(step, brought=(*step.brought, *left))  # with what it answers for
        if sites is None:
            left = tuple(step.commits())
            yield step
        else:
            left = ()
            before = after
            yield replace(step, sites=sites)


def _side(repo: FleetRepo, commit: str | None) -> _Side | None:
    """Return what a commit, or for None the files, say; None where that cannot be rendered."""
    try:
        intent = read_fleet(repo.tree(commit) if commit else repo.working_tree())
        return _Side(intent, place(intent))
    except (FleetInvalid, NoFleetRepo, RenderingRefused):
        return None


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a step."""

    intent: Intent
    placed: PlacementsByDevice


def _changed_sites(before: _Side | None, after: _Side) -> frozenset[str | None] | None:
    """Return the sites of the devices that differ between two sides; None where the second cannot be rendered.

    Only what a change can concern is rendered; where the first cannot be, all devices differ.
    """
    only = affected(before.intent, before.placed, after.intent, after.placed) if before else None
    held = rendered_fleet(())
    if before is not None:
        with suppress(RenderingRefused):
            held = rendered_fleet(render(before.intent, lambda _device: None, only))
    try:
        states = render(after.intent, held.previous, only)
    except RenderingRefused:
        return None
    intents = (before.intent, after.intent) if before else (after.intent,)
    return frozenset(site for change in difference(held, states, after.intent) for site in _sites(change, intents))


def _sites(change: DeviceChange, intents: Iterable[Intent]) -> Iterator[str | None]:
    """Yield the sites of a device and its children, as they were and as they are."""
    yield change.site
    if change.change != "added":
        yield change.site_before
    for intent in intents:
        for deployment in change.deployments:
            if deployment.device in intent.devices:
                yield intent.devices[deployment.device].value.spec.site
