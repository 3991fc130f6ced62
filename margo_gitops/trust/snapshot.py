"""What one pull yields: bytes, not yet trusted. `margo_gitops.trust.trusted_state` decides.

Every transport yields the same bytes for the same state, so everything after the fetch is one code path.
"""

from __future__ import annotations

from collections.abc import Mapping

from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    r"""A device's desired state as fetched.

    Attributes:
        manifest: exact bytes of `manifest.json`.
        deployments: exact bytes of each deployment document, by deployment id (the file's stem).
        commit: the raw git commit object (headers, gpgsig, message), without git's `commit <size>\0` prefix; None for
            a transport that has no commits.
        revision: the transport's own name of this state, to be handed back as `held`: the commit id in hex, or an ETag.
    """

    manifest: bytes
    deployments: Mapping[str, bytes]
    commit: bytes | None
    revision: str
