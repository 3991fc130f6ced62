"""When the agent polls: the rules SCHEDULE-1 to SCHEDULE-6 of margo_gitops.agent.service.schedule."""

from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.agent.memory.recorded import retry_pause
from margo_gitops.agent.service.schedule import LONGEST_PAUSE_SECONDS, Schedule

times = st.floats(0, 4e9)
schedules = st.builds(
    lambda device, interval, share: Schedule(device, interval, interval * share),
    st.text("abc0123-", min_size=1, max_size=12),
    st.floats(1, 86_400),
    st.floats(0, 0.99),
)


@given(schedules, times)
def test_a_poll_comes_within_one_interval_and_the_jitter(schedule: Schedule, now: float) -> None:
    delay = schedule.delay(now)
    assert delay + 1e-3 > 0
    assert delay <= schedule.interval + schedule.jitter + 1e-3


@given(schedules, st.integers(0, 10**9))
def test_there_is_one_poll_per_interval_and_late_cycles_do_not_add_up(schedule: Schedule, start: int) -> None:
    now, polls = float(start), 0
    while now < start + 20 * schedule.interval:
        now += max(schedule.delay(now), 1e-3)
        polls += 1
        now += schedule.interval * 0.004  # what the cycle itself takes
    assert 19 <= polls <= 22


def test_g_c_14_a_fleet_spreads_over_the_interval() -> None:
    moments = [Schedule(f"press-{number}", 60, 6).delay(1_000_000) for number in range(1000)]
    tenths = [sum(1 for moment in moments if tenth <= moment / 6 < tenth + 1) for tenth in range(10)]
    assert min(tenths) > 40


def test_the_plan_is_the_same_on_every_machine() -> None:
    assert Schedule("press-07", 60, 6).delay(1_790_000_000) == Schedule("press-07", 60, 6).delay(1_790_000_000)
    assert round(Schedule("press-07", 60, 6).first_delay(), 3) == round(Schedule("press-07", 60, 6).first_delay(), 3)


@given(schedules, times, st.integers(1, 10_000))
def test_failures_stretch_the_pause_up_to_an_hour(schedule: Schedule, now: float, failures: int) -> None:
    delay = schedule.delay(now, failures=failures)
    assert delay <= max(LONGEST_PAUSE_SECONDS, schedule.interval) + schedule.interval + schedule.jitter + 1e-3
    if failures == 1:
        assert delay == schedule.delay(now), "a single failure changes nothing"


def test_g_r_4_the_pause_doubles() -> None:
    schedule = Schedule("press-07", 60, 0)
    skipped = [round((schedule.delay(0, failures=n) - schedule.delay(0)) / 60) for n in range(1, 8)]
    assert skipped == [0, 1, 3, 7, 15, 31, 59]


@given(schedules, times, st.floats(0, 86_400))
def test_g_r_3_a_source_that_asks_to_wait_is_not_asked_before(
    schedule: Schedule, now: float, retry_after: float
) -> None:
    assert schedule.delay(now, retry_after=retry_after) >= retry_after - 1e-3


def test_a_source_cannot_silence_a_device_for_ever() -> None:
    assert Schedule("press-07", 60, 6).delay(0, retry_after=1e12) < 86_400 + 120


def test_what_failed_rests_longer_each_time() -> None:
    assert [retry_pause(attempts) for attempts in (1, 2, 3, 7, 1000)] == [60, 120, 240, 3600, 3600]
