"""Which refs a device may see, and which commits it may have (pure; git subset, G-A-5 to G-A-8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from margo_gitops.documents.state_layout import FRESHNESS_REFS
from margo_gitops.trust.freshness_tree import possible_shards


@dataclass(frozen=True, slots=True)
class Visible:
    """What one device sees.

    Attributes:
        head: its own branch; None where it has none.
        refs: its branch, and the freshness ref that covers it, with what they point to.
    """

    head: str | None
    refs: Mapping[str, str] = field(default_factory=dict)


def visible(client: str, branch: str, refs: Mapping[str, str]) -> Visible:
    """Return what a device sees of all refs.

    Args:
        client: the device.
        branch: the full name of its branch.
        refs: all refs of the state.
    """
    names = [branch, *(FRESHNESS_REFS + shard for shard in possible_shards(client))]
    seen = {name: refs[name] for name in names if name in refs}
    return Visible(branch if branch in seen else None, seen)
