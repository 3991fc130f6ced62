"""Write git objects as one pack (gitformat-pack): all of a render, or nothing.

A fleet of 10,000 devices makes 60,000 objects; as loose files they would cost ten times the time and most of a
gigabyte of disk. The pack becomes visible with its index, whose rename is the last step.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Final

from margo_gitops.disk.files import sync_folder
from margo_gitops.trust.git_objects import object_id, pack_entry, pack_parts

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
            self.take([(name, pack_entry(kind, content, zlib.Z_BEST_SPEED))])
        return name

    def take(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Add what another pack holds: id and bytes of each entry."""
        for name, entry in entries:
            if name not in self._entries and name not in self._known:
                self._entries[name] = (entry, self._at)
                self._at += len(entry)

    def drained(self) -> list[tuple[str, bytes]]:
        """Return id and bytes of each entry, for another pack to take; from now on, they are known."""
        entries = [(name, entry) for name, (entry, _) in self._entries.items()]
        self._known.update(self._entries)
        self._entries.clear()
        return entries

    def content(self, name: str) -> bytes:
        """Return the bytes of an object that was added."""
        entry, _ = self._entries[name]
        header = next(at for at, byte in enumerate(entry) if not byte & 0x80)
        return zlib.decompress(entry[header + 1 :])

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
        parts = pack_parts([entry for entry, _ in self._entries.values()])
        keep = folder / f"pack-{parts[-1].hex()}.keep"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            keep.write_text(KEPT_BY)
            self._write(folder, parts)
            yield
        finally:
            keep.unlink(missing_ok=True)

    def write(self, folder: Path) -> None:
        """Write pack and index (OSError: nothing is left behind)."""
        with self.written(folder):
            pass

    def _write(self, folder: Path, parts: list[bytes]) -> None:
        checksum = parts[-1]
        stem = folder / f"pack-{checksum.hex()}"
        if stem.with_suffix(".pack").exists() and stem.with_suffix(".idx").exists():
            return  # the same objects, of a render whose refs could not be moved
        _write(stem.with_suffix(".pack"), parts)
        try:
            _write(stem.with_suffix(".idx"), [index_bytes(self._entries, checksum)])
        except BaseException:
            stem.with_suffix(".pack").unlink()
            raise
        sync_folder(folder)


_LARGE = 1 << 31


def index_bytes(entries: Mapping[str, tuple[bytes, int]], checksum: bytes) -> bytes:
    """Return the index of a pack, of version 2 (gitformat-pack).

    Args:
        entries: bytes and offset of each entry, by the object's id.
        checksum: the pack's.
    """
    names = sorted(entries)
    first = Counter(name[:2] for name in names)
    offsets = [entries[name][1] for name in names]
    large = [offset for offset in offsets if offset >= _LARGE]
    places = {offset: _LARGE | place for place, offset in enumerate(large)}
    content = b"".join([
        struct.pack(">4sL", b"\xfftOc", 2),
        struct.pack(">256L", *accumulate(first[f"{byte:02x}"] for byte in range(256))),
        bytes.fromhex("".join(names)),
        struct.pack(f">{len(names)}L", *(zlib.crc32(entries[name][0]) for name in names)),
        struct.pack(f">{len(names)}L", *(places.get(offset, offset) for offset in offsets)),
        struct.pack(f">{len(large)}Q", *large),
        checksum,
    ])  # fmt: skip
    return content + hashlib.sha1(content, usedforsecurity=False).digest()


def _write(target: Path, parts: Iterable[bytes]) -> None:
    descriptor, name = tempfile.mkstemp(prefix="tmp_pack_", dir=target.parent)  # git removes such leftovers
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(descriptor)
        Path(name).chmod(0o444)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
