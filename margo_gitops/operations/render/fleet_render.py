"""Render a fleet commit into the state repo, or say whether it already is there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from margo_gitops.catalog.fleet_repo import FleetCommit, FleetRepo
from margo_gitops.catalog.fleet_trust import TrustChain, read_chain, refuse_untrusted
from margo_gitops.documents.freshness import parse_valid_for
from margo_gitops.documents.state_layout import FLEET_REF, device_ref
from margo_gitops.errors import (
    SigningKeyUnusable,
    StateRepoEmpty,
)
from margo_gitops.operations.fleet_input import (
    FleetInput,
    StateTarget,
    aliases_of,
    open_state,
    other_signer,
    provenance,
    refuse_foreign,
    refuse_older,
    refuse_other_branch,
    rendered_from,
)
from margo_gitops.operations.plan.comparison import Sides, judgement, planned, refuse_skipped_command
from margo_gitops.operations.policies.policy_history import Span
from margo_gitops.operations.policies.policy_judging import refuse_breaches
from margo_gitops.operations.render.changed_part import Seal
from margo_gitops.operations.render.divided_states import divided_states
from margo_gitops.operations.render.rendered_part import (
    begun,
    held_fleet,
    looked_at,
    render_changed,
    rendered_states,
    signed_anew,
    whole,
)
from margo_gitops.processes import without_collections
from margo_gitops.rendering.changes import Plan
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.rendering.intent import Intent
from margo_gitops.state_repo.freshness_refs import DEFAULT_VALID_FOR, Renewal
from margo_gitops.state_repo.packed_refs import RefValues
from margo_gitops.state_repo.publication import Publication, SharedWork, differences, write_render
from margo_gitops.state_repo.trust_branch import held_version
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """What to render.

    Attributes:
        state: where the state repo is; None: as the fleet says.
        cache: a folder for mirrors of remote state repos.
        allow_older: render a commit that does not build on the one rendered before.
        resign: sign everything again that another key signed.
        freshness_key: signs a statement of freshness; None: `key` does, where the fleet has `spec.freshness`.
        create: render into a state repo that is empty, also where the fleet has a trust document.
        other_branch: render a commit that is not on the branch which devices get.
        policy_command: whether the policy's command may be run.
        jobs: how many processes; None: one for each processor, in large fleets.
    """

    fleet: Path
    revision: str
    state: str | None
    cache: Path
    key: SigningKey | None = None
    allow_older: bool = False
    resign: bool = False
    freshness_key: SigningKey | None = None
    now: datetime | None = None
    policy_command: bool = False
    other_branch: bool = False
    create: bool = False
    jobs: int | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a render did.

    Attributes:
        uncommitted: files that differ from the fleet repo's HEAD, and were not rendered.
        unattested: the fleet has `spec.freshness`, but no key signed a statement.
        first: the state repo held no state before.
        cloned: the fleet repo has a remote, so that other clones may have rendered it.
        trust_version: of the trust document that counts; None in a fleet without one.
        signer_before: fingerprint of the key that signed the state until now, if another one signs from now on and no
            trust document or `resign` says that this is meant; empty: it was not signed.
        redirected_to: where the state repo's host sent git on to; empty: nowhere.
    """

    commit: FleetCommit
    location: str
    publication: Publication
    uncommitted: tuple[str, ...]
    unattested: bool = False
    first: bool = False
    cloned: bool = False
    trust_version: int | None = None
    signer_before: str | None = None
    redirected_to: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """How a state repo differs from what a fleet commit renders to.

    Attributes:
        signer_before: as `Rendered` has it, where a key was given and something differs.
    """

    differences: list[str]
    signer_before: str | None


def render_fleet(request: RenderRequest) -> Rendered:
    """Render a fleet commit, and push the result where the state repo has a URL.

    Raises:
        MargoGitopsError: of MG11xx to MG13xx; nothing was written.
    """
    with without_collections():
        repo = FleetRepo.find(request.fleet)
        fleet = begun(repo, repo.tree(request.revision), request.revision)
        location = fleet.state_location(request.state)
        seal = Seal.of(request.cache, location)
        if not seal.path.exists():
            fleet = whole(fleet)
    chain = refuse_keys(fleet, request)
    if request.key is None and fleet.intent.fleet.value.spec.signing.required:
        raise SigningKeyUnusable(
            "this fleet wants signed state, and no signing key was given",
            where=fleet.intent.fleet.at("spec", "signing", "required"),
            remedy="pass --signing-key FILE, or set MARGO_GITOPS_SIGNING_KEY to the file's path",
        )
    if not request.other_branch:
        refuse_other_branch(fleet)
    uncommitted = tuple(fleet.repo.uncommitted())
    with open_state(location, request.cache, create=True) as target, without_collections():
        values = target.repo.refs.read()
        first = FLEET_REF not in values
        if first and (chain is not None or seal.path.exists()) and not request.create:
            raise StateRepoEmpty(
                f"the state repo at {location} is empty, and devices may hold state of this fleet already",
                why=[] if chain is not None else ["this machine rendered there before"],
                remedy=(
                    "if it was lost: margo-gitops state restore (docs/state-repo.md, Recovery); "
                    "if not: margo-gitops render --create"
                ),
            )
        before = None if chain is not None or request.resign else other_signer(target, values, request.key)
        publication = _publish(fleet, target, values, request, seal, chain)
    unattested = fleet.intent.fleet.value.spec.freshness is not None and _renewal(fleet, request) is None
    version, cloned = len(chain.versions) if chain else None, fleet.repo.remote() is not None
    elsewhere = target.remote.redirected_to if target.remote else ""
    if publication.fleet_commit is None:
        before = None
    return Rendered(
        fleet.commit, location, publication, uncommitted, unattested, first, cloned, version, before, elsewhere
    )


def refuse_keys(fleet: FleetInput, request: RenderRequest) -> TrustChain | None:
    """Return a fleet's trust documents, and refuse keys that devices would refuse (fleet_trust, KEYS-3).

    Raises:
        TrustRefused, SigningKeyNotListed: no device would take this render.
    """
    chain = read_chain(fleet.tree, fleet.intent.fleet.value.metadata.name)
    renewal = _renewal(fleet, request)
    fresh = renewal.key.public if renewal is not None else None
    refuse_untrusted(chain, request.key.public if request.key else None, fresh, request.now or datetime.now(UTC))
    return chain


def _publish(
    fleet: FleetInput,
    target: StateTarget,
    values: RefValues,
    request: RenderRequest,
    seal: Seal,
    chain: TrustChain | None,
) -> Publication:
    refuse_foreign(fleet, target, values)
    if not request.allow_older:
        refuse_older(fleet, target, values)
    trusted = chain.versions if chain else ()
    whole_fleet = request.resign or len(trusted) != (held_version(target.repo.objects, values) or 0)
    work = SharedWork(request.jobs)

    def renders(intent: Intent, target: StateTarget, values: Mapping[str, str]) -> tuple[DesiredState, ...]:
        return divided_states(work, intent, values) or rendered_states(intent, target, values)

    fleet, states = render_changed(fleet, target, values, None if whole_fleet else seal, request.key, renders)
    if request.key is not None:
        newest = trusted[-1] if trusted else None
        states = tuple(signed_anew(states, target, values, request.key, others=request.resign, trust=newest))
    _obey_policy(fleet, target, values, states, request)
    renewal, aliases, only = _renewal(fleet, request), aliases_of(fleet.intent, target, values), looked_at(fleet.intent)
    publication = write_render(
        target.repo, states, values, provenance(fleet), request.key, renewal, aliases, only, trusted, work
    )
    moves = _moves(publication)
    if moves or fleet.intent.clients is None:
        seal.write(values, moves, request.key)
    changed = publication.fleet_commit is not None or publication.freshness is not None or publication.trust
    if target.remote is not None and (changed or target.remote.is_unfinished):
        target.remote.push(fleet.intent.fleet.value.spec.push)
    return publication


def _moves(publication: Publication) -> dict[str, str]:
    """Return the branches that a render moved, statements of freshness left out."""
    moves = {device_ref(change.device): change.commit for change in publication.changes}
    return {**moves, FLEET_REF: publication.fleet_commit} if publication.fleet_commit else {}


def _obey_policy(
    fleet: FleetInput,
    target: StateTarget,
    values: RefValues,
    states: tuple[DesiredState, ...],
    request: RenderRequest,
) -> None:
    """Refuse what the fleet's policy refuses, so that a merge which should not have been does not reach devices."""
    rendered = rendered_from(target, values)
    base = rendered if rendered and fleet.repo.knows(rendered) else None
    span = Span(fleet.repo, fleet.commit.id, base, named=False, at=0)
    before = held_fleet(target, values, fleet.intent)
    sides = Sides(fleet.commit.id, "the state repo", before, states, fleet.intent, fleet.tree)
    made: list[Plan] = []

    def plan() -> Plan:
        if not made:
            made.append(planned(sides))
        return made[0]

    with without_collections():
        verdicts = judgement(sides, span, plan, command=request.policy_command)
    refuse_breaches(verdicts)
    refuse_skipped_command(verdicts, sides, span)


def _renewal(fleet: FleetInput, request: RenderRequest) -> Renewal | None:
    """Return how to make a statement of freshness; None if it is not wanted, or no key can sign it."""
    policy = fleet.intent.fleet.value.spec.freshness
    key = request.freshness_key or (request.key if policy is not None else None)
    if key is None:
        return None
    valid_for = parse_valid_for(policy.valid_for) if policy is not None else DEFAULT_VALID_FOR
    return Renewal(key, request.now or datetime.now(UTC), valid_for)


def check_fleet(request: RenderRequest) -> Checked:
    """Return how the state repo differs from what a fleet commit renders to (MargoGitopsError: of MG11xx to MG13xx)."""
    with without_collections():
        repo = FleetRepo.find(request.fleet)
        fleet = begun(repo, repo.tree(request.revision), request.revision)
    location = fleet.state_location(request.state)
    with open_state(location, request.cache, create=False) as target:
        values = target.repo.refs.read()
        refuse_foreign(fleet, target, values)
        fleet, states = render_changed(fleet, target, values, Seal.of(request.cache, location), None)
        aliases = aliases_of(fleet.intent, target, values)
        found = differences(target.repo, states, values, aliases, looked_at(fleet.intent))
        if fleet.intent.fleet.value.spec.signing.required:
            found += [
                f"{state.device} is not signed"
                for state in states
                if not state.changed and target.repo.signature(state.device, values) is None
            ]
        chain = read_chain(fleet.tree, fleet.intent.fleet.value.metadata.name)
        told = found and request.key is not None and chain is None and not request.resign
        return Checked(found, other_signer(target, values, request.key) if told else None)
