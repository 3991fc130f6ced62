"""The one interface every transport has: given what I hold, return a snapshot or "unchanged"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from margo_gitops.trust.snapshot import Snapshot


class Unchanged:
    """The source still holds what the device already holds."""


UNCHANGED = Unchanged()


@dataclass(frozen=True, slots=True)
class PollHints:
    """What a source said about the next poll.

    Attributes:
        waited: it kept the last request waiting for a change, as asked.
        interval: seconds between two polls that it wishes for; None where it says nothing.
        pause: seconds before which it wants no other request; None where it says nothing.
    """

    waited: bool = False
    interval: float | None = None
    pause: float | None = None


class Transport(Protocol):
    """Fetches a device's desired state from one source. Keeps its connection between calls."""

    def pull(self, held: Snapshot | None) -> Snapshot | Unchanged:
        """Return the state of the source, or `UNCHANGED` where its revision is the one `held` has.

        Raises:
            TransportError: nothing usable came; nothing has changed on this side.
            TrustRefused: what came cannot be trusted, which shows before all of it is there.
        """
        ...

    def close(self) -> None:
        """Close the kept connection. A later `pull` opens a new one."""
        ...


class ProofSource(Protocol):
    """Fetches proofs of freshness, beside the state and far less often."""

    def freshness(self, device: str, held: bytes | None) -> bytes | None:
        """Return the proof that the source has for a device; None where it has none but `held`.

        Raises:
            TransportError: nothing usable came.
        """
        ...
