"""Undo what a commit changed, or what happened to one deployment since; always forward, as a new commit."""

from __future__ import annotations

from collections.abc import Iterator

import pygit2

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet import find_fleet
from margo_gitops.catalog.fleet_history import is_cut_off
from margo_gitops.catalog.fleet_repo import GitTree
from margo_gitops.catalog.package import package_folder
from margo_gitops.documents.fleet_kinds import Deployment, LockedApplication
from margo_gitops.editing.applications import folder_changes, pinned
from margo_gitops.editing.edit import Base, Edit, FileChange, make_edit
from margo_gitops.editing.named import unknown
from margo_gitops.errors import ChangesInTheWay, EditImpossible, Location, RevertConflicts
from margo_gitops.rendering.intent import Intent, Located

FORWARD = "versions go up, never back: devices get the old content under a new manifest version"


def revert_commit(base: Base, revision: str) -> Edit:
    """Return the edit that undoes a commit, of a merge all that it brought.

    Raises:
        FleetCommitUnknown: there is no such commit.
        EditImpossible: it is not part of this history, or is the first commit.
        RevertConflicts: what it changed was changed again since; with the files.
        ChangesInTheWay: files to be changed hold changes that are not committed.
    """
    repository = base.repo.repository
    head = base.repo.commit(base.revision or "HEAD").id
    commit = base.repo.commit(revision)
    if commit.id != head and not base.repo.is_ancestor(commit.id, head):
        raise EditImpossible(
            f"{commit.id[:12]} is not part of this history, so there is nothing to undo",
            remedy="name a commit of git log",
        )
    theirs, ours = repository[commit.id].peel(pygit2.Commit), repository[head].peel(pygit2.Commit)
    if is_cut_off(theirs):
        raise EditImpossible(
            f"{commit.id[:12]} cannot be undone: this clone is shallow, and lacks the commit before it",
            remedy="fetch the whole history: git fetch --unshallow",
        )
    now, undone = (base.repo.subtree(each) for each in (ours, theirs))
    before = base.repo.subtree(theirs.parents[0]) if theirs.parents else None
    if now is None or before is None or undone is None:
        raise EditImpossible(f"{commit.id[:12]} is the first commit: undoing it would remove the whole fleet")
    # What `git revert` does, for the fleet's folder alone.
    index = repository.merge_trees(undone, now, before)
    if index.conflicts is not None:
        paths = sorted({entry.path for conflict in index.conflicts for entry in conflict if entry is not None})
        if paths:
            raise RevertConflicts(
                f"{commit.id[:12]} cannot be undone: what it changed was changed again since",
                why=[_conflict(base, path, commit.id) for path in paths],
                remedy="undo the later commits first, or edit these files by hand",
            )
    after = repository[index.write_tree(repository)].peel(pygit2.Tree)
    changes = list(_changes(repository, now, after))
    _refuse_uncommitted(base, changes)
    return make_edit(
        f'Revert "{commit.subject}"',
        ["revert", commit.id[:12]],
        changes,
        [FORWARD] if changes else [],
        f"This reverts commit {commit.id}.",
    )


def _conflict(base: Base, path: str, since: str) -> str:
    repository = base.repo.repository
    walk = repository.walk(repository[base.repo.commit(base.revision or "HEAD").id].id)
    walk.hide(repository[since].id)
    for later in walk:
        before = base.repo.subtree(later.parents[0]) if later.parents else None
        if _blob(base.repo.subtree(later), path) != _blob(before, path):
            subject = later.message.strip().split("\n")[0][:72]
            return f"{path}: changed since by {str(later.id)[:12]} {subject}"
    return path


def _blob(tree: pygit2.Tree | None, path: str) -> str | None:
    return str(tree[path].id) if tree is not None and path in tree else None


def _changes(repository: pygit2.Repository, before: pygit2.Tree, after: pygit2.Tree) -> Iterator[FileChange]:
    """Yield what differs; the size of a file is known before it is read (UnreadableDocument: it is too large)."""
    trees = [GitTree(repository, tree, lambda: None) for tree in (before, after)]
    for delta in before.diff_to_tree(after).deltas:
        path = delta.new_file.path or delta.old_file.path
        files = [tree.file(path) for tree in trees]
        if any(file is not None and file.kind != "file" for file in files):
            raise EditImpossible(
                "is not a plain file, which a command does not change", where=Location(path), remedy="use git revert"
            )
        old, new = (file.read() if file is not None else None for file in files)
        yield FileChange(path, old, new)


def _refuse_uncommitted(base: Base, changes: list[FileChange]) -> None:
    """Refuse to write over what is not committed."""
    if base.revision is not None:
        return
    touched = []
    for change in changes:
        file = base.tree.file(change.path)
        now = file.read() if file is not None and file.kind == "file" else None
        if now != change.before:
            touched.append(change.path)
    if touched:
        raise ChangesInTheWay(
            "files to be changed hold changes that are not committed",
            why=touched,
            remedy="commit or stash them, or pass --commit, which leaves your files alone",
        )


def revert_deployment(base: Base, name: str, revision: str) -> Edit:
    """Return the edit that makes a deployment what it was at a commit, with the application version it needs.

    Args:
        name: of the deployment; one that was not there then is removed.

    Raises:
        FleetCommitUnknown: there is no such commit.
        ReferenceUnknown: there is no such deployment, neither now nor then.
        EditImpossible: the deployment could not be read then.
    """
    commit = base.repo.commit(revision)
    tree = base.repo.tree(revision)
    then, findings = find_fleet(tree)
    now = base.intent.deployments.get(name)
    old = then.deployments.get(name) if then is not None else None
    if old is None and now is None:
        known = {**base.intent.deployments, **(then.deployments if then is not None else {})}
        raise unknown("deployment", name, known)
    broken = [each for each in findings if each.location and each.location.file.endswith(f"/{name}.yaml")]
    if old is None and (then is None or broken):
        raise EditImpossible(
            f"the deployment {name} could not be read at {commit.id[:12]}", why=[str(each) for each in broken]
        )
    title = f"Return {name} to what it was at {commit.id[:12]}"
    words = ["revert", name, commit.id[:12]]
    body = f"{commit.id} {commit.subject}"
    if old is None:
        assert now is not None  # noqa: S101  # one of the two is there
        gone = FileChange(now.file, now.content, None)
        return make_edit(title, words, [gone], [f"{name} was not there then: it is removed", FORWARD], body)
    path = now.file if now is not None else old.file
    changes = [FileChange(path, _content(base.tree, path), old.content)]
    notes: list[str] = []
    if then is not None:
        changes += _application(base, tree, then, old, notes)
    return make_edit(title, words, changes, [*notes, FORWARD], body)


def _content(tree: RootTree, path: str) -> bytes | None:
    file = tree.file(path)
    return file.read() if file is not None else None


def _application(
    base: Base, tree: RootTree, then: Intent, old: Located[Deployment], notes: list[str]
) -> Iterator[FileChange]:
    """Yield what brings back the application version that a deployment needs, where it is gone or another."""
    wanted = old.value.spec.application
    key = (wanted.id, wanted.version)
    application = then.applications.get(key)
    known = base.intent.applications.get(key)
    if application is None or (known is not None and known.digest == application.digest):
        return
    if known is not None:
        users = sorted(
            name
            for name, each in base.intent.deployments.items()
            if (each.value.spec.application.id, each.value.spec.application.version) == key
            and name != old.value.metadata.name
        )
        notes.append(f"{wanted.id} {wanted.version} had other content then; it is restored")
        notes += [f"that changes {', '.join(users)} too"] if users else []
    folder = f"applications/{package_folder(application.description.value)}"
    files = {file.path[len(folder) + 1 :]: file.read() for file in tree.files(folder)}
    yield from folder_changes(base.tree, folder, files)
    yield pinned(base.tree, LockedApplication(*key, application.digest))
