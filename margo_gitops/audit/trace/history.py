"""Who wrote a line of the fleet repo, and which values a parameter had: the histories that a trace shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import pygit2

from margo_gitops.audit.trace.adoption import adopted_at
from margo_gitops.audit.trace.traced import TracedCommit, TracedSince
from margo_gitops.audit.verify.rendered_trees import manifest_version
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.documents.kinds import read_source
from margo_gitops.documents.nodes import FieldPath, Node, Scalar, exact
from margo_gitops.errors import Location, PolicyUnusable, UnreadableDocument
from margo_gitops.rendering.policies.facts import Commit
from margo_gitops.state_repo.objects import DeviceTree, StateObjects
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.git_objects import BLOB
from margo_gitops.trust.signer import SignedCommit, commit_signer
from margo_gitops.values import dataclass, field

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
            path, newest = self.fleet.path(place.file), pygit2.Oid(hex=self.commit)
            try:
                self._blames[place.file] = self.fleet.repository.blame(path, newest_commit=newest)
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
            signers: whose signatures count; None: the key's fingerprint is given.
        """
        found = [self._traced(name, signers) for name in self._written]
        return tuple(each for _, each in sorted(found, key=lambda pair: (-pair[0], pair[1].commit)))

    def answer(self, name: str, signers: AllowedSigners | None) -> TracedCommit:
        """Return who answers for a commit of the fleet repo, as `commits` does."""
        return self._traced(name, signers)[1]

    def _traced(self, name: str, signers: AllowedSigners | None) -> tuple[int, TracedCommit]:
        wrote = self.fleet.commit(name)
        history = self.fleet.history()
        commit = history.commit(name)
        try:
            line = history.mainline(self.commit, name)
            merge = history.commit(self._bringing(name, line)) if self._is_beside(line, name) else None
            later = [each for each in map(history.commit, line) if self._answers(each, commit, merge)]
        except PolicyUnusable:  # a shallow clone knows what it has, and no more
            merge, later = None, []
        told = [commit, *([merge] if merge else []), *(each for each in later if merge is None or each.id != merge.id)]
        return wrote.author.time, TracedCommit(
            commit=name,
            author=str(wrote.author),
            date=wrote.author.date,
            subject=wrote.subject,
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
    """Return who signed a commit of the fleet repo; "none" where no one did.

    A key that the list lacks is named as such, and is not an objection: people who may sign state need not be those who
    may sign changes, and the fleet's policy judges these.
    """
    signed = commit_signer(commit, None)
    if signed.objection or signed.key is None:
        return f"does not count: {signed.objection}" if signed.objection else "none"
    listed = commit_signer(commit, signers)
    if signers is not None and listed.objection:
        return f"{signed.signer}, which the list does not allow"
    return listed.signer or "none"


Leaves = Mapping[FieldPath, Node]
"""The values of a document that hold no others, and empty lists and mappings, by path, in the file's order."""


def leaves(root: Node) -> dict[FieldPath, Node]:
    """Return the values of a document that hold no others."""
    return dict(_leaves((), root))


def _leaves(path: FieldPath, node: Node) -> Iterator[tuple[FieldPath, Node]]:
    if isinstance(node.value, dict) and node.value:
        for key, child in node.value.items():
            yield from _leaves((*path, key), child)
    elif isinstance(node.value, list) and node.value:
        for index, child in enumerate(node.value):
            yield from _leaves((*path, index), child)
    else:
        yield path, node


def scalar(node: Node) -> Scalar:
    """Return a leaf's value; None for an empty list or mapping."""
    return None if isinstance(node.value, dict | list) else node.value


@dataclass(slots=True)
class ValueHistory:
    """A device's branch up to the commit that is traced; StateTampered where an object is missing.

    Attributes:
        branch: ids, oldest first; the last one is traced.
        adoptions: of the device, as `adoption.adoptions` tells them.
    """

    objects: StateObjects
    branch: Sequence[str]
    adoptions: list[tuple[int, int]]
    _since: dict[str, TracedSince] = field(default_factory=dict)

    def of_file(self, path: str) -> TracedSince:
        """Return since when a file of the traced commit is as it is."""
        first = self.branch[-1]
        blob = self._blob(first, path)
        for name in reversed(self.branch[:-1]):
            if self._blob(name, path) != blob:
                break
            first = name
        return self._told(first)

    def of_values(self, path: str, values: Leaves) -> dict[FieldPath, TracedSince]:
        """Return since when each value of a file of the traced commit is as it is.

        Args:
            values: of the file at the traced commit.
        """
        pending = {each: scalar(node) for each, node in values.items()}
        found: dict[FieldPath, TracedSince] = {}
        newer = self.branch[-1]
        read = self._blob(newer, path)
        for name in reversed(self.branch[:-1]):
            blob = self._blob(name, path)
            if blob != read:
                then = self._read(blob, path)
                for each in [each for each, value in pending.items() if not _is_same(then.get(each), value)]:
                    found[each] = self._told(newer)
                    del pending[each]
                read = blob
            if not pending:
                break
            newer = name
        return found | {each: self._told(newer) for each in pending}

    def _blob(self, commit: str, path: str) -> str | None:
        return DeviceTree(self.objects, self.objects.commit(commit).tree).files.get(path)

    def _read(self, blob: str | None, path: str) -> Leaves:
        if blob is None:
            return {}
        try:
            return leaves(read_source(self.objects.read(blob, BLOB), path).root)
        except UnreadableDocument:
            return {}

    def _told(self, name: str) -> TracedSince:
        if name not in self._since:
            commit = self.objects.commit(name)
            version = manifest_version(DeviceTree(self.objects, commit.tree).manifest)
            adopted = adopted_at(self.adoptions, version)
            self._since[name] = TracedSince(version, name, commit.author.date, adopted)
        return self._since[name]


def _is_same(then: Node | None, now: Scalar) -> bool:
    return then is not None and exact(scalar(then)) == exact(now)
