"""Which signatures were seen: a request that was recorded and is sent again does nothing (RFC 9421, 7.2.2).

What is remembered is as long-lived as a signature may be, and in memory: a restart forgets it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

MOST_REMEMBERED: Final = 500_000
MOST_OF_ONE: Final = 10_000
"""Of one client: more requests than its limits let pass while a signature holds."""


class SeenSignatures:
    """Remembers marks for a while."""

    def __init__(
        self, seconds: float, clock: Callable[[], float], most: int = MOST_REMEMBERED, most_of_one: int = MOST_OF_ONE
    ) -> None:
        """Remember nothing yet.

        Args:
            seconds: how long a mark is remembered.
            clock: seconds since some moment; never jumps.
            most: how many are remembered at once.
            most_of_one: how many of one client.
        """
        self._seconds = seconds
        self._clock = clock
        self._most = most
        self._most_of_one = most_of_one
        self._marks: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._of_clients: Counter[str] = Counter()

    @property
    def full(self) -> bool:
        """Whether no other mark can be remembered now."""
        self._forget()
        return len(self._marks) >= self._most

    def is_full_of(self, client: str) -> bool:
        """Return whether no other mark of a client can be remembered now: it takes no place that others need."""
        self._forget()
        return self._of_clients[client] >= self._most_of_one

    def is_first(self, mark: bytes, client: str) -> bool:
        """Remember a mark of a client, and return whether it was not remembered yet."""
        self._forget()
        if mark in self._marks:
            return False
        self._marks[mark] = self._clock() + self._seconds, client
        self._of_clients[client] += 1
        return True

    def _forget(self) -> None:
        now = self._clock()
        while self._marks and next(iter(self._marks.values()))[0] <= now:
            client = self._marks.popitem(last=False)[1][1]
            self._of_clients[client] -= 1
            if not self._of_clients[client]:
                del self._of_clients[client]
