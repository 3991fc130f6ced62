"""The one interface every transport has: given what I hold, return a snapshot or "unchanged"."""

from __future__ import annotations

from typing import Protocol

from margo_gitops.trust.snapshot import Snapshot


class Unchanged:
    """The source still holds what the device already holds."""


UNCHANGED = Unchanged()


class Transport(Protocol):
    """Fetches a device's desired state from one source. Keeps its connection between calls."""

    def pull(self, held: Snapshot | None) -> Snapshot | Unchanged:
        """Return the state of the source, or `UNCHANGED` where its revision is the one `held` has.

        Raises:
            TransportError: nothing usable came; nothing has changed on this side.
        """
        ...

    def close(self) -> None:
        """Close the kept connection. A later `pull` opens a new one."""
        ...
