"""Write git objects as one pack (gitformat-pack): all of a render, or nothing.

A fleet of 10,000 devices makes 60,000 objects; as loose files they would cost ten times the time and most of a
gigabyte of disk. The pack becomes visible with its index, whose rename is the last step.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final

from dulwich.pack import write_pack_index_v2

from margo_gitops.disk.files import sync_folder
from margo_gitops.trust.git_objects import object_id, pack_bytes, pack_entry

KEPT_BY: Final = "margo-gitops\n"
"""What a `.keep` of ours says."""


class ObjectPack:
    """Collects objects, and writes those that are not known to be in the repository.

    An object that is in two packs only costs space, so only what is cheaply known is left out: asking
    libgit2 for each object of a first render takes as long as compressing it.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._entries: dict[str, tuple[bytes, int]] = {}
        self._at = 12

    def know(self, names: Iterable[str]) -> None:
        """Leave out objects that the repository has."""
        self._known.update(names)

    def add(self, kind: bytes, content: bytes) -> str:
        """Add an object and return its id.

        Args:
            kind: `BLOB`, `TREE` or `COMMIT`.
        """
        name = object_id(kind, content)
        if name not in self._entries and name not in self._known:
            entry = pack_entry(kind, content, zlib.Z_BEST_SPEED)
            self._entries[name] = (entry, self._at)
            self._at += len(entry)
        return name

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def written(self, folder: Path) -> Iterator[None]:
        """Write pack and index, if not empty, into `objects/pack`; while the context lasts, refs can be moved to them.

        Until then no ref leads to the objects: `git gc`, which sees the pack before its index, would remove them. It
        leaves alone what has a `.keep`, as git itself makes for what it receives.

        Raises:
            OSError: nothing is left behind.
        """
        if not self._entries:
            yield
            return
        content = pack_bytes([entry for entry, _ in self._entries.values()])
        keep = folder / f"pack-{content[-20:].hex()}.keep"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            keep.write_text(KEPT_BY)
            self._write(folder, content)
            yield
        finally:
            keep.unlink(missing_ok=True)

    def write(self, folder: Path) -> None:
        """Write pack and index (OSError: nothing is left behind)."""
        with self.written(folder):
            pass

    def _write(self, folder: Path, content: bytes) -> None:
        checksum = content[-20:]
        index = [
            (bytes.fromhex(name), offset, zlib.crc32(entry)) for name, (entry, offset) in sorted(self._entries.items())
        ]
        stem = folder / f"pack-{checksum.hex()}"
        if stem.with_suffix(".pack").exists() and stem.with_suffix(".idx").exists():
            return  # the same objects, of a render whose refs could not be moved
        _write(stem.with_suffix(".pack"), content)
        try:
            file = BytesIO()
            write_pack_index_v2(file, index, checksum)
            _write(stem.with_suffix(".idx"), file.getbuffer())
        except BaseException:
            stem.with_suffix(".pack").unlink()
            raise
        sync_folder(folder)


def _write(target: Path, content: bytes | memoryview) -> None:
    descriptor, name = tempfile.mkstemp(prefix="tmp_pack_", dir=target.parent)  # git removes such leftovers
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(name).chmod(0o444)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
