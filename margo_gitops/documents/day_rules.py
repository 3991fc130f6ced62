"""On which days a window opens: recurrence rules of iCalendar. Pure.

WINDOW-1  A day on which a window opens is named as in iCalendar (RFC 5545, 3.3.10): FREQ of DAILY, WEEKLY, MONTHLY or
          YEARLY, with INTERVAL, BYMONTH, BYMONTHDAY, BYDAY and WKST. `first` is the DTSTART that INTERVAL counts from.
"""

from __future__ import annotations

import re
from calendar import isleap
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Final

from margo_gitops.values import dataclass

_MONTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_RULE: Final = re.compile(r"[A-Z]+=[A-Z0-9,+-]+(;[A-Z]+=[A-Z0-9,+-]+)*")
_DAY: Final = re.compile(r"([+-]?[1-9][0-9]?)?(MO|TU|WE|TH|FR|SA|SU)")


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
