"""Who agreed to a change: reviews by people who may review its sites, and signatures on the commits that bring it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from margo_gitops.documents.fleet_policy import ReviewRule
from margo_gitops.errors import CommitNotSigned, Location, ReviewMissing
from margo_gitops.rendering.policies.facts import Commit, PolicyInForce, Step, Verdict, approvals
from margo_gitops.wording import few

_SHOWN = 10
"""People that a message names."""


def judge_reviews(steps: Sequence[Step], *, before_merge: bool) -> Verdict | None:
    """Return whether each step was reviewed as the policy before it wants; None where none wants it.

    Args:
        steps: of the main line, oldest first.
        before_merge: whether the change is still to be merged, so that reviews may come; those of files that are not
            committed may always.
    """
    if not any(each.policy.reviews for step in steps for each in step.policies):
        return None
    refused: dict[str, ReviewMissing] = {}
    pending: dict[str, ReviewMissing] = {}
    for index, step in enumerate(steps):
        for missing in _missing(steps, index):
            kind = pending if before_merge or step.commit is None else refused
            kind.setdefault(missing.what, missing)
    if refused:
        return Verdict("reviews", "refused", f"reviews missing: {len(refused)}", (*refused.values(), *pending.values()))
    if pending:
        return Verdict("reviews", "pending", f"reviews still needed: {len(pending)}", tuple(pending.values()))
    return Verdict("reviews", "passed", "reviewed by as many people as the policy wants")


def _missing(steps: Sequence[Step], index: int) -> Iterator[ReviewMissing]:
    step = steps[index]
    authors = step.authors()
    reviewers = _reviewers(steps, index)
    for force in step.policies:
        for subject, rule, where in _needed(step, force):
            allowed = {each.lower() for each in rule.people}
            counted = {each for each in reviewers if each not in authors and (not allowed or each in allowed)}
            if len(counted) < rule.count:
                yield _not_reviewed(step, force, subject, rule, where, counted, reviewers & authors)


def _reviewers(steps: Sequence[Step], index: int) -> frozenset[str]:
    commit = steps[index].commit
    if commit is None:
        return frozenset()
    found = set(commit.people("reviewed-by"))
    for later in approvals(steps, index, commit.id):
        found |= set(later.people("reviewed-by")) - later.authors()
    return frozenset(found)


def _needed(step: Step, force: PolicyInForce) -> Iterator[tuple[str, ReviewRule, Location]]:
    """Yield (of what, rule, place of the rule) for everything that a step changes."""
    rules = force.policy.reviews
    if rules is None:
        return
    if step.changes_policy and (rule := rules.policy or rules.default):
        yield "the policy", rule, force.at("reviews", "policy" if rules.policy else "default")
    if rules.urgent:
        for name in sorted(step.urgent):
            yield f"the urgent deployment {name}", rules.urgent, force.at("reviews", "urgent")
    for site in sorted(step.sites, key=lambda name: name or ""):
        own = rules.sites.get(site) if site else None
        if rule := own or rules.default:
            where = force.at("reviews", "sites", site) if own and site else force.at("reviews", "default")
            yield f"site {site}" if site else "devices without a site", rule, where


def _not_reviewed(
    step: Step,
    force: PolicyInForce,
    subject: str,
    rule: ReviewRule,
    where: Location,
    counted: set[str],
    own: frozenset[str],
) -> ReviewMissing:
    change = f"commit {step.commit}" if step.commit else "this change"
    people = "people" if rule.count > 1 else "person"
    why = [f"{', '.join(sorted(counted))} did"] if counted else []
    if own:
        why.append(f"{', '.join(sorted(own))} wrote the change, and does not count")
    if rule.people:
        why.append(f"who may: {few(rule.people, _SHOWN)}")
    remedy = "merge it with a trailer for each: Reviewed-by: Name <mail>"
    if step.commit:
        remedy = f"{remedy}; if it is merged, add a commit with these trailers and Approves: {step.commit.id}"
    return ReviewMissing(
        f"{change} changes {subject}, which {rule.count} {people} must review",
        where=where,
        why=[*why, *force.origin()],
        remedy=remedy,
    )


Objection = Callable[[Commit, PolicyInForce], str]
"""Why a commit's signature does not count under a policy's list of signers; empty where it does."""


def judge_signatures(steps: Sequence[Step], objection: Objection, *, before_merge: bool = False) -> Verdict | None:
    """Return whether every commit is signed as the policy before it wants; None where none wants it.

    Args:
        steps: of the main line, oldest first.
        before_merge: whether the change is still to be merged: where only the main line must be signed, that comes
            with the merge.
    """
    wanted = [(index, each) for index, step in enumerate(steps) for each in _to_sign(step, before_merge=before_merge)]
    if not any(each.policy.signatures for step in steps for each in step.policies):
        return None
    reasons: dict[tuple[str, str], CommitNotSigned] = {}
    for index, (commit, force) in wanted:
        why = objection(commit, force)
        if why and not any(not objection(other, force) for other in approvals(steps, index, commit.id)):
            reasons.setdefault((commit.id, why), _not_signed(commit, force, why))
    if reasons:
        return Verdict(
            "signatures", "refused", f"commits without an accepted signature: {len(reasons)}", tuple(reasons.values())
        )
    checked = len({commit.id for _, (commit, _) in wanted})
    if not checked:
        return Verdict("signatures", "skipped", "there is no commit yet that must be signed")
    return Verdict("signatures", "passed", f"commits with an accepted signature: {checked}")


def _to_sign(step: Step, *, before_merge: bool) -> Iterator[tuple[Commit, PolicyInForce]]:
    for force in step.policies:
        rule = force.policy.signatures
        if rule is None:
            continue
        if rule.commits == "all":
            yield from ((commit, force) for commit in step.commits())
        elif step.commit is not None and not before_merge:
            yield step.commit, force


def _not_signed(commit: Commit, force: PolicyInForce, why: str) -> CommitNotSigned:
    return CommitNotSigned(
        f"commit {commit} has no signature that counts",
        where=force.at("signatures"),
        why=[why, *force.origin()],
        remedy=f"sign it again, or, if it is merged, add a signed commit with the trailer Approves: {commit.id}",
    )
