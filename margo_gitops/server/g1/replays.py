"""Which signatures were seen: a request that was recorded and is sent again does nothing (RFC 9421, 7.2.2).

What is remembered is as long-lived as a signature may be, and in memory: a restart forgets it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MOST_REMEMBERED: Final = 500_000


class SeenSignatures:
    """Remembers marks for a while."""

    def __init__(self, seconds: float, clock: Callable[[], float], most: int = MOST_REMEMBERED) -> None:
        """Remember nothing yet.

        Args:
            seconds: how long a mark is remembered.
            clock: seconds since some moment; never jumps.
            most: how many are remembered at once.
        """
        self._seconds = seconds
        self._clock = clock
        self._most = most
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    @property
    def full(self) -> bool:
        """Whether no other mark can be remembered now."""
        self._forget()
        return len(self._ends) >= self._most

    def is_first(self, mark: bytes) -> bool:
        """Remember a mark, and return whether it was not remembered yet."""
        self._forget()
        if mark in self._ends:
            return False
        self._ends[mark] = self._clock() + self._seconds
        return True

    def _forget(self) -> None:
        now = self._clock()
        while self._ends and next(iter(self._ends.values())) <= now:
            self._ends.popitem(last=False)
