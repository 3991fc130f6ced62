"""The steps of the main line that a change consists of, each with the policy before it and the files that it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from margo_gitops.catalog.file_tree import FileTree
from margo_gitops.catalog.fleet import read_fleet_document
from margo_gitops.catalog.fleet_repo import FLEET_FILE, FleetRepo
from margo_gitops.documents.fleet_kinds import Fleet
from margo_gitops.documents.fleet_policy import Policy
from margo_gitops.errors import (
    AllowedSignersInvalid,
    FleetCommitUnknown,
    FleetInvalid,
    MargoGitopsError,
    NoFleetRepo,
    PolicyUnusable,
)
from margo_gitops.rendering.intent import Located
from margo_gitops.rendering.policies.facts import NO_POLICY, Commit, PolicyInForce, Step
from margo_gitops.trust.allowed_signers import AllowedSigners, parse_allowed_signers
from margo_gitops.trust.signer import commit_signer
from margo_gitops.values import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """What a policy judges: what is new in a commit, or in the files, since another commit.

    Attributes:
        revision: the full id of the commit; None: the files as they are.
        base: the full id of the commit before; None: nothing was rendered, only the last step is judged.
        named: whether a person named the base: its policy judges every step then.
        at: the date of files that are not committed, seconds since 1970-01-01 UTC.
    """

    repo: FleetRepo
    revision: str | None
    base: str | None
    named: bool
    at: int

    @property
    def head(self) -> str | None:
        """The commit, or the one that the files build on; None if there is no commit yet."""
        if self.revision is not None:
            return self.revision
        try:
            return self.repo.commit("HEAD").id
        except FleetCommitUnknown:
            return None

    def date(self) -> int:
        """Return the date of the change: of its commit, or the one handed in."""
        return self.at if self.revision is None else self.repo.history().commit(self.revision).committed_at


@dataclass(slots=True)
class PolicyHistory:
    """The policies of a fleet repo's commits, and the steps of a span."""

    repo: FleetRepo
    judged: Located[Fleet]
    _documents: dict[bytes, Located[Fleet] | None] = field(default_factory=dict)
    _usable: dict[str, bool] = field(default_factory=dict)
    _signers: dict[str, AllowedSigners] = field(default_factory=dict)

    def before(self, commit: str | None) -> PolicyInForce | None:
        """Return the policy that a commit leaves: its own, or that of the nearest first parent with a usable one.

        Otherwise a commit that breaks the policy would switch it off for the next.

        Raises:
            PolicyUnusable: the history is not whole.
        """
        while commit is not None:
            document = self._document(commit)
            if document is not None and self._is_usable(commit, document):
                same = document.value.spec.policy == self.judged.value.spec.policy
                return PolicyInForce(document, commit, self.judged if same else document, self.judged)
            commit = self.parent(commit)
        return None

    def parent(self, commit: str) -> str | None:
        """Return a commit's first parent; None for a root, and at the edge of a shallow clone without a policy.

        Raises:
            PolicyUnusable: the parent is not in this clone, and there is a policy.
        """
        try:
            return self.repo.history().first_parent(commit)
        except PolicyUnusable:
            if self.judged.value.spec.policy is not None:
                raise
            return None

    def _document(self, commit: str) -> Located[Fleet] | None:
        file = self.repo.tree(commit).file(FLEET_FILE)
        if file is None or file.kind != "file":
            return None
        content = file.read()
        if content not in self._documents:
            try:
                self._documents[content] = read_fleet_document(self.repo.tree(commit))
            except (FleetInvalid, NoFleetRepo):
                self._documents[content] = None
        return self._documents[content]

    def _is_usable(self, commit: str, document: Located[Fleet]) -> bool:
        policy = document.value.spec.policy
        if policy is None:
            return True
        if commit not in self._usable:
            self._usable[commit] = not any(unusable(self.repo.tree(commit), document))
        return self._usable[commit]

    def result_policies(self, span: Span) -> tuple[PolicyInForce, ...]:
        """Return what the result of a change is judged by: its own policy, and the one before it."""
        own = PolicyInForce(self.judged, None, self.judged)
        head = span.head
        before = head if span.revision is None or head is None else self.parent(head)
        return _distinct([own, self.before(before), self._named_base(span)], lists=False)

    def judging(self, span: Span) -> PolicyInForce | None:
        """Return the one policy before a change: that of a base which a person named, or of the first parent."""
        if span.named:
            return self.before(span.base)
        head = span.head
        return self.before(head if span.revision is None or head is None else self.parent(head))

    def _named_base(self, span: Span) -> PolicyInForce | None:
        return self.before(span.base) if span.named else None

    def steps(self, span: Span) -> list[Step]:
        """Return the steps of a span, oldest first, without their sites (PolicyUnusable: the history is not whole)."""
        history = self.repo.history()
        base = self._named_base(span)
        head = span.head
        wanted = head is not None and (span.revision is not None or span.base is not None)
        line = filter(history.counts, history.mainline(head, span.base) if head is not None and wanted else ())
        judged = [(each, _distinct([self.before(self.parent(each)), base])) for each in line]
        of_files = _distinct([self.before(head), base]) if span.revision is None else None
        if not any(map(policies_want_commits, [policies for _, policies in judged] + [of_files or ()])):
            return []
        found = []
        for each, policies in judged:
            brought = tuple(history.commit(other) for other in history.brought(each, span.base))
            changed = policies_want_commits(policies) and self._changed(self.parent(each), each)
            found.append(Step(history.commit(each), brought, policies, changes_policy=changed))
        if of_files is not None:
            found.append(Step(None, (), of_files, changes_policy=self._changed(head, None)))
        return found

    def _changed(self, before: str | None, after: str | None) -> bool:
        """Whether the policy, or a file that one of the two policies names, differs between two commits."""
        if before is None:
            return False
        old = self._document(before)
        new = self.judged if after is None else self._document(after)
        policies = [each.value.spec.policy or NO_POLICY for each in (old, new) if each is not None]
        if old is None or new is None or policies[0] != policies[1]:
            return True
        named = {path for policy in policies for path in policy_files(policy)}
        changed = self.repo.changed_files(before, after) if named else frozenset()
        return any(path == name or path.startswith(f"{name}/") for path in changed for name in named)

    def objection(self, commit: Commit, force: PolicyInForce) -> str:
        """Return why a commit's signature does not count under a policy's list of signers; empty where it does."""
        rule = force.policy.signatures
        if rule is None or force.commit is None:
            return ""
        if force.commit not in self._signers:
            self._signers[force.commit] = read_signers(self.repo.tree(force.commit), force.fleet)
        return commit_signer(commit, self._signers[force.commit]).objection


def _distinct(policies: Iterable[PolicyInForce | None], *, lists: bool = True) -> tuple[PolicyInForce, ...]:
    """Return policies, each once: the first of equal ones.

    Args:
        policies: may hold None for none.
        lists: whether equal ones of different commits are kept where they name a list of signers: that may differ.
    """
    found: dict[tuple[str, str | None], PolicyInForce] = {}
    for each in policies:
        if each is not None:
            listed = each.commit if lists and each.policy.signatures else None
            found.setdefault((repr(each.policy), listed), each)
    return tuple(found.values())


def policies_want_commits(policies: Iterable[PolicyInForce]) -> bool:
    """Return whether any policy looks at commits."""
    return any(force.policy.signatures or force.policy.reviews for force in policies)


def policy_files(policy: Policy) -> Iterator[str]:
    """Yield the files and folders of the fleet repo that a policy names."""
    if policy.signatures is not None:
        yield policy.signatures.allowed_signers
    if policy.command and "/" in policy.command[0]:
        yield policy.command[0].removeprefix("./").rpartition("/")[0] or policy.command[0].removeprefix("./")


def unusable(tree: FileTree, fleet: Located[Fleet]) -> Iterator[MargoGitopsError]:
    """Yield what a policy names and the same tree does not hold, or holds in no usable form."""
    policy = fleet.value.spec.policy or NO_POLICY
    if policy.signatures is not None:
        try:
            read_signers(tree, fleet)
        except PolicyUnusable as error:
            yield error
    if policy.command and "/" in policy.command[0]:
        program = policy.command[0].removeprefix("./")
        file = tree.file(program)
        if file is None or file.kind != "file":
            yield PolicyUnusable(
                f"the policy's command names {program}, which is not a file of the fleet repo",
                where=fleet.at("spec", "policy", "command", 0),
                remedy="add the file, or name a program on the PATH without a slash",
            )


def read_signers(tree: FileTree, fleet: Located[Fleet]) -> AllowedSigners:
    """Return the list of signers that a policy names (PolicyUnusable: it is not there, or cannot be used)."""
    policy = fleet.value.spec.policy or NO_POLICY
    path = policy.signatures.allowed_signers if policy.signatures else ""
    where = fleet.at("spec", "policy", "signatures", "allowedSigners")
    file = tree.file(path) if path else None
    if file is None or file.kind != "file":
        raise PolicyUnusable(
            f"the policy's list of signers, {path}, is not a file of the fleet repo",
            where=where,
            remedy="add it: a line for each signer, as ssh-keygen's ALLOWED SIGNERS",
        )
    try:
        return parse_allowed_signers(file.read(), path)
    except AllowedSignersInvalid as error:
        why = [str(each) for each in error.findings]
        raise PolicyUnusable(f"the policy's list of signers, {path}, cannot be used", where=where, why=why) from error
