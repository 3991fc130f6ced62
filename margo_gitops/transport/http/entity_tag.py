"""The entity tag of a manifest: how a device tells a server what it holds (RFC 9110, 8.8.3 and 13.1.2).

By the contract the tag of a manifest is its digest, in quotes: it means the same to every server, and holds for a
state that came by git as well. Other servers tag otherwise, and `"7"` of one server is not `"7"` of another: such a tag
is kept with the URL that it came from.
"""

from __future__ import annotations

import re
from typing import Final

from margo_gitops.digests import sha256
from margo_gitops.trust.snapshot import Snapshot

_TAG: Final = re.compile(r'(W/)?"[\x21\x23-\x7e]{0,200}"')


def revision_of(tag: str | None, manifest: bytes, url: str) -> str:
    """Return the revision of a state that a server tagged so.

    Args:
        tag: the ETag header; one that is missing or malformed counts as the digest.
        manifest: what was tagged.
        url: the base URL of the server.
    """
    own = _own(manifest)
    tag = tag.strip() if tag else own
    if tag == own or not _TAG.fullmatch(tag):
        return own
    return f"{tag} {url}"


def condition(held: Snapshot, url: str) -> str:
    """Return the If-None-Match header for what is held.

    Args:
        held: what is held, wherever it came from.
        url: the base URL of the server that is asked.
    """
    tag, _, origin = held.revision.partition(" ")
    if origin == url and _TAG.fullmatch(tag):
        return tag
    return _own(held.manifest)


def _own(manifest: bytes) -> str:
    return f'"{sha256(manifest)}"'
