"""When the agent polls next: polite by construction, pure.

    P-1  Polls of one device fall on slots one interval apart. Where the slots lie follows from the device id, so a
         fleet spreads over the interval, and does so again by itself after an outage.
    P-2  Slots are counted from the epoch, so delays of single polls never add up.
    P-3  Jitter moves a poll within its slot, from device id and slot number: no randomness, yet never in step.
    P-4  After the n-th failure in a row, 2^(n-1) - 1 slots are skipped, until the pause reaches an hour.
    P-5  A source that asks to wait (`Retry-After`) is not asked again before that time.
    P-6  The first poll after a start comes within the jitter.

Times are seconds since the epoch. A clock that is wrong moves the slots, never the pace.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

LONGEST_PAUSE_SECONDS: Final = 3600.0
"""How long failures may stretch the time between two polls (P-4); longer intervals stay as they are."""

LONGEST_RETRY_AFTER_SECONDS: Final = 24 * 3600.0
"""A source cannot silence a device for longer than this (P-5)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The polls of one device.

    Attributes:
        device: its id.
        interval: seconds between two slots, positive.
        jitter: the most seconds a poll comes after the start of its slot, less than the interval.
    """

    device: str
    interval: float
    jitter: float

    def first_delay(self) -> float:
        """Return how many seconds after its start the agent polls for the first time (P-6)."""
        return _fraction(self.device, "start") * self.jitter

    def delay(self, now: float, *, failures: int = 0, retry_after: float | None = None) -> float:
        """Return how many seconds to wait before the next poll; always positive.

        Args:
            now: the time.
            failures: polls that failed in a row, up to now.
            retry_after: seconds the source asked to wait, if it did.
        """
        pause = max(self._backoff(failures), min(retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS))
        phase = _fraction(self.device, "phase") * self.interval
        slot = math.floor((now + pause - phase) / self.interval) + 1
        begin = slot * self.interval + phase
        return begin - now + _fraction(self.device, str(slot)) * self.jitter

    def _backoff(self, failures: int) -> float:
        skipped: int = 2 ** min(failures - 1, 32) - 1 if failures > 0 else 0
        longest = max(LONGEST_PAUSE_SECONDS - self.interval, 0.0)
        return min(skipped * self.interval, longest)


def retry_pause(attempts: int) -> float:
    """Return how many seconds to wait before content that failed `attempts` times is installed again."""
    doublings = min(max(attempts, 1) - 1, 32)
    return min(60.0 * float(1 << doublings), LONGEST_PAUSE_SECONDS)


def _fraction(device: str, purpose: str) -> float:
    """Return a number from 0 (included) to 1 (excluded) that is the same on every machine."""
    number = hashlib.sha256(f"{purpose}\0{device}".encode()).digest()
    return int.from_bytes(number[:6], "big") / 2**48
