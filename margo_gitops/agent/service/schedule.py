"""When the agent polls next: polite by construction, pure.

    SCHEDULE-1  Polls of one device fall on slots one interval apart. The device id decides when the slots are, so
                a fleet spreads over the interval, and does so again by itself after an outage.
    SCHEDULE-2  Slots are counted from the epoch, so delays of single polls never add up.
    SCHEDULE-3  Jitter moves a poll within its slot, from device id and slot number: no randomness, yet never in step.
    SCHEDULE-4  After the n-th failure in a row, 2^(n-1) - 1 slots are skipped, until the pause reaches an hour.
    SCHEDULE-5  A source that asks to wait (`Retry-After`) is not asked again before that time.
    SCHEDULE-6  The first poll after a start comes within the jitter.
    SCHEDULE-7  A source that wishes for fewer polls is asked less often: its interval replaces a shorter one of the
                configuration, so that slots spread over the longer one. No source can ask for more.
    SCHEDULE-8  Where the source keeps a poll waiting for a change, the wait ends at the device's own slot, counted with
                the longest wait as the interval. So a fleet whose waits were all cut off, or all answered, at one
                moment is spread again one wait later, without an echo (failure mode F17).
    SCHEDULE-9  Where the device may poll at some hours only, a poll that is not allowed comes in the next of them, at
                the device's own place in their first interval.

Times are seconds since the epoch. A clock that is wrong moves the slots, never the pace.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

from margo_gitops.values import dataclass

LONGEST_PAUSE_SECONDS: Final = 3600.0
"""How long failures may stretch the time between two polls (SCHEDULE-4); longer intervals stay as they are."""

LONGEST_RETRY_AFTER_SECONDS: Final = 24 * 3600.0
"""A source cannot silence a device for longer than this (SCHEDULE-5, SCHEDULE-7)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The polls of one device.

    Attributes:
        interval: seconds between two slots, positive.
        jitter: the most seconds a poll comes after the start of its slot, less than the interval.
    """

    device: str
    interval: float
    jitter: float

    def first_delay(self) -> float:
        """Return how many seconds after its start the agent polls for the first time (SCHEDULE-6)."""
        return _fraction(self.device, "start") * self.jitter

    def delay(
        self,
        now: float,
        *,
        failures: int = 0,
        retry_after: float | None = None,
        wished: float | None = None,
        opening: tuple[float, float] | None = None,
    ) -> float:
        """Return how many seconds to wait before the next poll; always positive.

        Args:
            failures: polls that failed in a row, up to now.
            retry_after: seconds the source asked to wait, if it did.
            wished: seconds between two polls that the source wishes for, if it does.
            opening: beginning and end of the hours in which the device may poll, these or the next; None for any.
        """
        if opening is not None and opening[0] > now:
            begin, end = opening
            return begin - now + _fraction(self.device, f"opening {begin}") * min(self.interval, (end - begin) / 2)
        interval = max(self.interval, min(wished or 0.0, LONGEST_RETRY_AFTER_SECONDS))
        pause = max(self._backoff(failures), min(retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS))
        begin, slot = self._slot(now + pause, interval)
        return begin - now + _fraction(self.device, str(slot)) * self.jitter

    def patience(self, now: float, longest: float) -> int:
        """Return how many whole seconds the source may keep a poll waiting for a change; 0 for none (SCHEDULE-8).

        Args:
            longest: the longest wait, in seconds; jitter comes on top, in the proportion it has for polls.
        """
        if longest < 1:
            return 0
        begin, slot = self._slot(now, longest)
        # Jitter as for polls: without it, those that come from a jittered poll would meet those that do not.
        end = begin + _fraction(self.device, str(slot)) * self.jitter * longest / self.interval
        # Rounded up: an end before the slot would make a second, short wait of it.
        return math.ceil(end - now)

    def _slot(self, after: float, interval: float) -> tuple[float, int]:
        """Return when the first slot after a moment begins, and its number."""
        phase = _fraction(self.device, "phase") * interval
        number = math.floor((after - phase) / interval) + 1
        return number * interval + phase, number

    def _backoff(self, failures: int) -> float:
        skipped: int = 2 ** min(failures - 1, 32) - 1 if failures > 0 else 0
        longest = max(LONGEST_PAUSE_SECONDS - self.interval, 0.0)
        return min(skipped * self.interval, longest)


def _fraction(device: str, purpose: str) -> float:
    """Return a number from 0 (included) to 1 (excluded) that is the same on every machine."""
    number = hashlib.sha256(f"{purpose}\0{device}".encode()).digest()
    return int.from_bytes(number[:6], "big") / 2**48
