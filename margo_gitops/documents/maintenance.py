"""When a device may change what runs, and when it may use the network: calendars of a site, a device or a deployment.

    maintenance:
      timeZone: Europe/Berlin
      windows:
        - {days: "FREQ=WEEKLY;BYDAY=SA,SU", start: "02:00", duration: 4h}
      blackouts:
        - {from: "2026-12-19", until: "2027-01-06", reason: Christmas production}
      polling:
        - {days: "FREQ=DAILY", start: "20:00", duration: 8h}
      downtime:
        - {from: "2026-12-24", until: "2026-12-26", reason: The line to the plant is off}

What it means is in margo_gitops/documents/calendars.py. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Final

from margo_gitops.documents.declarations import About, Items, Problem, Text, Wire, span_seconds
from margo_gitops.values import dataclass

LONGEST_DAYS: Final = 31
"""How long a window may be."""
_DATE: Final = Text(pattern=r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}$", what="a date, from 2000 to 2099, in quotes")


@dataclass(frozen=True, slots=True)
class Window:
    """When a device may switch to a new state, or poll."""

    days: Annotated[
        str,
        About("On which days it opens, as in iCalendar.", ("FREQ=WEEKLY;BYDAY=SA,SU", "FREQ=MONTHLY;BYDAY=-1SU")),
        Text(max_length=200),
    ]
    start: Annotated[
        str,
        About("When it opens, on the site's clocks.", ("02:00",)),
        Text(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", what="a time such as 02:00, in quotes"),
    ]
    duration: Annotated[
        str,
        About(f"How long it stays open; at most {LONGEST_DAYS}d.", ("4h",)),
        Text(pattern=r"^[1-9][0-9]{0,4}[mhd]$", what="90m, 4h or 2d"),
    ]
    first: Annotated[
        str,
        About("The day from which INTERVAL counts; it never opens before.", ("2026-01-05",)),
        _DATE,
    ] = "2000-01-03"

    def problems(self) -> Iterator[Problem]:
        """Yield a rule, a date and a duration that have no meaning."""
        from margo_gitops.documents.day_rules import DayRule  # loaded where there is a window

        try:
            rule = DayRule.parse(self.days, date.fromisoformat(self.first))
        except ValueError as error:
            yield Problem(("days",), str(error))
        else:
            if not rule.has_days():
                yield Problem(("days",), f"{self.days} names no day within 40 years")
        if self.seconds > LONGEST_DAYS * 86_400:
            yield Problem(("duration",), f"a window is open for at most {LONGEST_DAYS}d", "have it open more often")

    @property
    def seconds(self) -> int:
        """How long it is open."""
        return span_seconds(self.duration)


@dataclass(frozen=True, slots=True)
class Blackout:
    """Days on which no device switches, or polls."""

    start: Annotated[str, Wire("from"), About("The first day.", ("2026-12-19",)), _DATE]
    until: Annotated[str, About("The last day.", ("2027-01-06",)), _DATE]
    reason: Annotated[str, About("Why, for people.", ("Christmas production",)), Text(max_length=200)] = ""

    def problems(self) -> Iterator[Problem]:
        """Yield days that are not in the calendar, or in the wrong order."""
        try:
            first, last = self.days()
        except ValueError as error:
            yield Problem((), f"not in the calendar: {error}")
        else:
            if last < first:
                yield Problem(("until",), f"the last day, {last}, is before the first, {first}")

    def days(self) -> tuple[date, date]:
        """Return the first and the last day (ValueError: not in the calendar)."""
        return date.fromisoformat(self.start), date.fromisoformat(self.until)


@dataclass(frozen=True, slots=True)
class Maintenance:
    """When what runs may be changed: a calendar."""

    time_zone: Annotated[
        str,
        About("Time zone of the site's clocks, by its IANA name.", ("Europe/Berlin",)),
        Text(pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$", what="a time zone such as Europe/Berlin"),
    ]
    windows: Annotated[tuple[Window, ...], About("Without one, it is always open."), Items(maximum=32)] = ()
    blackouts: Annotated[tuple[Blackout, ...], About("Closed, even if a window is open."), Items(maximum=64)] = ()


@dataclass(frozen=True, slots=True)
class PlaceMaintenance(Maintenance):
    """When what runs on a device may be changed, and when the device may use the network."""

    polling: Annotated[
        tuple[Window, ...], About("When the device polls and reports; without one, at any time."), Items(maximum=32)
    ] = ()
    downtime: Annotated[
        tuple[Blackout, ...],
        About("Days on which it does neither, even if polling hours begin."),
        Items(maximum=64),
    ] = ()


@dataclass(frozen=True, slots=True)
class Calendar(Maintenance):
    """A calendar as a device gets it."""

    of: Annotated[str, About("Whose it is.", ("site north",)), Text(max_length=300)] = ""
