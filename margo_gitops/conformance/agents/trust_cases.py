"""Cases of agents that follow trust documents: sound and forged ones, and states that name them (git subset, Keys)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from margo_gitops.conformance.agents import faults
from margo_gitops.conformance.agents.case import Case, Chain, Place, by, no_later
from margo_gitops.conformance.agents.loopback import Answer, Request
from margo_gitops.conformance.agents.offered_commits import Keys
from margo_gitops.conformance.agents.states import BASE_VERSION, OTHER_DEVICE, State, next_state
from margo_gitops.conformance.agents.trust_documents import AFTER, BEFORE, STRANGER, version
from margo_gitops.documents.state_layout import TRUST_PATH
from margo_gitops.documents.trust_document import FloorChange
from margo_gitops.trust.ssh_signature import GIT_NAMESPACE
from margo_gitops.values import replace

_NAMED: Final = by("G-K-5", "H-C-28")
_CHAIN: Final = by("G-K-6", "H-C-29")
_RUNS: Final = by("G-K-8", "H-C-30")
_BOUND: Final = by("G-K-9", "H-C-31")
_COUNTS: Final = by("G-K-11", "H-C-32")
_FLOORS: Final = by("G-K-12", "H-C-36")
_MIB: Final = 1024 * 1024


def _by(signer: str, trust: int, number: int = BASE_VERSION + 1) -> Callable[[], State]:
    """Return a maker of a state that this key signed, and that names this version of the trust document."""
    return lambda: next_state(number).with_commit(signer=signer, trust=trust)


def _second(**how: object) -> Chain:
    """Return a chain with a version 2 alone."""
    return lambda keys: {2: version(keys, 2, **how)}  # type: ignore[arg-type]  # as `version` takes them


def _three_rotations(keys: Keys) -> Mapping[int, bytes]:
    """Return three versions; each replaces a root key of the one before."""
    second = version(keys, 2, roots="bcd", signed="bc", retired=AFTER)
    third = version(keys, 3, roots="cde", signed="cd", retired=AFTER)
    return {2: second, 3: third, 4: version(keys, 4, roots="cde", signed="de", retired=AFTER)}


def _expired_between(keys: Keys) -> Mapping[int, bytes]:
    return {2: version(keys, 2, days=-1), 3: version(keys, 3)}


def _endless(request: Request, answer: Answer, place: Place) -> Answer:
    return faults.endless_spaces(request, answer, place) if TRUST_PATH in request.path else answer


_ROTATED: Final = _second(retired=AFTER)
_COMPROMISED: Final = _second(compromised=True)
_FOLLOWED: Final = (
    Case("a state by the next key, after a rotation", _NAMED, _by("successor", 2), "takes", trust=_ROTATED),
    Case(
        "a state after three rotations, of root keys too", _CHAIN, _by("successor", 4), "takes", trust=_three_rotations
    ),
    Case("a state that a key signed before it was retired", _COUNTS, _by("renderer", 2), "takes", trust=_ROTATED),
    Case(
        "a version that has expired, and one after it that has not",
        _RUNS,
        _by("successor", 3),
        "takes",
        trust=_expired_between,
    ),
)

_FORGED: Final = tuple(
    Case(name, _CHAIN, _by("stranger", 2), trust=_second(render=("stranger",), **how))
    for name, how in (
        ("a next version that only a stranger signed", {"signed": STRANGER}),
        ("a next version with root keys of a stranger", {"roots": STRANGER, "signed": STRANGER, "threshold": 1}),
        ("a next version that too few root keys signed", {"signed": "a"}),
        ("a next version that one root key signed twice", {"signed": "aa"}),
        ("a next version that too few root keys of the one before signed", {"roots": "cde", "signed": "cde"}),
        ("a next version that too few of its own root keys signed", {"roots": "cde", "signed": "ab"}),
        ("a next version that was signed for another use", {"namespace": GIT_NAMESPACE}),
    )
)

_OUT_OF_ORDER: Final = (
    Case("a version that skips the one before", _CHAIN, _by("successor", 3), trust=lambda keys: {3: version(keys, 3)}),
    Case(
        "an older version in place of the next",
        _CHAIN,
        _by("stranger", 2),
        trust=lambda keys: {2: version(keys, 1, render=("stranger",))},
    ),
    Case(
        "the version that was followed, with other content",
        _CHAIN,
        _by("stranger", 2, BASE_VERSION + 2),
        before=_by("successor", 2),
        trust=_second(render=("stranger",)),
        trust_before=_ROTATED,
    ),
    Case(
        "a state that names a version before the one that was followed",
        _CHAIN,
        _by("renderer", 1, BASE_VERSION + 2),
        before=_by("successor", 2),
        trust=no_later,
        trust_before=_COMPROMISED,
    ),
    Case(
        "a state that names a version that the source does not have",
        _NAMED,
        _by("renderer", 2),
        trust=no_later,
        then=next_state,
    ),
)

_UNCOUNTED: Final = (
    Case("a state that a key signed after it was retired", _COUNTS, _by("renderer", 2), trust=_second(retired=BEFORE)),
    Case("a state that a compromised key signed", _COUNTS, _by("renderer", 2), trust=_COMPROMISED),
    Case("a state that the key of freshness signed", _COUNTS, _by("freshness", 1), trust=no_later),
    Case("a state that a root key signed", _COUNTS, _by("root", 1), trust=no_later),
    Case("a next version of another fleet", _COUNTS, _by("successor", 2), trust=_second(fleet="elsewhere")),
    Case("a state of another fleet", _COUNTS, lambda: next_state().with_commit(fleet="elsewhere"), trust=no_later),
    Case(
        "what runs is by a key that is compromised now, and a stranger's state comes",
        _RUNS,
        _by("stranger", 2),
        trust=_COMPROMISED,
        then=_by("successor", 2),
    ),
    Case("a next version that has expired", _RUNS, _by("successor", 2), trust=_second(days=-1)),
    Case(
        "a next version of a mebibyte",
        _BOUND,
        _by("successor", 2),
        trust=lambda keys: {2: version(keys, 2) + b" " * _MIB},
    ),
    Case(
        "the next version is endless",
        by(http="H-C-31"),
        _by("successor", 2),
        fault=_endless,
        looks=(faults.READ_LITTLE,),
        trust=_ROTATED,
    ),
)

_FAR: Final = BASE_VERSION + 50
_LOWER: Final = BASE_VERSION + 2
_BACK: Final = FloorChange("back", "a thief went ahead", highest=BASE_VERSION + 1)
_CHANGED: Final = (
    Case(
        "a lower version, after root keys took a higher one back",
        _FLOORS,
        _by("successor", 2, _LOWER),
        "takes",
        before=_by("renderer", 1, _FAR),
        trust=_second(floor=_BACK),
    ),
    Case(
        "a lower version, after root keys took one back for another device",
        _FLOORS,
        _by("successor", 2, _LOWER),
        before=_by("renderer", 1, _FAR),
        trust=_second(floor=replace(_BACK, devices=(OTHER_DEVICE,))),
    ),
    Case(
        "a version below the one at which root keys say that the state continues",
        _FLOORS,
        _by("successor", 2, _LOWER),
        trust=_second(floor=FloorChange("on", "the state repo was lost", next=_FAR)),
    ),
)

TRUST: Final = (*_FOLLOWED, *_FORGED, *_OUT_OF_ORDER, *_UNCOUNTED, *_CHANGED)
"""Cases of agents that follow trust documents."""
