"""The trust floor on disk: the highest version this device ever trusted, in two places.

FLOOR-1  Each copy is written whole or not at all, and carries a digest over its own content.
FLOOR-2  The greater of the two copies counts. One that is missing, damaged or behind is written again from the other.
FLOOR-3  The floor never goes down: raising it to a lower version does nothing. Only a change of the trust document
         makes a device forget it, once: the copy that has made more changes is the greater one.
FLOOR-4  A floor belongs to one device; another device's floor is refused, not ignored.
FLOOR-5  Where both copies are gone the device has no memory: the caller records a first contact as a security event.
FLOOR-6  The ids of all changes that the trust document lists are kept, and of those that it lists no longer the newest
         500: the file stays readable.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.memory.state_folder import TwoPlaces
from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.declarations import DigestText
from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.records import read, write
from margo_gitops.errors import (
    InvalidDocument,
    Location,
    MargoGitopsError,
    StateFolderUnusable,
    UnreadableDocument,
)
from margo_gitops.trust.floor import Floor, read_floor, write_floor
from margo_gitops.values import dataclass, replace

if TYPE_CHECKING:
    from margo_gitops.documents.trust_document import FloorChange

_LARGEST_FILE: Final = 128 * 1024
_KEPT_CHANGES: Final = 500
"""How many ids of changes are kept that the trust document lists no longer; those that it lists fit into the file."""


@dataclass(frozen=True, slots=True)
class _Envelope:
    """A floor file: whose floor it is, the floor's document, and a digest over both (FLOOR-1, FLOOR-4)."""

    device: str
    digest: DigestText
    floor: str | None = None
    changes: str | None = None


@dataclass(frozen=True, slots=True)
class _Changes:
    """What changes of the trust document made of a floor."""

    applied: tuple[str, ...]
    lowest: int
    left: str | None = None
    made: int | None = None


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a device remembers of the states that it trusted.

    Attributes:
        floor: the newest one; None before the first one, or once a change of the trust document took it back.
        applied: ids of the changes that were made, in their order; the oldest may be forgotten (FLOOR-6).
        lowest: the lowest version that a new state may have, as the changes say.
        left: the floor that was forgotten; what is held may be of it, and runs until a new state comes.
        forgotten: how many ids of changes are no longer in `applied`.
    """

    floor: Floor | None = None
    applied: tuple[str, ...] = ()
    lowest: int = 1
    left: Floor | None = None
    forgotten: int = 0

    def is_left(self, manifest: bytes) -> bool:
        """Whether a manifest is the one of the floor that was forgotten."""
        return self.left is not None and sha256(manifest) == self.left.manifest_digest

    def changed(self, change: FloorChange) -> Remembered:
        """Return what a device remembers after a change of the trust document."""
        from margo_gitops.trust.trust_document import change_floor  # only devices with a trust document have changes

        floor, lowest = change_floor(change, self.floor)
        applied = (*self.applied, change.id)
        if floor is not None or (self.floor is None and lowest <= self.lowest):
            return replace(self, applied=applied)
        return Remembered(None, applied, lowest, self.floor or self.left, self.forgotten)

    def pruned(self, listed: Collection[str]) -> Remembered:
        """Return the same without the oldest of many ids that the trust document lists no longer (FLOOR-6)."""
        gone = frozenset([each for each in self.applied if each not in listed][:-_KEPT_CHANGES])
        applied = tuple(each for each in self.applied if each not in gone)
        return replace(self, applied=applied, forgotten=self.forgotten + len(gone)) if gone else self


@dataclass(frozen=True, slots=True)
class FloorReading:
    """What the floor files say together.

    Attributes:
        remembered: the greater of the copies.
        damaged: copies that are there and cannot be used.
        repaired: copies that were written again from the other.
    """

    remembered: Remembered
    damaged: tuple[Path, ...] = ()
    repaired: tuple[Path, ...] = ()

    @property
    def floor(self) -> Floor | None:
        """The floor; None where there is no copy of it."""
        return self.remembered.floor


class FloorFiles:
    """Keeps the floor of one device in a file and, where the configuration names a place, a second copy.

    A copy of another device is `StateFolderUnusable` (FLOOR-4).
    """

    def __init__(self, device: str, path: Path, copy: Path | None) -> None:
        self._device = device
        self._places = TwoPlaces(path, copy, _LARGEST_FILE)

    def read(self) -> FloorReading:
        """Return what the copies say; change nothing."""
        best = Remembered()
        damaged: list[Path] = []
        for path, content in self._places.contents().items():
            found = self._parse(path, content)
            if found is None:
                damaged.append(path)
            elif _rank(found) > _rank(best):
                best = found
        return FloorReading(best, tuple(damaged))

    def repair(self) -> FloorReading:
        """Return the floor, and write each copy again that is missing, damaged or behind (FLOOR-2)."""
        reading = self.read()
        if reading.remembered == Remembered():
            return reading
        content = self._document(reading.remembered)
        there = self._places.contents()
        behind = [path for path in self._places.paths if there.get(path) != content]
        repaired = tuple(path for path in behind if self._places.put(path, content) is None)
        return FloorReading(reading.remembered, reading.damaged, repaired)

    def raise_to(self, floor: Floor) -> list[MargoGitopsError]:
        """Store a higher floor (FLOOR-3), as `remember` does."""
        return self.remember(replace(self.read().remembered, floor=floor))

    def remember(self, wanted: Remembered) -> list[MargoGitopsError]:
        """Store what is greater than what is stored, and return the errors of the second copy.

        These errors are worth a record, and stop nothing.

        Raises:
            StateFolderUnusable: the floor cannot be stored in the state folder.
            StorageFull: neither can it, because the disk is full.
        """
        if _rank(self.read().remembered) >= _rank(wanted):
            return []
        return self._places.write(self._document(wanted))

    def _document(self, remembered: Remembered) -> bytes:
        text, changes = _text(remembered.floor), None
        if remembered.applied:
            made = len(remembered.applied) + remembered.forgotten if remembered.forgotten else None
            record = _Changes(remembered.applied, remembered.lowest, _text(remembered.left), made)
            changes = write_json(write(record)).decode()
        envelope = _Envelope(self._device, _digest(self._device, text, changes), text, changes)
        return write_json(write(envelope)) + b"\n"

    def _parse(self, path: Path, content: bytes) -> Remembered | None:
        try:
            envelope = read(_Envelope, read_json(content, str(path)))
            if _digest(envelope.device, envelope.floor, envelope.changes) != envelope.digest:
                return None
            found = Remembered(_floor(envelope.floor, path))
            if envelope.changes is not None:
                changes = read(_Changes, read_json(envelope.changes.encode(), str(path)))
                forgotten = max(0, (changes.made or 0) - len(changes.applied))
                left = _floor(changes.left, path)
                found = Remembered(found.floor, changes.applied, changes.lowest, left, forgotten)
        except (UnreadableDocument, InvalidDocument):
            return None
        if envelope.device != self._device:
            raise StateFolderUnusable(
                f"this is the trust floor of {envelope.device}, not of {self._device}",
                where=Location(str(path)),
                remedy="give each device its own stateFolder and floorCopy",
            )
        return found


def _text(floor: Floor | None) -> str | None:
    return write_floor(floor).decode() if floor is not None else None


def _floor(text: str | None, path: Path) -> Floor | None:
    return read_floor(text.encode(), str(path)) if text is not None else None


def _digest(device: str, floor: str | None, changes: str | None) -> Digest:
    return sha256("\0".join([device, floor or "", *([] if changes is None else [changes])]).encode())


def _rank(remembered: Remembered) -> tuple[int, int, bool]:
    """Return what makes one memory greater than another: its changes, its floor's version, then knowing its commit."""
    floor = remembered.floor
    made = len(remembered.applied) + remembered.forgotten
    return made, floor.version if floor else 0, floor is not None and floor.commit is not None
