"""The files of a bundle, found by their digests (Margo desired state, bundle).

How files are named in a bundle is not specified, so names do not count and cannot do harm: nothing is unpacked to
disk, and only what has a digest that was asked for is taken. That is also why no general tar reader is used here: all
that is needed are the regular files of an archive in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.manifest import StateManifest
from margo_gitops.documents.tar import BLOCK, read_header
from margo_gitops.transport.http.api import gunzip

REQUEST_COST: Final = 8 * 1024
"""What one more request costs, in bytes: its headers both ways, and a round trip on a slow link."""

_ASSUMED_SIZE: Final = 4 * 1024


def bundle_is_cheaper(manifest: StateManifest, missing: Collection[Digest], largest: int) -> bool:
    """Return whether the bundle costs less than the missing deployments one by one.

    A device that has none of the deployments always takes the bundle. Sizes are advisory; a wrong one costs a detour.

    Args:
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


def read_bundle(packed: bytes, wanted: Collection[Digest], limit: int) -> dict[Digest, bytes]:
    """Return the wanted files that are in a bundle, by digest.

    Args:
        packed: a gzip-compressed tar archive.
        limit: the most bytes it may hold unpacked.

    Raises:
        ValueError: it is damaged, cut off, or holds more.
    """
    found = {}
    for content in _regular_files(gunzip(packed, limit)):
        digest = sha256(content)
        if digest in wanted:
            found[digest] = content
    return found


def _regular_files(archive: bytes) -> Iterator[bytes]:
    at = 0
    while at + BLOCK <= len(archive):
        entry = read_header(archive[at : at + BLOCK])
        if entry is None:
            return
        begin, end = at + BLOCK, at + BLOCK + entry.size
        if end > len(archive):
            raise ValueError("the archive is cut off")
        if entry.is_file:
            yield archive[begin:end]
        at = end + -end % BLOCK
    if at < len(archive):
        raise ValueError("the archive is cut off")
