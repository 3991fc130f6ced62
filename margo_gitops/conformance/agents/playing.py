"""Put an agent through every case, and judge what it did."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from margo_gitops.conformance.agents.case import Case, Seen, TransportName, by, cases_of
from margo_gitops.conformance.agents.conduct import CONDUCT
from margo_gitops.conformance.agents.enrolments import ENROLMENTS, Enrolment, play_enrolments
from margo_gitops.conformance.agents.faults import MISLEADING, REFUSING, UNFRESH
from margo_gitops.conformance.agents.git_cases import ONLY_GIT
from margo_gitops.conformance.agents.http_cases import ONLY_HTTP
from margo_gitops.conformance.agents.program import Held
from margo_gitops.conformance.agents.stage import AgentUnderTest, Stage, staged
from margo_gitops.conformance.agents.state_cases import FLAWED, SOUND
from margo_gitops.conformance.agents.states import State, base_state
from margo_gitops.conformance.agents.trust_cases import TRUST
from margo_gitops.conformance.report import ConformanceReport, Outcome, Profile, bounded, make_report
from margo_gitops.conformance.requirement import GIT_PAGE, HTTP_PAGE, Requirement, requirements
from margo_gitops.errors import AgentNotRunnable

CASES: Final = (*SOUND, *FLAWED, *REFUSING, *MISLEADING, *UNFRESH, *ONLY_GIT, *ONLY_HTTP, *TRUST)
"""Every case, in the order in which they are played."""

FIRST_PULL: Final = Case("a first state", by("G-C-5", "H-C-8"), base_state, "takes", empty=True)
_RECOVERY: Final = by("G-R-6", "H-C-23")
_SIGNED: Final = frozenset({"H-C-25", "H-C-26", "H-C-27"})
_UNSIGNED: Final = Outcome("not-applicable", "the agent asks for no signatures over HTTP: see --signed")
_ROOTLESS: Final = Outcome("not-applicable", "the agent follows no trust documents: see --rooted")
_NEXT_IS_TAKEN: Final = "the next sound state is taken"
_BASE: Final = "base"

Finding = tuple[str, str, Outcome]
"""Id of the requirement, name of the check, and what it found."""


_Played = list[tuple[Case, Seen, frozenset[int]]]
"""What was seen in all cases together, and which versions a device may say that it adopted."""


def client_requirements(transport: TransportName) -> Mapping[str, Requirement]:
    """Return the requirements that an agent is judged by."""
    return requirements(GIT_PAGE if transport == "git" else HTTP_PAGE)


def check_agent(
    agent: AgentUnderTest,
    subject: str,
    checked_at: str,
    only: Sequence[str] = (),
    told: Callable[[str], None] = lambda _line: None,
) -> ConformanceReport:
    """Put an agent through every case of its transport.

    Args:
        checked_at: the time, RFC 3339 in UTC.
        only: play only cases whose name holds one of these words, or whose requirement is one of them; none for all.
        told: gets the name of each case before it is played.

    Raises:
        AgentNotRunnable: its command cannot be started, or `only` names no case.
    """
    cases, enrolments = _chosen(agent.transport, only)
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder, staged(agent, Path(folder)) as stage:
        findings = list(_play_all(stage, cases, told))
        findings += play_enrolments(stage, enrolments)
    profile: Profile = "agent-git" if agent.transport == "git" else "agent-http"
    return make_report(profile, subject, checked_at, client_requirements(agent.transport), findings)


def _chosen(transport: TransportName, only: Sequence[str]) -> tuple[list[Case], tuple[Enrolment, ...]]:
    def is_chosen(name: str, requirement: str) -> bool:
        return not only or any(word in name or word == requirement for word in only)

    chosen = [case for case in cases_of(CASES, transport) if is_chosen(case.name, case.requirement[transport])]
    enrolments = tuple(each for each in _enrolments(transport) if is_chosen(each.name, each.requirement))
    if not chosen and not enrolments:
        raise AgentNotRunnable(
            f"no case by {transport} is about {', '.join(only)}",
            remedy="name a requirement, or words of a case's name; docs/conformance.md lists them",
        )
    return chosen, enrolments


def _enrolments(transport: TransportName) -> tuple[Enrolment, ...]:
    return ENROLMENTS if transport == "http" else ()


def _play_all(stage: Stage, cases: Sequence[Case], told: Callable[[str], None]) -> Iterator[Finding]:
    played: _Played = []
    transport = stage.agent.transport
    told(FIRST_PULL.name)
    first = list(_play(stage, FIRST_PULL, played, {}))
    yield from first
    if first[0][2].verdict != "pass":
        skipped = Outcome("skipped", "the agent does not take a first sound state; see there")
        yield from ((case.requirement[transport], case.name, skipped) for case in cases)
        return
    stage.keep(_BASE)
    kept: dict[str, Held] = {_BASE: stage.held()}
    for case in cases:
        told(case.name)
        lacking = _lacking(stage, case)
        if lacking is not None:
            yield case.requirement[transport], case.name, lacking
            continue
        yield from _play(stage, case, played, kept)
    for look in CONDUCT:
        if transport in look.requirement:
            yield look.requirement[transport], look.name, look.judge(played, stage.place)


def _lacking(stage: Stage, case: Case) -> Outcome | None:
    """Return why a case does not apply to an agent; None where it does."""
    if case.trust is not None and not stage.agent.rooted:
        return _ROOTLESS
    return None if stage.agent.signed or case.requirement[stage.agent.transport] not in _SIGNED else _UNSIGNED


def _play(stage: Stage, case: Case, played: _Played, kept: dict[str, Held]) -> Iterator[Finding]:
    before, held = _prepare(stage, case, kept)
    state = stage.offer(case)
    seen = stage.poll()
    transport = stage.agent.transport
    must_keep = case.expected == "keeps" and client_requirements(transport)[case.requirement[transport]].level == "MUST"
    versions = ({before.version} if before else set()) | (set() if must_keep else {state.version})
    played.append((case, seen, frozenset(versions)))
    names = kept[_BASE].names if kept else frozenset(stage.held().names)
    evidence = _evidence(seen)
    problems = _judge(case, seen, state, held, names) + [
        f"{name} appeared outside the agent's folder" for name in stage.strays()
    ]
    yield case.requirement[transport], case.name, _outcome("; ".join(problems[:4]), evidence)
    for look in case.looks:
        if transport in look.requirement:
            found = look.judge(seen, stage.place)
            yield look.requirement[transport], f"{case.name}: {look.name}", _outcome(found, evidence)
    if case.then is not None:
        yield from _recover(stage, case, names)


def _recover(stage: Stage, case: Case, names: frozenset[str]) -> Iterator[Finding]:
    state = case.then() if case.then else base_state()
    stage.offer_after(state)
    seen = stage.poll()
    problem = "; ".join(seen.held.differences(state.files(), names)[:4])
    name = f"{case.name}: {_NEXT_IS_TAKEN}"
    yield _RECOVERY[stage.agent.transport], name, _outcome(problem, _evidence(seen))


def _prepare(stage: Stage, case: Case, kept: dict[str, Held]) -> tuple[State | None, Held]:
    """Let the agent hold what a case begins with, and return that."""
    if case.empty:
        stage.empty()
        stage.offer_nothing()
        return None, Held()
    if case.before is None:
        stage.restore(_BASE)
        base = base_state()
        stage.offer_soundly(base)
        return base, kept[_BASE]
    before = case.before()
    stage.empty()
    stage.offer_soundly(before, case.trust_before, with_freshness=case.freshness == "sound")
    return before, stage.poll().held


def _judge(case: Case, seen: Seen, offered: State, before: Held, names: frozenset[str]) -> list[str]:
    problems = [] if seen.ended.code is not None else ["the command did not end in time, and was killed"]
    taken = seen.held.differences(offered.files(), names)
    kept = seen.held.differences(before.files, names)
    if not seen.exchanges:
        # An agent that does nothing keeps everything; that must not pass.
        problems.append("the agent asked nothing, so that nothing can be judged")
    if case.expected == "takes":
        return problems + (["the agent did not take it", *taken] if taken and not kept else taken)
    if case.expected == "keeps":
        return problems + (["the agent took it", *kept] if kept and not taken else kept)
    return problems + (taken if taken and kept else [])


def _evidence(seen: Seen) -> tuple[str, ...]:
    lines = [str(each) for each in seen.exchanges] or ["the agent asked nothing"]
    return (*bounded(lines), str(seen.ended))


def _outcome(problem: str, evidence: tuple[str, ...]) -> Outcome:
    return Outcome("fail", problem, evidence) if problem else Outcome("pass", "", evidence)


def checks_of(transport: TransportName) -> Iterator[tuple[str, str]]:
    """Yield requirement and name of every check that an agent is put through, for the documentation."""
    for case in (FIRST_PULL, *cases_of(CASES, transport)):
        yield case.requirement[transport], case.name
        for look in case.looks:
            if transport in look.requirement:
                yield look.requirement[transport], f"{case.name}: {look.name}"
        if case.then is not None:
            yield _RECOVERY[transport], f"{case.name}: {_NEXT_IS_TAKEN}"
    for conduct in CONDUCT:
        if transport in conduct.requirement:
            yield conduct.requirement[transport], conduct.name
    yield from ((each.requirement, each.name) for each in _enrolments(transport))
