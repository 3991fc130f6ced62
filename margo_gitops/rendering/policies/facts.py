"""What policies are judged by: commits, the steps of the main line, and the policy that is in force.

POLICY-1  A change is judged by the policy before it, so that it cannot loosen what it is judged by. The result
          (freezes, applications, registries) must obey its own policy too.
POLICY-2  The main line is the chain of first parents. Each of its commits is a step, and brings all that was not there
          before it; the policy before a step is that of the step's first parent.
POLICY-3  A commit that cannot be rendered changes no device; the next one that can answers for both.
POLICY-4  A merged breach is repaired by a later commit of the main line that answers for it: `Approves: COMMIT`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from margo_gitops.documents.fleet_kinds import Fleet
from margo_gitops.documents.fleet_policy import Policy
from margo_gitops.errors import Location, MargoGitopsError
from margo_gitops.rendering.changes import Outcome, PolicyPart
from margo_gitops.rendering.intent import Located
from margo_gitops.values import dataclass, field

_MAIL = re.compile(r"<(?P<mail>[^<>\s]+@[^<>\s]+)>\s*$")


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of the fleet repo.

    Attributes:
        id: in hex.
        author: mail address of its author.
        parents: ids.
        subject: first line of its message.
        trailers: of its message, in order, as written.
        signature: the armor of its signature, or None.
        payload: the exact bytes that a signature covers.
        committed_at: seconds since 1970-01-01 UTC.
        clean: whether it is a merge that holds nothing but what its two parents bring.
    """

    id: str
    author: str
    parents: tuple[str, ...]
    subject: str
    trailers: tuple[tuple[str, str], ...]
    signature: str | None = field(repr=False)
    payload: bytes = field(repr=False)
    committed_at: int
    clean: bool = False

    def named(self, trailer: str) -> Iterator[str]:
        """Yield the values of a trailer."""
        return (value for key, value in self.trailers if key.lower() == trailer)

    def people(self, trailer: str) -> Iterator[str]:
        """Yield the mail addresses, in lower case, of the people that a trailer names."""
        return (match["mail"].lower() for value in self.named(trailer) if (match := _MAIL.search(value)))

    def authors(self) -> frozenset[str]:
        """Return the mail addresses, in lower case, of the author and of co-authors."""
        return frozenset({self.author.lower(), *self.people("co-authored-by")})

    def __str__(self) -> str:
        return f"{self.id[:12]} ({self.subject[:60]})" if self.subject else self.id[:12]


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """A policy, and where it was read.

    Attributes:
        commit: id of the commit that it was read from; None: what is judged itself.
        shown: the document that messages point into: what is judged, where its policy is the same.
        judged: what is judged; None: not known. Where it lacks the line, messages point to the nearest one that it has.
    """

    fleet: Located[Fleet]
    commit: str | None
    shown: Located[Fleet]
    judged: Located[Fleet] | None = None

    @property
    def policy(self) -> Policy:
        """The policy; an empty one where the fleet has none."""
        return self.fleet.value.spec.policy or NO_POLICY

    def at(self, *path: str | int) -> Location:
        """Return where a field below `spec.policy` is; where it was, if what is judged no longer has it."""
        where = self.shown.at("spec", "policy", *path)
        if self.judged is None or self.judged is self.shown or self.judged.file != self.shown.file:
            return where
        return nearest_place(where, self.shown.content, self.judged.content)

    def origin(self) -> tuple[str, ...]:
        """Return where the policy was read, as a reason; nothing where what is judged has the same."""
        if self.commit is None or self.shown is not self.fleet:
            return ()
        return (f"the policy is that of {self.commit[:12]}, before this change",)


NO_POLICY = Policy()


@dataclass(frozen=True, slots=True)
class Step:
    """A commit of the main line, or files that are not committed yet.

    Attributes:
        commit: the commit; None for the files as they are.
        brought: the other commits that are new with it.
        policies: what it is judged by, the policy before it first.
        sites: sites of the devices that it changes, None for devices without a site.
        changes_policy: whether the policy, or a file that the policy names, changes.
        urgent: names of the deployments with `spec.urgent` that it changes.
    """

    commit: Commit | None
    brought: tuple[Commit, ...]
    policies: tuple[PolicyInForce, ...]
    sites: frozenset[str | None] = frozenset()
    changes_policy: bool = False
    urgent: frozenset[str] = frozenset()

    def commits(self) -> Iterator[Commit]:
        """Yield every commit that is new with this step."""
        yield from () if self.commit is None else (self.commit,)
        yield from self.brought

    def authors(self) -> frozenset[str]:
        """Return the mail addresses of those who wrote the change: one who only merges it did not."""
        found: set[str] = set()
        for commit in self.commits():
            found.update(commit.people("co-authored-by") if commit.clean else commit.authors())
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one part of the policy says.

    Attributes:
        part: of the policy; "files": whether what it names can be used.
        outcome: "pending": reviews that the change still needs; "skipped": not judged.
        reasons: why it refuses, or what is pending.
    """

    part: PolicyPart
    outcome: Outcome
    message: str
    reasons: tuple[MargoGitopsError, ...] = ()


def approvals(steps: Sequence[Step], index: int, commit: str) -> Iterator[Commit]:
    """Yield the commits of the main line, after a step, that answer for a commit of it (POLICY-4).

    Args:
        steps: oldest first.
        commit: the full id.
    """
    for later in steps[index + 1 :]:
        if later.commit is not None and commit in later.commit.named("approves"):
            yield later.commit


def refusing(verdicts: Iterable[Verdict]) -> tuple[MargoGitopsError, ...]:
    """Return every reason of the verdicts that refuse."""
    return tuple(reason for each in verdicts if each.outcome == "refused" for reason in each.reasons)


def nearest_place(where: Location, before: bytes, after: bytes) -> Location:
    """Return the place of the newer file that is where an older one's is: the same line, or where it was.

    Args:
        where: in the older file.
        before: bytes of the older file.
        after: bytes of the newer one. Lines that both begin or end with are the same; what is between is changed.
    """
    old, new = before.splitlines(), after.splitlines()
    if where.line is None or not new or where.line > len(old):
        return where
    first = _common(old, new)
    last = min(_common(old[::-1], new[::-1]), len(old) - first, len(new) - first)
    at = where.line - 1
    if at < first:
        return where
    if at >= len(old) - last:
        return Location(where.file, at + len(new) - len(old) + 1, where.column)
    # Among the changed lines; where there are none left, the line before them.
    at = max(min(at, len(new) - last - 1), 0)
    return Location(where.file, at + 1, len(new[at]) - len(new[at].lstrip()) + 1)


def _common(old: list[bytes], new: list[bytes]) -> int:
    return next(
        (at for at, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), min(len(old), len(new))
    )
