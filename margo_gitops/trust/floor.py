"""The trust floor: the newest state a device has ever trusted, below which it never goes (Margo desired state, 3.6)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from margo_gitops.digests import Digest
from margo_gitops.documents.declarations import About, OwnKind, Range, Text
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION, ManifestDigest
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.records import read_ours, write
from margo_gitops.errors import HistoryRewritten, VersionReused, VersionRollback
from margo_gitops.trust.git_objects import OBJECT_ID_PATTERN
from margo_gitops.values import dataclass

_FLOOR_BOUNDS = Bounds(size=4096, depth=4, nodes=32)


@dataclass(frozen=True, slots=True)
class Floor:
    """The newest state that was trusted.

    Attributes:
        version: its manifest version, 1 to 2^64 - 1.
        manifest_digest: the digest of its manifest's exact bytes.
        commit: the id of its commit, 40 lower-case hex digits; None where it came without one.
    """

    version: int
    manifest_digest: Digest
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class TrustFloor(OwnKind):
    """The newest state that a device has trusted, as stored."""

    version: Annotated[
        int, About("Manifest version; 64 bits, unsigned."), Range(minimum=1, maximum=MAX_MANIFEST_VERSION)
    ]
    manifest_digest: ManifestDigest
    commit: Annotated[
        str | None,
        About("Id of the commit; null where the state came without one."),
        Text(pattern=OBJECT_ID_PATTERN, what="a commit id, 40 lower-case hex digits"),
    ]


_IF_LOST = (
    "if that is lost: margo-gitops keys floor --next VERSION --reason TEXT, with a version above all that devices have "
    "seen (docs/trust.md, Recover a lost state repo)"
)


def raise_floor(floor: Floor | None, offered: Floor, parents: Collection[str], minimum_version: int) -> Floor:
    """Return the new floor once `offered` is in place (trusted_state, TRUST-14 to TRUST-16).

    Args:
        floor: the floor so far; None at first contact, which accepts any version from the minimum on.
        parents: ids of the parents of its commit; of no meaning where it has no commit.
        minimum_version: the lowest version ever to be accepted.

    Raises:
        VersionRollback: the version is below the floor's or the minimum (TRUST-14).
        VersionReused: it is the floor's version with another manifest (TRUST-15).
        HistoryRewritten: it is the next version, but its commit does not follow from the floor's (TRUST-16).
    """
    lowest = max(minimum_version, floor.version if floor else 1)
    if offered.version < lowest:
        trusted = f"version {floor.version} was trusted before" if floor else "this device has trusted no state yet"
        raise VersionRollback(
            f"manifest version {offered.version} is older than {lowest}, the oldest this device accepts",
            why=[trusted],
            remedy=f"put the state repo back to its newest commit, then render; {_IF_LOST}",
        )
    if floor is None or offered.version > floor.version + 1:
        return offered
    if offered.version == floor.version:
        return _same_state(offered, floor)
    if floor.commit and offered.commit and floor.commit not in parents:
        raise HistoryRewritten(
            f"version {offered.version} does not follow from version {floor.version}, which this device trusts",
            why=[f"the commit's parents are {', '.join(parents) or 'none'}; {floor.commit} is not among them"],
            remedy=f"find out who moved the device's branch, put it back to {floor.commit}, then render; {_IF_LOST}",
        )
    return offered


def _same_state(offered: Floor, floor: Floor) -> Floor:
    if offered.manifest_digest != floor.manifest_digest:
        raise VersionReused(
            f"manifest version {offered.version} was trusted before, with other content",
            why=[f"it had {floor.manifest_digest}, now it has {offered.manifest_digest}"],
            remedy=f"find out who wrote two states of a version, put back {floor.commit or 'the first'}, then render; "
            f"{_IF_LOST}",
        )
    return floor if floor.commit else offered


def read_floor(content: bytes, file: str) -> Floor:
    """Return the floor in a document that `write_floor` wrote.

    Raises:
        UnreadableDocument: no JSON that can be read safely.
        InvalidDocument: no floor, with every finding.
    """
    document = read_ours(TrustFloor, content, file, _FLOOR_BOUNDS)
    return Floor(document.version, document.manifest_digest, document.commit)


def write_floor(floor: Floor) -> bytes:
    """Return a floor as the exact bytes of a JSON document; the version keeps every digit (u64)."""
    document = TrustFloor(floor.version, floor.manifest_digest, floor.commit)
    return write_json(write(document))
