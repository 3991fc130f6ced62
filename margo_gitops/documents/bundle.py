"""The bundle: all deployments of a manifest as one archive (Margo desired state, bundle).

gzip output differs between zlib versions, so the archive is written with stored (uncompressed) deflate blocks, no time
and fixed tar headers: any machine can rebuild exactly these bytes from the device's tree, and nobody has to store them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

_BLOCK = 65_535
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, no time, no level, unknown system
_TAR_BLOCK = 512


def write_bundle(deployments: Mapping[str, bytes]) -> bytes:
    """Return the bundle of these documents.

    Args:
        deployments: exact bytes of each deployment document, by deployment id; not empty.

    Raises:
        ValueError: no deployments (Margo: an empty archive must not be served), or a name too long for a tar header.
    """
    if not deployments:
        raise ValueError("a bundle holds at least one deployment")
    parts = []
    for deployment_id in sorted(deployments):
        content = deployments[deployment_id]
        parts += [_tar_header(f"{deployment_id}.yaml", len(content)), content, b"\0" * (-len(content) % _TAR_BLOCK)]
    parts.append(b"\0" * (2 * _TAR_BLOCK))
    return gzip_stored(b"".join(parts))


def _tar_header(name: str, size: int) -> bytes:
    """Return a POSIX ustar header: regular file, mode 0644, owner 0, time 0."""
    encoded = name.encode("ascii")
    if len(encoded) > 100:
        raise ValueError(f"{name!r} is too long for a tar header")
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
    header = struct.pack("100s8s8s8s12s12s8ss100s6s2s247x", *fields, b"", b"ustar\0", b"00")
    checksum = b"%06o\0 " % sum(header)
    return header[:148] + checksum + header[156:]


def gzip_stored(content: bytes) -> bytes:
    """Return `content` as a gzip stream of stored blocks (RFC 1951 section 3.2.4, RFC 1952)."""
    blocks = [content[start : start + _BLOCK] for start in range(0, len(content), _BLOCK)] or [b""]
    parts = [_GZIP_HEADER]
    for index, block in enumerate(blocks):
        last = index == len(blocks) - 1
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF))
    return b"".join(parts)
