"""When calendars are open: the days of recurrence rules, time zones, blackouts, several calendars at once. Pure.

The rules are those of docs/maintenance.md:

WINDOW-1  A day on which a window opens is named as in iCalendar (RFC 5545, 3.3.10): FREQ of DAILY, WEEKLY, MONTHLY or
          YEARLY, with INTERVAL, BYMONTH, BYMONTHDAY, BYDAY and WKST. `first` is the DTSTART that INTERVAL counts from.
WINDOW-2  A window opens at a time of the site's clocks and stays open for an exact time. A start that clocks skip is
          moved by what they skip; of a start that comes twice the first counts (RFC 5545, 3.3.5).
WINDOW-3  A window may be longer than a day; windows that touch are one.
WINDOW-4  A blackout closes whole days, first and last included, even if a window is open on them.
WINDOW-5  Without windows everything is open but the blackouts. Where several calendars count, all must be open.
"""

from __future__ import annotations

import re
from calendar import isleap
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Final, NamedTuple, TypeAlias

from margo_gitops.documents.maintenance import LONGEST_DAYS, Calendar, Maintenance
from margo_gitops.values import dataclass

HORIZON_DAYS: Final = 800
"""How far ahead an opening is looked for: more than two years."""
_MONTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_RULE: Final = re.compile(r"[A-Z]+=[A-Z0-9,+-]+(;[A-Z]+=[A-Z0-9,+-]+)*")
_DAY: Final = re.compile(r"([+-]?[1-9][0-9]?)?(MO|TU|WE|TH|FR|SA|SU)")

Zones: TypeAlias = Callable[[str], tzinfo]
"""Returns the rules of a time zone by its IANA name, as `zoneinfo.ZoneInfo`."""


class Opening(NamedTuple):
    """A time in which a device may switch: seconds since the epoch, the end excluded."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class DayRule:
    """On which days something happens: a recurrence rule without its times (WINDOW-1).

    Attributes:
        days: weekdays from 0, Monday, each with its place in the month or year; 0: every one.
    """

    frequency: str
    first: date
    interval: int = 1
    months: frozenset[int] = frozenset()
    month_days: frozenset[int] = frozenset()
    days: frozenset[tuple[int, int]] = frozenset()
    week_start: int = 0

    @classmethod
    def parse(cls, rule: str, first: date) -> DayRule:
        """Return the rule that a text spells (ValueError: what is wrong with it)."""
        if not _RULE.fullmatch(rule.removeprefix("RRULE:")):
            raise ValueError(f"{rule!r} is not a recurrence rule such as FREQ=WEEKLY;BYDAY=SA,SU")
        parts = [part.split("=") for part in rule.removeprefix("RRULE:").split(";")]
        values = {name: value.split(",") for name, value in parts}
        if len(values) < len(parts):
            raise ValueError("a part of the rule is given twice")
        if unknown := sorted(values.keys() - {"FREQ", "INTERVAL", "BYMONTH", "BYMONTHDAY", "BYDAY", "WKST"}):
            hint = "; the time of the day is `start`" if unknown[0] in ("BYHOUR", "BYMINUTE") else ""
            raise ValueError(f"{unknown[0]} is not supported{hint}")
        frequency = ",".join(values.get("FREQ", []))
        if frequency not in ("DAILY", "WEEKLY", "MONTHLY", "YEARLY"):
            raise ValueError("FREQ must be DAILY, WEEKLY, MONTHLY or YEARLY")
        days = frozenset(_weekday(text, frequency) for text in values.get("BYDAY", []))
        month_days = _numbers(values, "BYMONTHDAY", -31, 31)
        if month_days and frequency == "WEEKLY":
            raise ValueError("BYMONTHDAY needs a FREQ other than WEEKLY")
        (interval,) = _numbers(values, "INTERVAL", 1, 1000) or {1}
        week_start = ",".join(values.get("WKST", ["MO"]))
        if week_start not in _WEEKDAYS:
            raise ValueError("WKST must be one weekday")
        return cls(
            frequency,
            first,
            interval,
            _numbers(values, "BYMONTH", 1, 12),
            month_days,
            days,
            _WEEKDAYS.index(week_start),
        )

    def is_on(self, day: date) -> bool:
        """Return whether a day is one of the rule's."""
        return (
            day >= self.first
            and not self._periods(day) % self.interval
            and (not self.months or day.month in self.months)
            and (not self.month_days or not self.month_days.isdisjoint(_places(day.day, _month_length(day), step=1)))
            and (not self.days or self._is_weekday(day))
            and self._is_as_first(day)
        )

    def has_days(self) -> bool:
        """Return whether one of its days comes within 40 years, in which the calendar has all its forms."""
        return any(self.is_on(self.first + timedelta(offset)) for offset in range(40 * 366))

    def _periods(self, day: date) -> int:
        """Return how many days, weeks, months or years after the first day's a day is."""
        if self.frequency == "DAILY":
            return (day - self.first).days
        if self.frequency == "WEEKLY":
            to_start = timedelta((self.first.weekday() - self.week_start) % 7)
            return (day - (self.first - to_start)).days // 7
        years = day.year - self.first.year
        return years if self.frequency == "YEARLY" else years * 12 + day.month - self.first.month

    def _is_weekday(self, day: date) -> bool:
        weekday = day.weekday()
        wanted = {place for place, each in self.days if each == weekday}
        if not wanted or 0 in wanted:
            return bool(wanted)
        if self.frequency == "MONTHLY" or self.months:
            return not wanted.isdisjoint(_places(day.day, _month_length(day), step=7))
        return not wanted.isdisjoint(_places(day.timetuple().tm_yday, 365 + isleap(day.year), step=7))

    def _is_as_first(self, day: date) -> bool:
        """Return whether what the rule does not name is as it is for the first day (RFC 5545, 3.3.10)."""
        if self.frequency == "DAILY" or self.days:
            return True
        if self.frequency == "WEEKLY":
            return day.weekday() == self.first.weekday()
        is_day = bool(self.month_days) or day.day == self.first.day
        is_month = self.frequency == "MONTHLY" or bool(self.months or self.month_days) or day.month == self.first.month
        return is_day and is_month


def _weekday(text: str, frequency: str) -> tuple[int, int]:
    match = _DAY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a weekday: MO, TU … SU, or -1SU for the last Sunday")
    place = int(match[1] or 0)
    if place and frequency not in ("MONTHLY", "YEARLY"):
        raise ValueError(f"{text} needs FREQ=MONTHLY or FREQ=YEARLY")
    return place, _WEEKDAYS.index(match[2])


def _numbers(values: Mapping[str, Sequence[str]], name: str, lowest: int, highest: int) -> frozenset[int]:
    try:
        numbers = frozenset(int(text) for text in values.get(name, []))
    except ValueError:
        raise ValueError(f"{name} must be numbers") from None
    if any(not (lowest <= number <= highest and number) for number in numbers):
        raise ValueError(f"{name} must be from {lowest} to {highest}")
    if name == "INTERVAL" and len(numbers) > 1:
        raise ValueError("INTERVAL must be one number")
    return numbers


def _month_length(day: date) -> int:
    return 29 if day.month == 2 and isleap(day.year) else _MONTHS[day.month - 1]


def _places(number: int, length: int, *, step: int) -> tuple[int, int]:
    """Return which a day is of those that come each `step` days, counted from both ends of a month or year.

    Args:
        number: of the day, from 1.
        length: days of the month or year.
    """
    return (number - 1) // step + 1, -((length - number) // step + 1)


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
