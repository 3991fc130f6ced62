"""What an edit does to devices: a plan of the files with the edit against the files without it."""

from __future__ import annotations

from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.editing.edit import Base, Edit, EditedTree
from margo_gitops.editing.form.checks import Previous
from margo_gitops.errors import MargoGitopsError
from margo_gitops.operations.planned import Sides, planned
from margo_gitops.operations.run import without_collections
from margo_gitops.rendering.difference import rendered_fleet
from margo_gitops.rendering.plan import Plan
from margo_gitops.rendering.render import render


def preview(base: Base, edit: Edit, previous: Previous) -> Plan | None:
    """Return what an edit does to devices; None where the fleet could not be rendered before the edit either.

    Args:
        base: what the edit was made for.
        edit: the edit; `validate` finds nothing new with it.
        previous: what devices have, so that versions go on from there.

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
