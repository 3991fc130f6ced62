"""What a source says about the next poll: rules SCHEDULE-7 and SCHEDULE-8 of the schedule, SERVICE-3 of the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.service.loop import Service, ServiceManager
from margo_gitops.agent.service.schedule import Schedule
from margo_gitops.errors import MargoGitopsError, SourceBusy, SourceUnreachable
from margo_gitops.transport.transport import PollHints

SCHEDULE = Schedule("press-07", 60, 6)
WAITED = PollHints(waited=True)

times = st.floats(0, 4e9)


@given(times, st.floats(60, 86_400))
def test_a_source_that_wishes_for_fewer_polls_is_asked_that_seldom(now: float, wished: float) -> None:
    first = now + SCHEDULE.delay(now, wished=wished)
    second = first + SCHEDULE.delay(first, wished=wished)
    assert wished - SCHEDULE.jitter - 1e-3 <= second - first <= wished + SCHEDULE.jitter + 1e-3


@given(times, st.floats(0, 60))
def test_nobody_can_ask_for_more_polls(now: float, wished: float) -> None:
    assert SCHEDULE.delay(now, wished=wished) == SCHEDULE.delay(now)


def test_a_wish_cannot_silence_a_device() -> None:
    assert SCHEDULE.delay(0, wished=1e12) < 86_400 + 60


@given(times, st.floats(1, 300))
def test_a_wait_is_at_most_the_longest_and_its_jitter_in_whole_seconds(now: float, longest: float) -> None:
    assert 0 <= SCHEDULE.patience(now, longest) <= longest * 1.1 + 1


@given(times)
def test_one_wait_follows_the_other_without_a_gap_or_a_short_one(now: float) -> None:
    now += SCHEDULE.patience(now, 60)
    for _ in range(5):
        patience = SCHEDULE.patience(now, 60)
        assert 60 - 7 - 2 <= patience <= 60 + 7 + 2
        now += patience


def test_without_a_longest_wait_nothing_waits() -> None:
    assert SCHEDULE.patience(1_790_000_000, 0) == 0


@dataclass
class Life:
    """A service in a time of its own; each poll ends with an error or with hints."""

    answers: list[PollHints | MargoGitopsError]
    now: float = 1_790_000_000.0
    polled_at: list[float] = field(default_factory=list)

    def run(self, *, poll: bool = True, wait: int = 0, patient: bool = False, retry: bool = False) -> Outcome:
        del wait, patient, retry
        error, hints = None, PollHints()
        if poll:
            answer = self.answers[len(self.polled_at)]
            self.polled_at.append(self.now)
            hints = answer if isinstance(answer, PollHints) else hints
            error = answer if isinstance(answer, MargoGitopsError) else None
        return Outcome("failed" if error else "unchanged", None, error, None, hints)

    def stopping(self) -> bool:
        return len(self.polled_at) >= len(self.answers)

    def take_poll(self) -> bool:
        return False

    def wait(self, seconds: float, _files: object = ()) -> None:
        self.now += seconds

    def pauses(self) -> list[float]:
        clock: Callable[[], float] = lambda: self.now  # noqa: E731
        Service(
            cycles=self,
            schedule=SCHEDULE,
            waiting=self,
            manager=ServiceManager({}),
            record=lambda _: None,
            clock=clock,
            timer=clock,
        ).run()
        return [later - earlier for earlier, later in zip(self.polled_at, self.polled_at[1:], strict=False)]


def test_a_source_that_waited_is_asked_again_at_once() -> None:
    assert Life([WAITED, WAITED, WAITED]).pauses() == [0, 0]


@pytest.mark.parametrize(
    ("answer", "shortest"),
    [
        (SourceUnreachable("cut off"), 0.001),
        (SourceBusy("busy", retry_after=200), 200),
        (PollHints(waited=True, pause=200), 200),
        (PollHints(pause=200), 200),
        (PollHints(), 0.001),
    ],
)
def test_f16_after_everything_else_comes_a_slot(answer: PollHints | MargoGitopsError, shortest: float) -> None:
    (pause,) = Life([answer, WAITED]).pauses()
    assert shortest <= pause <= shortest + 66


def test_a_wish_replaces_the_interval() -> None:
    pauses = Life([PollHints(interval=600)] * 4).pauses()
    assert all(594 <= pause <= 606 for pause in pauses[1:])
