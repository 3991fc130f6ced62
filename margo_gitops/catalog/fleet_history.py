"""The commits of the fleet repo as policies judge them, read through libgit2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pygit2
from pygit2.enums import SortMode

from margo_gitops.errors import PolicyUnusable
from margo_gitops.rendering.policies.facts import Commit
from margo_gitops.trust.git_commit import trailer_lines

MAX_COMMITS = 100_000
"""Commits that one change may bring."""


class FleetHistory:
    """The commits of a fleet repo; every method raises PolicyUnusable where the history is not whole."""

    def __init__(self, repository: pygit2.Repository, folder: str = "") -> None:
        """Read the history of a fleet that is in a folder of a repository; "" for the whole one."""
        self._repository = repository
        self._folder = folder

    def counts(self, commit: str) -> bool:
        """Return whether a commit says something of the fleet: it changes its folder, or approves another commit."""
        return not self._folder or self._counts(self._commit(commit))

    def _counts(self, commit: pygit2.Commit) -> bool:
        with suppress(KeyError, pygit2.GitError):  # a partial clone without old trees: what it cannot tell counts
            before = subtree(commit.parents[0].tree, self._folder) if commit.parent_ids else None
            if subtree(commit.tree, self._folder) == before:
                return any(key.lower() == "approves" for key, _ in trailer_lines(commit.message))
        return True

    def last_change(self, newest: str) -> str:
        """Return the newest of a commit and its first parents that counts; the oldest one here where none does."""
        commit = self._commit(newest)
        while self._folder and commit.parent_ids and not self._counts(commit):
            commit = commit.parents[0]
        return str(commit.id)

    def first_parent(self, commit: str) -> str | None:
        """Return the first parent's id; None for a root."""
        found = self._commit(commit)
        if found.parent_ids:
            return str(found.parent_ids[0])
        _refuse_cut_off(found)
        return None

    def mainline(self, newest: str, base: str | None) -> list[str]:
        """Return the ids of a commit and its first parents that `base` does not contain, oldest first.

        Args:
            newest: the full id.
            base: the full id; None: the commit alone.
        """
        if base is None:
            return [newest]
        return list(reversed([str(each) for each in self._walk(newest, [base], first_parents=True)]))

    def brought(self, commit: str, base: str | None) -> tuple[str, ...]:
        """Return the other commits that are new with a commit of the main line, and count.

        Args:
            commit: the full id.
            base: what it contains is not new; None: nothing.
        """
        parents = [str(each) for each in self._commit(commit).parent_ids]
        if len(parents) < 2:
            return ()
        hidden = [parents[0]] + ([base] if base else [])
        return tuple(
            found
            for each in self._walk(commit, hidden, first_parents=False)
            if (found := str(each)) != commit and self.counts(found)
        )

    def _walk(self, newest: str, hidden: list[str], *, first_parents: bool) -> Iterator[pygit2.Oid]:
        try:
            walker = self._repository.walk(pygit2.Oid(hex=newest), SortMode.TOPOLOGICAL)
            if first_parents:
                walker.simplify_first_parent()
            for each in hidden:
                walker.hide(pygit2.Oid(hex=each))
            for number, commit in enumerate(walker):
                if number == MAX_COMMITS:
                    raise PolicyUnusable(f"{newest[:12]} brings more than {MAX_COMMITS} commits")
                _refuse_cut_off(commit)
                yield commit.id
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise history_not_whole(str(error).strip("'")) from error

    def commit(self, commit: str) -> Commit:
        """Return what policies want to know of a commit."""
        found = self._commit(commit)
        signature, payload = found.gpg_signature
        message = found.raw_message.decode("utf-8", "replace")
        return Commit(
            id=str(found.id),
            author=found.author.email,
            parents=tuple(str(each) for each in found.parent_ids),
            subject=message.strip().split("\n")[0],
            trailers=tuple(trailer_lines(message)),
            signature=signature.decode("utf-8", "replace") if signature else None,
            payload=payload or b"",
            committed_at=found.committer.time,
            clean=self._is_clean_merge(found),
        )

    def _is_clean_merge(self, commit: pygit2.Commit) -> bool:
        """Whether a merge of two is what git makes of its parents by itself, so that its author wrote nothing of it."""
        if len(commit.parent_ids) != 2:
            return False
        try:
            ours, theirs = commit.parents
            merged = self._repository.merge_commits(ours, theirs)
            conflicts = (file.path for conflict in merged.conflicts or () for file in conflict if file is not None)
            deltas = merged.diff_to_tree(commit.tree).deltas
            changed = (file.path for delta in deltas for file in (delta.old_file, delta.new_file))
            folder = f"{self._folder}/" if self._folder else ""
            return not any(path.startswith(folder) for path in (*conflicts, *changed))
        except (KeyError, ValueError, pygit2.GitError):
            return False

    def _commit(self, commit: str) -> pygit2.Commit:
        try:
            return self._repository[commit].peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise history_not_whole(str(error).strip("'")) from error


def subtree(tree: pygit2.Tree | None, folder: str) -> pygit2.Tree | None:
    """Return a folder of a tree, "" for itself; None if the tree lacks it."""
    if tree is None or not folder:
        return tree
    try:
        found = tree[folder]
    except KeyError:
        return None
    return found if isinstance(found, pygit2.Tree) else None


def is_cut_off(commit: pygit2.Commit) -> bool:
    """Return whether a commit is at the edge of a shallow clone.

    libgit2 shows such a commit as a root; its bytes say otherwise.
    """
    return not commit.parent_ids and b"\nparent " in commit.read_raw().partition(b"\n\n")[0]


def _refuse_cut_off(commit: pygit2.Commit) -> None:
    """Refuse to judge what a shallow clone leaves out: unseen commits would pass.

    Raises:
        PolicyUnusable: the commit's parents are not in this clone.
    """
    if is_cut_off(commit):
        raise history_not_whole(f"the parent of {str(commit.id)[:12]} is missing")


def history_not_whole(why: str) -> PolicyUnusable:
    """Return the error of a clone that lacks commits which a policy looks at."""
    return PolicyUnusable(
        "the fleet repo's history is not whole, so its policy cannot be applied",
        why=[why],
        remedy="fetch the whole history (git fetch --unshallow; fetch-depth: 0 in a pipeline)",
    )
