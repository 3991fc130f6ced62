"""Plan: what a render would change, by the code that renders; nothing is written.

The base is the state repo as it is, or another commit of the fleet repo. Then both sides are rendered from nothing, and
no state repo is read: renders meanwhile do not change the result.

The plan of one device reads and renders what this device needs. It does not say what is wrong with others.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.catalog.fleet_part import read_part
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.fleet_trust import allowed_key, read_chain
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.state_layout import is_remote
from margo_gitops.errors import (
    ExitCode,
    FleetCommitUnknown,
    FleetInvalid,
    ReferenceUnknown,
    RenderingRefused,
)
from margo_gitops.errors.base import listed
from margo_gitops.operations.content_sources import placed
from margo_gitops.operations.fleet_input import (
    FleetInput,
    StateTarget,
    open_state,
    other_signer,
    other_signer_note,
    refuse_foreign,
    rendered_from,
    state_location,
)
from margo_gitops.operations.plan.comparison import (
    Sides,
    cannot_take,
    judgement,
    planned,
    reasons,
    refusals,
    with_verdicts,
)
from margo_gitops.operations.plan.switching_times import switching_times
from margo_gitops.operations.policies.policy_history import Span
from margo_gitops.operations.render.changed_part import Seal
from margo_gitops.operations.render.rendered_part import (
    Render,
    begun,
    held_fleet,
    render_changed,
    rendered_states,
    signed_anew,
)
from margo_gitops.operations.validate.device_policies import refused_by_devices
from margo_gitops.operations.validate.fleet_validation import validate_tree
from margo_gitops.operations.validate.rule_findings import make_validation
from margo_gitops.processes import without_collections
from margo_gitops.rendering.changes import Plan, Refusal, make_plan
from margo_gitops.rendering.desired_state import DesiredState, raised
from margo_gitops.rendering.difference import FleetState, rendered_fleet
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.render import find_placements, render
from margo_gitops.state_repo.packed_refs import RefValues
from margo_gitops.state_repo.trust_branch import held_version
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.trust_document import FleetTrust
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import counted, did_you_mean

WORKING_TREE = "working tree"


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to plan.

    Attributes:
        revision: the commit that would be rendered; None: the files as they are now.
        base: the commit to compare with; None: the state repo as it is.
        state: where the state repo is; None: as the fleet says.
        cache: a folder for mirrors of remote state repos.
        device: show only what concerns this one; None: all.
        key: what a render would sign with; None: a key that signs nothing again.
        resign: whether that render would sign again what another key signed.
        at: the date of files that are not committed, for freezes, in seconds since 1970-01-01 UTC; None: HEAD's.
        before_merge: whether reviews, and the merge with its signature, are still to come.
        commits: whether the policy looks at commits: signatures and reviews.
        policy_command: whether the policy's command may be run.
        helm: the program that templates charts; None: no helm program.
    """

    fleet: Path
    revision: str | None
    base: str | None
    state: str | None
    cache: Path
    device: str | None = None
    key: SigningKey | None = None
    resign: bool = False
    at: int | None = None
    before_merge: bool = False
    commits: bool = True
    policy_command: bool = False
    helm: Path | None = None


def plan_fleet(request: PlanRequest, renders: Render | None = None) -> Plan:
    """Return what a render would change, or why it would be refused.

    Args:
        renders: makes the states of the whole fleet that are compared with the state repo; None: `rendered_states`.

    Raises:
        MargoGitopsError: the fleet repo or the state repo cannot be read, or the base cannot be rendered.
        ReferenceUnknown: the device that was asked for is on neither side.
    """
    plan = _plan(request, renders)
    return only_device(plan, request.device) if request.device is not None else plan


def _plan(request: PlanRequest, renders: Render | None) -> Plan:
    repo = FleetRepo.find(request.fleet)
    subject = repo.last_change(request.revision).id if request.revision is not None else WORKING_TREE
    base = f"commit {repo.commit(request.base).id[:12]}" if request.base is not None else "the state repo"
    tree: RootTree = repo.working_tree() if request.revision is None else repo.tree(request.revision)
    try:
        with without_collections():
            fleet = begun(repo, tree, request.revision)
            if request.base is not None or request.device is not None:
                fleet = replace(fleet, intent=_read(tree, request.device))
        planning = _Planning(request, repo, subject, tree, fleet.intent)
        if request.base is not None:
            before = _rendered_before(repo, request.base, request.device)
            with without_collections():
                states = render(fleet.intent, before.previous)
            return planning.plan(base, before, states, repo.commit(request.base).id)
        return _plan_after_state(planning, fleet, renders)
    except (FleetInvalid, RenderingRefused) as error:
        found = _every_refusal(refusals(error), tree, request.device)
        sites = cannot_take(found, _read(tree, request.device)) if isinstance(error, RenderingRefused) else ()
        return make_plan(subject, base, (), refusals=found, cannot_take=sites)


def _read(tree: RootTree, device: str | None) -> Intent:
    return read_part(tree, {client_of(device)}) if device is not None else read_fleet(tree)


def _every_refusal(found: tuple[Refusal, ...], tree: RootTree, device: str | None) -> tuple[Refusal, ...]:
    """Return the reasons of a refusal, and the errors of `validate` that a render does not come to."""
    known = {(each.rule, each.file, each.line, each.column) for each in found}
    more = [
        Refusal(each.rule, each.message, each.file, each.line, each.column, each.device, each.why, each.remedy)
        for each in validate_tree(tree, WORKING_TREE, device).findings
        if each.severity == "error" and (each.rule, each.file, each.line, each.column) not in known
    ]
    return (*found, *more)


@dataclass(frozen=True, slots=True)
class _Planning:
    """What is planned: a request, and the fleet that it names."""

    request: PlanRequest
    repo: FleetRepo
    subject: str
    tree: RootTree
    intent: Intent

    def plan(
        self,
        base: str,
        before: FleetState,
        states: tuple[DesiredState, ...],
        base_commit: str | None,
        notes: Iterable[str] = (),
    ) -> Plan:
        """Return the plan, and what the policy says of it.

        Args:
            base: what it is compared with, for people.
            base_commit: the commit that `before` was rendered from; None where that is not known.
        """
        request = self.request
        concerned = {request.device, client_of(request.device)} if request.device is not None else ()
        if concerned and not concerned & {*self.intent.devices, *before.sites}:
            remedy = did_you_mean(request.device or "", read_fleet(self.tree).devices)
            raise ReferenceUnknown(f"{request.device} is not a device of this fleet", remedy=remedy)
        sides = Sides(self.subject, base, before, states, self.intent, self.tree)
        revision = self.subject if request.revision is not None else None
        at = self._head_date() if request.at is None else request.at
        span = Span(self.repo, revision, base_commit, named=request.base is not None, at=at)
        with without_collections():
            made = planned(sides, notes, request.helm)
            switched = switching_times(made.devices, sides.intent, at if request.at is not None else time.time())
            made = replace(made, notes=(*made.notes, *listed(_refused_by_devices(sides, made)), *listed(switched)))
            verdicts = judgement(
                sides,
                span,
                lambda: made,
                before_merge=request.before_merge,
                commits=request.commits,
                command=request.policy_command,
            )
            return with_verdicts(made, verdicts)

    def _head_date(self) -> int:
        try:
            return self.repo.history().commit(self.repo.commit("HEAD").id).committed_at
        except FleetCommitUnknown:
            return 0


def _rendered_before(repo: FleetRepo, revision: str, device: str | None) -> FleetState:
    try:
        with without_collections():
            return rendered_fleet(render(_read(repo.tree(revision), device), lambda _device: None))
    except (FleetInvalid, RenderingRefused) as error:
        raise FleetCommitUnknown(
            f"the base {revision} cannot be rendered, so nothing can be compared with it",
            why=[str(reason) for reason in reasons(error)][:5],
            remedy="name a base that can, or leave --base out to compare with the state repo",
        ) from error


def _plan_after_state(planning: _Planning, fleet: FleetInput, renders: Render | None) -> Plan:
    request = planning.request
    chain = read_chain(planning.tree, planning.intent.fleet.value.metadata.name)
    trusted = chain.versions if chain else ()
    if chain is not None and request.key is not None:
        allowed_key(chain.required(), request.key.public, "render")
    location = state_location(planning.repo.root, planning.intent.fleet.value, request.state)
    if not is_remote(location) and _nothing_at(Path(location)):
        with without_collections():
            planning = replace(planning, intent=_read(planning.tree, request.device))
            states = render(planning.intent, lambda _device: None)
        note = f"there is no state repo at {location} yet: the first render makes it"
        return planning.plan("nothing", rendered_fleet(()), states, None, [note])
    seal = None if request.resign else Seal.of(request.cache, location)
    with open_state(location, request.cache, create=False) as target:
        values = target.repo.refs.read()
        refuse_foreign(fleet, target, values)
        if len(trusted) != (held_version(target.repo.objects, values) or 0):
            seal = None
        if request.device is not None:
            states = rendered_states(fleet.intent, target, values)
        else:
            fleet, states = render_changed(fleet, target, values, seal, request.key, renders)
        return _plan_after(replace(planning, intent=fleet.intent), target, values, states, trusted)


def _plan_after(
    planning: _Planning,
    target: StateTarget,
    values: RefValues,
    states: tuple[DesiredState, ...],
    trusted: tuple[FleetTrust, ...],
) -> Plan:
    request, repo, intent = planning.request, planning.repo, planning.intent
    if request.key is not None:
        newest = trusted[-1] if trusted else None
        states = tuple(signed_anew(states, target, values, request.key, others=request.resign, trust=newest))
    elif intent.fleet.value.spec.signing.required:
        # A render of this fleet has a key, and gives what nobody signed a new version.
        states = tuple(
            state if state.changed or target.repo.signature(state.device, values) else raised(state) for state in states
        )
    rendered = rendered_from(target, values)
    notes = list(_behind(repo, request.revision or "HEAD", rendered))
    if request.key is not None and not (trusted or request.resign) and any(state.changed for state in states):
        before = other_signer(target, values, request.key)
        notes += [other_signer_note(before)] if before is not None else []
    base = f"the state repo, rendered from {rendered[:12]}" if rendered else "the state repo"
    known = rendered if rendered and repo.knows(rendered) else None
    return planning.plan(base, held_fleet(target, values, intent), states, known, notes)


def _refused_by_devices(sides: Sides, plan: Plan) -> Iterator[str]:
    """Yield a note for each part of a compose file that devices which change will refuse (docs/workload-policy.md)."""
    changed = {each.device for each in plan.devices}
    devices = {name: device for name, device in sides.intent.devices.items() if client_of(name) in changed}
    part = replace(sides.intent, devices=devices)
    placements, _ = find_placements(part)
    found = make_validation(plan.subject, None, list(refused_by_devices(sides.tree, part, placed(part, placements))))
    for each in found.findings:
        others = f" and {counted(each.devices - 1, 'more device')}" if each.devices > 1 else ""
        yield f"device {each.device}{others} will refuse {each.message} [{each.rule}]; {each.remedy}"


def _nothing_at(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _behind(repo: FleetRepo, revision: str, rendered: str) -> Iterator[str]:
    """Yield a note where what was rendered last is not part of what would be: then the plan undoes it."""
    try:
        head = repo.commit(revision).id
    except FleetCommitUnknown:
        return
    if not rendered or rendered == head or repo.is_ancestor(rendered, head):
        return
    if not repo.knows(rendered):
        remedy = "the whole history: git fetch --unshallow" if repo.is_shallow else "the newest commits: git fetch"
        yield (
            f"the state repo was rendered from {rendered[:12]}, which this clone lacks: a render is refused until it"
            f" has it; fetch {remedy}"
        )
    else:
        yield (
            f"the state repo was rendered from {rendered[:12]}, which {revision} does not contain: the plan shows its"
            " changes as undone, and a render is refused until it is merged; --base shows this branch's changes alone"
        )


def only_device(plan: Plan, device: str) -> Plan:
    """Return the part of a plan that concerns one device; for a gateway's child, its gateway."""
    client = client_of(device)
    found = [each for each in plan.devices if each.device == client]
    named = [each for each in plan.refusals if each.device in (device, client)]
    return make_plan(
        plan.subject,
        plan.base,
        found,
        unchanged=0 if found else 1,
        notes=plan.notes,
        refusals=named or plan.refusals,
        cannot_take=plan.cannot_take,
        policy=plan.policy,
    )


def exit_code(plan: Plan) -> ExitCode:
    """Return what the command ends with: 0 no difference, 1 differences, 2 the render would be refused."""
    if plan.refused:
        return ExitCode.USAGE
    return ExitCode.FINDINGS if plan.devices else ExitCode.OK
