"""Run checks against a server: each says what is wrong by raising, and its requests are its evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from margo_gitops.conformance.evidence import bounded
from margo_gitops.conformance.report import Outcome, Verdict
from margo_gitops.conformance.servers.raw_client import RawClient
from margo_gitops.errors import ServerNotReached


class CheckFailed(Exception):
    """The server does not do what the requirement says; the text says what it does, and what to configure."""


class CheckSkipped(Exception):
    """The check cannot be made as things are; the text says what would be needed."""


class NotApplicable(Exception):
    """The requirement does not touch this server; the text says why."""


def expect(holds: bool, otherwise: str) -> None:
    """Check that something holds.

    Raises:
        CheckFailed: it does not.
    """
    if not holds:
        raise CheckFailed(otherwise)


class Session(Protocol):
    """What a check asks the server with."""

    client: RawClient


S = TypeVar("S", bound=Session)


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """One check of one requirement.

    Attributes:
        requirement: its id.
        name: says what is checked.
        run: makes the check; raises what is wrong.
        configure: what to do where it fails, for a server that can be configured; empty where nothing helps.
    """

    requirement: str
    name: str
    run: Callable[[S], None]
    configure: str = ""


_VERDICTS: Final[tuple[tuple[type[Exception], Verdict], ...]] = (
    (CheckFailed, "fail"),
    (CheckSkipped, "skipped"),
    (NotApplicable, "not-applicable"),
)


def run_checks(
    session: S, checks: Sequence[Check[S]], told: Callable[[str], None] = lambda _line: None
) -> Iterator[tuple[str, str, Outcome]]:
    """Make checks, one after the other, and yield requirement, name and outcome of each."""
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
    except (CheckFailed, CheckSkipped, NotApplicable) as error:
        return next(verdict for kind, verdict in _VERDICTS if isinstance(error, kind)), str(error)
    return "pass", ""
