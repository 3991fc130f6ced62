"""What a server says it can do (gitprotocol-v2, capability advertisement)."""

from __future__ import annotations

from dataclasses import dataclass

from margo_gitops.errors import SourceMisbehaved, SourceRefused
from margo_gitops.transport.git.pktline import Mark, PacketReader, packet

_ENABLE_V2 = (
    "enable git protocol version 2 on the server (git 2.18 or newer; the web server must pass the Git-Protocol header "
    "on as GIT_PROTOCOL, an SSH server must AcceptEnv GIT_PROTOCOL)"
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The part of a server's advertisement that this client uses.

    Attributes:
        agent: the server takes the client's name.
        object_format: the server takes the object format with each request.
    """

    agent: bool
    object_format: bool

    def command(self, name: bytes, agent: bytes) -> bytes:
        """Return the head of a request: the command and what goes with every command, up to the delimiter."""
        head = packet(b"command=" + name + b"\n")
        if self.agent:
            head += packet(b"agent=" + agent + b"\n")
        if self.object_format:
            head += packet(b"object-format=sha1\n")
        return head


def read_capabilities(packets: PacketReader) -> Capabilities:
    """Read an advertisement.

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
    return Capabilities(agent=b"agent" in offered, object_format=b"object-format" in offered)
