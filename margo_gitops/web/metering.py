"""How long an exchange may take, and what it used.

A source that drips bytes must not hold the agent: one bound holds for everything, another for each wait.
"""

from __future__ import annotations

import time

from margo_gitops.errors import SourceUnreachable
from margo_gitops.values import astuple, dataclass


class Deadline:
    """The time that is left for one pull, and for each wait for the other side; it runs from the start.

    Once it is over, both questions for it raise `SourceUnreachable`.
    """

    def __init__(self, pull_seconds: float, read_seconds: float) -> None:
        self._pull_seconds = pull_seconds
        self._read_seconds = read_seconds
        self._end = time.monotonic() + pull_seconds

    def left(self) -> float:
        """Return the seconds left for the whole pull."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise SourceUnreachable(
                f"the source did not finish its answer within {self._pull_seconds:g} seconds",
                remedy="check the network; raise the bound on the time of a pull where the link is slow",
            )
        return left

    def wait(self) -> float:
        """Return the seconds to wait for the next bytes, or for the other side to take some."""
        return min(self._read_seconds, self.left())

    def silence(self) -> SourceUnreachable:
        """Return the error for a wait that ended with nothing."""
        if self._end <= time.monotonic():
            return SourceUnreachable(f"the source did not finish its answer within {self._pull_seconds:g} seconds")
        return SourceUnreachable(f"the source was silent for {self._read_seconds:g} seconds")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a transport has used so far.

    Attributes:
        requests: HTTP requests sent, or sessions opened with an SSH server; reading a local folder needs none.
        bytes_up: bytes sent: HTTP with its headers, before TLS; git's own protocol before SSH.
        bytes_down: bytes received, counted alike.
        connections: connections opened.
    """

    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    connections: int = 0

    def __sub__(self, earlier: Cost) -> Cost:
        return Cost(*(now - before for now, before in zip(astuple(self), astuple(earlier), strict=True)))


@dataclass(slots=True)
class Meter:
    """Counts for one transport, as `Cost` says."""

    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    connections: int = 0

    def read(self) -> Cost:
        """Return what was counted so far."""
        return Cost(*astuple(self))
