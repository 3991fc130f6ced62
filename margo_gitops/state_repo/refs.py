"""Move many refs at once: all or none, after any crash.

git writes a transaction over many refs as one loose file after the other, so a crash in the middle leaves some moved.
Here every ref lives in `packed-refs`, and one rename moves them all (D-5, D-28):

    REFS-1  One writer at a time: `packed-refs.lock`, which git itself respects. The lock of a killed render is known as
            such and removed.
    REFS-2  Under the lock, the renderer compares every expected value. If one differs, it writes nothing.
    REFS-3  Loose refs, which git reads first, are moved into the file before any ref moves; this changes no value. One
            that another program has locked stays loose; if it has to move, nothing is written.
    REFS-4  The new file is complete and synced before it takes the old one's place.

Some other program that writes a loose ref between REFS-3 and REFS-4 without this lock would win over the new value;
only the renderer writes a state repo, and the next render finds and names such a ref.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from margo_gitops.disk.files import replace_file
from margo_gitops.disk.locks import HeldLock, LockTaken, dead_names, take_lock, take_name
from margo_gitops.disk.stamps import Stamp, settled, stamp
from margo_gitops.errors import StateMoved, StateRepoUnusable
from margo_gitops.state_repo.packed_refs import HEADER, RefValues, changed_refs, sorted_refs

_ATTEMPTS: Final = 5


class Refs:
    """The refs of a bare repository."""

    def __init__(self, folder: Path) -> None:
        """Use the repository in `folder`, the one that holds `HEAD`."""
        self._folder = folder
        self._packed = folder / "packed-refs"
        self._own = folder / "margo-gitops.lock"

    def read(self, *, checked: bool = True) -> RefValues:
        """Return the object id of every ref, by full name.

        Args:
            checked: whether every line of `packed-refs` is looked at; otherwise, as git does, only those that are used.

        Raises:
            StateRepoUnusable: a ref cannot be read.
        """
        try:
            return RefValues(self._read_packed(checked=checked), self._loose())
        except OSError as error:
            raise StateRepoUnusable(
                f"the refs of {self._folder} cannot be read", why=[str(error)], remedy="see that its files are yours"
            ) from error

    def packed(self) -> RefValues:
        """Return the refs in `packed-refs`, which survive a loss of power; loose ones may not.

        Raises:
            OSError, StateRepoUnusable: the file cannot be read.
        """
        return RefValues(self._read_packed(), {})

    def move(self, changes: Mapping[str, str | None], expected: Mapping[str, str]) -> None:
        """Give refs new values.

        Args:
            changes: new object id by full name; None removes the ref.
            expected: what all refs were when the changes were computed (`read`).

        Raises:
            StateMoved: a ref has another value than expected, or another writer holds the lock.
            StateRepoUnusable: the file system refuses.
        """

        def moved(packed: bytes) -> bytes:
            loose = self._loose()
            self._check(RefValues(packed, loose), changes, expected)
            self._check_folded(loose, changes)
            return changed_refs(packed, changes)

        self._rewrite(moved)

    def reset(self, prefix: str, values: Mapping[str, str]) -> None:
        """Make the refs below a prefix exactly these, with any old values: for a mirror that follows its remote.

        Raises:
            StateMoved: another writer holds the lock.
            StateRepoUnusable: the file system refuses.
        """

        def reset(packed: bytes) -> bytes:
            gone = {name: None for name in RefValues(packed, {}) if name.startswith(prefix)}
            self._check_folded(self._loose(), {**gone, **values})
            return changed_refs(packed, {**gone, **values})

        self._rewrite(reset)

    def _rewrite(self, change: Callable[[bytes], bytes]) -> None:
        try:
            with self._lock(), self._named(self._packed):
                self._write(change(self._folded()))
        except OSError as error:
            raise StateRepoUnusable(
                f"the refs of {self._folder} cannot be written",
                why=[str(error)],
                remedy="nothing was moved; see that the disk is not full and the folder is yours, then render again",
            ) from error

    def _write(self, packed: bytes) -> None:
        replace_file(self._packed, packed, mode=0o644)

    def _lock(self) -> HeldLock:
        try:
            lock = take_lock(self._own)
        except LockTaken as error:
            raise StateMoved(
                f"{error.holder or 'another process'} is writing the state repo's refs: nothing was written",
                remedy="render again when it is done",
            ) from None
        with suppress(OSError):  # who may write the folder may use the lock
            os.fchmod(lock.descriptor, self._folder.stat().st_mode & 0o666)
        locks = (path for pattern in ("*.lock", "refs/**/*.lock") for path in self._folder.glob(pattern))
        for name in dead_names(self._own, locks):
            name.unlink()
        return lock

    @contextmanager
    def _named(self, path: Path) -> Iterator[None]:
        """Hold git's lock on a file."""
        name = path.with_name(f"{path.name}.lock")
        try:
            take_name(name, self._own)
        except FileExistsError:
            raise _locked(name) from None
        try:
            yield
        finally:
            name.unlink()

    def _check(self, now: Mapping[str, str], changes: Mapping[str, str | None], expected: Mapping[str, str]) -> None:
        for name in changes:
            if now.get(name) != expected.get(name):
                is_at, was_at = now.get(name, "nothing"), expected.get(name, "nothing")
                raise StateMoved(
                    f"{name} was moved while this render was running: nothing was written",
                    why=[f"it is at {is_at}, this render started from {was_at}"],
                    remedy="render again: it starts from the new state",
                )

    def _check_folded(self, loose: Mapping[str, str], changes: Mapping[str, str | None]) -> None:
        for name in changes:
            if name in loose:
                raise _locked(self._folder / f"{name}.lock")

    def _folded(self) -> bytes:
        """Return the packed refs after every loose one was folded in, but those that are locked (REFS-3)."""
        packed = self._read_packed()
        # Tags stay loose: folded in they would lack what an annotated one leads to.
        loose = {name: value for name, value in self._loose().items() if not name.startswith("refs/tags/")}
        if loose:
            packed = changed_refs(packed, loose)
            self._write(packed)
            for name, value in loose.items():
                with suppress(StateMoved):
                    self._remove_loose(name, value)
        return packed

    def _read_packed(self, *, checked: bool = True) -> bytes:
        try:
            return sorted_refs(self._packed.read_bytes(), checked=checked)
        except FileNotFoundError:
            return HEADER
        except ValueError as error:
            raise StateRepoUnusable(f"{self._packed} holds a line that is not a ref: {error}") from error

    def _loose(self) -> dict[str, str]:
        values = {}
        for path in self._loose_files():
            with suppress(FileNotFoundError):
                value = path.read_text(encoding="ascii", errors="replace").strip()
                if value.startswith("ref: refs/remotes/"):
                    continue  # git 2.48 and later write refs/remotes/<name>/HEAD with every fetch
                if not re.fullmatch(r"[0-9a-f]{40}", value):
                    raise StateRepoUnusable(
                        f"{path} is not a ref that can be moved: {value[:80]!r}",
                        remedy="a crash or another program left it there; see what git says (git fsck), then remove it",
                    )
                values[path.relative_to(self._folder).as_posix()] = value
        return values

    def _loose_files(self) -> Iterator[Path]:
        """Yield the files of loose refs; a folder that cannot be read is an error, not an empty one."""
        for folder, folders, files in os.walk(self._folder / "refs", onerror=_raise):
            folders.sort()
            for name in sorted(files):
                # Names that git never gives a ref: locks, and what desktops leave behind.
                if not name.startswith(".") and not name.endswith(".lock"):
                    yield Path(folder, name)

    def _remove_loose(self, name: str, value: str) -> None:
        path = self._folder / name
        with self._named(path):
            # Deleted since it was folded in: somebody moved it, and the check that follows the folding says so.
            if path.exists() and path.read_text(encoding="ascii").strip() == value:
                path.unlink()


def _locked(lock: Path) -> StateMoved:
    return StateMoved(
        "another program is writing the state repo's refs: nothing was written",
        remedy=f"render again in a moment; if nothing else is running, a crash left {lock}: remove it",
    )


def _raise(error: OSError) -> None:
    raise error


class RefWatch:
    """The refs of a repository, read again only when one may have moved: a few `stat` calls instead of 10,000 refs.

    A writer puts a new file in a ref's place, which changes `packed-refs` itself or the folder of a loose ref.
    """

    def __init__(self, folder: Path) -> None:
        """Watch the repository in `folder`, the one that holds `HEAD`."""
        self._folder = folder
        self._refs = Refs(folder)
        self._stamps: dict[str, Stamp | None] = {}
        self._values = RefValues(HEADER, {})

    def read(self) -> RefValues:
        """Return the object id of every ref, by full name; the same object as before where nothing moved.

        Raises:
            StateRepoUnusable: a ref cannot be read.
        """
        if self._stamps and self._stamps == _stamps(self._stamps):
            return self._values
        values = self._read_whole()
        if values != self._values:
            self._values = values
        return self._values

    def _read_whole(self) -> RefValues:
        attempt = 0
        while True:
            began = time.time_ns()
            before = _stamps(self._places())
            values = self._refs.read(checked=False)
            whole = before == _stamps(before)
            attempt += 1
            # A ref folded into packed-refs between the reading of the two would show its value of before.
            if whole or attempt == _ATTEMPTS:
                self._stamps = before if whole and settled(before.values(), began) else {}
                return values

    def _places(self) -> list[str]:
        folders = [path for path, _, _ in os.walk(self._folder / "refs")]
        return [str(self._folder / "packed-refs"), *folders]


def _stamps(places: Iterable[str]) -> dict[str, Stamp | None]:
    return {place: stamp(place) for place in places}
