"""When calendars are open: time zones, blackouts, several calendars at once. Pure.

The rules are those of docs/maintenance.md; WINDOW-1, on which days, is in margo_gitops/documents/day_rules.py.

WINDOW-2  A window opens at a time of the site's clocks and stays open for an exact time. A start that clocks skip is
          moved by what they skip; of a start that comes twice the first counts (RFC 5545, 3.3.5).
WINDOW-3  A window may be longer than a day; windows that touch are one.
WINDOW-4  A blackout closes whole days, first and last included, even if a window is open on them.
WINDOW-5  Without windows everything is open but the blackouts. Where several calendars count, all must be open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Final, NamedTuple, TypeAlias

from margo_gitops.documents.day_rules import DayRule
from margo_gitops.documents.maintenance import LONGEST_DAYS, Calendar, Maintenance

HORIZON_DAYS: Final = 800
"""How far ahead an opening is looked for: more than two years."""

Zones: TypeAlias = Callable[[str], tzinfo]
"""Returns the rules of a time zone by its IANA name, as `zoneinfo.ZoneInfo`."""


class Opening(NamedTuple):
    """A time in which a device may switch: seconds since the epoch, the end excluded."""

    start: float
    end: float


def next_opening(calendars: Sequence[Maintenance], now: float, zones: Zones, least: float = 0.0) -> Opening | None:
    """Return the opening that is now, or the next one (WINDOW-5).

    Args:
        calendars: all must be open.
        now: seconds since the epoch.
        zones: the time zones; what it raises for an unknown name is passed on.
        least: seconds that must be left of it.

    Returns:
        The opening; None where it does not open within `HORIZON_DAYS`. What stays open beyond that ends there.
    """
    common = [Opening(float("-inf"), now + HORIZON_DAYS * 86_400.0)]
    for calendar in calendars:
        common = list(_both(common, _openings(calendar, now, zones(calendar.time_zone))))
    return next((each for each in common if each.end > now and each.end - max(each.start, now) >= least), None)


def spoken(moment: float, zone: tzinfo) -> str:
    """Return a time in words, as the clocks of a place show it: "Sunday 2026-12-06 02:00 CET"."""
    return f"{datetime.fromtimestamp(moment, zone):%A %Y-%m-%d %H:%M %Z}"


def never_open(calendars: Sequence[Calendar]) -> str:
    """Return that calendars without a `next_opening` do not open, in words."""
    whose = " and ".join(calendar.of for calendar in calendars)
    return f"{whose} {'are not open at once' if len(calendars) > 1 else 'does not open within two years'}"


def _openings(calendar: Maintenance, now: float, zone: tzinfo) -> list[Opening]:
    """Return when a calendar is open from about now to the horizon, in order, apart from each other."""
    today = datetime.fromtimestamp(now, zone).date()
    days = [today + timedelta(offset) for offset in range(-LONGEST_DAYS - 1, HORIZON_DAYS + 1)]
    found = [Opening(_midnight(days[0], zone), _midnight(days[-1], zone))]
    if calendar.windows:
        starts = [
            (window, DayRule.parse(window.days, date.fromisoformat(window.first)), time.fromisoformat(window.start))
            for window in calendar.windows
        ]
        opened = [
            (datetime.combine(day, at, zone).timestamp(), window.seconds)
            for window, rule, at in starts
            for day in days
            if rule.is_on(day)
        ]
        found = _merged([Opening(start, start + length) for start, length in opened])
    closed = [blackout.days() for blackout in calendar.blackouts]
    closures = _merged(
        [Opening(_midnight(first, zone), _midnight(last + timedelta(1), zone)) for first, last in closed]
    )
    return list(_without(found, closures))


def _midnight(day: date, zone: tzinfo) -> float:
    return datetime.combine(day, time(), zone).timestamp()


def _merged(openings: Sequence[Opening]) -> list[Opening]:
    merged: list[Opening] = []
    for start, end in sorted(openings):
        if merged and start <= merged[-1].end:
            merged[-1] = Opening(merged[-1].start, max(end, merged[-1].end))
        else:
            merged.append(Opening(start, end))
    return merged


def _both(left: Sequence[Opening], right: Sequence[Opening]) -> Iterator[Opening]:
    """Yield the times that are in both; each is in order, and its openings are apart."""
    ours, theirs = list(left[::-1]), list(right[::-1])
    while ours and theirs:
        start, end = max(ours[-1].start, theirs[-1].start), min(ours[-1].end, theirs[-1].end)
        if start < end:
            yield Opening(start, end)
        (ours if ours[-1].end <= theirs[-1].end else theirs).pop()


def _without(openings: Sequence[Opening], closures: Sequence[Opening]) -> Iterator[Opening]:
    """Yield what stays of openings where closures are taken out; each is in order, and its parts are apart."""
    edges = [float("-inf"), *(edge for closure in closures for edge in closure), float("inf")]
    gaps = [Opening(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return _both(openings, gaps)
