"""When an installation counts: what a deployment says of its health, asked until it holds, or its time is over.

READY-1  What `health` names must hold at once: the HTTP answer is 2xx, the TCP port takes a connection, the command in
         the workload or the hook ends with 0.
READY-2  It must hold within `within`, and for `staysUp` without a break. What stops or restarts meanwhile has failed.
READY-3  An applier asks before it forgets what ran before, so that it can put that back (APPLIER-3). For one that does
         not ask, the agent asks after the installation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from margo_gitops.appliers.probes import http_status, tcp_answers
from margo_gitops.documents.declarations import span_seconds
from margo_gitops.documents.switching import Health, address_of
from margo_gitops.errors import StepInterrupted
from margo_gitops.values import dataclass

_POLL_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 10.0
_OK: Final = range(200, 300)


@dataclass(eq=False)
class Readiness:
    """Waits until a deployment is ready.

    Attributes:
        longest_seconds: the longest that it waits, also where the document wants more.
        hook: runs a hook of the device by name, and returns why it did not end with 0.
        heartbeat: called at each look.
        asked: whether someone waited for it (READY-3).
    """

    health: Health
    longest_seconds: float
    hook: Callable[[str], Sequence[str]]
    heartbeat: Callable[[], None] = lambda: None
    asked: bool = False

    def wait(
        self,
        failed: Callable[[], Sequence[str]],
        interrupted: Callable[[], bool],
        inside: Callable[[str, Sequence[str], float], Sequence[str]] | None = None,
    ) -> list[str]:
        """Return why the deployment is not ready; nothing if it is.

        Args:
            failed: returns what stopped or restarted meanwhile.
            interrupted: whether the agent was asked to stop.
            inside: runs a command in a service of the workload for so many seconds, and returns why it did not end
                with 0; None where the engine runs none.

        Raises:
            StepInterrupted: the agent was asked to stop.
            ApplyError: the engine does not answer.
        """
        self.asked = True
        health = self.health
        stays = span_seconds(health.stays_up) if health.stays_up else 0
        deadline = time.monotonic() + min(span_seconds(health.within), self.longest_seconds)
        since: float | None = None
        while True:
            self.heartbeat()
            if problem := failed():
                return list(problem)
            missing = [line for found in self._missing(inside) for line in found]
            now = time.monotonic()
            since = None if missing else since if since is not None else now
            if since is not None and now - since >= stays:
                return []
            if now > deadline:
                return [f"it did not become ready within {health.within}", *missing]
            if interrupted():
                raise StepInterrupted("whether it becomes ready was not awaited")
            time.sleep(_POLL_SECONDS)

    def _missing(self, inside: Callable[[str, Sequence[str], float], Sequence[str]] | None) -> Iterator[Sequence[str]]:
        """Yield what does not hold now, in words; nothing for what does (READY-1)."""
        health = self.health
        try:
            if health.http is not None:
                host, port, path = address_of(health.http)
                status = http_status((host, port), path, seconds=_PROBE_SECONDS)
                yield [] if status in _OK else [f"{health.http} answers {status}"]
            if health.tcp is not None:
                tcp_answers(address_of(health.tcp)[:2], seconds=_PROBE_SECONDS)
        except (OSError, ValueError) as error:
            yield [f"{health.http or health.tcp}: {getattr(error, 'strerror', None) or error}"]
        if health.exec:
            if inside is None:
                yield ["its engine runs no command in a workload: use a hook"]
            else:
                yield inside(health.service, health.exec, _PROBE_SECONDS)
        if health.hook is not None:
            yield self.hook(health.hook)
