"""Packets of git's wire protocol (gitprotocol-common, pkt-line), as the kit writes and reads them.

Not the device's own code: a kit that shares its reader with what it judges finds no fault that both have.
"""

from __future__ import annotations

import re
from typing import Final

FLUSH: Final = b"0000"
DELIMITER: Final = b"0001"
RESPONSE_END: Final = b"0002"

LONGEST_PACKET: Final = 65_520

_LENGTH: Final = re.compile(rb"[0-9a-fA-F]{4}")
_MARKS: Final = frozenset({FLUSH, DELIMITER, RESPONSE_END})


class PacketsMalformed(ValueError):
    """The bytes are no packets."""


def packet(payload: bytes) -> bytes:
    """Return a payload as a packet."""
    return b"%04x%b" % (len(payload) + 4, payload)


def packets(content: bytes) -> list[bytes]:
    """Return the packets that bytes are made of: payloads, and the marks `FLUSH`, `DELIMITER` and `RESPONSE_END`.

    A payload is returned as `b"=" + payload`, so that none can be taken for a mark.

    Raises:
        PacketsMalformed: a length is none, or the bytes end inside a packet.
    """
    found = []
    at = 0
    while at < len(content):
        length = content[at : at + 4]
        if not _LENGTH.fullmatch(length):
            raise PacketsMalformed(f"{length!r} at byte {at} is no length of a packet")
        if length in _MARKS:
            found.append(length)
            at += 4
            continue
        size = int(length, 16)
        if not 4 <= size <= LONGEST_PACKET:
            raise PacketsMalformed(f"a packet at byte {at} states the length {size}")
        if at + size > len(content):
            raise PacketsMalformed(f"the packet at byte {at} is cut off")
        found.append(b"=" + content[at + 4 : at + size])
        at += size
    return found


def command_bytes(name: str, arguments: list[str], capabilities: tuple[str, ...] = ()) -> bytes:
    """Return a command of protocol version 2 (gitprotocol-v2, command request).

    Args:
        name: such as `ls-refs`.
        arguments: its lines.
        capabilities: lines that go with the command, such as `object-format=sha1`.
    """
    head = b"".join(packet(f"{line}\n".encode()) for line in (f"command={name}", *capabilities))
    return head + DELIMITER + b"".join(packet(f"{line}\n".encode()) for line in arguments) + FLUSH
