"""The files of a bundle, found by their digests (Margo desired state, bundle).

How files are named in a bundle is not specified, so names do not count and cannot do harm: nothing is unpacked to
disk, and only what has a digest that was asked for is taken. That is also why no general tar reader is used here: all
that is needed are the regular files of an archive that lies in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from margo_gitops.digests import Digest, sha256
from margo_gitops.transport.http.body import gunzip

_BLOCK: Final = 512
_REGULAR: Final = frozenset(b"0\0007")
_CHECKSUM: Final = slice(148, 156)
_SIZE: Final = slice(124, 136)


def read_bundle(packed: bytes, wanted: Collection[Digest], limit: int) -> dict[Digest, bytes]:
    """Return the wanted files that are in a bundle, by digest.

    Args:
        packed: a gzip-compressed tar archive.
        wanted: which files to take.
        limit: the most bytes it may hold unpacked.

    Raises:
        ValueError: it is damaged, cut off, or holds more.
    """
    found = {}
    for content in _regular_files(gunzip(packed, limit)):
        digest = sha256(content)
        if digest in wanted:
            found[digest] = content
    return found


def _regular_files(archive: bytes) -> Iterator[bytes]:
    at = 0
    while at + _BLOCK <= len(archive):
        header = archive[at : at + _BLOCK]
        if not any(header):
            return
        if _number(header[_CHECKSUM]) != sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" "):
            raise ValueError("a header of the archive is damaged")
        size = _number(header[_SIZE])
        begin = at + _BLOCK
        if begin + size > len(archive):
            raise ValueError("the archive is cut off")
        if header[156] in _REGULAR:
            yield archive[begin : begin + size]
        at = begin + -(-size // _BLOCK) * _BLOCK
    if at < len(archive):
        raise ValueError("the archive is cut off")


def _number(field: bytes) -> int:
    """Return an octal number; the binary form is for files larger than any bound here."""
    digits = field.strip(b" \0")
    if not digits or not set(digits) <= set(b"01234567"):
        raise ValueError("a header of the archive is damaged")
    return int(digits, 8)
