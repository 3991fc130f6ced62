"""What the fleet's policy says, as findings of `validate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.errors import FleetInvalid, NoFleetRepo, RenderingRefused
from margo_gitops.operations.content_sources import Placed
from margo_gitops.operations.policies.policy_history import PolicyHistory, Span, unusable
from margo_gitops.operations.policies.policy_judging import (
    Change,
    judge_change_of_devices,
    judge_commits,
    judge_content,
)
from margo_gitops.operations.validate.rule_findings import RuleFinding, of_error, of_rule
from margo_gitops.operations.validate.rules import RULES
from margo_gitops.rendering.changes import DeviceChange
from margo_gitops.rendering.difference import difference, rendered_fleet
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.policies.facts import PolicyInForce, Verdict
from margo_gitops.rendering.policies.freezes import ended_freezes
from margo_gitops.rendering.render import render
from margo_gitops.wording import did_you_mean


def policy_of_content(
    tree: RootTree, intent: Intent, every: Sequence[Placed], span: Span | None
) -> Iterator[RuleFinding]:
    """Yield applications and sources that are not allowed, and what makes the policy itself unusable.

    Args:
        intent: what they say, as far as it can be read.
        every: the deployments on devices that could be resolved.
        span: the change; None: the files are judged by their own policy alone.
    """
    own = (PolicyInForce(intent.fleet, None, intent.fleet),)
    policies = PolicyHistory(span.repo, intent.fleet).result_policies(span) if span else own
    yield from _of_verdicts(judge_content(policies, lambda: every, tree))
    yield from map(of_error, unusable(tree, intent.fleet))
    yield from _unknown_sites(own[0], intent)
    if span is not None:
        yield from _ended(own[0], span.date())


def idle_silences(intent: Intent, found: Sequence[RuleFinding]) -> Iterator[RuleFinding]:
    """Yield the lines of the policy that silence none of the warnings in `found`, or what is not a rule."""
    force = PolicyInForce(intent.fleet, None, intent.fleet)
    complete = all(each.severity != "error" for each in found)
    for index, line in enumerate(force.policy.silenced):
        if line.rule not in RULES:
            where, remedy = force.at("silenced", index, "rule"), did_you_mean(line.rule, RULES)
            yield of_rule("R303", f"the policy silences {line.rule}, which is not a rule", where, remedy)
        # What is wrong elsewhere may hide warnings.
        elif complete and not any(each.severity == "warning" and line.covers(each.rule, each.file) for each in found):
            message = f"the policy silences {line.rule} in {line.files}, where there is no such warning"
            yield of_rule("R304", message, force.at("silenced", index), "remove the line, or correct its files")


def _unknown_sites(force: PolicyInForce, intent: Intent) -> Iterator[RuleFinding]:
    """Yield the sites that a policy names in vain: a wrong name would weaken it silently."""
    policy = force.policy
    by_site = {"reviews": policy.reviews, "applications": policy.applications, "registries": policy.registries}
    named: list[tuple[str, tuple[str | int, ...]]] = [
        (site, (part, "sites", site)) for part, rules in by_site.items() if rules is not None for site in rules.sites
    ]
    for index, freeze in enumerate(policy.freezes):
        named += [(site, ("freezes", index, "match", "sites", at)) for at, site in enumerate(freeze.match.sites)]
    remedy = f"known: {', '.join(sorted(intent.sites)) or 'none'}"
    for site, path in named:
        if site not in intent.sites:
            yield of_rule("R302", f"the policy names {site}, which is not a site", force.at(*path), remedy)


def _ended(force: PolicyInForce, at: int) -> Iterator[RuleFinding]:
    for where, freeze in ended_freezes(force, at):
        yield of_rule("R301", f"the freeze is over since {freeze.ends}: {freeze.reason}", where, "remove it")


def policy_of_change(
    tree: RootTree,
    span: Span,
    before: Callable[[], Intent],
    after: Callable[[], Intent],
    *,
    before_merge: bool,
) -> Iterator[RuleFinding]:
    """Yield what the policy says of a change: freezes, signatures and reviews.

    Nothing is said about a fleet that cannot be rendered: other findings say why, and it reaches no device.

    Args:
        before: returns the fleet before it, or a part with all that the change concerns.
        after: returns the same after it.
    """
    try:
        intent = after()
        history = PolicyHistory(span.repo, intent.fleet)
        policies = history.result_policies(span)
        change = Change(span, tree, intent, lambda: _changes(before, intent), before_merge)
        frozen = judge_change_of_devices(change, policies)
        yield from _of_verdicts([frozen] if frozen else [])
        yield from _of_verdicts(judge_commits(span, history, before_merge=before_merge))
    except (FleetInvalid, NoFleetRepo, RenderingRefused):
        return


def _changes(before: Callable[[], Intent], after: Intent) -> list[DeviceChange]:
    """Return what a change does to devices, by rendering both sides."""
    held = rendered_fleet(())
    with suppress(FleetInvalid, NoFleetRepo, RenderingRefused):
        held = rendered_fleet(render(before(), lambda _device: None))
    return list(difference(held, render(after, held.previous), after))


def _of_verdicts(verdicts: Iterable[Verdict]) -> Iterator[RuleFinding]:
    for each in verdicts:
        yield from (of_error(reason, "note" if each.outcome == "pending" else "error") for reason in each.reasons)
