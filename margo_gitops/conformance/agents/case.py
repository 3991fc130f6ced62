"""What a case is: what is offered, what the agent should do with it, and what else is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Literal, TypeAlias, TypeVar

from margo_gitops.conformance.agents.hosts import Command, GitHost, MargoApi
from margo_gitops.conformance.agents.loopback import Answer, Exchange, Request
from margo_gitops.conformance.agents.offered_commits import Keys
from margo_gitops.conformance.agents.program import Ended, Held
from margo_gitops.conformance.agents.states import State
from margo_gitops.values import dataclass

TransportName: TypeAlias = Literal["git", "http"]

Expected: TypeAlias = Literal["takes", "keeps", "either"]
"""The agent must hold what is offered; must hold what it held; may do either, but nothing in between."""


Chain: TypeAlias = Callable[[Keys], Mapping[int, bytes]]
"""Makes what a source has of the trust documents after the given one, by version."""


def no_later(_keys: Keys) -> Mapping[int, bytes]:
    """Return no trust document: the source has only the given one."""
    return {}


FreshnessOffer: TypeAlias = Literal["sound", "none", "expired", "forged"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a case happens.

    Attributes:
        other_url: the other host, with the path of the repository or the API.
        waits: sleeps that many seconds, and says whether the run continues.
    """

    transport: TransportName
    ref: str
    other_url: str
    waits: Callable[[float], bool]


Fault: TypeAlias = Callable[[Request, Answer, Place], Answer]
"""Makes of a sound answer another one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What an agent did in one poll.

    Attributes:
        exchanges: what it asked, and was answered.
        commands: what it asked the git host.
        statuses: the deployment statuses that it sent: deployment id of the path, and body.
    """

    ended: Ended
    held: Held
    exchanges: tuple[Exchange, ...]
    commands: tuple[Command, ...]
    statuses: tuple[tuple[str, bytes], ...]


J = TypeVar("J", covariant=True)


@dataclass(frozen=True, slots=True)
class Look(Generic[J]):
    """Something that is judged in addition to what is held: after one poll, or after all cases.

    Attributes:
        name: of the check.
        requirement: that it belongs to, by transport.
        judge: judges.
    """

    name: str
    requirement: Mapping[TransportName, str]
    judge: J


PollLook: TypeAlias = Look[Callable[[Seen, Place], str]]
"""Its judge says what is wrong after one poll; empty for nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is done to an agent.

    Attributes:
        name: says what is offered.
        requirement: that it belongs to, by transport; a transport that is not there does not have the case.
        offer: makes the state that is offered.
        expected: what the agent must hold afterwards.
        fault: changes each answer.
        git: arranges the git host.
        http: arranges the Margo server.
        looks: what else is judged.
        empty: the agent holds nothing before; otherwise the base state.
        before: makes the state that is held before, in place of the base state.
        sound: makes the state whose signature is moved.
        freshness: the statement of freshness for the state; with another than a sound one, the agent has none
            before either, and so asks for it.
        trust: makes what the source has of the trust documents; None: the case is not about them.
        trust_before: the same, while the agent takes what it holds before.
        then: makes a sound state that is offered, without fault, in a second poll, and must be taken.
    """

    name: str
    requirement: Mapping[TransportName, str]
    offer: Callable[[], State]
    expected: Expected = "keeps"
    fault: Fault | None = None
    git: Callable[[GitHost, Place], None] | None = None
    http: Callable[[MargoApi, Place], None] | None = None
    looks: tuple[PollLook, ...] = ()
    empty: bool = False
    before: Callable[[], State] | None = None
    sound: Callable[[], State] | None = None
    freshness: FreshnessOffer = "sound"
    trust: Chain | None = None
    trust_before: Chain = no_later
    then: Callable[[], State] | None = None


def by(git: str = "", http: str = "") -> dict[TransportName, str]:
    """Return requirements by transport, without those that are empty."""
    both: dict[TransportName, str] = {"git": git, "http": http}
    return {transport: requirement for transport, requirement in both.items() if requirement}


def cases_of(cases: Iterable[Case], transport: TransportName) -> list[Case]:
    """Return the cases that a transport has, in order."""
    return [case for case in cases if transport in case.requirement]
