"""A simulated fleet of 100 devices for each second of its interval, after an outage: no herd (modes F16 and F17).

Every device is a `Schedule` and nothing else; the service's loop around it is in `test_service`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from margo_gitops.agent.service.schedule import Schedule

PER_SECOND = 64
INTERVAL = 300.0
BEGIN = 1_790_000_123.0
OUTAGE = 600.0
END = BEGIN + OUTAGE
PERIODS = 3

Polls = Callable[[Schedule], Iterator[float]]


def failing(schedule: Schedule) -> Iterator[float]:
    """Polls that fail during the outage, each pause longer than the one before."""
    now, failures = BEGIN, 0
    while True:
        now += schedule.delay(now, failures=failures)
        failures = failures + 1 if now < END else 0
        yield now


def sent_away(schedule: Schedule) -> Iterator[float]:
    """The server comes back, and tells everyone the same: come again in two minutes."""
    now = BEGIN
    while (now := now + schedule.delay(now)) < END:
        yield now
    yield now
    now += schedule.delay(now, failures=1, retry_after=120)
    while True:
        yield now
        now += schedule.delay(now)


def powered_on(schedule: Schedule) -> Iterator[float]:
    """Power returns to a plant: every device starts in the same second."""
    now = END + schedule.first_delay()
    while True:
        yield now
        now += schedule.delay(now)


def cut_off_while_waiting(schedule: Schedule) -> Iterator[float]:
    """Long polls that were all cut off at one moment, against a server that is away for the outage."""
    now, failures = BEGIN, 1
    while now < END:
        now += schedule.delay(now, failures=failures)
        failures += 1
        yield now
    while True:
        now += schedule.patience(now, INTERVAL)
        yield now


def all_changed_at_once(schedule: Schedule) -> Iterator[float]:
    """One render changes every device: all waits are answered in the same second, and all ask again at once."""
    now = END
    while True:
        yield now
        now += schedule.patience(now, INTERVAL)


def asked_for_more_peace(schedule: Schedule) -> Iterator[float]:
    """The server wishes for twice the interval from now on."""
    now = END + schedule.first_delay()
    while True:
        yield now
        now += schedule.delay(now, wished=2 * INTERVAL)


@pytest.mark.parametrize(
    ("polls", "period"),
    [
        (failing, INTERVAL),
        (sent_away, INTERVAL),
        (powered_on, INTERVAL),
        (cut_off_while_waiting, INTERVAL),
        (all_changed_at_once, INTERVAL),
        (asked_for_more_peace, 2 * INTERVAL),
    ],
)
def test_f17_from_the_second_period_after_an_outage_there_is_no_peak(polls: Polls, period: float) -> None:
    counts = [0] * math.ceil(PERIODS * period)
    for number in range(int(PER_SECOND * period)):
        for at in polls(Schedule(f"press-{number}", INTERVAL, INTERVAL / 10)):
            second = int(at - END)
            if second >= len(counts):
                break
            if second >= 0:
                counts[second] += 1
    for number in range(1, PERIODS):
        steady = counts[int(number * period) : int((number + 1) * period)]
        assert max(steady) <= 1.5 * PER_SECOND, (
            f"period {number + 1}: {max(steady)} in one second, {PER_SECOND} on average"
        )
