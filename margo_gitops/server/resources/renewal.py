"""Renews the statement of freshness while the server runs: with a key that can sign nothing else.

RENEW-1  A statement is made when it is missing, when it speaks of an older state than there is, or when half of its
         life is over; the refs that are served change like after a render, and no waiting device wakes.
RENEW-2  State that no render wrote is never said to be fresh: after tampering with the state repo, nothing is renewed.
RENEW-3  The statement covers only what the server itself would serve: if the state repo cannot be read, or
         `allowedSigners` did not sign it, nothing is renewed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from margo_gitops.errors import MargoGitopsError, StateMoved
from margo_gitops.state_repo.freshness_refs import Renewal, is_due, renew
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.values import dataclass, field

_LOG = logging.getLogger("margo_gitops.server")


@dataclass(eq=False)
class FreshnessRenewal:
    """Makes statements for one state repo, in a separate thread.

    Attributes:
        valid_for: how long one is believed.
        every: seconds between two looks whether one is due.
        healthy: whether the server can read the state repo (RENEW-3).
        signers: returns who must have signed the state; None: not checked.
        clock: the time, with a time zone.
    """

    folder: Path
    key: SigningKey
    valid_for: timedelta
    every: float
    healthy: Callable[[], bool]
    signers: Callable[[], AllowedSigners] | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _complaint: str = field(default="", init=False)

    async def run(self) -> None:
        """Renew again and again."""
        while True:
            if self.healthy():
                await asyncio.to_thread(self.renew_if_due)
            await asyncio.sleep(self.every)

    def renew_if_due(self) -> bool:
        """Make a statement where one is due (RENEW-1); return whether one was made. An error is logged once."""
        try:
            repo = StateRepo.open(self.folder)
            values = repo.refs.read()
            now = self.clock()
            if not values or not is_due(repo, values, now):
                return False
            signers = self.signers() if self.signers else None
            renewed = renew(repo, values, Renewal(self.key, now, self.valid_for, signers))
        except StateMoved:
            return False  # a render came between; the next look sees what it wrote
        except (MargoGitopsError, OSError) as error:
            if str(error) != self._complaint:
                _LOG.error("the statement of freshness cannot be renewed: %s", error)
            self._complaint = str(error)
            return False
        self._complaint = ""
        _LOG.info("%d devices: fresh until %s", renewed.devices, renewed.statement.expires)
        return True
