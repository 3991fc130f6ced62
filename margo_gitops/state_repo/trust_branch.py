"""The fleet's trust documents in the state repo: branch `trust`, one file for each version.

TRUSTED-1  The branch has every version that counts in the fleet repo, with the bytes that it got first. A render adds
           the missing ones. It never replaces one, and never takes one away.
TRUSTED-2  So the fleet repo has every version that the branch has, with the same text: an older commit of the fleet
           repo is not rendered. [TrustDocumentRollback]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from margo_gitops.documents.state_layout import TRUST_REF, trust_file
from margo_gitops.errors import TrustDocumentRollback
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.trust.git_objects import BLOB, FILE_MODE, TREE, TreeEntry, tree_bytes
from margo_gitops.trust.trust_document import FleetTrust, first, follow, read_envelope


def held_documents(objects: StateObjects, values: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the envelopes that a state repo holds, from version 1."""
    tip, version = values.get(TRUST_REF), 1
    while tip is not None and (content := objects.file(tip, trust_file(version))) is not None:
        yield content
        version += 1


def held_version(objects: StateObjects, values: Mapping[str, str]) -> int | None:
    """Return the newest version that a state repo holds; None where it holds none."""
    return sum(1 for _ in held_documents(objects, values)) or None


def held_chain(objects: StateObjects, values: Mapping[str, str], fleet: str | None = None) -> tuple[FleetTrust, ...]:
    """Return the documents that a state repo holds, each judged by the one before (TrustRefused: one does not count).

    Args:
        fleet: name of the fleet; None where it is not known.
    """
    chain: list[FleetTrust] = []
    for content in held_documents(objects, values):
        chain.append(follow(chain[-1], content) if chain else first(content, fleet))
    return tuple(chain)


def add_documents(
    pack: ObjectPack, objects: StateObjects, values: Mapping[str, str], trusted: Sequence[FleetTrust]
) -> str | None:
    """Add the tree with the missing versions to a pack, and return its id; None where nothing is missing (TRUSTED-1).

    Args:
        values: all refs, as they are.
        trusted: the versions that count in the fleet repo.

    Raises:
        TrustDocumentRollback: the branch has what the fleet repo has not (TRUSTED-2).
    """
    held = list(held_documents(objects, values))
    for at, content in enumerate(held):
        if at >= len(trusted) or read_envelope(content).text != trusted[at].text:
            there = "with other content" if at < len(trusted) else "not in this commit of the fleet repo"
            raise TrustDocumentRollback(
                f"version {at + 1} of the trust document was given to devices, and is {there}",
                remedy=f"render a commit that has keys/{at + 1}.json as the branch trust of the state repo has it",
            )
    if len(held) == len(trusted):
        return None
    contents = [*held, *(each.content for each in trusted[len(held) :])]
    files = ((trust_file(version), content) for version, content in enumerate(contents, start=1))
    entries = [TreeEntry(name.encode(), FILE_MODE, pack.add(BLOB, content)) for name, content in files]
    return pack.add(TREE, tree_bytes(entries))
