"""Content digests: the one spelling, `sha256:` and 64 lower-case hex digits (Margo desired state, exact bytes rule)."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

Digest = NewType("Digest", str)
"""A checked digest string, `sha256:<64 lower-case hex>`."""

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
_DIGEST = re.compile(DIGEST_PATTERN[1:-1])


def sha256(content: bytes) -> Digest:
    """Return the digest of exactly these bytes."""
    return Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")


def parse_digest(text: str) -> Digest:
    """Return `text` as a digest.

    Raises:
        ValueError: another algorithm, upper-case digits, or another length. An algorithm other than sha256 makes a
            whole state manifest invalid (Margo desired state, digest specification).
    """
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"{text!r} is no sha256 digest")
    return Digest(text)
