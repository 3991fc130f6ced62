"""The one form of `ls-refs` this client uses: where does this one ref point? (gitprotocol-v2, ls-refs)."""

from __future__ import annotations

import re

from margo_gitops.errors import SourceMisbehaved
from margo_gitops.transport.git.capabilities import Capabilities
from margo_gitops.transport.git.objects import ObjectID
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH, Mark, PacketReader, packet
from margo_gitops.transport.incoming import shown

_LINE = re.compile(rb"([0-9a-f]{40}) ([^ \0\n]+)")


def ls_refs_request(capabilities: Capabilities, ref: bytes, agent: bytes) -> bytes:
    """Return a request for `ref` alone: no symbolic targets, no peeled tags, no ref it is no prefix of."""
    return capabilities.command(b"ls-refs", agent) + DELIMITER + packet(b"ref-prefix " + ref + b"\n") + FLUSH


def read_ls_refs(packets: PacketReader, ref: bytes) -> ObjectID | None:
    """Return the object that `ref` points to; None where the server has no such ref.

    A prefix matches more than one name (`…/press-07` matches `…/press-070`), so others are read over.

    Raises:
        SourceRefused: the server answered with an error message.
        SourceMisbehaved: a line has another form, or the ref points to two objects.
    """
    found: ObjectID | None = None
    while (line := packets.line()) is not Mark.FLUSH:
        entry = None if isinstance(line, Mark) else _LINE.fullmatch(line)
        if entry is None:
            content = line.name.lower() if isinstance(line, Mark) else shown(line)
            raise SourceMisbehaved(f"the list of refs holds {content!r}, which is no ref")

        if entry[2] != ref:
            continue
        if found is not None:
            raise SourceMisbehaved(f"the list of refs holds {shown(ref)} twice")
        found = ObjectID(entry[1])
    return found
