"""The forms of git's protocol version 2 that this client uses, without I/O (gitprotocol-v2; git subset).

- The advertisement of capabilities. It is asked for where a session begins with it, and where a server does not answer:
  then it tells why. The requests use no capability that a server may lack (G-C-3).
- `ls-refs`: where do these refs point?
- `fetch`: one commit, without its history.

An answer of another form is `SourceMisbehaved`; an error message, or a server that lacks something, `SourceRefused`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

from margo_gitops.errors import SourceMisbehaved, SourceRefused
from margo_gitops.transport.git.pack import ObjectID
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH, Mark, PacketReader, packet
from margo_gitops.web.refusal import shown

UPLOAD_PACK: Final = "git-upload-pack"
RECEIVE_PACK: Final = "git-receive-pack"
"""The services of a git server: the one that is read from, and the one that is pushed to."""

_ENABLE_V2 = (
    "enable git protocol version 2 on the server (git 2.18 or newer; the web server must pass the Git-Protocol header "
    "on as GIT_PROTOCOL, an SSH server must AcceptEnv GIT_PROTOCOL)"
)
_LINE = re.compile(rb"([0-9a-f]{40}) ([^ \0\n]+)")
_SHALLOW = re.compile(rb"(?:un)?shallow [0-9a-f]{40}")
_PACK, _PROGRESS, _ERROR = 1, 2, 3
# Git fills its packets; between them it says that it is still there every five seconds.
_SMALL_PACKETS = 10_000
_FAIR_SIZE = 64


def check_capabilities(packets: PacketReader) -> None:
    """Read an advertisement, and check that the server can answer this client."""
    first = packets.line()
    if first == b"# service=git-upload-pack":
        if packets.packet() is not Mark.FLUSH:
            raise SourceMisbehaved("the service line of the advertisement is not followed by a flush packet")
        first = packets.line()
    if first != b"version 2":
        raise SourceRefused("the server does not answer in git protocol version 2", remedy=_ENABLE_V2)

    offered: dict[bytes, bytes] = {}
    while (line := packets.line()) is not Mark.FLUSH:
        if isinstance(line, Mark):
            raise SourceMisbehaved("the advertisement of capabilities is cut by a packet that does not belong there")
        key, _, value = line.partition(b"=")
        offered[key] = value

    if b"ls-refs" not in offered or b"shallow" not in offered.get(b"fetch", b"").split(b" "):
        raise SourceRefused(
            "the server lacks the command ls-refs, or fetch with shallow", remedy="serve the repository with git itself"
        )
    if offered.get(b"object-format", b"sha1") != b"sha1":
        raise SourceRefused(
            "the repository keeps sha256 objects, which this client does not read yet",
            remedy="make the state repository with the sha1 object format",
        )


def ls_refs_request(*refs: bytes) -> bytes:
    """Return a request for `refs` alone: no symbolic targets, no peeled tags, no refs of other names."""
    prefixes = b"".join(packet(b"ref-prefix " + ref + b"\n") for ref in refs)
    return packet(b"command=ls-refs\n") + DELIMITER + prefixes + FLUSH


def read_refs(packets: PacketReader, refs: Collection[bytes]) -> dict[bytes, ObjectID]:
    """Return the object that each of `refs` points to; those are missing that the server does not have.

    A prefix matches more than one name (`…/press-07` matches `…/press-070`), so others are read over.
    """
    found: dict[bytes, ObjectID] = {}
    while (line := packets.line()) is not Mark.FLUSH:
        entry = None if isinstance(line, Mark) else _LINE.fullmatch(line)
        if entry is None:
            content = line.name.lower() if isinstance(line, Mark) else shown(line)
            raise SourceMisbehaved(f"the list of refs holds {content!r}, which is not a ref")

        if entry[2] not in refs:
            continue
        if entry[2] in found:
            raise SourceMisbehaved(f"the list of refs holds {shown(entry[2])} twice")
        found[entry[2]] = ObjectID(entry[1])
    return found


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
    """Yield the bytes of the pack, as they come."""
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
