"""Keeps the mirror of a state repo near its git server: at an interval, and when somebody says that there is news.

MIRRORED-1  Who asks for a fetch while one runs gets another one after it: nothing that was pushed before is missed.
MIRRORED-2  A server whose mirror moved tells the others, which then fetch too.
MIRRORED-3  A device that knows more than this server, because it came from another one, waits for a fetch: one for all
            who wait, at most two in a second, and for a few seconds only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.state_repo.followed_state import FollowedState

_LOG = logging.getLogger("margo_gitops.server")
_PAUSE_SECONDS: Final = 0.5
_TRIES: Final = 3
"""What a server that was killed left running may hold a lock of the mirror for a moment."""
_PATIENCE_SECONDS: Final = 8.0
"""Less than the time that a server has for its last answers."""

CatchUp: TypeAlias = Callable[[], Awaitable[bool]]
"""`StateMirror.catch_up`."""


class StateMirror:
    """Fetches, and lets the requests that wait for a change know."""

    def __init__(
        self, state: FollowedState, watch: StateWatch, seconds: float, say: Callable[[str], Awaitable[None]]
    ) -> None:
        """Follow a state.

        Args:
            watch: looks at the mirror.
            seconds: between two looks at the git server.
            say: tells other servers which commit of the fleet is here.
        """
        self._state = state
        self._watch = watch
        self._seconds = seconds
        self._say = say
        self._asked = asyncio.Event()
        self._complaint = ""
        self._fetching = asyncio.Lock()
        self._began = float("-inf")
        self._waiting: set[asyncio.Future[None]] = set()

    def ask(self, commit: str | None = None) -> None:
        """Fetch soon, from the event loop: somebody knows that the state moved.

        Args:
            commit: the commit of the fleet that there is; None: not known.
        """
        if commit is None or commit != self._watch.look().fleet_commit:
            self._asked.set()

    async def run(self) -> None:
        """Fetch until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._seconds)
            self._asked.clear()  # before the fetch (MIRRORED-1)
            await self._fetch_after(float("inf"))

    async def catch_up(self) -> bool:
        """Wait until the mirror has what the git server had at the call, or it cannot be fetched (MIRRORED-3).

        Returns:
            Whether nothing newer can be had now; False: the fetch takes too long to know.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for _ in range(_TRIES):
            # Not cancelled: a fetch that hangs must not be followed by others.
            fetched = asyncio.ensure_future(self._fetch_after(time.monotonic()))
            self._waiting.add(fetched)
            fetched.add_done_callback(self._waiting.discard)
            await asyncio.wait({fetched}, timeout=deadline - time.monotonic())
            if not fetched.done():
                return False
            if not self._complaint:
                break
        return True

    async def _fetch_after(self, moment: float) -> None:
        """Fetch, unless a fetch began after this moment."""
        async with self._fetching:
            if self._began <= moment:
                await asyncio.sleep(self._began + _PAUSE_SECONDS - time.monotonic())
                self._began = time.monotonic()
                await self._fetch()

    async def _fetch(self) -> None:
        try:
            if await asyncio.to_thread(self._state.follow):
                commit = self._watch.look().fleet_commit
                if commit is not None:
                    await self._say(commit)
        except MargoGitopsError as error:
            if str(error) != self._complaint:
                _LOG.error("the mirror of the state repo stays as it is: %s", error)
            self._complaint = str(error)
        else:
            self._complaint = ""
