"""What a server says it can do (gitprotocol-v2, capability advertisement).

Asked for where a session begins with it, and where a server does not answer: then it tells why. The requests of the git
subset use none of the capabilities that a server may lack (G-C-3).
"""

from __future__ import annotations

from margo_gitops.errors import SourceMisbehaved, SourceRefused
from margo_gitops.transport.git.pktline import Mark, PacketReader

_ENABLE_V2 = (
    "enable git protocol version 2 on the server (git 2.18 or newer; the web server must pass the Git-Protocol header "
    "on as GIT_PROTOCOL, an SSH server must AcceptEnv GIT_PROTOCOL)"
)


def check_capabilities(packets: PacketReader) -> None:
    """Read an advertisement, and check that the server can answer this client.

    Raises:
        SourceRefused: the server does not speak protocol version 2, lacks a needed command, or keeps sha256 objects.
        SourceMisbehaved: this is no advertisement.
    """
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
