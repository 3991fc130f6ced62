"""The agent as a service: cycles for ever, politely, through every failure.

S-1  At the start the held state is applied at once, without the network; then the source is polled.
S-2  No error of a cycle ends the agent: it is recorded with its code, and the next poll comes, later each time.
S-3  A signal to stop is obeyed between two steps; what was begun is finished or taken up at the next start.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Protocol

from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.events import Event, Reason, Record
from margo_gitops.agent.notify import ServiceManager
from margo_gitops.agent.schedule import Schedule
from margo_gitops.errors import AgentDefect, MargoGitopsError


class Cycles(Protocol):
    """What does one cycle."""

    def run(self, *, poll: bool = True, patient: bool = False) -> Outcome:
        """Do one cycle."""
        ...


class Waiting(Protocol):
    """What waits, and hears of signals meanwhile."""

    def stopping(self) -> bool:
        """Return whether the agent shall end."""
        ...

    def take_poll(self) -> bool:
        """Return whether a poll was asked for since the last call."""
        ...

    def wait(self, seconds: float) -> None:
        """Return after this time, or as soon as a signal came."""
        ...


class Service:
    """Runs cycles until it is told to stop."""

    def __init__(
        self,
        *,
        cycles: Cycles,
        schedule: Schedule,
        waiting: Waiting,
        manager: ServiceManager,
        record: Record,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        """Take the parts.

        Args:
            cycles: does one cycle.
            schedule: when to poll.
            waiting: waits and hears of signals.
            manager: the service manager to report to.
            record: keeps events.
            clock: the time, seconds since the epoch; may jump.
            timer: seconds since some moment; never jumps.
        """
        self._cycles = cycles
        self._schedule = schedule
        self._waiting = waiting
        self._manager = manager
        self._record = record
        self._clock = clock
        self._timer = timer

    def run(self) -> None:
        """Run cycles until a signal asks to stop."""
        self._manager.ready()
        self._cycle(poll=False)
        failures = 0
        delay = self._schedule.first_delay()
        while self._wait(delay):
            error = self._cycle(poll=True)
            failures = failures + 1 if error else 0
            retry_after = getattr(error, "retry_after", None)
            delay = self._schedule.delay(self._clock(), failures=failures, retry_after=retry_after)
        self._manager.stopping()

    def _cycle(self, *, poll: bool) -> MargoGitopsError | None:
        """Do one cycle and return why the poll did not work, if it did not (S-2)."""
        try:
            outcome = self._cycles.run(poll=poll, patient=True)
        except MargoGitopsError as error:
            self._record(Event.of(Reason.STORAGE_FAILED, error))
            return error
        except Exception as error:  # noqa: BLE001  # S-2: a defect must not leave a device without its agent
            defect = AgentDefect(f"unexpected {type(error).__name__}: {error}", why=_places(error))
            self._record(Event.of(Reason.DEFECT, defect))
            return defect
        self._manager.alive(f"holds version {outcome.version}" if outcome.version else "holds nothing yet")
        return outcome.poll_error

    def _wait(self, seconds: float) -> bool:
        """Wait for the next poll, with signs of life; return whether there is one."""
        end = self._timer() + seconds
        while not self._waiting.stopping():
            left = end - self._timer()
            if left <= 0 or self._waiting.take_poll():
                return True
            self._waiting.wait(min(left, self._manager.heartbeat or left))
            self._manager.alive()
        return False


def _places(error: Exception) -> list[str]:
    """Return where an error came from, innermost first: what a developer needs, in two lines."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"at {frame.name}, line {frame.lineno} of {frame.filename}" for frame in frames[-1:-3:-1]]
