"""Run checks against a server: each says what is wrong by raising, and its requests are its evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from margo_gitops.conformance.report import ConformanceReport, Outcome, Verdict, bounded, make_report, shown
from margo_gitops.conformance.requirement import GIT_PAGE, HTTP_PAGE, requirements
from margo_gitops.conformance.servers.client import RawClient, Reply
from margo_gitops.errors import ServerNotReached
from margo_gitops.values import dataclass


class CheckEnded(Exception):
    """A check that did not pass; the text says why."""

    verdict: ClassVar[Verdict]


class CheckFailed(CheckEnded):
    """The server does not do what the requirement says; the text says what it does, and what to configure."""

    verdict = "fail"


class CheckSkipped(CheckEnded):
    """The check cannot be made as things are; the text says what it would need."""

    verdict = "skipped"


class NotApplicable(CheckEnded):
    """The requirement does not concern this server; the text says why."""

    verdict = "not-applicable"


def expect(holds: bool, otherwise: str) -> None:
    """Check that something holds (CheckFailed: it does not)."""
    if not holds:
        raise CheckFailed(otherwise)


def never_stale(reply: Reply) -> bool:
    """Return whether caches ask the server each time before they give an answer again (RFC 9111, 5.2.2)."""
    said = {each.strip() for each in reply.header("cache-control").lower().split(",")}
    return bool(said & {"no-cache", "no-store"}) or {"max-age=0", "must-revalidate"} <= said


class Session(Protocol):
    """What a check asks the server with."""

    client: RawClient

    def reach(self) -> object:
        """Ask the first question; any answer will do (ServerNotReached: no answer comes)."""


def says_when_to_return(session: Session) -> None:
    """Check that every answer so far that was 429 or 503 says when to come back."""
    busy = [each for each in session.client.replies if each.status in (429, 503)]
    if not busy:
        raise NotApplicable("no answer of this run was 429 or 503")
    expect(all(each.header("retry-after") for each in busy), "an answer with 429 or 503 has no Retry-After")


S = TypeVar("S", bound=Session)


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """One check of one requirement.

    Attributes:
        name: says what is checked.
        run: makes the check; raises what is wrong.
        configure: what to do where it fails, for a server that can be configured; empty where nothing helps.
    """

    requirement: str
    name: str
    run: Callable[[S], None]
    configure: str = ""


def check_server(
    profile: Literal["git", "http"],
    session: S,
    checks: Sequence[Check[S]],
    checked_at: str,
    told: Callable[[str], None] = lambda _line: None,
) -> ConformanceReport:
    """Make all checks of a server, and close the session's client.

    Args:
        checks: in the order in which they are made.
        checked_at: the time, RFC 3339 in UTC.
        told: gets the name of each check before it is made.

    Raises:
        ServerNotReached: its first answer does not come.
        ServerNotCheckable: a certificate cannot be used.
    """
    with closing(session.client) as client:
        session.reach()
        outcomes = list(_outcomes(session, checks, told))
    known = requirements(GIT_PAGE if profile == "git" else HTTP_PAGE)
    return make_report(profile, shown(client.target.url), checked_at, known, outcomes)


def _outcomes(
    session: S, checks: Sequence[Check[S]], told: Callable[[str], None]
) -> Iterator[tuple[str, str, Outcome]]:
    for check in checks:
        told(check.name)
        begin = len(session.client.log)
        verdict, reason = _verdict(check, session)
        if verdict == "fail" and check.configure:
            reason = f"{reason}. To do: {check.configure}"
        yield check.requirement, check.name, Outcome(verdict, reason, bounded(session.client.log[begin:]))


def _verdict(check: Check[S], session: S) -> tuple[Verdict, str]:
    try:
        check.run(session)
    except ServerNotReached as error:
        return "fail", error.what
    except CheckEnded as error:
        return error.verdict, str(error)
    return "pass", ""
