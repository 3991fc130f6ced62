"""Plain tar archives (POSIX ustar): the headers that we write, and those of others, of which nothing is believed."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

BLOCK: Final = 512
TAR_END: Final = bytes(2 * BLOCK)
_REGULAR: Final = frozenset(b"0\0007")
_LONGEST_NAME: Final = 100
_LONGEST_PREFIX: Final = 155
_LARGEST: Final = 8**11
_CHECKSUM: Final = slice(148, 156)
_SIZE: Final = slice(124, 136)
_PREFIX: Final = slice(345, 500)


class TarEntry(NamedTuple):
    """What a header says.

    Attributes:
        size: bytes that follow the header, before the padding.
        is_file: whether it is a regular file.
    """

    name: bytes
    size: int
    is_file: bool


def padding(size: int) -> bytes:
    """Return what follows content of this size."""
    return bytes(-size % BLOCK)


def tar_header(name: str, size: int) -> bytes:
    """Return a POSIX ustar header: regular file, mode 0644, owner 0, time 0.

    Raises:
        ValueError: the name or the size does not fit into one.
    """
    encoded, prefix = name.encode("ascii"), b""
    if len(encoded) > _LONGEST_NAME:
        prefix, _, encoded = encoded.rpartition(b"/")
    if len(encoded) > _LONGEST_NAME or len(prefix) > _LONGEST_PREFIX:
        raise ValueError(f"{name!r} is too long for a tar header")
    if size >= _LARGEST:
        raise ValueError(f"{name!r} is too large for a tar header")
    checksum_blank = b" " * 8
    fields = (
        encoded,
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size,
        b"00000000000\0",
        checksum_blank,
        b"0",
    )
    header = struct.pack("100s8s8s8s12s12s8ss100s6s2s80s155s12x", *fields, b"", b"ustar\0", b"00", b"", prefix)
    checksum = b"%06o\0 " % sum(header)
    return header[:148] + checksum + header[156:]


def read_header(header: bytes) -> TarEntry | None:
    """Return what a header of 512 bytes says; None for the zeros at the end.

    Raises:
        ValueError: it is damaged, or larger than any bound here.
    """
    if not any(header):
        return None
    if _number(header[_CHECKSUM]) != sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" "):
        raise ValueError("a header of the archive is damaged")
    name, prefix = header[:_LONGEST_NAME].partition(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[_PREFIX].partition(b"\0")[0]
    return TarEntry(prefix + b"/" + name if prefix else name, _number(header[_SIZE]), header[156] in _REGULAR)


def _number(field: bytes) -> int:
    """Return an octal number; the binary form is for files larger than any bound here."""
    digits = field.strip(b" \0")
    if not digits or not set(digits) <= set(b"01234567"):
        raise ValueError("a header of the archive is damaged")
    return int(digits, 8)
