"""When what an engine tells wakes a cycle between two others.

WAKE-1  The agent looks a second after an engine tells of a change: what a person does is often several events, and an
        engine starts again by itself what crashed.
WAKE-2  Two such looks are five seconds apart; looks that follow each other come later each time, up to a minute. So an
        engine that tells without end, or tells what is not true, costs one cycle in a minute.
WAKE-3  A cycle answers the events before its begin. Those during a cycle make one more look, but not a pull: the cycle
        may have done it itself. A cycle that changes nothing makes no events, so this comes to an end.
WAKE-4  A connection that ends is made again, later each time, up to a minute. That an engine is back is a change.
WAKE-5  An image that came ends the pause of what could not be fetched.
"""

from __future__ import annotations

import contextlib
import math
import select
import time
from collections.abc import Callable, Iterable
from typing import Final

from margo_gitops.appliers.applier import EngineEvents, TellsEvents, Told
from margo_gitops.values import dataclass

_SETTLED_SECONDS: Final = 1.0
_SHORTEST_SECONDS: Final = 5.0
_LONGEST_SECONDS: Final = 60.0
_REST_SECONDS: Final = 1.0
"""Between two reads: what an engine tells of others costs little, however much it is."""


def _nothing() -> None:
    """Do nothing: no one wants to know."""


@dataclass(eq=False, slots=True)
class _Source:
    """An applier whose engine tells, and the connection to it.

    Attributes:
        number: its descriptor.
        since: when the connection was made.
        retry: when it must be made.
        losses: how often it was lost, or could not be made, since it last held for long.
        is_back: whether the next answer says that the engine is back.
    """

    applier: TellsEvents
    stream: EngineEvents | None = None
    number: int = -1
    since: float = 0.0
    retry: float = -math.inf
    losses: int = 0
    is_back: bool = False

    def connect(self, now: float) -> None:
        """Connect where it is time; an error of any kind counts as a loss."""
        if self.stream is None and now >= self.retry:
            self.stream, self.since, self.retry = self.applier.events(), now, math.inf
            self.number = self.stream.fileno() if self.stream is not None else -1

    def lost(self, now: float) -> None:
        """Note that the connection does not work (WAKE-4)."""
        if self.stream is not None:
            with contextlib.suppress(Exception):
                self.stream.close()
            if now - self.since >= _LONGEST_SECONDS:
                self.losses = 0
        self.stream, self.is_back = None, True
        self.retry = now + min(2.0**self.losses, _LONGEST_SECONDS)
        self.losses = min(self.losses + 1, 10)


class Wakes:
    """Listens to engines, and says when a cycle is due for what they tell.

    Args:
        appliers: those that are `TellsEvents` are listened to.
        came: called when an image came (WAKE-5).
        timer: seconds since some moment; never jumps.
        back: called when an engine is back (WAKE-4).
    """

    def __init__(
        self,
        appliers: Iterable[object] = (),
        came: Callable[[], None] = _nothing,
        timer: Callable[[], float] = time.monotonic,
        back: Callable[[], None] = _nothing,
    ) -> None:
        self._sources = [_Source(each) for each in appliers if isinstance(each, TellsEvents)]
        self._came = came
        self._back = back
        self._timer = timer
        self._rest = self._last = -math.inf
        self._pause = _SHORTEST_SECONDS
        self._was_woken = False
        self.due = math.inf

    def files(self) -> list[int]:
        """Return what ends a wait, as a descriptor of each engine that is listened to now."""
        if self.due < math.inf or self._timer() < self._rest:
            return []
        return [source.number for source in self._sources if source.stream is not None]

    def turn(self) -> float:
        """Return when to look again, by the timer, if nothing ends the wait before."""
        if self.due < math.inf:
            return self.due
        now = self._timer()
        return min([self._rest if self._rest > now else math.inf, *(source.retry for source in self._sources)])

    def look(self) -> None:
        """Hear what engines told, after a wait."""
        now = self._timer()
        if self.due == math.inf and now >= self._rest:
            self._hear(self._take(now), now)

    def began(self) -> None:
        """Note that a cycle begins."""
        now = self._timer()
        told = self._take(now)
        self._was_woken = self.due <= now
        if self._was_woken:
            follows = now - self._last < 2 * self._pause
            self._pause = min(2 * self._pause, _LONGEST_SECONDS) if follows else _SHORTEST_SECONDS
        self._hear(told, now)
        self.due = math.inf

    def ended(self) -> None:
        """Note that a cycle ended."""
        now = self._timer()
        if self._was_woken:
            self._last = now
        self._hear(self._take(now) - {"pulled"}, now)

    def close(self) -> None:
        """Listen no longer."""
        for source in self._sources:
            if source.stream is not None:
                source.stream.close()

    def _take(self, now: float) -> set[Told]:
        """Return what engines told since the last call; connect where it is time."""
        told: set[Told] = set()
        for source in self._sources:
            try:
                source.connect(now)
                if source.stream is None or not select.select([source.stream], [], [], 0)[0]:
                    continue
                self._rest = now + _REST_SECONDS
                told |= source.stream.take()
            except Exception:  # noqa: BLE001  # without events, the agent looks every minute
                source.lost(now)
                continue
            if source.is_back:
                source.is_back = False
                self._back()
                told.add("changed")
        return told

    def _hear(self, told: set[Told], now: float) -> None:
        if told & {"loaded", "pulled"}:
            self._came()
        if told:
            self.due = min(self.due, max(now + _SETTLED_SECONDS, self._last + self._pause))
