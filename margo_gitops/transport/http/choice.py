"""Which way the missing deployments come: one by one, or all in the bundle (Margo desired state, client algorithm)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from margo_gitops.digests import Digest
from margo_gitops.documents.manifest import StateManifest

REQUEST_COST: Final = 8 * 1024
"""What one more request costs, in bytes: its headers both ways, and a round trip on a slow link."""

_ASSUMED_SIZE: Final = 4 * 1024


def bundle_is_cheaper(manifest: StateManifest, missing: Collection[Digest], largest: int) -> bool:
    """Return whether the bundle costs less than the missing deployments one by one.

    A device that has none of the deployments always takes the bundle. Sizes are advisory; a wrong one costs a detour.

    Args:
        manifest: what the device shall run.
        missing: digests of the deployments that it does not have.
        largest: the most bytes that a bundle may have.
    """
    bundle = manifest.bundle
    if bundle is None or not missing or (bundle.size_bytes or 0) > largest:
        return False
    sizes = {
        item.digest: item.size_bytes if item.size_bytes is not None else _ASSUMED_SIZE for item in manifest.deployments
    }
    if len(missing) == len(sizes):
        return True
    whole = bundle.size_bytes if bundle.size_bytes is not None else sum(sizes.values())
    single = sum(sizes[digest] + REQUEST_COST for digest in missing)
    return len(missing) > 1 and REQUEST_COST + whole < single
