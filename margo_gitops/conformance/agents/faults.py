"""Faults of a server that are the same by git and by HTTP, and cases with them; the state behind them is sound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from margo_gitops.conformance.agents.case import Case, Fault, FreshnessOffer, Look, Place, Seen, by
from margo_gitops.conformance.agents.loopback import Answer, Request
from margo_gitops.conformance.agents.states import base_state, next_state

MOST_TAKEN: Final = 72 * 1024 * 1024
"""Bytes that an agent may read of an answer before it must have seen that it is too long."""
MOST_RETRIES: Final = 4
_PIECE: Final = bytes(64 * 1024).replace(b"\0", b" ")
_DRIP_SECONDS: Final = 0.1


def status(code: int, *headers: tuple[str, str]) -> Fault:
    """Return the fault that answers everything with this status."""

    def fault(_request: Request, _answer: Answer, _place: Place) -> Answer:
        return Answer(code, [("Content-Type", "text/plain"), *headers], b"no\n", note="the fault of this case")

    return fault


def redirect(_request: Request, _answer: Answer, place: Place) -> Answer:
    """Send to the other host."""
    path = _request.target.partition("/api/")
    tail = f"/api/{path[2]}" if path[1] else _request.target.partition("/state.git")[2]
    return Answer(302, [("Location", f"{place.other_url}{tail}")], note="redirect to the other host")


def portal(_request: Request, _answer: Answer, _place: Place) -> Answer:
    """Answer with a page, as the portal of a guest network does."""
    page = b"<!DOCTYPE html><html><body><h1>Please sign in</h1></body></html>"
    return Answer(200, [("Content-Type", "text/html")], page, note="a page of HTML")


def cut(_request: Request, answer: Answer, _place: Place) -> Answer:
    """Break the connection in the middle of each body."""
    if isinstance(answer.body, bytes) and len(answer.body) > 1:
        answer.stated_length = len(answer.body)
        answer.body = answer.body[: len(answer.body) // 2]
        answer.note = "cut in the middle"
    return answer


def drip(_request: Request, answer: Answer, place: Place) -> Answer:
    """Send each body byte by byte, slowly, without an end."""
    begin = answer.body if isinstance(answer.body, bytes) else b""

    def pieces() -> Iterator[bytes]:
        for at in range(len(begin) - 1):
            if not place.waits(_DRIP_SECONDS):
                return
            yield begin[at : at + 1]
        while place.waits(_DRIP_SECONDS):
            yield b" "

    answer.body, answer.note = pieces(), "one byte at a time"
    return answer


def silence(_request: Request, answer: Answer, place: Place) -> Answer:
    """Send the head of an answer, and then nothing."""

    def pieces() -> Iterator[bytes]:
        while place.waits(_DRIP_SECONDS):
            yield b""

    answer.body, answer.note = pieces(), "a head without a body"
    return answer


def endless_spaces(_request: Request, answer: Answer, _place: Place) -> Answer:
    """Never end, as fast as the client reads."""

    def pieces() -> Iterator[bytes]:
        while True:
            yield _PIECE

    answer.body, answer.note = pieces(), "endless"
    return answer


def took_little(seen: Seen, _place: Place) -> str:
    """Say whether the agent read more of an answer than any device has a use for."""
    most = max((each.sent for each in seen.exchanges), default=0)
    return "" if most <= MOST_TAKEN else f"it read {most} bytes of one answer"


def no_credentials_elsewhere(seen: Seen, _place: Place) -> str:
    """Say whether the device's token reached the other host."""
    given = [each for each in seen.exchanges if each.elsewhere and each.authorized]
    return f"the token reached the other host: {given[0]}" if given else ""


def not_elsewhere(seen: Seen, _place: Place) -> str:
    """Say whether the other host was asked anything."""
    asked = [each for each in seen.exchanges if each.elsewhere]
    return f"it asked the other host: {asked[0]}" if asked else ""


def no_storm(seen: Seen, _place: Place) -> str:
    """Say whether the agent asked again and again."""
    asked = len(seen.exchanges)
    return "" if asked <= MOST_RETRIES else f"it asked {asked} times in one poll"


_NO_ORDER: Final = by("G-R-7", "H-C-18")
_BOUNDED: Final = by("G-C-9", "H-C-16")
_FORM: Final = by("G-C-10", "H-C-13")
_STORM: Final = Look("no storm of retries", by("G-R-5", "H-C-19"), no_storm)
READ_LITTLE: Final = Look("it stops reading", _BOUNDED, took_little)
TOKEN_AT_HOME: Final = Look("the token goes to no other host", by("G-A-2", "H-C-2"), no_credentials_elsewhere)
_BUSY: Final = ("Retry-After", "120")

REFUSING: Final = tuple(
    Case(f"every request is answered with {what}", _NO_ORDER, next_state, fault=status(code, *headers), looks=looks)
    for code, what, headers, looks in (
        (401, "401", (("WWW-Authenticate", 'Basic realm="state"'),), ()),
        (403, "403", (), ()),
        (404, "404", (), ()),
        (410, "410", (), ()),
        (500, "500", (), (_STORM,)),
        (503, "503 and Retry-After", (_BUSY,), (_STORM,)),
        (429, "429 and Retry-After", (_BUSY,), (_STORM,)),
    )
)


def _unfresh(name: str, offered: FreshnessOffer) -> Case:
    requirement = by("G-F-10", "H-C-24")
    return Case(
        f"{name}, next to a newer state", requirement, next_state, "either", before=base_state, freshness=offered
    )


UNFRESH: Final = (
    _unfresh("no freshness statement", "none"),
    _unfresh("a freshness statement that has expired", "expired"),
    _unfresh("a freshness statement that a stranger signed", "forged"),
)

MISLEADING: Final = (
    Case(
        "a redirect to another host",
        by("G-C-13", "H-C-17"),
        next_state,
        fault=redirect,
        looks=(TOKEN_AT_HOME, Look("the redirect is not followed", by("G-C-13", "H-C-17"), not_elsewhere)),
    ),
    Case("a page of HTML, as from the portal of a guest network", _FORM, next_state, fault=portal),
    Case("each body breaks off in the middle", _FORM, next_state, fault=cut),
    Case("each body comes byte by byte, without an end", _BOUNDED, next_state, fault=drip),
    Case("the body never begins", _BOUNDED, next_state, fault=silence),
    Case("each body is endless", _BOUNDED, next_state, fault=endless_spaces, looks=(READ_LITTLE,)),
)
