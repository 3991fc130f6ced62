"""The one form of `fetch` this client uses: one commit, without its history (gitprotocol-v2, fetch)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from margo_gitops.errors import SourceMisbehaved, SourceRefused
from margo_gitops.transport.git.objects import ObjectID
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH, Mark, PacketReader, packet
from margo_gitops.transport.incoming import shown

_SHALLOW = re.compile(rb"(?:un)?shallow [0-9a-f]{40}")
_PACK, _PROGRESS, _ERROR = 1, 2, 3
# Git fills its packets; between them it says that it is still there every five seconds.
_SMALL_PACKETS = 10_000
_FAIR_SIZE = 64


def fetch_request(tip: ObjectID, held: ObjectID | None) -> bytes:
    """Return a request for the commit `tip` at depth 1, as a difference to the commit `held` where there is one.

    Thin packs are allowed only then: their bases are what is held. `done` ends the negotiation in one round.
    """
    lines = [b"no-progress", b"ofs-delta", b"deepen 1", b"want " + tip]
    if held is not None:
        lines += [b"thin-pack", b"shallow " + held, b"have " + held]
    lines.append(b"done")
    return packet(b"command=fetch\n") + DELIMITER + b"".join(packet(line + b"\n") for line in lines) + FLUSH


def read_fetch(packets: PacketReader) -> Iterator[bytes]:
    """Yield the bytes of the pack, as they come.

    Raises:
        SourceRefused: the server answered with an error message, before the pack or instead of more of it.
        SourceMisbehaved: a section this client did not ask for, or a packet of another form.
    """
    section = packets.line()
    if section == b"shallow-info":
        while (line := packets.line()) is not Mark.DELIMITER:
            if isinstance(line, Mark) or not _SHALLOW.fullmatch(line):
                raise SourceMisbehaved("the section shallow-info of the answer to fetch holds something else")
        section = packets.line()
    if section != b"packfile":
        name = section.name.lower() if isinstance(section, Mark) else shown(section)
        raise SourceMisbehaved(f"the answer to fetch holds {name!r} where the pack should start")

    count = size = 0
    while (content := packets.packet()) is not Mark.FLUSH:
        if isinstance(content, Mark) or not content:
            raise SourceMisbehaved("the pack is cut by a packet that does not belong there")
        count, size = count + 1, size + len(content)
        if count > _SMALL_PACKETS + size // _FAIR_SIZE:
            raise SourceMisbehaved("the pack comes in too many tiny packets")
        band = content[0]
        if band == _PACK:
            yield content[1:]
        elif band == _ERROR:
            raise SourceRefused(f"the server broke off: {shown(content[1:])}", remedy="see the log of the git server")
        elif band != _PROGRESS:
            raise SourceMisbehaved(f"the pack is cut by a packet of the unknown side band {band}")
