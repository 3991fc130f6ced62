"""The receipts of this device: on disk before anyone sees them, until the server has them.

stateFolder/receipts/<number>.json    a signed receipt; the newest one always stays
stateFolder/receipts/sent             number of the newest one that arrived

KEPT-1  A receipt counts once its file is renamed into place, synced. Only then it is sent. So a number that was ever
        sent has a file, or is not above the number in `sent`, and is not used twice: a kill forks nothing.
KEPT-2  The newest stays, also when it has arrived: the next one follows it.
KEPT-3  At most 1000 wait, or 64 where reports are pushed by git. The next receipt says which ones are dropped for it,
        before they are.
KEPT-4  A receipt that cannot be read any more is one that is lost, and the next receipt says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from margo_gitops.agent.memory.state_folder import folder_errors, keep_file, make_folder
from margo_gitops.digests import sha256
from margo_gitops.disk.files import read_bounded
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.receipt import (
    MAX_RECEIPT_CHARACTERS,
    MAX_RECEIPTS,
    LostReceipts,
    Receipt,
    SignedReceipt,
    write_receipt,
    write_receipts,
)
from margo_gitops.documents.records import read_ours, write
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.values import dataclass, field, replace

MOST_WAITING: Final = 1000
MOST_PUSHED: Final = MAX_RECEIPTS
"""How many stay of a device that pushes them: no one says that they arrived, and each push replaces the one before."""
MOST_SENT_BYTES: Final = 192 * 1024
MOST_CARRIED_BYTES: Final = 8 * 1024 * 1024
LATEST: Final = ("receipts", "latest.json")
_SENT: Final = "sent"
_NAME: Final = re.compile(r"([1-9][0-9]{0,15})\.json")
_BOUNDS: Final = Bounds(size=8 * MAX_RECEIPT_CHARACTERS, depth=8, nodes=20_000)


@dataclass(frozen=True, slots=True)
class Unsent:
    """Receipts that have not arrived.

    Attributes:
        number: of the last one.
        content: exact bytes of a file of receipts.
    """

    number: int
    content: bytes


@dataclass(eq=False)
class ReceiptStore:
    """Keeps receipts in a folder; one agent at a time.

    Attributes:
        most: how many may wait.
        writes: whether to make the folder, and to remove what has arrived.
    """

    folder: Path
    most: int = MOST_WAITING
    writes: bool = True
    _numbers: list[int] = field(default_factory=list, init=False)
    _sent: int = field(default=0, init=False)
    _lost: list[LostReceipts] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.writes:
            make_folder(self.folder)
        with folder_errors(self.folder):
            names = [_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        self._numbers = sorted(int(name[1]) for name in names if name)
        try:
            self._sent = int(read_bounded(self.folder / _SENT, 20))
        except (OSError, ValueError):
            self._sent = 0
        if self.writes:
            self._clean()
            self._look_for_losses()

    @property
    def key(self) -> Path:
        """Where the agent keeps the key that it makes, if it is given none."""
        return self.folder / "key"

    @property
    def newest(self) -> tuple[SignedReceipt, Receipt] | None:
        """The newest receipt; None where it cannot be read."""
        return self._read(self._numbers[-1]) if self._numbers else None

    @property
    def number(self) -> int:
        """The highest number that was used; 0 for none."""
        return max([self._sent, *self._numbers[-1:]])

    @property
    def waiting(self) -> int:
        """How many have not arrived yet."""
        return len(self._waiting())

    def add(self, receipt: Receipt, sign: Callable[[str], str]) -> SignedReceipt:
        """Keep the next receipt, on disk when this returns (KEPT-1).

        Args:
            receipt: without number, digest of the one before, and losses: those are filled in.
            sign: returns the signature over its text.

        Raises:
            StateFolderUnusable: it cannot be written; nothing has changed.
            StorageFull: the disk is full.
        """
        newest, dropped = self.newest, self._to_drop()
        follows = newest is not None and newest[1].sequence == self.number
        linked = replace(
            receipt,
            sequence=self.number + 1,
            previous=sha256(newest[0].receipt.encode()) if newest is not None and follows else None,
            lost=(*self._lost, *dropped),
        )
        text = write_receipt(linked)
        signed = SignedReceipt(text, sign(text))
        keep_file(self._path(linked.sequence), write_json(write(signed)))
        self._numbers.append(linked.sequence)
        self._lost.clear()
        for each in dropped:
            self._remove([number for number in self._numbers if each.first <= number <= each.last])
        return signed

    def unsent(self) -> Unsent | None:
        """Return the oldest receipts that have not arrived; None where all have."""
        found: list[SignedReceipt] = []
        size = last = 0
        for number in self._waiting()[:MAX_RECEIPTS]:
            held = self._read(number)
            if held is None:
                continue
            size += len(held[0].receipt) * 2
            if found and size > MOST_SENT_BYTES:
                break
            found.append(held[0])
            last = number
        return Unsent(last, write_receipts(tuple(found))) if found else None

    def carried(self) -> tuple[SignedReceipt, ...]:
        """Return the newest receipts that have not arrived, as many as a file of reports takes, oldest first."""
        found: list[SignedReceipt] = []
        size = 0
        for number in reversed(self._waiting()):
            held = self._read(number)
            size += len(held[0].receipt) * 2 if held else 0
            if size > MOST_CARRIED_BYTES:
                break
            found += [held[0]] if held else []
        return tuple(reversed(found))

    def files(self) -> dict[tuple[str, ...], bytes]:
        """Return what a device pushes of them, by path in its branch of reports."""
        unsent = self.unsent()
        return {LATEST: unsent.content} if unsent else {}

    def sent(self, number: int) -> None:
        """Note that everything up to a number has arrived.

        Raises:
            StateFolderUnusable: that cannot be written; it will be sent again, which does no harm.
            StorageFull: the disk is full.
        """
        self._sent = max(self._sent, number)
        keep_file(self.folder / _SENT, f"{self._sent}\n".encode())
        self._clean()

    def _waiting(self) -> list[int]:
        return [number for number in self._numbers if number > self._sent]

    def _to_drop(self) -> tuple[LostReceipts, ...]:
        """Return what the next receipt says is dropped (KEPT-3): the older half of what waits."""
        waiting = self._waiting()
        if len(waiting) < self.most:
            return ()
        first, last = waiting[0], waiting[len(waiting) // 2]
        held = self._read(last)
        return (LostReceipts(first, last, sha256(held[0].receipt.encode()) if held else None),)

    def _look_for_losses(self) -> None:
        """Find the numbers that were used, have not arrived, and cannot be read (KEPT-4)."""
        readable = [number for number in self._numbers if self._read(number) is not None]
        # What has a name was used, and may have arrived.
        after = self._sent or min(self._numbers, default=1) - 1
        for number in [*readable, self.number + 1]:
            if number > after + 1:
                self._lost.append(LostReceipts(after + 1, number - 1))
            after = max(after, number)
        newest = self.number
        if newest and newest not in readable and not any(each.last == newest for each in self._lost):
            self._lost.append(LostReceipts(newest, newest))

    def _clean(self) -> None:
        self._remove([number for number in self._numbers[:-1] if number <= self._sent])

    def _remove(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            with folder_errors(self.folder):
                self._path(number).unlink(missing_ok=True)
        gone = set(numbers)
        self._numbers = [number for number in self._numbers if number not in gone]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.json"

    def _read(self, number: int) -> tuple[SignedReceipt, Receipt] | None:
        """Return a receipt as kept; None where it cannot be read."""
        try:
            content = read_bounded(self._path(number), _BOUNDS.size)
            signed = read_ours(SignedReceipt, content, "receipt", _BOUNDS)
            receipt = read_ours(Receipt, signed.receipt.encode(), "receipt", _BOUNDS)
        except (OSError, UnreadableDocument, InvalidDocument):
            return None
        return (signed, receipt) if receipt.sequence == number else None
