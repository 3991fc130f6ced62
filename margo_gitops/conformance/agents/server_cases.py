"""Cases about a server that refuses, misleads or never ends, by git and by HTTP; the state it has is sound."""

from __future__ import annotations

from typing import Final

from margo_gitops.conformance.agents import faults
from margo_gitops.conformance.agents.case import Case, FreshnessOffer, Look, by
from margo_gitops.conformance.hostile.states import base_state, next_state

_NO_ORDER: Final = by("G-R-7", "H-C-18")
_BOUNDED: Final = by("G-C-9", "H-C-16")
_FORM: Final = by("G-C-10", "H-C-13")
_STORM: Final = Look("no storm of retries", by("G-R-5", "H-C-19"), faults.no_storm)
_READ_LITTLE: Final = Look("it stops reading", _BOUNDED, faults.took_little)
_BUSY: Final = ("Retry-After", "120")

REFUSING: Final = tuple(
    Case(
        f"every request is answered with {what}",
        _NO_ORDER,
        next_state,
        fault=faults.status(code, *headers),
        looks=looks,
    )
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
        f"{name}, beside a newer state", requirement, next_state, "either", before=base_state, freshness=offered
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
        fault=faults.redirect,
        looks=(
            Look("the token goes to no other host", by("G-A-2", "H-C-2"), faults.no_credentials_elsewhere),
            Look("the redirect is not followed", by("G-C-13", "H-C-17"), faults.not_elsewhere),
        ),
    ),
    Case("a page of HTML, as from the portal of a guest network", _FORM, next_state, fault=faults.portal),
    Case("each body breaks off in the middle", _FORM, next_state, fault=faults.cut),
    Case("each body comes byte by byte, without an end", _BOUNDED, next_state, fault=faults.drip),
    Case("the body never begins", _BOUNDED, next_state, fault=faults.silence),
    Case("each body is endless", _BOUNDED, next_state, fault=faults.endless_spaces, looks=(_READ_LITTLE,)),
)
