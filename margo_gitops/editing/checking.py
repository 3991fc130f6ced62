"""Whether an edit may be written: what `validate` finds with it, and did not find without it."""

from __future__ import annotations

from margo_gitops.editing.edit import Base, Edit, EditedTree
from margo_gitops.errors import EditRefused
from margo_gitops.operations.validate import validate_tree
from margo_gitops.operations.validation import RuleFinding
from margo_gitops.wording import counted


def check_edit(base: Base, edit: Edit) -> list[str]:
    """Check that an edit makes nothing invalid that was valid.

    Args:
        base: what the edit was made for.
        edit: the edit.

    Returns:
        Notes for the person: what was invalid before, and still is.

    Raises:
        EditRefused: with every new error.
    """
    if not edit.changes:
        return []
    found = _errors(validate_tree(EditedTree(base.tree, edit.changes), "the change").findings)
    if not found:
        return []
    known = {each.identity for each in _errors(validate_tree(base.tree, "before").findings)}
    new = [each for each in found if each.identity not in known]
    if new:
        why = []
        if base.revision is not None and base.repo.uncommitted():
            why = [f"checked against {base.revision[:12]}: what is not committed does not count with --commit"]
        raise EditRefused(
            f"this change would make the fleet invalid: {counted(len(new), 'error')}",
            [_told(each) for each in new],
            why=why,
        )
    return [
        f"the fleet has {counted(len(found), 'error')} already, which this change does not mend: margo-gitops validate"
    ]


def _errors(findings: tuple[RuleFinding, ...]) -> list[RuleFinding]:
    return [each for each in findings if each.severity == "error"]


def _told(each: RuleFinding) -> str:
    return f"{each.place}: {each.sentence} [{each.rule}]" if each.place else f"{each.sentence} [{each.rule}]"
