"""Who wrote a line of the fleet repo, how it came to the main line, and who answers for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pygit2

from margo_gitops.audit.log import date_of
from margo_gitops.audit.traced import TracedCommit
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.errors import Location, PolicyUnusable
from margo_gitops.rendering.policies.facts import Commit
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.signer import SignedCommit, commit_signer

APPROVALS: Final = frozenset({"reviewed-by", "approved-by", "acked-by", "signed-off-by"})
"""Trailers by which people answer for a commit, in lower case."""


@dataclass(slots=True)
class Lines:
    """Who wrote a line of the fleet repo, as `git blame` tells."""

    fleet: FleetRepo
    commit: str
    _blames: dict[str, pygit2.Blame | None] = field(default_factory=dict)
    _written: dict[str, None] = field(default_factory=dict)

    def written_by(self, place: Location) -> str | None:
        """Return the commit that wrote a line; None where git cannot tell."""
        if place.line is None:
            return None
        if place.file not in self._blames:
            repository = pygit2.Repository(str(self.fleet.root))
            try:
                self._blames[place.file] = repository.blame(place.file, newest_commit=pygit2.Oid(hex=self.commit))
            except (KeyError, ValueError, pygit2.GitError):
                self._blames[place.file] = None
        blame = self._blames[place.file]
        try:
            found = str(blame.for_line(place.line).final_commit_id) if blame is not None else None
        except (IndexError, ValueError):
            return None
        if found is not None:
            self._written[found] = None
        return found

    def commits(self, signers: AllowedSigners | None) -> tuple[TracedCommit, ...]:
        """Return the commits that wrote any line asked for, newest first.

        Args:
            signers: whose signatures count; None: the key's fingerprint is told.
        """
        found = [self._traced(name, signers) for name in self._written]
        return tuple(each for _, each in sorted(found, key=lambda pair: (-pair[0], pair[1].commit)))

    def _traced(self, name: str, signers: AllowedSigners | None) -> tuple[int, TracedCommit]:
        author = self.fleet.commit(name)
        history = self.fleet.history()
        commit = history.commit(name)
        try:
            line = history.mainline(self.commit, name)
            merge = history.commit(self._bringing(name, line)) if self._is_beside(line, name) else None
            later = [each for each in map(history.commit, line) if self._answers(each, commit, merge)]
        except PolicyUnusable:  # a shallow clone knows what it has, and no more
            merge, later = None, []
        told = [commit, *([merge] if merge else []), *(each for each in later if merge is None or each.id != merge.id)]
        return author.time, TracedCommit(
            commit=name,
            author=f"{author.author_name} <{author.author_email}>",
            date=date_of(author.time, author.offset),
            subject=author.subject,
            signature=signature_of(commit, signers),
            merged_by=merge.id if merge else None,
            merged_subject=merge.subject if merge else None,
            merged_signature=signature_of(merge, signers) if merge else None,
            approvals=tuple(dict.fromkeys(each for one in told for each in _approvals(one))),
        )

    def _is_beside(self, line: list[str], name: str) -> bool:
        """Whether a commit came to the main line by a merge: it is not the first parent of what follows it there."""
        return bool(line) and self.fleet.history().first_parent(line[0]) != name

    def _bringing(self, name: str, line: list[str]) -> str:
        """Return the first commit of the main line, oldest first, that contains a commit; the last one does."""
        low, high = 0, len(line) - 1
        while low < high:
            middle = (low + high) // 2
            if self.fleet.is_ancestor(name, line[middle]):
                high = middle
            else:
                low = middle + 1
        return line[low]

    def _answers(self, later: Commit, commit: Commit, merge: Commit | None) -> bool:
        wanted = {commit.id, merge.id if merge else commit.id}
        return any(value in wanted for value in later.named("approves"))


def _approvals(commit: Commit) -> list[str]:
    return [
        f"{key}: {value}" for key, value in commit.trailers if key.lower() in APPROVALS or key.lower() == "approves"
    ]


def signature_of(commit: SignedCommit, signers: AllowedSigners | None) -> str:
    """Return who signed a commit of the fleet repo; "none" where nobody did.

    A key that the list lacks is told as such, and is no objection: people who may sign state need not be those who
    may sign changes, and the fleet's policy judges these.
    """
    signed = commit_signer(commit, None)
    if signed.objection or signed.key is None:
        return f"does not count: {signed.objection}" if signed.objection else "none"
    listed = commit_signer(commit, signers)
    if signers is not None and listed.objection:
        return f"{signed.signer}, which the list does not allow"
    return listed.signer or "none"
