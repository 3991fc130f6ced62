"""When a device may switch: windows of iCalendar's rules, time zones, blackouts, several calendars at once."""

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st

from margo_gitops.documents.calendars import Opening, next_opening
from margo_gitops.documents.day_rules import DayRule
from margo_gitops.documents.maintenance import Blackout, Maintenance, Window
from margo_gitops.documents.records import find
from margo_gitops.documents.yaml_text import read_yaml

BERLIN = "Europe/Berlin"
NIGHTS = Window("FREQ=DAILY", "22:00", "8h")
SUNDAYS = Window("FREQ=WEEKLY;BYDAY=SU", "02:00", "4h")


def at(text: str, zone: str = BERLIN) -> float:
    """Return a time that clocks in a zone show, as seconds since the epoch."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def opening(*calendars: Maintenance, now: str) -> tuple[str, str] | None:
    """Return the opening that counts at a time in Berlin, as clocks there show it."""
    found = next_opening(calendars, at(now), ZoneInfo)
    if found is None:
        return None
    start, end = (datetime.fromtimestamp(edge, ZoneInfo(BERLIN)).strftime("%Y-%m-%dT%H:%M") for edge in found)
    return start, end


def berlin(*windows: Window, blackouts: tuple[Blackout, ...] = ()) -> Maintenance:
    return Maintenance(BERLIN, windows, blackouts)


WEEKDAYS = st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"])


@st.composite
def rules(draw: st.DrawFn) -> str:
    frequency = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    parts = [f"FREQ={frequency}"]
    if draw(st.booleans()):
        parts.append(f"INTERVAL={draw(st.integers(1, 5))}")
    if draw(st.booleans()):
        parts.append("BYMONTH=" + ",".join(map(str, draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))))
    if frequency != "WEEKLY" and draw(st.booleans()):
        days = st.integers(-31, 31).filter(bool)
        parts.append("BYMONTHDAY=" + ",".join(map(str, draw(st.lists(days, min_size=1, max_size=3)))))
    if draw(st.booleans()):
        place = st.just("")
        # dateutil does not take MO and 1MO at once.
        if frequency in ("MONTHLY", "YEARLY") and draw(st.booleans()):
            place = st.sampled_from(["1", "+2", "-1", "5", "-5", "10"])
        weekdays = st.builds("{}{}".format, place, WEEKDAYS)
        parts.append("BYDAY=" + ",".join(draw(st.lists(weekdays, min_size=1, max_size=3))))
    if draw(st.booleans()):
        parts.append(f"WKST={draw(WEEKDAYS)}")
    return ";".join(parts)


class TestDays:
    # dateutil looks for a day that never comes until the year 9999, so it starts near there.
    @given(rules(), st.dates(date(9988, 1, 1), date(9992, 1, 1)))
    @settings(max_examples=60, deadline=None)
    def test_a_rule_names_the_days_that_icalendar_names(self, rule: str, first: date):
        start = datetime.combine(first, time())
        until = start + timedelta(899)
        theirs = [found.date() for found in rrulestr(f"{rule};UNTIL={until:%Y%m%d}", dtstart=start)]
        ours = DayRule.parse(rule, first)
        days = [first + timedelta(offset) for offset in range(900)]
        assert [day for day in days if ours.is_on(day)] == theirs

    @pytest.mark.parametrize(
        ("rule", "why"),
        [
            ("every sunday", "is not a recurrence rule"),
            ("FREQ=HOURLY", "FREQ must be"),
            ("BYDAY=SU", "FREQ must be"),
            ("FREQ=DAILY;COUNT=3", "COUNT is not supported"),
            ("FREQ=DAILY;BYHOUR=2", "the time of the day is `start`"),
            ("FREQ=DAILY;FREQ=DAILY", "given twice"),
            ("FREQ=WEEKLY;BYDAY=-1SU", "needs FREQ=MONTHLY or FREQ=YEARLY"),
            ("FREQ=WEEKLY;BYMONTHDAY=1", "needs a FREQ other than WEEKLY"),
            ("FREQ=WEEKLY;BYDAY=XX", "is not a weekday"),
            ("FREQ=MONTHLY;BYMONTHDAY=0", "must be from -31 to 31"),
            ("FREQ=MONTHLY;BYMONTHDAY=32", "must be from -31 to 31"),
            ("FREQ=MONTHLY;BYMONTH=A", "must be numbers"),
            ("FREQ=DAILY;INTERVAL=1,2", "must be one number"),
            ("FREQ=DAILY;INTERVAL=-2", "must be from 1 to 1000"),
            ("FREQ=DAILY;WKST=XX", "must be one weekday"),
        ],
    )
    def test_a_rule_without_meaning_is_refused(self, rule: str, why: str):
        with pytest.raises(ValueError, match=why):
            DayRule.parse(rule, date(2026, 1, 1))


class TestWindows:
    def test_an_open_window_is_found_with_its_whole_length(self):
        assert opening(berlin(SUNDAYS), now="2026-11-29T03:30") == ("2026-11-29T02:00", "2026-11-29T06:00")

    def test_the_next_window_is_found(self):
        assert opening(berlin(SUNDAYS), now="2026-11-29T06:00") == ("2026-12-06T02:00", "2026-12-06T06:00")

    def test_a_window_past_midnight_is_open_in_the_morning(self):
        assert opening(berlin(NIGHTS), now="2026-11-29T05:59") == ("2026-11-28T22:00", "2026-11-29T06:00")

    def test_a_window_may_be_longer_than_a_day(self):
        weekends = Window("FREQ=WEEKLY;BYDAY=FR", "22:00", "55h")
        assert opening(berlin(weekends), now="2026-11-30T04:59") == ("2026-11-27T22:00", "2026-11-30T05:00")

    def test_windows_that_touch_are_one(self):
        mornings = Window("FREQ=DAILY", "06:00", "2h")
        assert opening(berlin(NIGHTS, mornings), now="2026-11-29T01:00") == ("2026-11-28T22:00", "2026-11-29T08:00")

    def test_without_windows_it_is_open(self):
        found = next_opening([berlin()], at("2026-11-29T12:00"), ZoneInfo)
        assert found is not None
        assert found.start <= at("2026-11-29T12:00")
        assert found.end > at("2029-01-01T00:00")

    def test_a_window_that_never_opens_is_none(self):
        never = Window("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "02:00", "1h")
        assert opening(berlin(never), now="2026-11-29T12:00") is None


class TestClocks:
    def test_a_start_that_clocks_skip_is_moved_by_what_they_skip(self):
        # On 28 March 2027 clocks in Berlin go from 02:00 to 03:00.
        half_past = Window("FREQ=DAILY", "02:30", "1h")
        assert opening(berlin(half_past), now="2027-03-28T00:00") == ("2027-03-28T03:30", "2027-03-28T04:30")

    def test_the_first_of_a_start_that_comes_twice_counts_and_the_time_open_is_exact(self):
        # On 25 October 2026 clocks in Berlin go from 03:00 back to 02:00.
        found = next_opening([berlin(SUNDAYS)], at("2026-10-25T00:00"), ZoneInfo)
        assert found == Opening(at("2026-10-25T02:00"), at("2026-10-25T02:00") + 4 * 3600)
        assert opening(berlin(SUNDAYS), now="2026-10-25T00:00") == ("2026-10-25T02:00", "2026-10-25T05:00")

    def test_a_leap_day_opens_in_leap_years_only(self):
        leap = Window("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", "02:00", "1h")
        assert opening(berlin(leap), now="2026-11-29T12:00") == ("2028-02-29T02:00", "2028-02-29T03:00")

    def test_the_zone_of_the_calendar_counts(self):
        tokyo = Maintenance("Asia/Tokyo", (Window("FREQ=DAILY", "02:00", "1h"),))
        assert opening(tokyo, now="2026-11-29T12:00") == ("2026-11-29T18:00", "2026-11-29T19:00")

    @given(
        st.floats(9.5e8, 4e9), st.sampled_from([BERLIN, "Pacific/Apia", "America/St_Johns", "Antarctica/Troll", "UTC"])
    )
    @settings(max_examples=40)
    def test_what_is_found_has_not_ended_and_begins_within_a_day_and_an_hour(self, now: float, zone: str):
        found = next_opening([Maintenance(zone, (NIGHTS,))], now, ZoneInfo)
        assert found is not None
        assert now < found.end
        assert found.start - now < 50 * 3600  # Apia has no 30 December 2011


class TestBlackouts:
    def test_a_blackout_closes_its_first_and_last_day(self):
        christmas = Blackout("2026-12-19", "2027-01-06")
        calendar = berlin(NIGHTS, blackouts=(christmas,))
        assert opening(calendar, now="2026-12-18T20:00") == ("2026-12-18T22:00", "2026-12-19T00:00")
        assert opening(calendar, now="2026-12-19T01:00") == ("2027-01-07T00:00", "2027-01-07T06:00")

    def test_a_blackout_without_windows_closes_what_is_open(self):
        calendar = berlin(blackouts=(Blackout("2026-11-29", "2026-11-29"),))
        found = opening(calendar, now="2026-11-29T12:00")
        assert found is not None
        assert found[0] == "2026-11-30T00:00"

    def test_blackouts_may_overlap(self):
        two = (Blackout("2026-11-29", "2026-12-02"), Blackout("2026-12-01", "2026-12-05"))
        assert opening(berlin(NIGHTS, blackouts=two), now="2026-11-29T12:00") == (
            "2026-12-06T00:00",
            "2026-12-06T06:00",
        )


class TestSeveralCalendars:
    def test_all_must_be_open(self):
        early = berlin(Window("FREQ=WEEKLY;BYDAY=SU", "00:00", "3h"))
        assert opening(berlin(SUNDAYS), early, now="2026-11-29T12:00") == ("2026-12-06T02:00", "2026-12-06T03:00")

    def test_without_a_common_time_there_is_none(self):
        assert opening(berlin(SUNDAYS), berlin(Window("FREQ=DAILY", "12:00", "1h")), now="2026-11-29T12:00") is None

    def test_without_a_calendar_it_is_open(self):
        found = next_opening([], 1000.0, ZoneInfo)
        assert found is not None
        assert found.start <= 1000


class TestDocument:
    TEXT = """\
timeZone: Europe/Berlin
windows:
  - {days: "FREQ=WEEKLY;BYDAY=SA,SU", start: "02:00", duration: 4h}
blackouts:
  - {from: "2026-12-19", until: "2027-01-06", reason: Christmas production}
"""

    def read(self, text: str):
        return find(Maintenance, read_yaml(text.encode(), "site.yaml"))

    def test_a_calendar_is_read(self):
        value, findings = self.read(self.TEXT)
        assert not findings
        assert value == Maintenance(
            BERLIN,
            (Window("FREQ=WEEKLY;BYDAY=SA,SU", "02:00", "4h"),),
            (Blackout("2026-12-19", "2027-01-06", "Christmas production"),),
        )

    @pytest.mark.parametrize(
        ("wrong", "right", "why"),
        [
            ("BYDAY=SA,SU", "BYDAY=XX", "is not a weekday"),
            ("4h", "40d", "at most 31d"),
            ("FREQ=WEEKLY;BYDAY=SA,SU", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "names no day within 40 years"),
            ('"02:00"', '"24:00"', "a time such as 02:00"),
            ("2027-01-06", "2026-01-06", "is before the first"),
            ("2027-01-06", "2027-02-30", "not in the calendar"),
            ("Europe/Berlin", "../etc/passwd", "a time zone such as"),
        ],
    )
    def test_what_has_no_meaning_is_refused(self, wrong: str, right: str, why: str):
        value, findings = self.read(self.TEXT.replace(wrong, right))
        assert value is None
        assert why in str(findings[0])

    def test_too_many_windows_are_refused(self):
        lines = "".join('  - {days: "FREQ=DAILY", start: "02:00", duration: 4h}\n' for _ in range(33))
        value, findings = self.read(f"timeZone: UTC\nwindows:\n{lines}")
        assert value is None
        assert "at most 32 items" in str(findings[0])


@pytest.mark.parametrize(("from_", "until"), [("2000-01-01", "2099-12-31"), ("2026-11-29", "2099-12-31")])
def test_a_blackout_may_last_for_ever(from_: str, until: str):
    assert opening(berlin(NIGHTS, blackouts=(Blackout(from_, until),)), now="2026-11-29T12:00") is None
