"""Device ids, and their one reversible encoding for git refs, git paths and file names.

A Margo device id is a path of RFC 3986 unreserved characters (`gw-1/press-07`). Git forbids some of that in a ref (`~`,
`..`, a leading or trailing dot, a trailing `.lock`), and a disk that folds case confuses `A` with `a`. The encoding
keeps lower-case letters, digits and `-`, keeps `.` where git allows it, and writes every other character as `_` and two
lower-case hex digits; so encoded names are lower case and decode to exactly one id.
"""

from __future__ import annotations

import re
from functools import lru_cache

DEVICE_ID_PATTERN = r"^[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*$"
DEVICE_TARGET_PATTERN = r"^[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*(/\*)?$"
DEVICE_ID_MAX_LENGTH = 200
ENCODED_MAX_LENGTH = 240
"""File systems take names of 255 bytes; git adds `.lock` to a ref's."""

_DEVICE_ID = re.compile(DEVICE_ID_PATTERN[1:-1])
_KEPT = re.compile(r"[a-z0-9-]")
_ESCAPE = re.compile(r"_([0-9a-f]{2})")


def is_device_id(text: str) -> bool:
    """Return whether `text` is a Margo device id (Margo device capabilities, deviceId)."""
    return len(text) <= DEVICE_ID_MAX_LENGTH and _DEVICE_ID.fullmatch(text) is not None


def client_of(device: str) -> str:
    """Return the client whose manifest covers a device: the first segment of its id (Margo gateways)."""
    return device.partition("/")[0]


@lru_cache(maxsize=32_768)
def encode_device_id(device: str) -> str:
    """Return the name of a device in refs, tree paths and file names: one path segment, lower case.

    Raises:
        ValueError: `device` is not a device id, or its encoded name is too long for a file system.
    """
    if not is_device_id(device):
        raise ValueError(f"{device!r} is not a device id")
    encoded = "".join(
        character if _KEPT.match(character) or _plain_dot(device, index) else f"_{ord(character):02x}"
        for index, character in enumerate(device)
    )
    if len(encoded) > ENCODED_MAX_LENGTH:
        raise ValueError(
            f"{device!r} is too long: {len(encoded)} characters encoded, {ENCODED_MAX_LENGTH} are possible"
        )
    # `con`, `nul` and their like are devices to some file systems.
    return f"_{ord(encoded[0]):02x}{encoded[1:]}" if encoded.partition(".")[0] in _RESERVED else encoded


_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})


def _plain_dot(device: str, index: int) -> bool:
    """Whether the character is a dot that git takes in a ref: not first, last, doubled, or before `lock` at the end."""
    if device[index] != "." or index in (0, len(device) - 1):
        return False
    neighbours = device[index - 1] + device[index + 1]
    return "." not in neighbours and "/" not in neighbours and device[index:] != ".lock"


def decode_device_id(encoded: str) -> str:
    """Return the device id that a name encodes (ValueError: `encode_device_id` makes this of no device id)."""
    device = _ESCAPE.sub(lambda match: chr(int(match.group(1), 16)), encoded)
    if not is_device_id(device) or encode_device_id(device) != encoded:
        raise ValueError(f"{encoded!r} is not an encoded device id")
    return device


def is_encoded_device_id(name: str) -> bool:
    """Return whether a name of a folder or a ref is what `encode_device_id` makes of some device id."""
    try:
        decode_device_id(name)
    except ValueError:
        return False
    return True
