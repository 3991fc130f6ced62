"""What an applier wrote into a folder, so that it notices when a person edits it.

WRITTEN-1  The list is made with the folder, before anything else can see it: each file's path, digest, size and time.
WRITTEN-2  A file whose size and time are those of the list is not read again: a look costs a `stat` for each file.
WRITTEN-3  Files that the list does not name do not count: hooks and programs may put some there.
WRITTEN-4  A password can be guessed from its digest. So the list is for the agent's user alone, and of secrets it has
           size and time only: a file of another time is an edited one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Final

from margo_gitops.disk.files import read_bounded

_LIST: Final = ".written"
_LARGEST_LIST: Final = 8 * 1024 * 1024


def note_written(folder: Path, *unread: Path) -> None:
    """Write the list of all files in a folder into it (OSError: the disk refuses).

    Args:
        unread: folders in it, of whose files no digest is kept: of secrets (WRITTEN-4), and of large artifacts.
    """
    lines = []
    for path in sorted(_files(folder)):
        digest = "" if path.parent in unread else _digest(path)
        lines.append([str(path.relative_to(folder)), digest, (found := path.stat()).st_size, found.st_mtime_ns])
    (folder / _LIST).touch(mode=0o600)
    (folder / _LIST).write_text(json.dumps(lines), encoding="ascii")


def edited(folder: Path) -> str:
    """Return which file of a folder's list is not what was written; empty where all are, or there is no list."""
    try:
        content = read_bounded(folder / _LIST, _LARGEST_LIST)
    except OSError:
        return ""  # an older agent made this folder
    try:
        return next((name for name, *was in json.loads(content) if _differs(folder / name, *was)), "")
    except (ValueError, TypeError, RecursionError):
        return _LIST


def _differs(path: Path, digest: str, size: int, moment: int) -> bool:
    try:
        found = path.stat()
        return found.st_size != size or (found.st_mtime_ns != moment and _digest(path) != digest)
    except OSError:
        return True


def _files(folder: Path) -> Iterator[Path]:
    for root, _folders, names in os.walk(folder):
        yield from (path for name in names if not (path := Path(root, name)).is_symlink() and path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
