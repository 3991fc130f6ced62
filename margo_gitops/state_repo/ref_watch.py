"""See cheaply whether a ref moved: a few `stat` calls instead of ten thousand refs read again.

A writer puts a new file in a ref's place, which changes `packed-refs` itself or the folder of a loose ref. File systems
count time in steps, so two changes within one step look like one: a stamp this young is never believed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from margo_gitops.state_repo.refs import Refs

_SETTLED_NANOSECONDS: Final = 50_000_000
_ATTEMPTS: Final = 5

_Mark: TypeAlias = tuple[int, int, int, int]
_Stamp: TypeAlias = dict[str, _Mark | None]


class RefWatch:
    """The refs of a repository, read again only when one may have moved."""

    def __init__(self, folder: Path) -> None:
        """Watch the repository in `folder`, the one that holds `HEAD`."""
        self._folder = folder
        self._refs = Refs(folder)
        self._stamp: _Stamp = {}
        self._values: Mapping[str, str] = {}

    def read(self) -> Mapping[str, str]:
        """Return the object id of every ref, by full name; the same object as before where nothing moved.

        Raises:
            StateRepoUnusable: a ref cannot be read.
        """
        if self._stamp and self._stamp == _stamp(self._stamp):
            return self._values
        values = self._read_whole()
        if values != self._values:
            self._values = values
        return self._values

    def _read_whole(self) -> Mapping[str, str]:
        attempt = 0
        while True:
            began = time.time_ns()
            before = _stamp(self._places())
            values = self._refs.read()
            whole = before == _stamp(before)
            attempt += 1
            # A ref folded into packed-refs between the reading of the two would show its value of before.
            if whole or attempt == _ATTEMPTS:
                self._stamp = before if whole and _settled(before, began) else {}
                return values

    def _places(self) -> list[str]:
        folders = [path for path, _, _ in os.walk(self._folder / "refs")]
        return [str(self._folder / "packed-refs"), *folders]


def _stamp(places: list[str] | _Stamp) -> _Stamp:
    return {place: _mark(place) for place in places}


def _mark(place: str) -> _Mark | None:
    try:
        found = os.stat(place)  # noqa: PTH116  # ten times a second and on every request
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _settled(stamp: _Stamp, began: int) -> bool:
    newest = max((max(mark[0], mark[1]) for mark in stamp.values() if mark), default=0)
    return newest + _SETTLED_NANOSECONDS < began
