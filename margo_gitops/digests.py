r"""Content digests: the one spelling, `sha256:` and 64 lower-case hex digits (Margo desired state, exact bytes rule).

The digest of a folder is sha256 over what `sha256sum` would print for its files, sorted by path. Anyone can compute it
without this project: `find * -type f | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
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
        raise ValueError(f"{text!r} is not a sha256 digest")
    return Digest(text)


def folder_digest(files: Mapping[str, Digest]) -> Digest:
    """Return the digest of a folder.

    Args:
        files: digest of every regular file's content, by path relative to the folder, with `/` between names.

    Raises:
        ValueError: a path holds a newline or a backslash, which `sha256sum` would print in another way.
    """
    lines = []
    for path in sorted(files, key=str.encode):
        if "\n" in path or "\\" in path or "\r" in path:
            raise ValueError(f"{path!r}: newlines and backslashes are not possible in file names")
        lines.append(f"{files[path].removeprefix('sha256:')}  {path}\n")
    return sha256("".join(lines).encode())
