"""How long one pull may take, and one read of it: a source that drips bytes must not hold the agent for ever."""

from __future__ import annotations

import time

from margo_gitops.errors import SourceUnreachable


class Deadline:
    """The time that is left for one pull."""

    def __init__(self, pull_seconds: float, read_seconds: float) -> None:
        """Start the clock: `pull_seconds` for everything, `read_seconds` for each wait for the other side."""
        self._pull_seconds = pull_seconds
        self._read_seconds = read_seconds
        self._end = time.monotonic() + pull_seconds

    def left(self) -> float:
        """Return the seconds left for the whole pull.

        Raises:
            SourceUnreachable: none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise SourceUnreachable(
                f"the source did not finish its answer within {self._pull_seconds:g} seconds",
                remedy="check the network; raise the bound on the time of a pull where the link is slow",
            )
        return left

    def wait(self) -> float:
        """Return the seconds to wait for the next bytes, or for the other side to take some.

        Raises:
            SourceUnreachable: no time is left for the whole pull.
        """
        return min(self._read_seconds, self.left())

    def silence(self) -> SourceUnreachable:
        """Return the error for a wait that ended with nothing."""
        if self._end <= time.monotonic():
            return SourceUnreachable(f"the source did not finish its answer within {self._pull_seconds:g} seconds")
        return SourceUnreachable(f"the source was silent for {self._read_seconds:g} seconds")
