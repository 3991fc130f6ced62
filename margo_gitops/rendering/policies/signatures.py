"""Whether the commits that bring a change are signed by people who may."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from margo_gitops.errors import CommitNotSigned
from margo_gitops.rendering.policies.facts import Commit, PolicyInForce, Step, Verdict, approvals

Objection = Callable[[Commit, PolicyInForce], str]
"""Why a commit's signature does not count under a policy's list of signers; empty where it does."""


def judge_signatures(steps: Sequence[Step], objection: Objection, *, before_merge: bool = False) -> Verdict | None:
    """Return whether every commit is signed as the policy before it wants; None where none wants it.

    Args:
        steps: of the main line, oldest first.
        objection: judges one signature.
        before_merge: whether the change is still to be merged: where only the main line must be signed, that comes
            with the merge.
    """
    wanted = [(index, each) for index, step in enumerate(steps) for each in _wanted(step, before_merge=before_merge)]
    if not any(each.policy.signatures for step in steps for each in step.policies):
        return None
    reasons: dict[tuple[str, str], CommitNotSigned] = {}
    for index, (commit, force) in wanted:
        why = objection(commit, force)
        if why and not any(not objection(other, force) for other in approvals(steps, index, commit.id)):
            reasons.setdefault((commit.id, why), _refusal(commit, force, why))
    if reasons:
        return Verdict(
            "signatures", "refused", f"commits without an accepted signature: {len(reasons)}", tuple(reasons.values())
        )
    checked = len({commit.id for _, (commit, _) in wanted})
    if not checked:
        return Verdict("signatures", "skipped", "there is no commit yet that must be signed")
    return Verdict("signatures", "passed", f"commits with an accepted signature: {checked}")


def _wanted(step: Step, *, before_merge: bool) -> Iterator[tuple[Commit, PolicyInForce]]:
    for force in step.policies:
        rule = force.policy.signatures
        if rule is None:
            continue
        if rule.commits == "all":
            yield from ((commit, force) for commit in step.commits())
        elif step.commit is not None and not before_merge:
            yield step.commit, force


def _refusal(commit: Commit, force: PolicyInForce, why: str) -> CommitNotSigned:
    return CommitNotSigned(
        f"commit {commit} has no signature that counts",
        where=force.at("signatures"),
        why=[why, *force.origin()],
        remedy=f"sign it anew, or, if it is merged, add a signed commit with the trailer Approves: {commit.id}",
    )
