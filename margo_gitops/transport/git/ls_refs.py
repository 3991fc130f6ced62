"""The one form of `ls-refs` this client uses: where do these refs point? (gitprotocol-v2, ls-refs)."""

from __future__ import annotations

import re
from collections.abc import Collection

from margo_gitops.errors import SourceMisbehaved
from margo_gitops.transport.git.objects import ObjectID
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH, Mark, PacketReader, packet
from margo_gitops.transport.incoming import shown

_LINE = re.compile(rb"([0-9a-f]{40}) ([^ \0\n]+)")


def ls_refs_request(*refs: bytes) -> bytes:
    """Return a request for `refs` alone: no symbolic targets, no peeled tags, no ref that none is a prefix of."""
    prefixes = b"".join(packet(b"ref-prefix " + ref + b"\n") for ref in refs)
    return packet(b"command=ls-refs\n") + DELIMITER + prefixes + FLUSH


def read_ls_refs(packets: PacketReader, ref: bytes) -> ObjectID | None:
    """Return the object that `ref` points to; None where the server has no such ref.

    Raises:
        TransportError: as `read_refs`.
    """
    return read_refs(packets, (ref,)).get(ref)


def read_refs(packets: PacketReader, refs: Collection[bytes]) -> dict[bytes, ObjectID]:
    """Return the object that each of `refs` points to; those are missing that the server does not have.

    A prefix matches more than one name (`…/press-07` matches `…/press-070`), so others are read over.

    Raises:
        SourceRefused: the server answered with an error message.
        SourceMisbehaved: a line has another form, or a ref points to two objects.
    """
    found: dict[bytes, ObjectID] = {}
    while (line := packets.line()) is not Mark.FLUSH:
        entry = None if isinstance(line, Mark) else _LINE.fullmatch(line)
        if entry is None:
            content = line.name.lower() if isinstance(line, Mark) else shown(line)
            raise SourceMisbehaved(f"the list of refs holds {content!r}, which is no ref")

        if entry[2] not in refs:
            continue
        if entry[2] in found:
            raise SourceMisbehaved(f"the list of refs holds {shown(entry[2])} twice")
        found[entry[2]] = ObjectID(entry[1])
    return found
