"""How much of a hostile source's answer is taken before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GitLimits:
    """Bounds on one pull; each is checked before the memory it speaks of is allocated.

    Attributes:
        pack_bytes: compressed bytes of one pack.
        objects: objects in one pack.
        object_bytes: bytes of one object once inflated, deltas and their results included.
        inflated_bytes: bytes of all objects of one pull once inflated, deltas and their results included.
        deployments: files in the `deployments` folder of a device tree.
        listing_bytes: bytes of a capability advertisement, or of an answer to `ls-refs`. Room for 100,000 refs, though
            one is asked for: `ref-prefix` is a prefix, and `line` is one of `line-00001` and all its sisters.
    """

    pack_bytes: int = 16 * _MIB
    objects: int = 4096
    object_bytes: int = 8 * _MIB
    inflated_bytes: int = 64 * _MIB
    deployments: int = 1024
    listing_bytes: int = 8 * _MIB

    @property
    def answer_bytes(self) -> int:
        """Bytes of one whole answer: a pack in the smallest packets that make sense, and some talk around it."""
        return 2 * self.pack_bytes + self.listing_bytes
