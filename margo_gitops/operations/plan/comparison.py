"""What a render would change, what devices download for it, and what the fleet's policy says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from margo_gitops.catalog.file_tree import FileTree, RootTree
from margo_gitops.digests import Digest
from margo_gitops.documents.deployment import ApplicationDeployment
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.records import write
from margo_gitops.errors import (
    Finding,
    FleetInvalid,
    MargoGitopsError,
    PolicyUnusable,
    RenderingRefused,
    UnreadableDocument,
)
from margo_gitops.operations.content_sources import Images, content_by_digest
from margo_gitops.operations.policies.policy_command import judge_by_command
from margo_gitops.operations.policies.policy_history import PolicyHistory, Span
from margo_gitops.operations.policies.policy_judging import Change, judge_change
from margo_gitops.operations.validate.rule_findings import of_error, of_finding
from margo_gitops.rendering.changes import Plan, PolicyVerdict, Refusal, SiteRefusal, make_plan
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.rendering.difference import FleetState, deployment_document, difference
from margo_gitops.rendering.intent import ComponentContent, Intent
from margo_gitops.rendering.policies.facts import Verdict
from margo_gitops.values import dataclass, field, fields, replace


@dataclass(slots=True)
class VendoredContent:
    """What the fleet repo says of content, by its digest; looked up when somebody asks."""

    intent: Intent
    tree: FileTree
    _known: Mapping[Digest, ComponentContent] | None = None
    _images: Images = field(init=False)

    def __post_init__(self) -> None:
        self._images = Images(self.tree)

    def _content(self, digest: str) -> ComponentContent | None:
        if self._known is None:
            self._known = content_by_digest(self.intent)
        return self._known.get(Digest(digest))

    def size(self, digest: str) -> int | None:
        """Return its bytes; None where that is not known."""
        content = self._content(digest)
        return content.size if content else None

    def images(self, digest: str) -> frozenset[str]:
        """Return the images that it names; those of a file that cannot be looked into count as one."""
        content = self._content(digest)
        if content is None or "://" in content.location:
            return frozenset()
        try:
            return frozenset(each.image or f"built for {each.service}" for each in self._images.of(content))
        except UnreadableDocument:
            return frozenset({f"named by {digest}"})


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides of a plan."""

    subject: str
    base: str
    before: FleetState
    states: Sequence[DesiredState]
    intent: Intent
    tree: RootTree


def planned(sides: Sides, notes: Iterable[str] = (), helm: Path | None = None) -> Plan:
    """Return what a render would change; the policy is not asked (StateTampered: what is there cannot be read).

    Args:
        helm: the program that templates charts; None: no helm program.
    """
    from margo_gitops.operations.plan.chart_templates import ChartTemplates
    from margo_gitops.operations.plan.object_changes import ObjectChanges

    facts = VendoredContent(sides.intent, sides.tree)
    states = {state.device: state for state in sides.states}

    def documents(client: str, identity: str) -> tuple[ApplicationDeployment | None, ApplicationDeployment | None]:
        held, state = sides.before.previous(client), states.get(client)
        contents = held.deployment(identity) if held else None, state.deployments.get(identity) if state else None
        before, after = (deployment_document(identity, each, client) if each else None for each in contents)
        return before, after

    objects = ObjectChanges(sides.intent, sides.tree, ChartTemplates(helm), documents)
    changes = objects.of(tuple(difference(sides.before, sides.states, sides.intent, facts)))
    notes = (*notes, *objects.told())
    here = sum(change.change != "removed" for change in changes)
    unchanged = sides.before.kept + len(sides.states) - here
    return make_plan(sides.subject, sides.base, changes, unchanged=unchanged, notes=notes)


def judgement(
    sides: Sides,
    span: Span,
    plan: Callable[[], Plan],
    *,
    before_merge: bool = False,
    commits: bool = True,
    command: bool = False,
) -> tuple[Verdict, ...]:
    """Return what the fleet's policy says; nothing if the fleet has no policy.

    Args:
        plan: makes the plan; called only where a part of the policy needs it.
        before_merge: whether reviews, and the merge with its signature, are still to come.
        commits: whether signatures and reviews are judged.
        command: whether the policy's command may run.

    Raises:
        PolicyUnusable: the policy cannot be applied.
    """
    change = Change(span, sides.tree, sides.intent, lambda: plan().devices, before_merge, commits)
    verdicts = judge_change(change)
    by_command = _by_command(sides, span, lambda: with_verdicts(plan(), verdicts), allowed=command)
    return (*verdicts, by_command) if by_command else verdicts


def with_verdicts(plan: Plan, verdicts: Iterable[Verdict]) -> Plan:
    """Return a plan that says what the fleet's policy says."""
    return replace(plan, policy=tuple(map(verdict, verdicts)))


def _by_command(sides: Sides, span: Span, plan: Callable[[], Plan], *, allowed: bool) -> Verdict | None:
    force = PolicyHistory(span.repo, sides.intent.fleet).judging(span)
    own = sides.intent.fleet.value.spec.policy
    if force is None or not force.policy.command:
        if own is not None and own.command:
            return Verdict("command", "skipped", "the command judges from the next change on, not the one that adds it")
        return None
    if not allowed:
        return Verdict(
            "command",
            "skipped",
            f"{force.policy.command[0]} was not run: no one asked for it (--allow-policy-command)",
        )
    return judge_by_command(span.repo, force, json.dumps(write(plan()), ensure_ascii=False).encode())


def refuse_skipped_command(verdicts: Iterable[Verdict], sides: Sides, span: Span) -> None:
    """Refuse a render without the policy's command (PolicyUnusable: the policy in force has one that was not run)."""
    force = PolicyHistory(span.repo, sides.intent.fleet).judging(span)
    if force is None or not force.policy.command:
        return
    if any(each.part == "command" and each.outcome == "skipped" for each in verdicts):
        raise PolicyUnusable(
            "the fleet's policy has a command, and no one asked to run it",
            where=force.at("command"),
            why=[f"command: {' '.join(force.policy.command)}"],
            remedy="look at what it does, and pass --allow-policy-command",
        )


def reasons(error: FleetInvalid | RenderingRefused) -> Sequence[MargoGitopsError | Finding]:
    """Return every reason of a refusal."""
    return error.findings if isinstance(error, FleetInvalid) else error.errors


def refusals(error: FleetInvalid | RenderingRefused) -> tuple[Refusal, ...]:
    """Return every reason of a refusal, as a plan tells it."""
    return tuple(map(refusal, reasons(error)))


def refusal(reason: MargoGitopsError | Finding) -> Refusal:
    """Return one reason, as a plan tells it."""
    found = of_finding(reason) if isinstance(reason, Finding) else of_error(reason)
    return Refusal(**{each.name: getattr(found, each.name) for each in fields(Refusal)})


def verdict(found: Verdict) -> PolicyVerdict:
    """Return what a policy says, as a plan tells it."""
    return PolicyVerdict(
        part=found.part, outcome=found.outcome, message=found.message, reasons=tuple(map(refusal, found.reasons))
    )


def cannot_take(found: Iterable[Refusal], intent: Intent) -> tuple[SiteRefusal, ...]:
    """Return the devices that refusals name, by site; a gateway's child is at the gateway's site."""
    sites: dict[str | None, set[str]] = {}
    for each in found:
        if each.device is not None and each.device in intent.devices:
            client = client_of(each.device)
            place = intent.devices.get(client, intent.devices[each.device])
            sites.setdefault(place.value.spec.site, set()).add(each.device)
    return tuple(SiteRefusal(site, tuple(sorted(sites[site]))) for site in sorted(sites, key=lambda name: name or ""))
