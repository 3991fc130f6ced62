"""How the last poll ended and what it cost, for `agent status`: kept in the journal, but not at every poll.

POLL-1  A poll that ended otherwise than the one before is kept at once.
POLL-2  Of polls that end alike one is kept every five minutes: a device polls for years, and flash wears.
POLL-3  What is not kept yet is kept when the agent ends in order.
POLL-4  A full disk keeps no poll from being followed by its cycle.
POLL-5  A start is noted until its first poll has ended, so that the next start knows of one that did not live so long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final, Literal

from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.recorded import recorded_number
from margo_gitops.errors import MargoGitopsError, StorageFull
from margo_gitops.web.metering import Cost

PollResult = Literal["new", "unchanged", "failed", "refused", "none"]

KEPT_EVERY: Final = 300.0
"""Seconds between two polls that end alike and are kept (POLL-2)."""

_UNPOLLED: Final = "start.unpolled"
_OUTCOME: Final = ("poll.result", "poll.code", "poll.error")


class PollRecord:
    """Remembers polls, and keeps the last one in the journal where that is worth a write.

    The journal stays open longer than this record, and its errors come through. The clock is the time in seconds since
    the epoch; it may jump.
    """

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        self._journal = journal
        self._clock = clock
        self._kept = {name: value for name, value in journal.facts().items() if name.startswith("poll.")}
        self._last = dict(self._kept)

    def spent(self, cost: Cost) -> None:
        """Remember what the poll that ends next has cost."""
        self._last |= {
            "poll.requests": str(cost.requests),
            "poll.bytes_up": str(cost.bytes_up),
            "poll.bytes_down": str(cost.bytes_down),
        }

    def ended(self, result: PollResult, error: MargoGitopsError | None) -> bool:
        """Remember how a poll ended, and return whether the source answers again after it did not."""
        failed_before = self._last.get("poll.result") == "failed"
        answered = result in ("new", "unchanged")
        now = self._clock()
        self._last |= {
            "poll.at": repr(now),
            "poll.result": result,
            "poll.code": error.code if error else "",
            "poll.error": str(error) if error else "",
        }
        if answered:
            self._last["poll.answered_at"] = repr(now)
        if self._is_due(now):
            with contextlib.suppress(StorageFull):
                self._keep()
        return answered and failed_before

    def close(self) -> None:
        """Keep what is not kept yet (POLL-3); an error is ignored."""
        with contextlib.suppress(MargoGitopsError):
            self._keep()

    def _is_due(self, now: float) -> bool:
        if any(self._kept.get(name) != self._last[name] for name in _OUTCOME):
            return True
        # A clock that went back makes a poll due as well: the kept time would lie in the future.
        kept = recorded_number(self._kept.get("poll.at"))
        return kept is None or not 0 <= now - kept < KEPT_EVERY

    def _keep(self) -> None:
        if self._last != self._kept:
            self._journal.set_facts(self._last)
            self._kept = dict(self._last)


def note_start(journal: Journal) -> bool:
    """Note that an agent starts; return whether the last one did not live until its first poll (POLL-5)."""
    is_unpolled = bool(journal.facts().get(_UNPOLLED))
    _keep(journal, "1")
    return is_unpolled


def note_poll(journal: Journal) -> None:
    """Note that the first poll of an agent has ended (POLL-5)."""
    _keep(journal, "")


def _keep(journal: Journal, text: str) -> None:
    with contextlib.suppress(MargoGitopsError):  # a full disk keeps no device from its agent
        journal.set_facts({_UNPOLLED: text})
