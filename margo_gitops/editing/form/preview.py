"""What devices have installed, and what an edit does to them: a plan of the files with it against those without."""

from __future__ import annotations

from pathlib import Path

from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.documents.state_layout import is_remote
from margo_gitops.editing.edit import Base, Edit, EditedTree
from margo_gitops.editing.form.form_checks import Previous
from margo_gitops.errors import MargoGitopsError
from margo_gitops.operations.fleet_input import open_state, state_location
from margo_gitops.operations.plan.comparison import Sides, planned
from margo_gitops.processes import without_collections
from margo_gitops.rendering.changes import Plan
from margo_gitops.rendering.difference import rendered_fleet
from margo_gitops.rendering.render import render
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class Installed:
    """What devices have.

    Attributes:
        previous: the state of a device; None for a device that never had one.
        note: what a person should know of it; empty for nothing.
    """

    previous: Previous
    note: str = ""


def installed_state(base: Base, state: str | None, cache: Path) -> Installed:
    """Return what devices have installed.

    Where the state repo cannot be read, what the fleet repo says counts as installed: an immutable setting is rather
    kept than changed.

    Args:
        state: the state repo that a person named; None: what the fleet says.
        cache: a folder for mirrors of remote state repos.

    Raises:
        MargoGitopsError: a state repo that was named cannot be read.
    """
    location = state_location(base.repo.root, base.intent.fleet.value, state)
    if state is None and not is_remote(location) and not Path(location).exists():
        return Installed(lambda _device: None)
    try:
        # A person fills in a form for minutes; commits, once fetched, stay readable without holding the mirror.
        with open_state(location, cache, create=False) as target:
            values = target.repo.refs.read()
    except MargoGitopsError as error:
        if state is not None:
            raise
        return _as_the_fleet_says(base, error)
    return Installed(lambda device: target.repo.held(device, values))


def _as_the_fleet_says(base: Base, error: MargoGitopsError) -> Installed:
    note = f"the state repo cannot be read ({error.what}); settings that may not change count as installed"
    try:
        states = render(base.intent, lambda _device: None)
    except MargoGitopsError:
        return Installed(lambda _device: None, f"{note} as far as the fleet can be rendered: it cannot")
    return Installed(rendered_fleet(states).previous, note)


def preview(base: Base, edit: Edit, previous: Previous) -> Plan | None:
    """Return what an edit does to devices; None where the fleet could not be rendered before the edit either.

    Args:
        edit: the edit; `validate` finds nothing new with it.
        previous: what devices have, so that versions continue from there.

    Raises:
        RenderingRefused: a render refuses it, for instance because a setting that may not change would.
    """
    tree = EditedTree(base.tree, edit.changes)
    with without_collections():
        try:
            before = rendered_fleet(render(base.intent, previous))
            intent = read_fleet(tree)
        except MargoGitopsError:
            return None
        states = render(intent, before.previous)
        return planned(Sides("the change", "the files without it", before, states, intent, tree))
