"""`Retry-After`: seconds or a date, and nothing that a hostile server can abuse."""

from __future__ import annotations

import email.utils
import time

import pytest

from margo_gitops.web.refusal import LONGEST_RETRY_AFTER, retry_after


def test_seconds_are_taken() -> None:
    assert retry_after(" 120 ") == 120


def test_a_date_is_taken_as_the_time_until_then() -> None:
    wait = retry_after(email.utils.formatdate(time.time() + 300, usegmt=True))
    assert wait is not None
    assert 290 < wait <= 300


@pytest.mark.parametrize("years", [-10, -1, 1, 10])
def test_a_date_counts_from_the_answers_own_date_whatever_this_clock_says(years: int) -> None:
    there = time.time() + years * 365 * 86_400
    date, later = (email.utils.formatdate(there + wait, usegmt=True) for wait in (0, 300))
    assert retry_after(later, date) == 300


def test_an_answer_with_a_date_that_makes_no_sense_counts_from_this_clock() -> None:
    wait = retry_after(email.utils.formatdate(time.time() + 300, usegmt=True), "yesterday")
    assert wait is not None
    assert 290 < wait <= 300


def test_a_date_in_the_past_means_now() -> None:
    assert retry_after("Sat, 01 Jan 2000 00:00:00 GMT") == 0


@pytest.mark.parametrize("value", ["9" * 500, "86401", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_nobody_can_send_a_device_away_for_ever(value: str) -> None:
    assert retry_after(value) == LONGEST_RETRY_AFTER


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5", "٣", "Fri, 99 Dec 2026 00:00:00 GMT", "1" * 3 + "x"])
def test_what_makes_no_sense_is_no_wish(value: str | None) -> None:
    assert retry_after(value) is None
