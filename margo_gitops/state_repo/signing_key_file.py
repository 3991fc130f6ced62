"""Signing keys on disk: OpenSSH private keys that nobody but their owner can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from margo_gitops.errors import Location, SigningKeyUnusable
from margo_gitops.trust.ssh_signing_key import MAX_KEY_FILE_BYTES, SigningKey, parse_signing_key


def read_signing_key(path: Path) -> SigningKey:
    """Return the key in a file that only its owner can read.

    Raises:
        SigningKeyUnusable: it cannot be read, others could read it, or it is no such key.
    """
    where = Location(str(path))
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise SigningKeyUnusable(
            "the signing key cannot be read", where=where, why=[error.strerror or str(error)], remedy="name its file"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SigningKeyUnusable(
            "the signing key can be read by others", where=where, remedy=f"chmod 600 {path}, or make a new key"
        )
    try:
        return parse_signing_key(content)
    except ValueError as error:
        raise SigningKeyUnusable("the signing key cannot be used", where=where, why=[str(error)]) from error
