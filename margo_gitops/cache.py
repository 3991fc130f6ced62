"""A cache of what was used last, bounded by the size of what it keeps; for any number of threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SizedCache(Generic[K, V]):
    """Values by key; what was not used for longest leaves first."""

    def __init__(self, limit: int, size_of: Callable[[V], int] = lambda _value: 1) -> None:
        """Make an empty cache.

        Args:
            limit: the size that all values together may have.
            size_of: the size of a value, which never changes; by default the cache counts values.
        """
        self._limit = limit
        self._size_of = size_of
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return a value; None where it is not kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: K, value: V) -> None:
        """Keep a value, in place of the one of that key; one that is larger than the limit is not kept."""
        with self._lock:
            replaced = self._kept.pop(key, None)
            if replaced is not None:
                self._size -= self._size_of(replaced)
            size = self._size_of(value)
            if size > self._limit:
                return
            self._kept[key] = value
            self._size += size
            while self._size > self._limit:
                self._size -= self._size_of(self._kept.popitem(last=False)[1])
