"""Renews the statement of freshness while the server runs: with a key that can sign nothing else.

RENEW-1  A statement is made when there is none, when it speaks of an older state than there is, or when half of its
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

from margo_gitops.documents.freshness import parse_valid_for
from margo_gitops.errors import MargoGitopsError, StateMoved
from margo_gitops.server.service.configuration import LoadedServerConfiguration
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.state_repo.freshness_refs import Renewal, is_due, renew
from margo_gitops.state_repo.publication import read_signing_key
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.ssh_key import SigningKey

_LOG = logging.getLogger("margo_gitops.server")


class FreshnessRenewal:
    """Makes statements for one state repo, in a thread of its own."""

    def __init__(
        self,
        folder: Path,
        key: SigningKey,
        *,
        valid_for: timedelta,
        every: float,
        healthy: Callable[[], bool],
        signers: Callable[[], AllowedSigners] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take the settings.

        Args:
            folder: the state repo.
            key: signs the statements.
            valid_for: how long one is believed.
            every: seconds between two looks whether one is due.
            healthy: whether the server can read the state repo (RENEW-3).
            signers: returns who must have signed the state; None: not checked.
            clock: the time, with a time zone.
        """
        self._folder = folder
        self._key = key
        self._valid_for = valid_for
        self._every = every
        self._healthy = healthy
        self._signers = signers
        self._clock = clock
        self._complaint = ""

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            if self._healthy():
                await asyncio.to_thread(self.renew_if_due)
            await asyncio.sleep(self._every)

    def renew_if_due(self) -> bool:
        """Make a statement where one is due (RENEW-1); return whether one was made. An error is told once."""
        try:
            repo = StateRepo.open(self._folder)
            values = repo.refs.read()
            now = self._clock()
            if not values or not is_due(repo, values, now):
                return False
            signers = self._signers() if self._signers else None
            renewed = renew(repo, values, Renewal(self._key, now, self._valid_for, signers))
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


def freshness_renewal(
    configuration: LoadedServerConfiguration, watch: StateWatch, signers: Callable[[], AllowedSigners] | None
) -> FreshnessRenewal | None:
    """Return what renews statements; None where the configuration gives no key for it.

    Raises:
        SigningKeyUnusable: the key cannot be used.
    """
    settings = configuration.content.freshness
    if settings is None:
        return None
    return FreshnessRenewal(
        configuration.state_repo,
        read_signing_key(configuration.path(settings.signing_key)),
        valid_for=parse_valid_for(settings.valid_for),
        every=settings.look_seconds,
        healthy=lambda: watch.healthy,
        signers=signers,
    )
