"""The trust floor on disk: the highest version this device ever trusted, in two places.

FLOOR-1  Each copy is written whole or not at all, and carries a digest over its own content.
FLOOR-2  The greater of the two copies counts. One that is missing, damaged or behind is written again from the other.
FLOOR-3  The floor never goes down: raising it to a lower version does nothing.
FLOOR-4  A floor belongs to one device; another device's floor is refused, not ignored.
FLOOR-5  Where both copies are gone the device has no memory: the caller records a first contact as a security event.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from margo_gitops.agent.memory.state_folder import keep_file
from margo_gitops.digests import Digest, sha256
from margo_gitops.disk.files import read_bounded
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

_LARGEST_FILE: Final = 8192


@dataclass(frozen=True, slots=True)
class _Envelope:
    """A floor file: whose floor it is, the floor's document, and a digest over both (FLOOR-1, FLOOR-4)."""

    device: str
    floor: str
    digest: DigestText


@dataclass(frozen=True, slots=True)
class FloorReading:
    """What the floor files say together.

    Attributes:
        floor: the greater of the copies; None where there is no copy.
        damaged: copies that are there and cannot be used.
        repaired: copies that were written again from the other.
    """

    floor: Floor | None
    damaged: tuple[Path, ...] = ()
    repaired: tuple[Path, ...] = ()


class FloorFiles:
    """Keeps the floor of one device in a file and, where the configuration names a place, a second copy.

    A copy of another device is `StateFolderUnusable` (FLOOR-4).
    """

    def __init__(self, device: str, path: Path, copy: Path | None) -> None:
        self._device = device
        self._paths = (path,) if copy is None else (path, copy)

    def read(self) -> FloorReading:
        """Return what the copies say; change nothing."""
        best: Floor | None = None
        damaged: list[Path] = []
        for path in self._paths:
            content = _read_bounded(path)
            if content is None:
                continue
            floor = self._parse(path, content)
            if floor is None:
                damaged.append(path)
            elif best is None or _rank(floor) > _rank(best):
                best = floor
        return FloorReading(best, tuple(damaged))

    def repair(self) -> FloorReading:
        """Return the floor, and write each copy again that is missing, damaged or behind (FLOOR-2)."""
        reading = self.read()
        if reading.floor is None:
            return reading
        content = self._document(reading.floor)
        behind = [path for path in self._paths if _read_bounded(path) != content]
        repaired = tuple(path for path in behind if _try_write(path, content) is None)
        return FloorReading(reading.floor, reading.damaged, repaired)

    def raise_to(self, floor: Floor) -> list[MargoGitopsError]:
        """Store a higher floor (FLOOR-3) and return the errors of the second copy: they are worth a record, no stop.

        Raises:
            StateFolderUnusable: the floor cannot be stored in the state folder.
            StorageFull: neither can it, because the disk is full.
        """
        held = self.read().floor
        if held is not None and _rank(held) >= _rank(floor):
            return []
        content = self._document(floor)
        errors = [error for path in self._paths[1:] if (error := _try_write(path, content))]
        keep_file(self._paths[0], content)
        return errors

    def _document(self, floor: Floor) -> bytes:
        text = write_floor(floor).decode()
        return write_json(write(_Envelope(self._device, text, _digest(self._device, text)))) + b"\n"

    def _parse(self, path: Path, content: bytes) -> Floor | None:
        try:
            envelope = read(_Envelope, read_json(content, str(path)))
            if _digest(envelope.device, envelope.floor) != envelope.digest:
                return None
            floor = read_floor(envelope.floor.encode(), str(path))
        except (UnreadableDocument, InvalidDocument):
            return None
        if envelope.device != self._device:
            raise StateFolderUnusable(
                f"this is the trust floor of {envelope.device}, not of {self._device}",
                where=Location(str(path)),
                remedy="give each device its own stateFolder and floorCopy",
            )
        return floor


def _digest(device: str, text: str) -> Digest:
    return sha256(f"{device}\0{text}".encode())


def _rank(floor: Floor) -> tuple[int, bool]:
    """Return what makes one floor greater than another: its version, then knowing its commit."""
    return floor.version, floor.commit is not None


def _read_bounded(path: Path) -> bytes | None:
    """Return the file's bytes; None where there is no file, nothing where it cannot be read: that is damage."""
    try:
        return read_bounded(path, _LARGEST_FILE)
    except FileNotFoundError:
        return None
    except OSError:
        return b""


def _try_write(path: Path, content: bytes) -> MargoGitopsError | None:
    try:
        keep_file(path, content)
    except MargoGitopsError as error:
        return error
    return None
