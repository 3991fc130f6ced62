"""Plan: what a render would change, by the very code that renders; nothing is written.

The base is the state repo as it is, or another commit of the fleet repo. Then both sides are rendered from nothing, and
no state repo is read: what a merge request changes, whatever was rendered meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.catalog.fleet_repo import FleetCommit, FleetRepo
from margo_gitops.documents.device_id import FLEET_REF, client_of
from margo_gitops.errors import (
    ExitCode,
    Finding,
    FleetCommitUnknown,
    FleetInvalid,
    InvalidDocument,
    MargoGitopsError,
    ReferenceUnknown,
    RenderingRefused,
)
from margo_gitops.renderer.fleet_input import FleetInput, StateTarget, open_state, state_location
from margo_gitops.renderer.guards import refuse_foreign
from margo_gitops.renderer.run import rendered_states, without_collections
from margo_gitops.rendering.desired_state import DesiredState, raised
from margo_gitops.rendering.difference import FleetState, difference, rendered_fleet
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.plan import Plan, Refusal, make_plan
from margo_gitops.rendering.render import render
from margo_gitops.state_repo.remote import is_remote
from margo_gitops.state_repo.state_repo import NO_SITE, device_of

WORKING_TREE = "working tree"


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to plan.

    Attributes:
        fleet: a folder in the fleet repo.
        revision: the commit that would be rendered; None: the files as they are now.
        base: the commit to compare with; None: the state repo as it is.
        state: where the state repo is; None: as the fleet says.
        cache: a folder for mirrors of remote state repos.
        device: show only what concerns this one; None: all.
    """

    fleet: Path
    revision: str | None
    base: str | None
    state: str | None
    cache: Path
    device: str | None = None


Render = Callable[[Intent, StateTarget, dict[str, str]], tuple[DesiredState, ...]]
"""How the state of every device is made: `rendered_states`, or what gives the same with less work."""


def plan_fleet(request: PlanRequest, renders: Render = rendered_states) -> Plan:
    """Return what a render would change, or why it would be refused.

    Args:
        request: what to plan.
        renders: makes the states that are compared with the state repo.

    Raises:
        MargoGitopsError: the fleet repo or the state repo cannot be read, or the base cannot be rendered.
        ReferenceUnknown: the device that was asked for is on neither side.
    """
    plan = _whole_plan(request, renders)
    return only_device(plan, request.device) if request.device is not None else plan


def _whole_plan(request: PlanRequest, renders: Render) -> Plan:
    repo = FleetRepo.find(request.fleet)
    subject = repo.commit(request.revision).id if request.revision else WORKING_TREE
    base = f"commit {repo.commit(request.base).id[:12]}" if request.base else "the state repo"
    try:
        intent = _read(repo, request.revision)
        if request.base:
            before = _rendered_before(repo, request.base)
            with without_collections():
                states = render(intent, before.previous)
            return _plan(request, subject, base, before, states, intent)
        return _plan_after_state(request, repo, subject, intent, renders)
    except (FleetInvalid, RenderingRefused) as error:
        return make_plan(subject, base, (), refusals=refusals(error))


def _read(repo: FleetRepo, revision: str | None) -> Intent:
    with without_collections():
        return read_fleet(repo.tree(revision) if revision else repo.working_tree())


def _rendered_before(repo: FleetRepo, revision: str) -> FleetState:
    try:
        with without_collections():
            return rendered_fleet(render(_read(repo, revision), lambda _device: None))
    except (FleetInvalid, RenderingRefused) as error:
        raise FleetCommitUnknown(
            f"the base {revision} cannot be rendered, so nothing can be compared with it",
            why=[str(reason) for reason in _errors(error)][:5],
            remedy="name a base that can, or leave --base out to compare with the state repo",
        ) from error


def _plan_after_state(request: PlanRequest, repo: FleetRepo, subject: str, intent: Intent, renders: Render) -> Plan:
    location = state_location(repo.root, intent, request.state)
    if not is_remote(location) and _nothing_at(Path(location)):
        with without_collections():
            states = render(intent, lambda _device: None)
        note = f"there is no state repo at {location} yet: the first render makes it"
        return _plan(request, subject, "nothing", rendered_fleet(()), states, intent, [note])
    target = open_state(location, request.cache, create=False)
    try:
        return _plan_after(request, repo, subject, intent, target, renders)
    finally:
        target.release()


def _plan_after(
    request: PlanRequest, repo: FleetRepo, subject: str, intent: Intent, target: StateTarget, renders: Render
) -> Plan:
    values = target.repo.refs.read()
    refuse_foreign(FleetInput(repo, _NO_COMMIT, intent), target, values)
    states = renders(intent, target, values)
    if intent.fleet.value.spec.signing.required:
        # A render of this fleet has a key, and gives what nobody signed a new version.
        states = tuple(
            state if state.changed or target.repo.signature(state.device, values) else raised(state) for state in states
        )
    sites = {
        device_of(encoded): None if site == NO_SITE else site
        for encoded, (site, _) in target.repo.fleet_tree(values).items()
    }
    before = FleetState(sites, lambda device: target.repo.held(device, values))
    rendered = _rendered_from(target, values)
    base = f"the state repo, rendered from {rendered[:12]}" if rendered else "the state repo"
    notes = _behind(repo, request.revision or "HEAD", rendered)
    return _plan(request, subject, base, before, states, intent, notes)


_NO_COMMIT = FleetCommit("", "", "", 0, 0, "")
"""The working tree is of no commit."""


def _nothing_at(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _rendered_from(target: StateTarget, values: dict[str, str]) -> str:
    tip = values.get(FLEET_REF)
    return target.repo.commit(tip).trailers.get("Fleet-Commit", "") if tip else ""


def _behind(repo: FleetRepo, revision: str, rendered: str) -> Iterator[str]:
    """Yield a note where what was rendered last is not part of what would be: then the plan undoes it."""
    try:
        head = repo.commit(revision).id
    except FleetCommitUnknown:
        return
    if rendered and rendered != head and repo.knows(rendered) and not repo.is_ancestor(rendered, head):
        yield (
            f"the state repo was rendered from {rendered[:12]}, which {revision} does not contain: the plan shows its"
            " changes as undone, and a render is refused until it is merged; --base shows this branch's changes alone"
        )


def _plan(
    request: PlanRequest,
    subject: str,
    base: str,
    before: FleetState,
    states: Sequence[DesiredState],
    intent: Intent,
    notes: Iterable[str] = (),
) -> Plan:
    if request.device is not None and not {request.device, client_of(request.device)} & {
        *intent.devices,
        *before.sites,
    }:
        raise ReferenceUnknown(f"{request.device} is no device of this fleet", remedy="list them: ls devices/")
    with without_collections():
        changes = tuple(difference(before, states, intent))
    here = sum(change.change != "removed" for change in changes)
    return make_plan(subject, base, changes, unchanged=len(states) - here, notes=notes)


def refusals(error: FleetInvalid | RenderingRefused) -> tuple[Refusal, ...]:
    """Return every reason of a refusal."""
    return tuple(map(_refusal, _errors(error)))


def _errors(error: FleetInvalid | RenderingRefused) -> Sequence[MargoGitopsError | Finding]:
    return error.findings if isinstance(error, FleetInvalid) else error.errors


def _refusal(reason: MargoGitopsError | Finding) -> Refusal:
    why: tuple[str, ...]
    device: str | None
    if isinstance(reason, Finding):
        where, rule, why, device = reason.location, reason.rule or InvalidDocument.code, (), None
        message = f"{reason.path}: {reason.message}" if reason.path else reason.message
    else:
        where, rule, why, device, message = reason.where, reason.code, reason.why, reason.device, reason.what
    return Refusal(
        rule=rule,
        message=message,
        file=where.file if where else None,
        line=where.line if where else None,
        column=where.column if where else None,
        device=device,
        why=why,
        remedy=reason.remedy,
    )


def only_device(plan: Plan, device: str) -> Plan:
    """Return the part of a plan that concerns one device; for a gateway's child, its gateway."""
    client = client_of(device)
    found = [each for each in plan.devices if each.device == client]
    reasons = [each for each in plan.refusals if each.device in (device, client)]
    return make_plan(
        plan.subject, plan.base, found, unchanged=0 if found else 1, notes=plan.notes, refusals=reasons or plan.refusals
    )


def exit_code(plan: Plan) -> ExitCode:
    """Return what the command ends with: 0 no difference, 1 differences, 2 the render would be refused."""
    if plan.refusals:
        return ExitCode.USAGE
    return ExitCode.FINDINGS if plan.devices else ExitCode.OK
