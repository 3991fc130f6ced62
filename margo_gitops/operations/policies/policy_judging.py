"""Judge a change by the fleet's policy: what `validate`, `plan` and `render` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet import read_fleet, read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.documents.fleet_kinds import Deployment, Fleet
from margo_gitops.documents.fleet_policy import Policy
from margo_gitops.errors import FleetInvalid, NoFleetRepo, RenderingRefused
from margo_gitops.operations.content_sources import Images, Placed, deployed, placed, sources
from margo_gitops.operations.policies.policy_history import PolicyHistory, Span, policies_want_commits, unusable
from margo_gitops.rendering.changes import DeviceChange
from margo_gitops.rendering.difference import difference, rendered_fleet
from margo_gitops.rendering.intent import Intent, Located
from margo_gitops.rendering.placement import TargetDevice, targets
from margo_gitops.rendering.policies.approvals import judge_reviews, judge_signatures
from margo_gitops.rendering.policies.facts import NO_POLICY, Commit, PolicyInForce, Step, Verdict, refusing
from margo_gitops.rendering.policies.freezes import judge_freezes
from margo_gitops.rendering.policies.sources import judge_applications, judge_registries
from margo_gitops.rendering.render import PlacementsByDevice, affected, place, render
from margo_gitops.values import dataclass, replace


@dataclass(frozen=True, slots=True)
class Change:
    """What is judged.

    Attributes:
        changes: what devices get; asked only where a freeze is on.
        before_merge: whether reviews, and the merge with its signature, are still to come.
        commits: whether signatures and reviews are looked at.
    """

    span: Span
    tree: RootTree
    intent: Intent
    changes: Callable[[], Sequence[DeviceChange]]
    before_merge: bool = False
    commits: bool = True


def judge_change(change: Change) -> tuple[Verdict, ...]:
    """Return what each part of the policy says of a change that can be rendered; nothing where there is no policy.

    Raises:
        PolicyUnusable: the fleet repo's history is not whole.
    """
    history = PolicyHistory(change.span.repo, change.intent.fleet)
    policies = history.result_policies(change.span)
    return (
        *(judge_commits(change.span, history, before_merge=change.before_merge) if change.commits else ()),
        *_present(judge_change_of_devices(change, policies)),
        *judge_content(policies, lambda: _placed(change, policies), change.tree),
        *_of_own(change.tree, change.intent.fleet),
    )


def _placed(change: Change, policies: Sequence[PolicyInForce]) -> Iterable[Placed]:
    """Return the deployments on the devices to judge.

    Of a fleet that is known by a part, the part is enough where what was rendered before obeyed the same policies.
    """
    intent = change.intent
    if intent.clients is not None and any(force.policy != _policy_before(change.span) for force in policies):
        intent = read_fleet(change.tree)
    return placed(intent, place(intent))


def _policy_before(span: Span) -> Policy | None:
    """Return the policy of the commit that was rendered before; None where that is not known."""
    try:
        fleet = read_fleet_document(span.repo.tree(span.base)) if span.base else None
    except (FleetInvalid, NoFleetRepo):
        return None
    return (fleet.value.spec.policy or NO_POLICY) if fleet else None


def _present(verdict: Verdict | None) -> Iterator[Verdict]:
    if verdict is not None:
        yield verdict


def judge_commits(span: Span, history: PolicyHistory, *, before_merge: bool) -> Iterator[Verdict]:
    """Yield what the policy says of signatures and reviews."""
    steps = history.steps(span)
    if not any(policies_want_commits(step.policies) for step in steps):
        return
    yield from _present(judge_signatures(steps, history.objection, before_merge=before_merge))
    if any(force.policy.reviews for step in steps for force in step.policies):
        reviewed = list(with_sites(span.repo, steps))
        yield from _present(judge_reviews(reviewed, before_merge=before_merge))


def judge_change_of_devices(change: Change, policies: Sequence[PolicyInForce]) -> Verdict | None:
    """Return what the policies in force say of the devices that a change reaches; None where they have no freezes."""
    known: list[dict[str, TargetDevice]] = []

    def both(device: str) -> list[TargetDevice]:
        if not known:
            known.extend(targets(intent) for intent in (change.intent, _intent_before(change.span)) if intent)
        return [fleet[device] for fleet in known if device in fleet]

    return judge_freezes(policies, change.span.date(), change.changes, both)


def _intent_before(span: Span) -> Intent | None:
    before = span.base or (span.head if span.revision is None else None)
    try:
        return read_fleet(span.repo.tree(before)) if before else None
    except (FleetInvalid, NoFleetRepo):
        return None


def judge_content(
    policies: Sequence[PolicyInForce], every: Callable[[], Iterable[Placed]], tree: RootTree
) -> Iterator[Verdict]:
    """Yield what the policies in force say of applications and of where their content comes from."""
    if not any(force.policy.applications or force.policy.registries for force in policies):
        return
    found = list(every())
    yield from _present(judge_applications(policies, deployed(found)))
    if any(force.policy.registries for force in policies):
        yield from _present(judge_registries(policies, sources(found, Images(tree))))


def _of_own(tree: RootTree, fleet: Located[Fleet]) -> Iterator[Verdict]:
    """Yield what makes the change's own policy unusable: the next change would be judged by another one."""
    if problems := tuple(unusable(tree, fleet)):
        yield Verdict("files", "refused", "the policy names files that cannot be used", problems)


def refuse_breaches(verdicts: Iterable[Verdict]) -> None:
    """Refuse a change that the policy refuses (RenderingRefused: with every reason)."""
    if errors := refusing(verdicts):
        raise RenderingRefused("the fleet's policy refuses this change", errors)


def with_sites(repo: FleetRepo, steps: Iterable[Step]) -> Iterator[Step]:
    """Yield steps with the sites that they change, by rendering both sides of each (POLICY-3)."""
    before: _Side | None = None
    begun = False
    left: tuple[Commit, ...] = ()
    for step in steps:
        if not begun:
            parents = step.commit.parents[:1] if step.commit else (repo.commit("HEAD").id,)
            before = _side(repo, parents[0]) if parents else None
            begun = True
        after = _side(repo, step.commit.id if step.commit else None)
        reached = _reached(before, after) if after else None
        step = replace(step, brought=(*step.brought, *left))  # with what it answers for
        if reached is None:
            left = tuple(step.commits())
            yield step
        else:
            left = ()
            before = after
            yield replace(step, sites=reached[0], urgent=reached[1])


def _side(repo: FleetRepo, commit: str | None) -> _Side | None:
    """Return what a commit, or for None the files, say; None where that cannot be rendered."""
    try:
        intent = read_fleet(repo.tree(commit) if commit else repo.working_tree())
        return _Side(intent, place(intent))
    except (FleetInvalid, NoFleetRepo, RenderingRefused):
        return None


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a step."""

    intent: Intent
    placed: PlacementsByDevice


def _reached(before: _Side | None, after: _Side) -> tuple[frozenset[str | None], frozenset[str]] | None:
    """Return the sites of the devices that differ between two sides, and the urgent deployments that do.

    None where the second side cannot be rendered.

    Only what a change can concern is rendered; where the first cannot be, all devices differ.
    """
    only = affected(before.intent, before.placed, after.intent, after.placed) if before else None
    held = rendered_fleet(())
    if before is not None:
        with suppress(RenderingRefused):
            held = rendered_fleet(render(before.intent, lambda _device: None, only))
    try:
        states = render(after.intent, held.previous, only)
    except RenderingRefused:
        return None
    intents = (before.intent, after.intent) if before else (after.intent,)
    changes = list(difference(held, states, after.intent))
    sites = frozenset(site for change in changes for site in _sites(change, intents))
    named = {deployment.deployment for change in changes for deployment in change.deployments}
    # What becomes urgent passes windows, and so does each change of it and its removal.
    wanted = after.intent.deployments
    gone = (
        {} if before is None else {name: each for name, each in before.intent.deployments.items() if name not in wanted}
    )
    urgent = {name for name, each in {**gone, **wanted}.items() if each.value.spec.urgent and name in named}
    urgent |= {name for name, each in wanted.items() if each.value.spec.urgent and _is_new(name, each, before)}
    return sites, frozenset(urgent)


def _is_new(name: str, after: Located[Deployment], before: _Side | None) -> bool:
    held = before.intent.deployments.get(name) if before is not None else None
    return held is None or held.value != after.value


def _sites(change: DeviceChange, intents: Iterable[Intent]) -> Iterator[str | None]:
    """Yield the sites of a device and its children, as they were and as they are."""
    yield change.site
    if change.change != "added":
        yield change.site_before
    for intent in intents:
        for deployment in change.deployments:
            if deployment.device in intent.devices:
                yield intent.devices[deployment.device].value.spec.site
