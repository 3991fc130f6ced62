"""gzip as a content coding: made once for each content, kept while there is room."""

from __future__ import annotations

import asyncio
import gzip
from collections import OrderedDict
from typing import Final

from margo_gitops.digests import Digest

_LARGE: Final = 256 * 1024
_KEPT_BYTES: Final = 16 * 1024 * 1024


class Compressed:
    """Compressed contents by the digest of what they are made of."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Digest, bytes] = OrderedDict()
        self._held = 0

    async def of(self, digest: Digest, content: bytes) -> bytes:
        """Return a content, compressed."""
        found = self._kept.get(digest)
        if found is not None:
            self._kept.move_to_end(digest)
            return found
        # What takes long must not keep other devices waiting.
        found = await asyncio.to_thread(_gzip, content) if len(content) > _LARGE else _gzip(content)
        if digest not in self._kept and len(found) <= _KEPT_BYTES // 4:
            self._kept[digest] = found
            self._held += len(found)
            while self._held > _KEPT_BYTES:
                self._held -= len(self._kept.popitem(last=False)[1])
        return found


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, 6, mtime=0)
