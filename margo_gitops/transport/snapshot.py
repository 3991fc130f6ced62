"""What one pull yields, and the one interface every transport has.

A snapshot is bytes, not yet trusted: `margo_gitops.trust` decides. Both transports yield the same bytes for the same
state, so everything after the fetch is one code path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Snapshot:
    r"""A device's desired state as fetched.

    Attributes:
        manifest: exact bytes of `manifest.json`.
        deployments: exact bytes of each deployment document, by deployment id (the file's stem).
        commit: the raw git commit object (headers, gpgsig, message), without git's `commit <size>\\0` prefix; None for
            a transport that has no commits.
        revision: the transport's own name of this state, to be handed back as `held`: the commit id in hex, or an ETag.
    """

    manifest: bytes
    deployments: Mapping[str, bytes]
    commit: bytes | None
    revision: str


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
