"""The one interface every transport has: given what I hold, answer with a snapshot or "unchanged"."""

from __future__ import annotations

from typing import Protocol

from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.values import dataclass, field
from margo_gitops.web.metering import Cost


@dataclass(frozen=True, slots=True)
class PollHints:
    """What a source says about the next poll.

    Attributes:
        waited: it kept the request waiting for a change, as asked.
        interval: seconds between two polls that it wishes for; None where it says nothing.
        pause: seconds before which it wants no other request; None where it says nothing.
    """

    waited: bool = False
    interval: float | None = None
    pause: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one pull brought.

    Attributes:
        snapshot: the state of the source; None where it is the one that is held.
        hints: what the source says about the next poll.
        cost: what this pull used.
    """

    snapshot: Snapshot | None
    hints: PollHints = field(default_factory=PollHints)
    cost: Cost = field(default_factory=Cost)


class Transport(Protocol):
    """Fetches a device's desired state from one source. Keeps its connection between calls."""

    @property
    def cost(self) -> Cost:
        """What all calls together have used so far. The difference is what a failed pull used."""

    def pull(self, held: Snapshot | None, patience: int = 0) -> Answer:
        """Return the state of the source, or that its revision is the one `held` has.

        Args:
            held: what the device holds; None for nothing.
            patience: whole seconds that the source may wait for a change; one that cannot wait answers at once.

        Raises:
            TransportError: nothing usable came; nothing has changed on this side.
            TrustRefused: what came cannot be trusted, which shows before all of it is there.
        """

    def close(self) -> None:
        """Close the kept connection. A later `pull` opens a new one."""


class TrustSource(Protocol):
    """Fetches trust documents, only after one was named or a state was refused."""

    def trust_document(self, version: int) -> bytes | None:
        """Return the envelope of a version, at most 64 KiB; None where the source has none.

        Raises:
            TransportError: nothing usable came.
        """


class ProofSource(Protocol):
    """Fetches proofs of freshness, far less often than the state."""

    def freshness(self, device: str, held: bytes | None) -> bytes | None:
        """Return the proof that the source has for a device; None where it has none but `held`.

        Raises:
            TransportError: nothing usable came.
        """
