"""Sees renders as they come, and wakes the devices that wait for one.

WATCH-1  A request sees what was rendered before it came: it looks first.
WATCH-2  Nothing is lost between two looks: a request compares what its device holds before it waits and after.
WATCH-3  Who waits holds no thread, and at most a few waits for each device; one too many is answered at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from starlette.types import Receive

from margo_gitops.errors import MargoGitopsError
from margo_gitops.state_repo.served_state import ServedState, StateView

T = TypeVar("T")

_LOG = logging.getLogger("margo_gitops.server")
_WAITS_OF_ONE_DEVICE: Final = 2
_AT_ONCE: Final = 50
"""Devices that are woken before other requests have a turn."""


class StateWatch:
    """The state as it is now, and the requests that wait for a change."""

    def __init__(self, state: ServedState, max_waiting: int) -> None:
        self._state = state
        self._max_waiting = max_waiting
        self._waiting: dict[str, list[asyncio.Timeout]] = {}
        self._count = 0
        self._closed = False
        self._complaint = ""

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._count

    @property
    def healthy(self) -> bool:
        """Whether the last look could read the state repo."""
        return not self._complaint

    def look(self) -> StateView:
        """Return the state as it is now (WATCH-1); wake the requests that wait for what changed."""
        before = self._state.view()
        try:
            changed = self._state.refresh()
            self._complaint = ""
        except (MargoGitopsError, OSError) as error:
            # What was rendered before stays right until the repository can be read again.
            if str(error) != self._complaint:
                _LOG.error("the state repo cannot be read: %s", error)
            self._complaint = str(error)
            return before
        view = self._state.view()
        if changed:
            self._wake_moved(list(self._waiting), before, view)
        return view

    async def run(self, interval: float) -> None:
        """Look again and again, so that a waiting request hears of a render within `interval` seconds."""
        while True:
            await asyncio.sleep(interval)
            self.look()

    @property
    def closed(self) -> bool:
        """Whether the server ends: no request waits any more."""
        return self._closed

    def close(self) -> None:
        """Wake all requests; from now on none waits."""
        self._closed = True
        self._wake(list(self._waiting))

    async def change_of(
        self,
        client: str,
        seconds: float,
        receive: Receive,
        read: Callable[[StateView], T],
        is_held: Callable[[T], bool],
    ) -> T:
        """Return what is read of the state: now, or, where that is held already, after a change or the time."""
        deadline = time.monotonic() + seconds
        while seconds:
            found = read(self.look())
            left = deadline - time.monotonic()
            if left <= 0 or not is_held(found):
                return found
            del found  # thousands wait, and each has a state
            if not await self.wait(client, left, receive):
                break
        return read(self.look())

    async def wait(self, client: str, seconds: float, receive: Receive) -> bool:
        """Wait for a change of a client's state.

        Args:
            receive: of the request, so that one whose sender went away is let go.

        Returns:
            Whether the client's state changed; False too where there are too many waits (WATCH-3).
        """
        mine = self._waiting.setdefault(client, [])
        if self._closed or self._count >= self._max_waiting or len(mine) >= _WAITS_OF_ONE_DEVICE:
            self._drop_empty(client)
            return False
        # A future to wake, and a task to hear of the end of the connection, would take 3 KiB for each device.
        end = asyncio.timeout(seconds)
        mine.append(end)
        self._count += 1
        try:
            async with end:
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            woken = end not in self._waiting.get(client, ())
            return woken and not self._closed
        else:
            return False
        finally:
            self._count -= 1
            mine.remove(end)
            self._drop_empty(client)

    def _drop_empty(self, client: str) -> None:
        if not self._waiting.get(client, True):
            del self._waiting[client]

    def _wake_moved(self, clients: list[str], before: StateView, after: StateView) -> None:
        """Wake those whose state changed; a few at a time, so that other requests are answered between them."""
        self._wake(client for client in clients[:_AT_ONCE] if before.revision(client) != after.revision(client))
        if rest := clients[_AT_ONCE:]:
            asyncio.get_running_loop().call_soon(self._wake_moved, rest, before, after)

    def _wake(self, clients: Iterable[str]) -> None:
        for client in clients:
            for end in self._waiting.pop(client, ()):
                if not end.expired():
                    end.reschedule(0)  # it is over
