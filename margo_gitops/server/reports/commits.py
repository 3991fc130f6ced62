"""Puts reports from the journal into the branch, many at a time, and who sent them into the message."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.reports.journal import ReportJournal, Uncommitted
from margo_gitops.server.reports.reading import summary
from margo_gitops.state_repo.followed_state import FollowedState
from margo_gitops.state_repo.report_branch import Committed, ReportBranch
from margo_gitops.values import dataclass

_LOG = logging.getLogger("margo_gitops.server")
_NAMED: Final = 200
"""How many reports of a commit have a line of their own."""


@dataclass(eq=False)
class ReportCommits:
    """Commits when enough reports wait, or when the oldest has waited long enough.

    Attributes:
        every: seconds from one commit to the next.
        batch: how many reports make a commit before that, and how many it holds at most.
        clock: the time, seconds since the epoch.
    """

    journal: ReportJournal
    branch: ReportBranch | FollowedState
    every: float
    batch: int
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._waiting = 0
        self._enough = asyncio.Event()
        self._stopping = False
        self._looked = False

    def changed(self) -> None:
        """Say that a report changed."""
        self._waiting += 1
        if self._waiting >= self.batch:
            self._enough.set()

    def stop(self) -> None:
        """Let `run` end; it commits what waits, unless other servers do."""
        self._stopping = True
        self._enough.set()

    async def run(self) -> None:
        """Commit until `stop`; what the last run of the server left is committed first."""
        while True:
            last, enough = self._stopping, self._enough.is_set()
            if last and self.journal.is_shared:
                return
            self._enough.clear()
            self._waiting = 0
            try:
                await self.commit(0 if last or enough else self.every)
            except MargoGitopsError as error:
                _LOG.error("%s", error)
            if last:
                return
            if not self._stopping:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._enough.wait(), self.every)

    async def commit(self, every: float) -> None:
        """Commit what waits, unless another server does, or did in the last `every` seconds.

        Raises:
            MargoGitopsError: it cannot be committed now; nothing is lost.
        """
        async with self.journal.turn(every) as mine:
            count = self.batch if mine else 0
            while count == self.batch and not (self._stopping and self.journal.is_shared):
                changes = await self.journal.uncommitted(self.batch)
                count = len(changes)
                # What the last run committed may be lost, though nothing new waits.
                if changes or not self._looked:
                    after = await self.journal.last_commit()
                    made = await asyncio.to_thread(self._commit, changes, after)
                    if await self.journal.committed(changes, made):
                        _LOG.warning(
                            "the branch of reports lost what was committed: all that is held is committed again"
                        )
                        count = self.batch
                    self._looked = True

    def _commit(self, changes: list[Uncommitted], after: str | None) -> Committed:
        if not changes:
            return self.branch.commit({}, "", (), int(self.clock()), after)
        clients = sorted({each.key.client for each in changes})
        title = f"Reports of {clients[0]}" if len(clients) == 1 else f"Reports of {len(clients)} devices"
        lines = [
            f"{each.key.client}: {summary(each.content, (each.key.kind, each.key.name))}" for each in changes[:_NAMED]
        ]
        if len(changes) > _NAMED:
            lines.append(f"and {len(changes) - _NAMED} more reports")
        senders = sorted({(each.key.client, each.evidence) for each in changes})
        trailers = [("Reported-By", f"{client} ({evidence})") for client, evidence in senders]
        content = {each.key: each.content for each in changes}
        return self.branch.commit(content, "\n".join([title, "", *lines]), trailers, int(self.clock()), after)
