"""Which manifests of a device are still in use somewhere: the current one, and those replaced a short time ago.

A manifest was replaced when the next one was published, so the times of publication are all the record that is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class DatedManifest:
    """A manifest on a target.

    Attributes:
        digest: of its bytes.
        published: seconds since 1970.
    """

    digest: str
    published: float


def expired(manifests: Sequence[DatedManifest], current: str, now: float, keep: float) -> frozenset[str]:
    """Return the digests of manifests that were replaced more than `keep` seconds ago.

    Args:
        manifests: all of a device, in any order.
        current: digest of the one that the device is given now; never expired.
        now: seconds since 1970.
        keep: seconds.
    """
    order = sorted(manifests, key=lambda manifest: (manifest.published, manifest.digest != current))
    replaced = {older.digest: newer.published for older, newer in pairwise(order)}
    return frozenset(digest for digest, time in replaced.items() if digest != current and now - time > keep)
