"""The states that a render makes: of what may differ from the state that a state repo holds, or of a whole fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet import read_fleet, read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetCommit, FleetRepo
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.errors import FleetInvalid, RenderingRefused, StateTampered, listed
from margo_gitops.operations.fleet_input import FleetInput, StateTarget
from margo_gitops.operations.render.changed_part import Seal, changed_part
from margo_gitops.processes import without_collections
from margo_gitops.rendering.desired_state import DesiredState, raised
from margo_gitops.rendering.difference import FleetState
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.render import render
from margo_gitops.state_repo.packed_refs import RefValues
from margo_gitops.state_repo.state_repo import device_of
from margo_gitops.trust.git_commit import Ident
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.trust_document import FleetTrust
from margo_gitops.values import replace

Render = Callable[[Intent, StateTarget, Mapping[str, str]], tuple[DesiredState, ...]]
"""How the state of every device is made: `rendered_states`, or what gives the same with less work."""

NO_COMMIT = FleetCommit("", Ident("", "", 0), "")
"""The working tree is of no commit."""


def begun(repo: FleetRepo, tree: RootTree, revision: str | None) -> FleetInput:
    """Return `margo-gitops.yaml` alone, as a part of the fleet in which nothing changed.

    Args:
        tree: its files.
        revision: their commit; None: they are as they are now.

    Raises:
        NoFleetRepo: there is no `margo-gitops.yaml`.
        FleetInvalid: it cannot be read; with every finding of the fleet.
    """
    commit = repo.last_change(revision) if revision is not None else NO_COMMIT
    try:
        fleet = read_fleet_document(tree)
    except FleetInvalid:
        fleet = read_fleet(tree).fleet
    return FleetInput(repo, commit, tree, Intent(fleet, {}, {}, {}, {}, clients=frozenset()))


def whole(fleet: FleetInput) -> FleetInput:
    """Return all of a fleet (FleetInvalid: with every finding)."""
    return replace(fleet, intent=read_fleet(fleet.tree))


def render_changed(
    fleet: FleetInput,
    target: StateTarget,
    values: RefValues,
    seal: Seal | None,
    key: SigningKey | None,
    renders: Render | None = None,
) -> tuple[FleetInput, tuple[DesiredState, ...]]:
    """Return the part of a fleet that may differ from what a state repo holds, and the states of its devices.

    Where the seal does not say what is there, that is the whole fleet.

    Args:
        fleet: all of it, or `begun`.
        key: what the render signs with.
        renders: makes the states of the whole fleet; None: `rendered_states`.

    Raises:
        FleetInvalid, RenderingRefused, StateTampered: as a render of the whole fleet says it.
    """
    signed = key is not None or fleet.intent.fleet.value.spec.signing.required
    with without_collections(), suppress(FleetInvalid, RenderingRefused, StateTampered):
        base = seal.rendered_from(target.repo, values, key, signed=signed) if seal is not None else None
        if base is not None and fleet.intent.clients is not None and fleet.repo.knows(base):
            part = changed_part(fleet, base, lambda: target.repo.places(values))
            if part is not None:
                return replace(fleet, intent=part), render(part, lambda device: target.repo.held(device, values))
    with without_collections():
        fleet = whole(fleet) if fleet.intent.clients is not None else fleet
    return fleet, (renders or rendered_states)(fleet.intent, target, values)


def rendered_states(intent: Intent, target: StateTarget, values: Mapping[str, str]) -> tuple[DesiredState, ...]:
    """Return the state of every device of a fleet, or of a part of it, as a render into a state repo makes it.

    Args:
        values: all its refs, as they were when the render began.

    Raises:
        RenderingRefused: with every reason.
        StateTampered: the state repo holds what no render wrote.
    """
    tampered = list(target.repo.tampered(values, looked_at(intent)))
    if len(tampered) == 1:
        raise tampered[0]
    if tampered:
        raise StateTampered(
            f"{len(tampered)} branches of the state repo were changed by somebody else",
            why=listed(error.what for error in tampered),
            remedy=tampered[0].remedy,
        )
    with without_collections():
        return render(intent, lambda device: target.repo.held(device, values))


def looked_at(intent: Intent) -> frozenset[str] | None:
    """Return the clients of a part of a fleet, as the state repo names them; None for all of the fleet."""
    return frozenset(map(encode_device_id, intent.clients)) if intent.clients is not None else None


def held_fleet(target: StateTarget, values: RefValues, intent: Intent) -> FleetState:
    """Return what a state repo holds as what is there before a render of a fleet, or of a part of it."""
    only = looked_at(intent)
    if only is not None and not only:
        return FleetState({}, lambda device: target.repo.held(device, values), target.repo.device_count(values))
    places = target.repo.places(values)
    shown = places if only is None else places.keys() & only
    here = {name: place for name in shown if not (place := places[name]).left}
    sites = {device_of(name): place.site for name, place in here.items()}
    kept = 0 if only is None else target.repo.device_count(values) - len(here)
    return FleetState(sites, lambda device: target.repo.held(device, values), kept)


def signed_anew(
    states: Iterable[DesiredState],
    target: StateTarget,
    values: Mapping[str, str],
    key: SigningKey,
    *,
    others: bool,
    trust: FleetTrust | None = None,
) -> Iterator[DesiredState]:
    """Yield the states: what has no signature that counts gets a new version.

    Args:
        others: whether what another key signed does not count.
        trust: the document that devices go by: a key that it does not list, or that is compromised, does not count.
    """
    for state in states:
        signature = None if state.changed else target.repo.signature(state.device, values)
        signed = signature is not None and (not others or signature.key == key.public)
        if signed and signature is not None and trust is not None and signature.key != key.public:
            signed = trust.still_counts(signature.key)
        yield state if state.changed or signed else raised(state)
